//! One place that keys are fetched from: when to try, and what is known of it. Time is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{NamespacedName, Random};
use model::KeySet;
use runtime::backoff::Backoff;

use super::fetch::Place;

/// Keys that could not be fetched again for so long are not believed any more, as in istiod.
const LONGEST_BELIEVED: Duration = Duration::from_secs(7 * 24 * 3600);
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Source {
    pub(super) place: Place,
    /// How long a try may take.
    pub(super) within: Duration,
    /// What came of the last try; nothing before the first has ended.
    known: Option<Known>,
    /// Nothing while a try is under way.
    pub(super) due: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug, Default, PartialEq)]
struct Known {
    keys: Option<(Arc<str>, Instant)>,
    fault: Option<Arc<str>>,
}

impl Source {
    pub(super) fn new(place: Place, now: Instant) -> Self {
        let backoff = Backoff::new(FIRST_AGAIN, LAST_AGAIN);
        Self { place, within: Duration::ZERO, known: None, due: Some(now), backoff }
    }

    pub(super) fn is_tried(&self) -> bool {
        self.known.is_some()
    }

    /// Takes what came of a try. Whether there is anything new to tell.
    pub(super) fn tried(
        &mut self,
        got: Result<Arc<str>, String>,
        now: Instant,
        refresh: Duration,
        random: &mut impl Random,
    ) -> bool {
        let before = self.known.take().unwrap_or_default();
        let first = before == Known::default();
        let told =
            |known: &Known| (known.keys.as_ref().map(|(keys, _)| Arc::clone(keys)), known.fault.clone());
        let old = told(&before);
        let (known, pause) = match got {
            Ok(keys) => {
                self.backoff.reset();
                // Not all at once.
                let spread = u64::try_from((refresh / 10).as_nanos()).unwrap_or(u64::MAX);
                let pause = refresh - Duration::from_nanos(random.below(spread));
                (Known { keys: Some((keys, now)), fault: None }, pause)
            }
            Err(fault) => {
                let believed = |(_, at): &(_, Instant)| now.duration_since(*at) < LONGEST_BELIEVED;
                let keys = before.keys.filter(believed);
                (Known { keys, fault: Some(fault.into()) }, self.backoff.pause(random))
            }
        };
        let new = told(&known);
        self.known = Some(known);
        self.due = Some(now + pause);
        first || new != old
    }

    pub(super) fn key_set(&self, name: &NamespacedName) -> KeySet {
        let known = self.known.as_ref();
        KeySet {
            name: name.clone(),
            keys: known.and_then(|known| known.keys.as_ref()).map(|(keys, _)| Arc::clone(keys)),
            fault: known.and_then(|known| known.fault.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_when_they_cannot_be_fetched_again_but_not_for_ever() {
        let (refresh, start) = (Duration::from_secs(1200), Instant::now());
        let random = &mut base::SeededRandom::new(1);
        let mut source = Source::new(Place::Uri("http://a".into()), start);
        let name = NamespacedName::new("jwksUri", "http://a");
        assert!(!source.is_tried());
        assert!(source.tried(Err("down".into()), start, refresh, random));
        assert!(source.is_tried() && source.key_set(&name).keys.is_none());
        // Soon again, then less and less often.
        assert!(source.due.unwrap() - start <= FIRST_AGAIN);
        assert!(!source.tried(Err("down".into()), start, refresh, random));
        assert!(source.due.unwrap() - start > FIRST_AGAIN / 2);
        assert!(source.tried(Ok("k1".into()), start, refresh, random));
        let pause = source.due.unwrap() - start;
        assert!(pause > refresh.mul_f64(0.9) && pause <= refresh, "{pause:?}");
        assert!(!source.tried(Ok("k1".into()), start, refresh, random));
        assert!(source.tried(Ok("k2".into()), start, refresh, random));
        assert!(source.tried(Err("down".into()), start + refresh, refresh, random));
        let set = source.key_set(&name);
        assert_eq!((set.keys.as_deref(), set.fault.as_deref()), (Some("k2"), Some("down")));
        assert!(source.due.unwrap() - (start + refresh) <= FIRST_AGAIN);
        assert!(source.tried(Err("down".into()), start + LONGEST_BELIEVED, refresh, random));
        assert_eq!(source.key_set(&name).keys, None);
    }
}
