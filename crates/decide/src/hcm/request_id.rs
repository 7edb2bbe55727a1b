//! `x-request-id`: a UUID that also carries, in its fourteenth digit, whether the request is traced and why.

use std::sync::Arc;

use base::{Random, push_hex};

use super::Sampling;
use crate::decision::TraceDecision;
use crate::headers::Known;
use crate::request::Request;
use crate::wire::Chance;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestIdPolicy {
    pub(crate) generate: bool,
    pub(crate) preserve_external: bool,
    pub(crate) always_in_response: bool,
    pub(crate) pack_reason: bool,
    pub(crate) sample_by_id: bool,
}

impl Default for RequestIdPolicy {
    fn default() -> Self {
        Self {
            generate: true,
            preserve_external: false,
            always_in_response: false,
            pack_reason: true,
            sample_by_id: true,
        }
    }
}

/// Where a version-4 UUID has its version.
const REASON_AT: usize = 14;

impl RequestIdPolicy {
    pub(crate) fn set<R: Random + ?Sized>(&self, request: &mut Request, edge: bool, rng: &mut R) -> Arc<str> {
        let kept = request.headers.known_str(Known::XRequestId).filter(|id| !id.is_empty());
        let replace = self.generate && (kept.is_none() || (edge && !self.preserve_external));
        if replace {
            let id = uuid(rng);
            request.headers.set(Known::XRequestId, id.clone());
            return id.into();
        }
        kept.unwrap_or_default().into()
    }

    /// Whether to trace, and writes the reason into the id.
    pub(crate) fn trace<R: Random + ?Sized>(
        &self,
        sampling: Option<&Sampling>,
        request: &mut Request,
        id: &mut Arc<str>,
        rng: &mut R,
    ) -> TraceDecision {
        let Some(sampling) = sampling else { return TraceDecision::default() };
        let before = if self.pack_reason && self.sample_by_id { reason(id) } else { None };
        let mut new = before;
        if before.is_none() {
            if request.headers.contains(Known::XClientTraceId) && sampling.client.draw(rng) {
                new = Some('b');
            } else if request.headers.contains(Known::XEnvoyForceTrace) {
                new = Some('a');
            } else if self.by_chance(sampling.random, id, rng) {
                new = Some('9');
            }
            if new.is_some() && !sampling.overall.draw(rng) {
                new = None;
            }
        }
        if self.pack_reason && new != before && is_uuid(id) {
            let digit = new.unwrap_or('4');
            let packed = format!("{}{digit}{}", &id[..REASON_AT], &id[REASON_AT + 1..]);
            request.headers.set(Known::XRequestId, packed.clone());
            *id = packed.into();
        }
        TraceDecision { sampled: new.is_some(), forced: matches!(new, Some('a' | 'b')) }
    }

    /// By the id itself where that is asked for, so that all hops come to the same answer.
    fn by_chance<R: Random + ?Sized>(&self, share: Chance, id: &str, rng: &mut R) -> bool {
        match id.get(..8).and_then(|head| u32::from_str_radix(head, 16).ok()) {
            Some(n) if self.sample_by_id => f64::from(n % 10_000) < share.as_percent() * 100.0,
            _ => share.draw(rng),
        }
    }
}

/// The reason that an id carries.
fn reason(id: &str) -> Option<char> {
    if !is_uuid(id) {
        return None;
    }
    id.chars().nth(REASON_AT).filter(|c| matches!(c, '9' | 'a' | 'b'))
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36
        && id
            .bytes()
            .enumerate()
            .all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

/// A random UUID, version 4.
fn uuid<R: Random + ?Sized>(rng: &mut R) -> String {
    let (a, b) = (rng.next_u64(), rng.next_u64());
    let mut id = String::with_capacity(36);
    let parts =
        [(a >> 32, 8), (a >> 16, 4), (0x4000 | a & 0xfff, 4), (0x8000 | (b >> 48) & 0x3fff, 4), (b, 12)];
    for (part, digits) in parts {
        if !id.is_empty() {
            id.push('-');
        }
        push_hex(&mut id, part, digits);
    }
    id
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;
    use crate::request::Method;

    const HALF: Sampling =
        Sampling { client: Chance::ALWAYS, random: Chance::NEVER, overall: Chance::ALWAYS };

    #[test]
    fn ids_are_made_where_there_is_none_and_at_the_edge() {
        let policy = RequestIdPolicy::default();
        let mut rng = SeededRandom::new(1);
        let mut bare = Request::new(Method::Get, "a", "/");
        let id = policy.set(&mut bare, false, &mut rng);
        assert!(is_uuid(&id));
        assert_eq!(bare.headers.known_str(Known::XRequestId), Some(&*id));
        assert_eq!(policy.set(&mut bare.clone(), false, &mut rng), id);
        assert_ne!(policy.set(&mut bare, true, &mut rng), id);
    }

    #[test]
    fn the_reason_travels_in_the_id() {
        let policy = RequestIdPolicy::default();
        let mut rng = SeededRandom::new(1);
        let mut request = Request::new(Method::Get, "a", "/").with_header("x-client-trace-id", "1");
        let mut id = policy.set(&mut request, false, &mut rng);
        assert!(policy.trace(Some(&HALF), &mut request, &mut id, &mut rng).forced);
        assert_eq!(reason(&id), Some('b'));
        // The next hop goes by the id, whatever its own share is.
        let mut next = Request::new(Method::Get, "a", "/").with_header("x-request-id", &id);
        let mut id = policy.set(&mut next, false, &mut rng);
        assert!(policy.trace(Some(&HALF), &mut next, &mut id, &mut rng).sampled);
        let mut other = Request::new(Method::Get, "a", "/");
        let mut id = policy.set(&mut other, false, &mut rng);
        assert!(!policy.trace(Some(&HALF), &mut other, &mut id, &mut rng).sampled);
    }

    #[test]
    fn the_share_is_about_what_was_asked_for() {
        let policy = RequestIdPolicy::default();
        let sampling = Sampling { random: Chance::percent(10.0), ..HALF };
        let mut rng = SeededRandom::new(5);
        let traced = (0..20_000)
            .filter(|_| {
                let mut request = Request::new(Method::Get, "a", "/");
                let mut id = policy.set(&mut request, false, &mut rng);
                policy.trace(Some(&sampling), &mut request, &mut id, &mut rng).sampled
            })
            .count();
        assert!((1800..2200).contains(&traced), "{traced}");
    }
}
