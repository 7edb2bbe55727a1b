//! From the start to the first answer, and memory thereafter: with little configuration and with much.

use std::time::Duration;

use anyhow::Result;

use super::http::plain_part;
use crate::bench::{Bench, RESIDENT};
use crate::config::chain::{Chain, Side};
use crate::config::envoy::{Bootstrap, Hop};
use crate::contestant::{ENVOY, Kind, MIZZEN, Part};
use crate::process::Asks;
use crate::report::{Aim, Column, Report, Target};

const START: Column = Column { name: "start to first answer, ms", digits: 0 };
const CPU: Column = Column { name: "CPU ms for it", digits: 0 };
const CLUSTERS: usize = 1000;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Report>> {
    Ok(vec![idle(bench)?, with_clusters(bench)?])
}

fn idle(bench: &Bench) -> Result<Report> {
    let targets = [Target { column: RESIDENT, of: MIZZEN, to: None, aim: Aim::AtMost(10.0) }];
    let title = "Idle: one cluster; mesh chain where there is one";
    let mut report = Report::new(title, &[START, CPU, RESIDENT], &targets);
    measure(bench, &mut report, &Kind::ALL, |kind, port| match kind {
        Kind::Envoy | Kind::Mizzen => Part { port, config: chain(bench, port).text(), asks: Asks::Http },
        _ => plain_part(bench, kind, port),
    })?;
    Ok(report)
}

fn with_clusters(bench: &Bench) -> Result<Report> {
    let targets = [
        Target { column: START, of: MIZZEN, to: None, aim: Aim::AtMost(100.0) },
        Target { column: RESIDENT, of: MIZZEN, to: None, aim: Aim::AtMost(25.0) },
        Target { column: START, of: MIZZEN, to: Some(ENVOY), aim: Aim::None },
        Target { column: RESIDENT, of: MIZZEN, to: Some(ENVOY), aim: Aim::None },
    ];
    let title =
        format!("{CLUSTERS} clusters of 10 endpoints with mutual TLS, as many virtual hosts, mesh chain");
    let mut report = Report::new(title, &[START, CPU, RESIDENT], &targets);
    measure(bench, &mut report, &Kind::MESH, |_, port| {
        let bootstrap = chain(bench, port).with_others(CLUSTERS, bench.keys.answer.id);
        Part { port, config: bootstrap.text(), asks: Asks::Http }
    })?;
    Ok(report)
}

fn chain(bench: &Bench, port: u16) -> Bootstrap {
    let (upstream, spans) = (bench.upstream.http1, bench.upstream.http1);
    let log = std::path::Path::new("/dev/null");
    let side = Side::Both;
    let chain = Chain { port, upstream, spans, log, hop: Hop::default(), side, istio_stats: false };
    chain.bootstrap().with_secrets(&bench.keys.caller, &bench.keys.root)
}

/// Each is started anew in every round, alone.
fn measure(
    bench: &Bench,
    report: &mut Report,
    kinds: &[Kind],
    part: impl Fn(Kind, u16) -> Part,
) -> Result<()> {
    for _ in 0..bench.rounds() {
        for &kind in kinds {
            for contestant in bench.start(&[kind], |kind, port| Some(part(kind, port)))? {
                let cpu = contestant.cost()?.cpu;
                // What goes on after the first answer belongs to the memory of an idle one.
                std::thread::sleep(Duration::from_millis(500));
                let resident = contestant.cost()?.resident;
                report.add(&contestant.name, [contestant.started.as_secs_f64() * 1e3, cpu * 1e3, resident]);
            }
        }
    }
    Ok(())
}
