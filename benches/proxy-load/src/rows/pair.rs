//! Requests through a pair of sidecars that speak mutual TLS with each other.

use anyhow::Result;

use crate::bench::{Bench, Unit};
use crate::config::chain::{Chain, Side};
use crate::config::envoy::Hop;
use crate::contestant::{Contestant, ENVOY, Kind, MESHES, MIZZEN, MIZZEN_STATS, Part};
use crate::load::wrk;
use crate::process::{Asks, free_port};
use crate::report::{Aim, Report, Target};

pub(crate) fn http1(bench: &Bench) -> Result<Vec<Report>> {
    run(bench, "Pair with mutual TLS, HTTP/1.1 throughout, mesh chain, both processes together", false, 0.30)
}

pub(crate) fn http2(bench: &Bench) -> Result<Vec<Report>> {
    run(bench, "Pair with mutual TLS, HTTP/2 between, mesh chain, both processes together", true, 0.35)
}

fn run(bench: &Bench, title: &str, http2: bool, aim: f64) -> Result<Vec<Report>> {
    let target = |of, aim| Target { column: Unit::REQUESTS.cpu, of, to: Some(ENVOY), aim };
    let targets = [target(MIZZEN, Aim::AtMost(aim)), target(MIZZEN_STATS, Aim::None)];
    let mut report = Report::new(title, &Unit::REQUESTS.columns(), &targets);
    let mut contestants = Vec::new();
    for (name, kind, istio_stats) in MESHES {
        contestants.extend(pair(bench, name, kind, http2, istio_stats)?);
    }
    bench.turns(&mut report, &contestants, Unit::REQUESTS, |it, work| wrk::run(it.port, work))?;
    Ok(vec![report])
}

/// The caller's sidecar, which the load reaches, and the one of whom it calls; none where the program is not there.
pub(super) fn pair(
    bench: &Bench,
    name: &str,
    kind: Kind,
    http2: bool,
    istio_stats: bool,
) -> Result<Option<Contestant>> {
    let Some(program) = bench.programs.of(kind) else { return Ok(None) };
    let (folder, port, between) = (bench.folder()?, free_port()?, free_port()?);
    let (root, caller, answer) = (&bench.keys.root, &bench.keys.caller, &bench.keys.answer);
    let (spans, upstream) = (bench.upstream.http1, bench.upstream.http1);
    let logs = ["outbound.log", "inbound.log"].map(|name| folder.join(name));
    let inbound = Chain {
        port: between,
        upstream,
        spans,
        log: &logs[1],
        hop: Hop::default(),
        side: Side::Inbound { caller: caller.id },
        istio_stats,
    };
    let hop = Hop { http2, peer: Some(answer.id) };
    let outbound =
        Chain { port, upstream: between, spans, log: &logs[0], hop, side: Side::Outbound, istio_stats };
    let parts = vec![
        Part {
            port: between,
            config: inbound.bootstrap().with_secrets(answer, root).text(),
            asks: Asks::Connection,
        },
        Part { port, config: outbound.bootstrap().with_secrets(caller, root).text(), asks: Asks::Http },
    ];
    let [outbound, inbound] = logs;
    let contestant = Contestant::start(name, kind, &program, &folder, parts)?;
    Ok(Some(contestant.writes(outbound).writes(inbound)))
}
