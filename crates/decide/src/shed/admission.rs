//! `admission_control`: the worse the last answers were, the more requests are turned away, by chance.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base::Random;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::http::admission_control::v3 as pb;

use super::Ended;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{duration, flag};

const WINDOW: Duration = Duration::from_secs(30);
/// The window is remembered in so many parts at most, none shorter than a second.
const PARTS: u64 = 60;
/// Chances are drawn to four places.
const PLACES: f64 = 10_000.0;

/// Counts of one part of the window: its number, requests and successes in one word, so that no lock is needed.
const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) enabled: bool,
    window: Duration,
    part: Duration,
    aggression: f64,
    /// The rate of success at which nothing is turned away.
    threshold: f64,
    least_rps: u64,
    most: f64,
    http: Vec<(u16, u16)>,
    grpc: Vec<u32>,
    origin: OnceLock<Instant>,
    parts: Box<[AtomicU64]>,
    pub(crate) stats: Stats,
}

#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) rejected: Arc<str>,
    pub(crate) success: Arc<str>,
    pub(crate) failure: Arc<str>,
}

/// Of gRPC, Envoy's default: not what says that the server is in trouble.
const GRPC_SUCCESS: [u32; 10] = [0, 1, 2, 3, 5, 6, 16, 9, 11, 12];

impl Admission {
    pub(crate) fn compile(m: &pb::AdmissionControl) -> Taken<Self> {
        use pb::admission_control::EvaluationCriteria as Criteria;
        let percent = |value: &Option<core::RuntimePercent>, default: f64, field: &str| {
            let set = value.as_ref().map(|v| v.default_value.as_ref().map_or(0.0, |p| p.value));
            match set.unwrap_or(default) {
                value if (0.0..=100.0).contains(&value) => Ok(value / 100.0),
                _ => Err(Refusal::new("must be from 0 to 100").under("defaultValue").under(field)),
            }
        };
        let window = duration(&m.sampling_window, "samplingWindow")?.unwrap_or(WINDOW);
        if window < Duration::from_secs(1) {
            return Err(Refusal::new("must be a second or more").under("samplingWindow"));
        }
        let threshold = percent(&m.sr_threshold, 95.0, "srThreshold")?;
        if threshold < 0.01 {
            return Err(Refusal::new("must be 1 or more").under("defaultValue").under("srThreshold"));
        }
        let Some(Criteria::SuccessCriteria(criteria)) = &m.evaluation_criteria else {
            return Err(Refusal::new("is missing").under("successCriteria"));
        };
        let http = match &criteria.http_criteria {
            None => vec![(0, 500)],
            Some(http) => each(&http.http_success_status, "httpSuccessStatus", |range| {
                let number = |n| u16::try_from(n).ok().filter(|n| (100..=600).contains(n));
                match (number(range.start), number(range.end)) {
                    (Some(start), Some(end)) if start < end => Ok((start, end)),
                    _ => Err(Refusal::new("must be a range within 100 and 600")),
                }
            })
            .within("httpCriteria")
            .within("successCriteria")?,
        };
        let grpc = match &criteria.grpc_criteria {
            None => GRPC_SUCCESS.to_vec(),
            Some(grpc) if grpc.grpc_success_status.iter().all(|code| *code <= 16) => {
                grpc.grpc_success_status.clone()
            }
            Some(_) => {
                return Err(Refusal::new("must be from 0 to 16").under("grpcSuccessStatus"))
                    .within("grpcCriteria")
                    .within("successCriteria");
            }
        };
        let parts = window.as_secs().clamp(1, PARTS);
        Ok(Self {
            enabled: m.enabled.as_ref().is_none_or(|e| flag(&e.default_value, true)),
            window,
            part: window.div_f64(parts as f64),
            aggression: m.aggression.as_ref().map_or(1.0, |a| a.default_value).max(1.0),
            threshold,
            least_rps: m.rps_threshold.as_ref().map_or(0, |r| u64::from(r.default_value)),
            most: percent(&m.max_rejection_probability, 80.0, "maxRejectionProbability")?,
            http,
            grpc,
            origin: OnceLock::new(),
            // One more: the oldest part is still counted while the newest begins.
            parts: (0..=parts).map(|_| AtomicU64::new(0)).collect(),
            stats: Stats {
                rejected: "admission_control.rq_rejected".into(),
                success: "admission_control.rq_success".into(),
                failure: "admission_control.rq_failure".into(),
            },
        })
    }

    pub(crate) fn succeeded(&self, ended: &Ended) -> bool {
        match ended.grpc {
            Some(status) => status.is_some_and(|status| self.grpc.contains(&status)),
            None => {
                self.http.iter().any(|(from, to)| (*from..*to).contains(&ended.status) && ended.status != 0)
            }
        }
    }

    /// Whether a request is turned away.
    pub(crate) fn rejects<R: Random + ?Sized>(&self, now: Instant, rng: &mut R) -> bool {
        let (total, success) = self.counted(now);
        if total / self.window.as_secs().max(1) < self.least_rps {
            return false;
        }
        let chance = self.chance(total as f64, success as f64);
        PLACES * chance > rng.below(PLACES as u64) as f64
    }

