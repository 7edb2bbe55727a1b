//! The scenarios that must hold, each named so that a reader recognizes it.

mod asking;
mod badinput;
mod balancing;
mod cascade;
mod commands;
mod console;
mod demo;
mod envoy;
mod explain;
mod hosts;
mod hot;
mod ingress;
mod istiod;
mod kube;
mod life;
mod outside;
mod resilience;
mod security;
mod telemetry;
mod tokens;
mod traffic;

use std::process::ExitCode;

use e2e::stage::{Scenario, Variation, run};

const SCENARIOS: &[&[Scenario]] = &[
    traffic::SCENARIOS,
    balancing::SCENARIOS,
    balancing::LOCALITY,
    resilience::SCENARIOS,
    cascade::SCENARIOS,
    asking::SCENARIOS,
    security::SCENARIOS,
    tokens::SCENARIOS,
    telemetry::SCENARIOS,
    console::SCENARIOS,
    hot::SCENARIOS,
    ingress::SCENARIOS,
    hosts::SCENARIOS,
    life::SCENARIOS,
    badinput::SCENARIOS,
    envoy::SCENARIOS,
    kube::SCENARIOS,
    istiod::SCENARIOS,
    explain::SCENARIOS,
    commands::SCENARIOS,
    demo::SCENARIOS,
    outside::SCENARIOS,
];

/// Where they are played once more.
const VARIATIONS: &[Variation] = &[Variation {
    name: "on_a_real_api_server_",
    prepare: e2e::cluster::choose,
    tables: &[traffic::SCENARIOS, balancing::SCENARIOS, resilience::SCENARIOS, kube::ON_A_REAL_API_SERVER],
}];

fn main() -> ExitCode {
    run(SCENARIOS, VARIATIONS)
}
