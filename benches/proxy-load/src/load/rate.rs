//! Requests at a fixed rate, sent when they are due and timed from then on, whatever became of those before.

use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::http::Client;

const CONNECTIONS: u32 = 16;

/// Latencies, sorted.
#[derive(Debug)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latency that so many of a thousand requests did not exceed, in microseconds.
    pub(crate) fn at(&self, per_mille: usize) -> f64 {
        let place = (self.0.len() * per_mille).div_ceil(1000);
        let latency = self.0.get(place.saturating_sub(1)).copied().unwrap_or_default();
        latency.as_nanos() as f64 / 1e3
    }
}

/// So many requests a second, spread evenly over time and over connections.
pub(crate) fn run(port: u16, rate: u32, seconds: u32) -> Result<Latencies> {
    let interval = Duration::from_secs(1) / rate;
    let clients = (0..CONNECTIONS).map(|_| {
        let mut client = Client::connect(port)?;
        client.ask()?;
        Ok(client)
    });
    let clients: Vec<Client> = clients.collect::<Result<_>>()?;
    let start = Instant::now() + Duration::from_millis(50);
    let threads: Vec<_> = (0..CONNECTIONS)
        .zip(clients)
        .map(|(number, client)| {
            thread::spawn(move || {
                let turns = rate * seconds / CONNECTIONS;
                let due = move |turn: u32| start + interval * (turn * CONNECTIONS + number);
                keep(client, (0..turns).map(due))
            })
        })
        .collect();
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_| anyhow!("a thread of the load ended"))??);
    }
    all.sort_unstable();
    Ok(Latencies(all))
}

fn keep(mut client: Client, dues: impl Iterator<Item = Instant>) -> Result<Vec<Duration>> {
    // The kernel may wake sleepers late to save energy; here that would be measured.
    rustix::thread::set_current_timer_slack(NonZero::new(1))?;
    let mut latencies = Vec::new();
    for due in dues {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        client.ask()?;
        latencies.push(due.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let latencies = Latencies((1..=1000).map(Duration::from_micros).collect());
        assert_eq!([500, 990, 999].map(|part| latencies.at(part)), [500.0, 990.0, 999.0]);
    }
}
