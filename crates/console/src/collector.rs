//! Keeps the last minutes of every proxy's counters, so that the graph needs no Prometheus.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::traffic::{Edge, Totals};

/// Asks every proxy for its counters: one text in Prometheus' format for each that answered.
pub type Scrape = Arc<dyn Fn() -> BoxFuture<'static, Vec<String>> + Send + Sync>;

const INTERVAL: Duration = Duration::from_secs(2);
/// Ten minutes, at one every two seconds.
const KEPT: usize = 300;

/// Shared by the task that collects and whoever asks.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<VecDeque<Moment>>>);

type Moment = (Instant, Arc<Totals>);

impl Collector {
    /// Collects for ever.
    pub async fn run(self, scrape: Scrape) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut totals = Totals::default();
            for text in scrape().await {
                totals.add(&text);
            }
            self.put(Instant::now(), totals);
        }
    }

    fn put(&self, now: Instant, totals: Totals) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((now, Arc::new(totals)));
    }

    /// What flowed in the last `window`.
    pub fn edges(&self, window: Duration) -> Vec<Edge> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((now, totals)) = kept.back().cloned() else { return Vec::new() };
        let earlier = kept.iter().find(|(at, _)| now.duration_since(*at) <= window).cloned();
        drop(kept);
        let Some((then, earlier)) = earlier.filter(|(then, _)| *then < now) else { return Vec::new() };
        totals.since(&earlier, now.duration_since(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_compares_with_the_oldest_moment_inside_it() {
        let collector = Collector::default();
        let start = Instant::now();
        for (second, count) in [(0_u64, 0_u32), (10, 100), (20, 400)] {
            let mut totals = Totals::default();
            totals
                .add(&format!("istio_requests_total{{reporter=\"source\",response_code=\"200\"}} {count}\n"));
            collector.put(start + Duration::from_secs(second), totals);
        }
        assert!((collector.edges(Duration::from_secs(15))[0].rate - 30.0).abs() < 1e-9);
        assert!((collector.edges(Duration::from_secs(60))[0].rate - 20.0).abs() < 1e-9);
    }
}
