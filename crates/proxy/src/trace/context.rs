//! Trace and span ids and the headers that carry them.

use base::{Random, hex, push_hex};
use decide::{Headers, Known, TraceHeaders};

/// Where a span belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub trace: u128,
    pub span: u64,
    pub parent: Option<u64>,
}

/// A request's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    pub ids: Ids,
    pub sampled: bool,
}

impl SpanContext {
    /// A new trace.
    pub fn root<R: Random + ?Sized>(wide: bool, sampled: bool, rng: &mut R) -> Self {
        let span = nonzero(rng);
        let trace =
            if wide { u128::from(nonzero(rng)) << 64 | u128::from(nonzero(rng)) } else { u128::from(span) };
        Self { ids: Ids { trace, span, parent: None }, sampled }
    }

    /// The span below this one.
    pub fn child<R: Random + ?Sized>(&self, rng: &mut R) -> Self {
        let ids = Ids { trace: self.ids.trace, span: nonzero(rng), parent: Some(self.ids.span) };
        Self { ids, sampled: self.sampled }
    }

    /// What the caller said, in the headers of our tracer first; `None` for the sampling where it left that open.
    pub fn extract(headers: &Headers, first: TraceHeaders) -> Option<(Ids, Option<bool>)> {
        let b3 = || b3(headers).or_else(|| b3_single(headers));
        match first {
            TraceHeaders::B3 | TraceHeaders::B3AndW3c => b3().or_else(|| w3c(headers)),
            TraceHeaders::W3c => w3c(headers).or_else(b3),
        }
    }

    /// A sampling decision without a trace (`b3: 0`, `x-b3-sampled: 0` alone).
    pub fn extract_sampling(headers: &Headers) -> Option<bool> {
        let text = headers.known_str(Known::XB3Sampled).or_else(|| headers.known_str(Known::B3))?;
        sampled_of(text)
    }

    pub fn inject(&self, headers: &mut Headers, wanted: TraceHeaders) {
        if wanted != TraceHeaders::W3c {
            self.inject_b3(headers);
        }
        if wanted != TraceHeaders::B3 {
            self.inject_w3c(headers);
        }
    }

    fn inject_b3(&self, headers: &mut Headers) {
        let Ids { trace, span, parent } = self.ids;
        headers.remove_known(Known::B3);
        headers.set(Known::XB3TraceId, trace_text(trace));
        headers.set(Known::XB3SpanId, hex(span));
        match parent {
            Some(parent) => headers.set(Known::XB3ParentSpanId, hex(parent)),
            None => _ = headers.remove_known(Known::XB3ParentSpanId),
        }
        headers.set(Known::XB3Sampled, if self.sampled { "1" } else { "0" });
    }

    fn inject_w3c(&self, headers: &mut Headers) {
        let Ids { trace, span, .. } = self.ids;
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, (trace >> 64) as u64, 16);
        push_hex(&mut text, trace as u64, 16);
        text.push('-');
        push_hex(&mut text, span, 16);
        text.push_str(if self.sampled { "-01" } else { "-00" });
        headers.set(Known::Traceparent, text);
    }
}

/// 16 digits where they are enough, as B3 and Zipkin have it.
pub(super) fn trace_text(trace: u128) -> String {
    let mut text = String::with_capacity(32);
    if trace >> 64 != 0 {
        push_hex(&mut text, (trace >> 64) as u64, 16);
    }
    push_hex(&mut text, trace as u64, 16);
    text
}

fn nonzero<R: Random + ?Sized>(rng: &mut R) -> u64 {
    rng.next_u64().max(1)
}

fn id64(text: &str) -> Option<u64> {
    (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(text, 16).ok())?
}

fn id128(text: &str) -> Option<u128> {
    let right_length = matches!(text.len(), 16 | 32) && text.bytes().all(|b| b.is_ascii_hexdigit());
    right_length.then(|| u128::from_str_radix(text, 16).ok())?.filter(|id| *id != 0)
}

