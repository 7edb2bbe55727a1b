//! Bytes through a proxy that does not look at them, in plain and with TLS ending there; and handshakes alone.

use anyhow::Result;

use crate::bench::{Bench, Unit};
use crate::config::envoy::Bootstrap;
use crate::config::{haproxy, nginx};
use crate::contestant::{ENVOY, HAPROXY, Kind, MIZZEN, Part};
use crate::keys::Leaf;
use crate::load::{bulk, handshake};
use crate::process::Asks;
use crate::report::{Aim, Report, Target};

pub(crate) fn tcp(bench: &Bench) -> Result<Vec<Report>> {
    bytes(bench, "TCP bulk, 4 connections", None, 0.7)
}

pub(crate) fn tls(bench: &Bench) -> Result<Vec<Report>> {
    bytes(bench, "TLS bulk, 4 connections, TLS 1.3 ends at the proxy", Some(&bench.keys.answer), 0.9)
}

fn bytes(bench: &Bench, title: &str, leaf: Option<&Leaf>, aim: f64) -> Result<Vec<Report>> {
    let unit = Unit::BYTES;
    let targets = [
        Target { column: unit.cpu, of: MIZZEN, to: Some(ENVOY), aim: Aim::AtMost(aim) },
        Target { column: unit.rate, of: MIZZEN, to: Some(ENVOY), aim: Aim::AtLeast(1.0) },
        Target { column: unit.rate, of: MIZZEN, to: Some(HAPROXY), aim: Aim::AtLeast(1.0) },
    ];
    let mut report = Report::new(title, &unit.columns(), &targets);
    let upstream = bench.upstream.bulk;
    let contestants = bench.start(&[Kind::Envoy, Kind::Haproxy, Kind::Mizzen], |kind, port| {
        let config = match kind {
            Kind::Haproxy => haproxy::tcp(port, upstream, leaf),
            _ => Bootstrap::tcp(port, upstream, leaf).text(),
        };
        Some(Part { port, config, asks: Asks::Connection })
    })?;
    let client = leaf.map(|_| handshake::client(&bench.keys.root)).transpose()?;
    bench.turns(&mut report, &contestants, unit, |it, work| {
        bulk::run(it.port, work.units.map_or(1 << 29, |units| units as u64), client.as_ref())
    })?;
    Ok(vec![report])
}

pub(crate) fn handshakes(bench: &Bench) -> Result<Vec<Report>> {
    let unit = Unit::HANDSHAKES;
    let targets = [Target { column: unit.cpu, of: MIZZEN, to: Some(ENVOY), aim: Aim::AtMost(1.0) }];
    let title = "Full TLS 1.3 handshakes, P-256 certificate, X25519";
    let mut report = Report::new(title, &unit.columns(), &targets);
    let (upstream, leaf) = (bench.upstream.http1, Some(&bench.keys.answer));
    let contestants = bench.start(&Kind::ALL, |kind, port| {
        let config = match kind {
            Kind::Envoy | Kind::Mizzen => Bootstrap::plain(port, upstream, leaf).text(),
            Kind::Haproxy => haproxy::http(port, upstream, leaf),
            Kind::Nginx => nginx::http(port, upstream, leaf),
            Kind::Traefik => return None,
        };
        Some(Part { port, config, asks: Asks::Connection })
    })?;
    let client = handshake::client(&bench.keys.root)?;
    bench
        .turns(&mut report, &contestants, unit, |it, work| handshake::run(it.port, work.seconds, &client))?;
    Ok(vec![report])
}
