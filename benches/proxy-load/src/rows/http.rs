//! Requests through one proxy: CPU time of each, and how many a second.

use std::path::Path;

use anyhow::Result;

use crate::bench::{Bench, Unit};
use crate::config::chain::{Chain, Side};
use crate::config::envoy::{Bootstrap, Hop};
use crate::config::{haproxy, nginx, traefik};
use crate::contestant::{Contestant, ENVOY, HAPROXY, Kind, MESHES, MIZZEN, MIZZEN_STATS, Part};
use crate::load::{h2load, wrk};
use crate::process::{Asks, free_port};
use crate::report::{Aim, Report, Target};

fn cpu(of: &'static str, to: &'static str, aim: Aim) -> Target {
    Target { column: Unit::REQUESTS.cpu, of, to: Some(to), aim }
}

pub(crate) fn plain(bench: &Bench) -> Result<Vec<Report>> {
    let targets = [cpu(MIZZEN, HAPROXY, Aim::AtMost(1.05)), cpu(MIZZEN, ENVOY, Aim::AtMost(0.28))];
    let title = "HTTP/1.1, 64 connections, plaintext, no filters";
    let mut report = Report::new(title, &Unit::REQUESTS.columns(), &targets);
    let contestants = bench.start(&Kind::ALL, |kind, port| Some(plain_part(bench, kind, port)))?;
    bench.turns(&mut report, &contestants, Unit::REQUESTS, |it, work| wrk::run(it.port, work))?;
    Ok(vec![report])
}

pub(super) fn plain_part(bench: &Bench, kind: Kind, port: u16) -> Part {
    let upstream = bench.upstream.http1;
    let config = match kind {
        Kind::Envoy | Kind::Mizzen => Bootstrap::plain(port, upstream, None).text(),
        Kind::Haproxy => haproxy::http(port, upstream, None),
        Kind::Nginx => nginx::http(port, upstream, None),
        Kind::Traefik => traefik::http(upstream).to_string(),
    };
    Part { port, config, asks: Asks::Http }
}

pub(crate) fn mesh(bench: &Bench) -> Result<Vec<Report>> {
    let targets = [cpu(MIZZEN, ENVOY, Aim::AtMost(0.35)), cpu(MIZZEN_STATS, ENVOY, Aim::None)];
    let title = "HTTP/1.1, 64 connections, plaintext, mesh chain";
    let mut report = Report::new(title, &Unit::REQUESTS.columns(), &targets);
    let contestants = chains(bench, bench.upstream.http1, Hop::default())?;
    bench.turns(&mut report, &contestants, Unit::REQUESTS, |it, work| wrk::run(it.port, work))?;
    Ok(vec![report])
}

pub(crate) fn http2(bench: &Bench) -> Result<Vec<Report>> {
    streams(bench, "HTTP/2, 100 streams on 10 connections, plaintext, mesh chain", None)
}

pub(crate) fn grpc(bench: &Bench) -> Result<Vec<Report>> {
    let file = bench.folder()?.join("message");
    // Not compressed, 32 bytes.
    std::fs::write(&file, [&[0, 0, 0, 0, 32], [b'm'; 32].as_slice()].concat())?;
    streams(bench, "gRPC unary, 100 streams on 10 connections, plaintext, mesh chain", Some(&file))
}

fn streams(bench: &Bench, title: &str, message: Option<&Path>) -> Result<Vec<Report>> {
    let targets = [cpu(MIZZEN, ENVOY, Aim::AtMost(0.35)), cpu(MIZZEN_STATS, ENVOY, Aim::None)];
    let mut report = Report::new(title, &Unit::REQUESTS.columns(), &targets);
    let hop = Hop { http2: true, peer: None };
    let contestants = chains(bench, bench.upstream.http2, hop)?;
    bench.turns(&mut report, &contestants, Unit::REQUESTS, |it, work| h2load::run(it.port, work, message))?;
    Ok(vec![report])
}

/// Envoy and ours on the same bootstrap, and ours with Istio's metrics.
fn chains(bench: &Bench, upstream: u16, hop: Hop<'_>) -> Result<Vec<Contestant>> {
    let mut all = Vec::new();
    for (name, kind, istio_stats) in MESHES {
        let Some(program) = bench.programs.of(kind) else { continue };
        let (port, folder) = (free_port()?, bench.folder()?);
        let log = folder.join("access.log");
        let spans = bench.upstream.http1;
        let chain = Chain { port, upstream, spans, log: &log, hop, side: Side::Both, istio_stats };
        let part = Part { port, config: chain.bootstrap().text(), asks: Asks::Http };
        all.push(Contestant::start(name, kind, &program, &folder, vec![part])?.writes(log));
    }
    Ok(all)
}
