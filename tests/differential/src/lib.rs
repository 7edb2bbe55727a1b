//! Envoy and `mizzen-proxy` on the same bootstrap, asked the same things.
//!
//! [`case`] reads the cases, [`bootstrap`] makes one configuration of all of them, [`contestant`] starts the two proxies in
//! front of [`upstream`], [`client`] plays each case to both ([`client_h2`] over HTTP/2, [`client_tcp`] over plain TCP), [`observe`]
//! names what is compared, and [`listed`] knows which differences have a reason. [`generate`] makes route tables and requests from
//! a seed.

mod bootstrap;
mod both_h2;
mod case;
mod client;
mod client_h2;
mod client_tcp;
mod contestant;
pub mod exported;
mod generate;
mod grpc;
mod listed;
mod management;
mod message;
mod observe;
pub mod overload;
mod play;
pub mod sources;
mod tls;
mod upstream;
mod upstream_h2;
mod upstream_tcp;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use crate::listed::Table;
use crate::play::Outcome;

/// The test program: plays all, prints a summary, fails on what differs and is not listed.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        println!("differential: test");
        return ExitCode::SUCCESS;
    }
    let names: Vec<String> = names(&arguments);
    let Some(envoy) = testkit::peers::envoy() else {
        println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let played =
        runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(run(&envoy, &names, Instant::now())));
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("differential: {error:#}");
            println!("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for by name; options of the usual test programs and their values are passed over.
fn names(arguments: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    let mut value = false;
    for argument in arguments {
        if value {
            value = false;
        } else if argument.starts_with("--") {
            value = matches!(argument.as_str(), "--test-threads" | "--skip" | "--format" | "--color");
        } else if !argument.starts_with('-') {
            names.push(argument.clone());
        }
    }
    names
}

/// The bootstrap of all hand-written groups, and what is sent to each of them: for others who play with both.
pub fn configurations() -> anyhow::Result<(serde_json::Value, Vec<(String, Vec<String>)>)> {
    let groups = case::load(&folder().join("cases"))?;
    let bootstrap = bootstrap::placed(&bootstrap::bootstrap(&groups)?, "127.0.0.1", "127.0.0.2", "/nowhere");
    let sent = groups
        .into_iter()
        .map(|g| (g.group, g.cases.iter().flat_map(case::Case::messages).collect()))
        .collect();
    Ok((bootstrap, sent))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

async fn run(envoy: &Path, names: &[String], since: Instant) -> anyhow::Result<bool> {
    let rows = listed::load(&folder().join("expected.yaml"))?;
    let mut groups = case::load(&folder().join("cases"))?;
    let hand_written = groups.len();
    groups.extend(generate::groups());
    let everything = names.is_empty() || names.iter().any(|n| n == "differential");
    if !everything {
        groups.retain(|g| names.iter().any(|n| g.group.contains(n.as_str())));
    }
    if groups.is_empty() {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {hand_written} filtered out");
        return Ok(true);
    }
    let mut faults = if everything { document(&rows)? } else { Vec::new() };
    let mut table = Table::new(rows);
    let outcome = play::all(envoy, groups).await?;
    let unexpected = report(&outcome, &mut table);
    if everything {
        faults.extend(table.stale().map(|row| {
            let cases: Vec<&str> = row.case.iter().collect();
            format!("expected.yaml: {cases:?} {:?}: nothing differs", row.what)
        }));
    }
    for fault in &faults {
        println!("{fault}");
    }
    let total = outcome.cases.len();
    let refused = outcome.cases.iter().filter(|c| c.is_refused()).count();
    let equal = outcome.cases.iter().filter(|c| c.differences.is_empty()).count();
    let failed = unexpected + faults.len();
    let (generated, written): (Vec<_>, Vec<_>) = outcome
        .cases
        .iter()
        .filter(|c| !c.name.ends_with("/counters"))
        .partition(|c| generate::is_generated(&c.name));
    println!(
        "differential: {} cases and {} generated requests to each, counters of {} groups: {equal} of {total} comparisons \
         equal, {} listed, {refused} refused by name, {unexpected} unexpected; {:.1} s",
        written.len(),
        generated.iter().map(|c| c.messages.len()).sum::<usize>(),
        outcome.groups,
        (total - equal).saturating_sub(refused + unexpected),
        since.elapsed().as_secs_f64(),
    );
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {verdict}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out",
        total - unexpected
    );
    Ok(failed == 0)
}

/// Differences of one case that are printed.
const SHOWN: usize = 60;

/// Prints what is not listed; how many cases that are.
fn report(outcome: &Outcome, table: &mut Table) -> usize {
    let mut unexpected = 0;
    for case in &outcome.cases {
        let left = table.unexplained(&case.name, case.differences.clone());
        if left.is_empty() {
            continue;
        }
        unexpected += 1;
        println!("{}", case.name);
        for difference in left.iter().take(SHOWN) {
            if let Some(message) = case.message(&difference.what) {
                println!("  {message:?}");
            }
            let show =
                |value: &Option<String>| value.as_ref().map_or_else(|| "-".into(), |v| format!("{v:?}"));
            println!(
                "    {}: envoy {}, mizzen {}",
                difference.what,
                show(&difference.envoy),
                show(&difference.mizzen)
            );
        }
    }
    unexpected
}

/// The document must say what the table says; `MIZZEN_WRITE_DOCS=1` writes it.
fn document(rows: &[listed::Listed]) -> anyhow::Result<Vec<String>> {
    let file = folder().join("../../docs/differential.md");
    let text = listed::document(rows);
    if std::env::var_os("MIZZEN_WRITE_DOCS").is_some() {
        std::fs::write(&file, &text)?;
    }
    let current = std::fs::read_to_string(&file).unwrap_or_default() == text;
    Ok(if current { Vec::new() } else { vec!["docs/differential.md: run with MIZZEN_WRITE_DOCS=1".into()] })
}
