//! Two worker threads beside one: how much more they do, and what a request then costs.

use anyhow::Result;

use super::http::plain_part;
use crate::bench::{Bench, Unit};
use crate::contestant::{Contestant, Kind};
use crate::load::wrk;
use crate::process::free_port;
use crate::report::{Aim, Report, Target};

const ONE: &str = "mizzen-proxy, one worker";
const TWO: &str = "mizzen-proxy, two workers";
const ENVOY_ONE: &str = "Envoy, one worker";
const ENVOY_TWO: &str = "Envoy, two workers";

pub(crate) fn run(bench: &Bench) -> Result<Vec<Report>> {
    let target = |column, of, to, aim| Target { column, of, to: Some(to), aim };
    let (rate, cpu) = (Unit::REQUESTS.rate, Unit::REQUESTS.cpu);
    let targets = [
        target(rate, TWO, ONE, Aim::AtLeast(1.8)),
        target(cpu, TWO, ONE, Aim::None),
        target(rate, ENVOY_TWO, ENVOY_ONE, Aim::None),
        target(cpu, ENVOY_TWO, ENVOY_ONE, Aim::None),
    ];
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let title = format!(
        "Several workers: HTTP/1.1, 64 connections, plaintext, no filters; {cores} cores, of which the load and the \
         upstream have one each where they can"
    );
    let mut report = Report::new(title, &Unit::REQUESTS.columns(), &targets);
    let mut contestants = Vec::new();
    for (name, kind, workers) in [
        (ENVOY_ONE, Kind::Envoy, 1),
        (ENVOY_TWO, Kind::Envoy, 2),
        (ONE, Kind::Mizzen, 1),
        (TWO, Kind::Mizzen, 2),
    ] {
        let Some(program) = bench.programs.of(kind) else { continue };
        let (port, folder) = (free_port()?, bench.folder()?);
        let parts = vec![plain_part(bench, kind, port)];
        contestants.push(Contestant::start_with(name, kind, &program, &folder, parts, workers)?);
    }
    bench.turns(&mut report, &contestants, Unit::REQUESTS, |it, work| wrk::run(it.port, work))?;
    Ok(vec![report])
}
