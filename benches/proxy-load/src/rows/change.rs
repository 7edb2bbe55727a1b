//! One changed cluster among many, by delta ADS: what it costs to take it in.

use anyhow::{Context as _, Result};
use proto::json::from_value;

use crate::ads::{Ads, Named};
use crate::bench::{Bench, RESIDENT};
use crate::config::envoy::{Bootstrap, Hop, other};
use crate::contestant::{Contestant, ENVOY, Kind, MIZZEN, Part};
use crate::process::{Asks, free_port};
use crate::report::{Aim, Column, Report, Target};

const CPU: Column = Column { name: "CPU ms per change", digits: 2 };
const CLUSTERS: usize = 10_000;
/// In a round, each accepted before the next is sent: a process' CPU time is told in steps of 10 ms.
const CHANGES: usize = 100;

struct Subject {
    contestant: Contestant,
    ads: Ads,
}

pub(crate) fn run(bench: &Bench) -> Result<Vec<Report>> {
    let targets = [
        Target { column: CPU, of: MIZZEN, to: None, aim: Aim::AtMost(5.0) },
        Target { column: CPU, of: MIZZEN, to: Some(ENVOY), aim: Aim::None },
    ];
    let title = format!("One changed cluster among {CLUSTERS} of 10 endpoints with mutual TLS, by delta ADS");
    let mut report = Report::new(title, &[CPU, RESIDENT], &targets);
    let mut subjects = Vec::new();
    for kind in Kind::MESH {
        if let Some(subject) = subject(bench, kind)? {
            subjects.push(subject);
        }
    }
    for round in 0..bench.rounds() {
        for turn in 0..subjects.len() {
            let subject = &subjects[(round + turn) % subjects.len()];
            let before = subject.contestant.cost()?;
            for change in 0..CHANGES {
                let number = (round * CHANGES + change) % CLUSTERS;
                subject.ads.change(named(bench, number, 20 + round)?)?;
            }
            let after = subject.contestant.cost()?;
            let cpu = (after.cpu - before.cpu) * 1e3 / CHANGES as f64;
            report.add(&subject.contestant.name, [cpu, after.resident]);
        }
    }
    Ok(vec![report])
}

/// Started, and with all clusters accepted.
fn subject(bench: &Bench, kind: Kind) -> Result<Option<Subject>> {
    let Some(program) = bench.programs.of(kind) else { return Ok(None) };
    let clusters = (0..CLUSTERS).map(|number| named(bench, number, 10)).collect::<Result<_>>()?;
    let ads = Ads::start(clusters)?;
    let (port, folder) = (free_port()?, bench.folder()?);
    let bootstrap = Bootstrap::plain(port, bench.upstream.http1, None)
        .with_secrets(&bench.keys.caller, &bench.keys.root)
        .with_ads(ads.port);
    let part = Part { port, config: bootstrap.text(), asks: Asks::Http };
    let contestant = Contestant::start(kind.name(), kind, &program, &folder, vec![part])?;
    ads.wait().with_context(|| kind.name())?;
    Ok(Some(Subject { contestant, ads }))
}

/// A cluster that waits so many seconds for a connection.
fn named(bench: &Bench, number: usize, seconds: usize) -> Result<Named> {
    let hop = Hop { http2: false, peer: Some(bench.keys.answer.id) };
    let (name, mut cluster) = other(number, hop);
    cluster["connect_timeout"] = format!("{seconds}s").into();
    let encoded = from_value("envoy.config.cluster.v3.Cluster", &cluster)?;
    Ok(Named { name, encoded })
}
