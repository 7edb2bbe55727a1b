//! What a proxy adds to the latency of requests that come at a fixed rate.

use anyhow::Result;

use super::http::plain_part;
use super::pair::pair;
use crate::bench::Bench;
use crate::contestant::{ENVOY, Kind, MIZZEN};
use crate::load::rate::{self, Latencies};
use crate::report::{Aim, Column, Report, Target};

const COLUMNS: [Column; 3] = [
    Column { name: "p50 µs", digits: 0 },
    Column { name: "p99 µs", digits: 0 },
    Column { name: "p99.9 µs", digits: 0 },
];
const DIRECT: &str = "(no proxy: absolute)";
const RATE: u32 = 1000;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Report>> {
    let plain = bench.start(&Kind::ALL, |kind, port| Some(plain_part(bench, kind, port)))?;
    let plain: Vec<_> = plain.iter().map(|it| (it.name.as_str(), it.port)).collect();
    let envoy = pair(bench, ENVOY, Kind::Envoy, false, false)?;
    let ours = pair(bench, MIZZEN, Kind::Mizzen, false, false)?;
    let pairs: Vec<_> = envoy.iter().chain(&ours).map(|it| (it.name.as_str(), it.port)).collect();
    let none = Target { column: COLUMNS[1], of: MIZZEN, to: Some(ENVOY), aim: Aim::None };
    let half = Target { aim: Aim::AtMost(0.5), ..none };
    Ok(vec![
        measure(
            bench,
            &format!("Added latency, HTTP/1.1 plaintext, no filters, {RATE} requests/s"),
            &plain,
            none,
        )?,
        measure(
            bench,
            &format!("Added latency, pair with mutual TLS, mesh chain, {RATE} requests/s"),
            &pairs,
            half,
        )?,
    ])
}

fn measure(bench: &Bench, title: &str, ports: &[(&str, u16)], target: Target) -> Result<Report> {
    let mut report = Report::new(title, &COLUMNS, &[target]);
    let seconds = if bench.is_quick() { 2 } else { 4 };
    let parts = |of: &Latencies| [500, 990, 999].map(|per_mille| of.at(per_mille));
    for _ in 0..bench.rounds() {
        let direct = parts(&rate::run(bench.upstream.http1, RATE, seconds)?);
        report.add(DIRECT, direct);
        for (name, port) in ports {
            let through = parts(&rate::run(*port, RATE, seconds)?);
            report.add(name, through.iter().zip(direct).map(|(through, direct)| through - direct));
        }
    }
    Ok(report)
}
