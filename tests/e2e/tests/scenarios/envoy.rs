//! A stock Envoy in the place of the proxy: the scenarios of the other modules, with another proxy beside their workloads.
//!
//! That its certificates are renewed under load, however it asks the control plane, is a part of
//! `identity_certificates_are_renewed_under_load`: it takes more than a minute.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::mesh::program;
use e2e::proxies::{Proxy, envoys_below};
use e2e::stage::Scenario;
use e2e::{Mesh, Proxies, processes, until};
use serde_json::Value;

use crate::{asking, balancing, resilience, security, tokens, traffic};

type Body = fn() -> anyhow::Result<()>;

/// Rows that play each body over each of Envoy's ways to ask a control plane.
macro_rules! envoys {
    ($($what:literal $body:path,)*; $($more:tt)*) => {
        &[
            $((concat!("envoy_by_delta_", $what), || beside_all("delta", $body)),)*
            $((concat!("envoy_by_sotw_", $what), || beside_all("sotw", $body)),)*
            $((concat!("envoy_by_rest_", $what), || beside_all("rest", $body)),)*
            $($more)*
        ]
    };
}

pub(crate) const SCENARIOS: &[Scenario] = envoys![
    "is_discovered" traffic::discovery,
    "balances_round_robin" balancing::round_robin,
    "balances_by_least_request" balancing::least_request,
    "balances_at_random" balancing::random,
    "balances_by_hash_of_a_header" balancing::by_header,
    "balances_by_hash_of_a_cookie" balancing::by_cookie,
    "balances_by_hash_of_the_source_address" balancing::by_source,
    "balances_by_the_default_of_the_mesh" balancing::default_of_the_mesh,
    "shifts_traffic" traffic::shift,
    "shifts_traffic_back_under_load" traffic::shift_back,
    "retries_by_default" resilience::retries::by_default,
    "retries_as_configured" resilience::retries::as_configured,
    "retries_over_a_lossy_and_cut_network" resilience::retries::over_a_lossy_and_cut_network,
    "retries_over_a_slow_network" resilience::retries::over_a_slow_network,
    "times_out_and_cancels_the_call" resilience::timeouts::cancel_the_call,
    "bounds_the_queue" resilience::breakers::bound_the_queue,
    "bounds_what_is_in_flight" resilience::breakers::bound_what_is_in_flight,
    "ejects_at_the_seventh_error" resilience::outliers::eject_at_the_seventh_error,
    "lets_back_and_spares_a_share" resilience::outliers::let_back_and_spare_a_share,
    "spares_three_replicas_at_ten_percent" resilience::outliers::ten_percent_of_three_is_none,
    "proves_identity" security::identity,
    "refuses_an_impostor" security::impostor,
    "guards_the_database" security::database,
    "authorizes" security::authorization,
    "authorizes_at_the_gateway" security::at_the_gateway,
    "drains_ends_and_leaves_nothing" leaves_nothing,;
    ("mizzen_calls_envoy_with_identity", || beside_callee(security::identity)),
    ("mizzen_calls_envoy_and_is_authorized", || beside_callee(security::authorization)),
    ("mizzen_calls_envoy_that_asks_somebody_else", || beside_callee(asking::somebody_else)),
    ("envoy_calls_mizzen_with_identity", || beside_caller(security::identity)),
    ("envoy_calls_mizzen_and_is_authorized", || beside_caller(security::authorization)),
    ("envoy_verifies_tokens", || beside_all("delta", tokens::at_a_sidecar)),
    ("envoy_verifies_tokens_at_the_gateway", || beside_all("sotw", tokens::at_the_gateway)),
    ("envoy_reaches_what_lies_outside", || beside_all("delta", outside)),
];

/// Callers have a stock Envoy, which decides; of those that serve every other one has, so that both proxies prove
/// themselves to each other.
fn beside_all(xds: &'static str, body: Body) -> anyhow::Result<()> {
    let envoy = Proxy::Envoy(xds);
    play(Proxies { callers: vec![envoy], callees: vec![envoy, Proxy::Mizzen] }, body)
}

fn beside_callee(body: Body) -> anyhow::Result<()> {
    play(Proxies { callers: vec![Proxy::Mizzen], callees: vec![Proxy::Envoy("delta")] }, body)
}

fn beside_caller(body: Body) -> anyhow::Result<()> {
    play(Proxies { callers: vec![Proxy::Envoy("delta")], callees: vec![Proxy::Mizzen] }, body)
}

