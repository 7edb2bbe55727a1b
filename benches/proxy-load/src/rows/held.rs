//! Memory for each connection that is open and idle.

use std::time::Duration;

use anyhow::Result;

use super::http::plain_part;
use crate::bench::Bench;
use crate::contestant::{ENVOY, Kind, MIZZEN};
use crate::load::idle::{Held, http1, http2};
use crate::report::{Aim, Column, Report, Target};

const EACH: Column = Column { name: "KB per connection", digits: 1 };

pub(crate) fn run(bench: &Bench) -> Result<Vec<Report>> {
    Ok(vec![held(bench, "HTTP/1.1", &Kind::ALL, http1)?, held(bench, "HTTP/2", &Kind::MESH, http2)?])
}

fn held(bench: &Bench, protocol: &str, kinds: &[Kind], open: fn(u16) -> Result<Held>) -> Result<Report> {
    // Some proxies reserve a second descriptor for each connection, for the upstream's.
    let most = usize::try_from(bench.descriptors.saturating_sub(1000) / 2).unwrap_or(usize::MAX);
    let count = most.min(if bench.is_quick() { 4000 } else { 10_000 });
    let title = format!("{count} idle {protocol} connections, each after one request, no filters");
    let target = Target { column: EACH, of: MIZZEN, to: Some(ENVOY), aim: Aim::AtMost(0.5) };
    let mut report = Report::new(title, &[EACH], &[target]);
    for contestant in bench.start(kinds, |kind, port| Some(plain_part(bench, kind, port)))? {
        // What is only made once is there after the first few.
        let few = (0..100).map(|_| open(contestant.port)).collect::<Result<Vec<_>>>()?;
        let before = contestant.cost()?.resident;
        let many = (0..count).map(|_| open(contestant.port)).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(Duration::from_millis(500));
        let after = contestant.cost()?.resident;
        report.add(&contestant.name, [(after - before) * 1024.0 / count as f64]);
        drop((few, many));
    }
    Ok(report)
}