    fn chance(&self, total: f64, success: f64) -> f64 {
        let short = (total - success / self.threshold) / (total + 1.0);
        short.max(0.0).powf(1.0 / self.aggression).min(self.most)
    }

    /// Parts are numbered from 1, so that an empty one is of none.
    fn part_of(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(*self.origin.get_or_init(|| now));
        (since.as_secs_f64() / self.part.as_secs_f64()) as u64 + 1
    }

    pub(crate) fn record(&self, success: bool, now: Instant) {
        let part = self.part_of(now);
        let slot = &self.parts[part as usize % self.parts.len()];
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let (of, total, well) = unpack(word);
            if of > part {
                // Its time is over: others count already what came after.
                return None;
            }
            let (total, well) = if of == part { (total, well) } else { (0, 0) };
            Some(pack(part, (total + 1).min(MASK), (well + u64::from(success)).min(MASK)))
        });
    }

    /// Requests of the window, and how many of them went well.
    fn counted(&self, now: Instant) -> (u64, u64) {
        let newest = self.part_of(now);
        let oldest = newest.saturating_sub(self.parts.len() as u64 - 2);
        let words = self.parts.iter().map(|slot| unpack(slot.load(Relaxed)));
        let fresh = words.filter(|(of, ..)| *of != 0 && (oldest..=newest).contains(of));
        fresh.fold((0, 0), |(total, success), (_, t, s)| (total + t, success + s))
    }
}

fn pack(part: u64, total: u64, success: u64) -> u64 {
    part << (2 * BITS) | total << BITS | success
}

fn unpack(word: u64) -> (u64, u64, u64) {
    (word >> (2 * BITS), word >> BITS & MASK, word & MASK)
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;
    use serde_json::{Value, json};

    use super::*;

    fn filter(mut fields: Value) -> Admission {
        if fields["successCriteria"].is_null() {
            fields["successCriteria"] = json!({});
        }
        Admission::compile(&proto::json::decode(&fields).unwrap()).unwrap()
    }

    /// Two thousand requests within a window: how many of a thousand more are turned away.
    fn turned_away(filter: &Admission, success_percent: u64) -> usize {
        let mut rng = SeededRandom::new(11);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..2000 {
            now += Duration::from_millis(10);
            filter.record(rng.below(100) < success_percent, now);
        }
        (0..1000).filter(|_| filter.rejects(now, &mut rng)).count()
    }

    #[test]
    fn the_worse_the_answers_the_more_is_turned_away() {
        for (success, fields, least, most) in [
            (100, json!({}), 0, 0),
            (96, json!({}), 0, 30),
            (50, json!({}), 430, 520),
            (0, json!({}), 770, 830),
            (
                0,
                json!({"maxRejectionProbability": {"defaultValue": {"value": 30}, "runtimeKey": "k"}}),
                260,
                340,
            ),
            (50, json!({"aggression": {"defaultValue": 2, "runtimeKey": "k"}}), 640, 740),
            (50, json!({"srThreshold": {"defaultValue": {"value": 50}, "runtimeKey": "k"}}), 0, 60),
            (0, json!({"rpsThreshold": {"defaultValue": 1000, "runtimeKey": "k"}}), 0, 0),
        ] {
            let away = turned_away(&filter(fields.clone()), success);
            assert!((least..=most).contains(&away), "{success} {fields}: {away}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let filter = filter(json!({"samplingWindow": "10s"}));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..10 {
            filter.record(second % 2 == 0, at(second));
        }
        for (second, wanted) in [(9, (10, 5)), (12, (7, 3)), (18, (1, 0)), (19, (0, 0)), (500, (0, 0))] {
            assert_eq!(filter.counted(at(second)), wanted, "{second}");
        }
        filter.record(true, at(1000));
        assert_eq!(filter.counted(at(1000)), (1, 1));
    }

    #[test]
    fn several_threads_lose_no_count() {
        let filter = filter(json!({}));
        let now = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|i| filter.record(i % 4 == 0, now)));
            }
        });
        assert_eq!(filter.counted(now), (4000, 1000));
    }

    #[test]
    fn answers_are_judged_by_the_criteria() {
        let usual = filter(json!({}));
        let own = filter(json!({"successCriteria": {
            "httpCriteria": {"httpSuccessStatus": [{"start": 200, "end": 300}]},
            "grpcCriteria": {"grpcSuccessStatus": [0, 14]}}}));
        let http = |status| Ended { status, ..Ended::default() };
        let grpc = |code| Ended { status: 200, grpc: Some(code), complete: true };
        for (ended, by_usual, by_own) in [
            (http(200), true, true),
            (http(404), true, false),
            (http(503), false, false),
            (http(0), false, false),
            (grpc(Some(0)), true, true),
            (grpc(Some(14)), false, true),
            (grpc(Some(5)), true, false),
            (grpc(None), false, false),
        ] {
            assert_eq!((usual.succeeded(&ended), own.succeeded(&ended)), (by_usual, by_own), "{ended:?}");
        }
    }
}