fn play(proxies: Proxies, body: Body) -> anyhow::Result<()> {
    if testkit::peers::envoy().is_none() {
        return Ok(());
    }
    proxies.choose()?;
    body()
}

const REVIEWS: &str = "http://reviews:9080/reviews/0";

/// It is really Envoy that runs, and asks in the way that is meant; a stop under load loses no request; Envoy's process and
/// its socket go with the workload.
fn leaves_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let leaves = mesh.serve("reviews", "v1", "leaves")?;
    let stays = mesh.serve("reviews", "v1", "stays")?;
    until("both get traffic", Duration::from_secs(20), || {
        let report = mesh.load(&["--url", REVIEWS, "--count", "40"]).ok()?;
        (report.names.len() == 2).then_some(())
    })?;
    let envoys = envoys_below(leaves.pid());
    let [envoy] = envoys[..] else { anyhow::bail!("one Envoy was expected, not {envoys:?}") };
    ensure!(envoys_below(stays.pid()).is_empty(), "the second replica has our proxy");
    let bootstrap = bootstrap(envoy)?;
    let dynamic = &bootstrap["dynamicResources"];
    let (source, asks) = match Proxies::of_caller() {
        Proxy::Envoy("delta") => (&dynamic["adsConfig"], "DELTA_GRPC"),
        Proxy::Envoy("sotw") => (&dynamic["adsConfig"], "GRPC"),
        Proxy::Envoy("rest") => (&dynamic["cdsConfig"]["apiConfigSource"], "REST"),
        other => anyhow::bail!("{other:?} asks in no way that is known"),
    };
    ensure!(source["apiType"] == asks, "not {asks}: {dynamic:#}");
    let socket = sds_socket(&bootstrap)?;
    ensure!(socket.exists(), "{} is no socket", socket.display());
    let load = mesh.start_load(&["--url", REVIEWS, "--connections", "4", "--pause", "5"])?;
    mesh.load(&["--url", REVIEWS, "--count", "20"])?;
    leaves.stop()?;
    let report = load.stop_after(50)?;
    ensure!(report.failed() == 0, "requests were lost: {report:?}");
    ensure!(!PathBuf::from(format!("/proc/{envoy}")).exists(), "Envoy lives on");
    let folder = socket.parent().context("the socket is in a folder")?;
    ensure!(!folder.exists(), "{} was left behind", folder.display());
    Ok(())
}

/// What that Envoy was started with, from its command line.
fn bootstrap(envoy: u32) -> anyhow::Result<Value> {
    let words = processes::words(envoy);
    let bootstrap = words.iter().find(|word| word.starts_with('{')).context("no bootstrap")?;
    ensure!(!bootstrap.contains("PRIVATE KEY"), "a key on the command line");
    Ok(serde_json::from_str(bootstrap)?)
}

/// Where it gets its certificates.
fn sds_socket(bootstrap: &Value) -> anyhow::Result<PathBuf> {
    let clusters = bootstrap["staticResources"]["clusters"].as_array().context("no clusters")?;
    let sds = clusters.iter().find(|cluster| cluster["name"] == "sds-grpc").context("no sds-grpc")?;
    let endpoint = &sds["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"];
    Ok(endpoint["address"]["pipe"]["path"].as_str().context("no pipe")?.into())
}

/// Beyond the mesh's networks, where its own namespace has no route, Envoy's connections are carried on by the agent.
fn outside() -> anyhow::Result<()> {
    const ADDRESS: &str = "198.51.100.7";
    let made = Command::new("ip").args(["address", "add", ADDRESS, "dev", "lo"]).status()?;
    ensure!(made.success(), "no address for the outside");
    let mesh = Mesh::start()?;
    let mut server = Command::new(program("mizzen-e2e"));
    server.args(["serve", "--name", "outside", "--port", "8090"]);
    let server = mesh.spawn(server, "outside", PathBuf::new())?;
    let url = format!("http://{ADDRESS}:8090/anything");
    mesh.until_answers(&url)?;
    let report = mesh.load(&["--url", &url, "--count", "20"])?;
    ensure!(report.share("outside") == 1.0 && report.failed() == 0, "{report:?}");
    server.kill();
    let refused = mesh.load(&["--url", &url, "--count", "1"])?;
    ensure!(refused.ok() == 0 && refused.sent == 1, "nobody is there, and yet: {refused:?}");
    Ok(())
}