fn sampled_of(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "d" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn b3(headers: &Headers) -> Option<(Ids, Option<bool>)> {
    let trace = id128(headers.known_str(Known::XB3TraceId)?)?;
    let span = id64(headers.known_str(Known::XB3SpanId)?)?;
    let parent = headers.known_str(Known::XB3ParentSpanId).and_then(id64);
    let debug = headers.known_str(Known::XB3Flags) == Some("1");
    let sampled = if debug { Some(true) } else { headers.known_str(Known::XB3Sampled).and_then(sampled_of) };
    Some((Ids { trace, span, parent }, sampled))
}

fn b3_single(headers: &Headers) -> Option<(Ids, Option<bool>)> {
    let mut parts = headers.known_str(Known::B3)?.split('-');
    let trace = id128(parts.next()?)?;
    let span = id64(parts.next()?)?;
    let sampled = parts.next().and_then(sampled_of);
    let parent = parts.next().and_then(id64);
    Some((Ids { trace, span, parent }, sampled))
}

fn w3c(headers: &Headers) -> Option<(Ids, Option<bool>)> {
    let mut parts = headers.known_str(Known::Traceparent)?.split('-');
    let version = parts.next().filter(|v| v.len() == 2 && *v != "ff")?;
    let trace = parts.next().filter(|t| t.len() == 32).and_then(id128)?;
    let span = parts.next().and_then(id64).filter(|s| *s != 0)?;
    let flags = u8::from_str_radix(parts.next().filter(|f| f.len() == 2)?, 16).ok()?;
    if version == "00" && parts.next().is_some() {
        return None;
    }
    Some((Ids { trace, span, parent: None }, Some(flags & 1 == 1)))
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(n, v)| (*n, v.to_string())).collect()
    }

    #[test]
    fn contexts_are_read_in_all_three_forms() {
        let ids = Ids { trace: 0x463ac35c9f6413ad48485a3953bb6124, span: 0xa2fb4a1d1a96d312, parent: None };
        for (pairs, sampled) in [
            (
                &[
                    ("X-B3-TraceId", "463ac35c9f6413ad48485a3953bb6124"),
                    ("X-B3-SpanId", "a2fb4a1d1a96d312"),
                    ("X-B3-Sampled", "1"),
                ][..],
                Some(true),
            ),
            (&[("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-0")], Some(false)),
            (&[("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312")], None),
            (&[("traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01")], Some(true)),
        ] {
            for first in [TraceHeaders::B3, TraceHeaders::W3c] {
                assert_eq!(SpanContext::extract(&headers(pairs), first), Some((ids, sampled)), "{pairs:?}");
            }
        }
        for bad in [
            ("b3", "x"),
            ("traceparent", "00-00000000000000000000000000000000-a2fb4a1d1a96d312-01"),
            ("traceparent", "ff-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01"),
            ("traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01-x"),
        ] {
            assert_eq!(SpanContext::extract(&headers(&[bad]), TraceHeaders::W3c), None, "{bad:?}");
        }
        assert_eq!(SpanContext::extract_sampling(&headers(&[("b3", "0")])), Some(false));
    }

    #[test]
    fn what_is_injected_is_extracted() {
        let mut rng = SeededRandom::new(3);
        let root = SpanContext::root(true, true, &mut rng);
        let child = root.child(&mut rng);
        assert_eq!(child.ids.parent, Some(root.ids.span));
        for wanted in [TraceHeaders::B3, TraceHeaders::B3AndW3c, TraceHeaders::W3c] {
            let mut sent = Headers::new();
            child.inject(&mut sent, wanted);
            assert_eq!(sent.contains(Known::Traceparent), wanted != TraceHeaders::B3, "{wanted:?}");
            let (ids, sampled) = SpanContext::extract(&sent, wanted).unwrap();
            assert_eq!((ids.trace, ids.span, sampled), (child.ids.trace, child.ids.span, Some(true)));
        }
    }

    /// A hop that writes one kind leaves older ones of the other kind behind it.
    #[test]
    fn the_tracers_own_headers_are_believed_before_others() {
        let both = headers(&[
            ("x-b3-traceid", "000000000000000b"),
            ("x-b3-spanid", "000000000000000b"),
            ("traceparent", "00-0000000000000000000000000000000c-000000000000000c-01"),
        ]);
        for (first, trace) in
            [(TraceHeaders::B3, 0xb), (TraceHeaders::B3AndW3c, 0xb), (TraceHeaders::W3c, 0xc)]
        {
            assert_eq!(SpanContext::extract(&both, first).unwrap().0.trace, trace, "{first:?}");
        }
    }
}
