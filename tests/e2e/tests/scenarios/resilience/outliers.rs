//! Scenario 7: who fails again and again is left alone for a while.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::serve::{Event, What};
use e2e::{Mesh, Workload, until};

use super::{PATIENCE, URL, policy, until_all_answer};

/// One client, one after the other: what its proxy counts, it ejects.
const STEADY: &[&str] = &["--url", URL, "--connections", "1", "--pause", "2"];

/// How long the shortest ejection takes where it is to be over within the scenario.
const BASE: Duration = Duration::from_secs(1);

fn rule(outliers: &str) -> String {
    policy("ratings", &format!("{{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {outliers}}}"))
}

fn three(mesh: &Mesh) -> anyhow::Result<[Workload; 3]> {
    let replicas = [
        mesh.serve("ratings", "v1", "sick")?,
        mesh.serve("ratings", "v1", "weak")?,
        mesh.serve("ratings", "v1", "well")?,
    ];
    until_all_answer(mesh, 3)?;
    Ok(replicas)
}

/// The sick replica is out from its seventh error in a row, and gets no request while it is; also where several threads
/// count what many connections meet.
pub(crate) fn eject_at_the_seventh_error() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let [sick, weak, well] = three(&mesh)?;
    let issue = "{consecutive5xxErrors: 7, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 100}";
    mesh.apply_and_wait(&rule(issue), "destinationrule", "ratings")?;
    let before = [&sick, &weak, &well].map(Workload::begun);
    sick.behave("status=503")?;
    let load = mesh.start_load(STEADY)?;
    // For some seconds: longer than any interval but the one that is written.
    let began = Instant::now();
    load.next(800)?;
    println!("the others got all traffic for {:?}", began.elapsed());
    let report = load.stop()?;
    let got: Vec<_> = [&sick, &weak, &well].iter().zip(before).map(|(to, n)| to.begun() - n).collect();
    ensure!(got[0] == 7 && got[1].abs_diff(got[2]) <= got[1] / 4, "who got how many: {got:?}");
    ensure!(report.status(503) == 7, "not ejected at the seventh error: {report:?}");
    ensure!(report.ok() + 7 == report.sent, "{report:?}");
    ensure!(!report.names.contains_key("sick"), "{report:?}");

    let before = sick.begun();
    let crowd = ["--url", URL, "--connections", "8", "--pause", "2"];
    let crowd = mesh.start_load_as("crowd", &["--proxy-concurrency", "2"], &crowd)?;
    crowd.next(800)?;
    // Who was under way at the seventh error still gets there.
    let met = sick.begun() - before;
    ensure!((7..=7 + 8).contains(&met), "the sick replica got {met} requests of eight connections");
    crowd.next(800)?;
    ensure!(sick.begun() == before + met, "the sick replica got more once it was ejected");
    let report = crowd.stop()?;
    ensure!(
        report.status(503) == met as u64 && report.ok() + report.status(503) == report.sent,
        "{report:?}"
    );
    Ok(())
}

/// An ejected replica comes back when its time is over and not before; more than the share is never out.
pub(crate) fn let_back_and_spare_a_share() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let [sick, weak, well] = three(&mesh)?;
    // A third of three replicas is one.
    let short = "{consecutive5xxErrors: 7, interval: 500ms, baseEjectionTime: 1s, maxEjectionPercent: 34}";
    mesh.apply_and_wait(&rule(short), "destinationrule", "ratings")?;
    let (of_sick, of_weak, of_well) = (sick.events().len(), weak.events().len(), well.events().len());
    sick.behave("status=503")?;
    let load = mesh.start_load(STEADY)?;
    let since = |replica: &Workload, before: usize| replica.events().split_off(before);
    until("the sick replica has failed seven times", PATIENCE, || {
        (errors(&since(&sick, of_sick)) >= 7).then_some(())
    })?;
    // The second one to fail stays: it would be two thirds.
    let failed = (errors(&since(&sick, of_sick)), errors(&since(&weak, of_weak)));
    weak.behave("status=503")?;
    until("the weak one has failed often enough, too", PATIENCE, || {
        (errors(&since(&weak, of_weak)) >= failed.1 + 14).then_some(())
    })?;
    ensure!(errors(&since(&sick, of_sick)) == failed.0, "the sick one was let back before that was tried");
    until("the sick replica is let back, and fails again", PATIENCE, || {
        (errors(&since(&sick, of_sick)) >= 10).then_some(())
    })?;
    sick.behave("")?;
    weak.behave("")?;
    let well_again = (sick.begun(), weak.begun());
    until("both come back", PATIENCE, || {
        (sick.begun() > well_again.0 + 30 && weak.begun() > well_again.1 + 30).then_some(())
    })?;
    let report = load.stop()?;
    ensure!(report.errors.is_empty() && report.statuses.len() == 2, "{report:?}");
    ensure!(!report.last_failure.contains("no healthy upstream"), "{report:?}");

    let (of_sick, of_weak) = (since(&sick, of_sick), since(&weak, of_weak));
    let gap = gaps(&of_sick).max().unwrap_or_default();
    ensure!(gap >= BASE, "let back after {gap:?} already");
    let first = of_sick.iter().filter(|event| event.what == What::Begun).take(8).collect::<Vec<_>>();
    let pause = Duration::from_nanos(first[7].at - first[6].at);
    ensure!(pause >= BASE, "the eighth request came {pause:?} after the seventh error");
    both_never_out(&of_sick, &of_weak, &since(&well, of_well))
}

/// Ten percent of three replicas is none, and `mizzen analyze` says so.
pub(crate) fn ten_percent_of_three_is_none() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let [sick, _weak, _well] = three(&mesh)?;
    let default = "{consecutive5xxErrors: 7, interval: 1s, baseEjectionTime: 15m}";
    mesh.apply_and_wait(&rule(default), "destinationrule", "ratings")?;
    sick.behave("status=503")?;
    let report = mesh.load(&["--url", URL, "--connections", "1", "--count", "120"])?;
    ensure!(report.status(503) == 40 && report.ok() == 80, "a third of all fails: {report:?}");

    let found = mesh.mizzen(["analyze", "--failure-threshold", "warning", "--output", "json"]).output()?;
    ensure!(found.status.code() == Some(79), "{found:?}");
    let found: serde_json::Value = serde_json::from_slice(&found.stdout)?;
    let finding = found.as_array().into_iter().flatten().find(|finding| finding["code"] == "NothingEjected");
    let told = finding.is_some_and(|finding| {
        finding["name"] == "ratings"
            && finding["field"] == "spec.trafficPolicy.outlierDetection.maxEjectionPercent"
            && finding["message"] == "10 % of 3 endpoints is less than one: none is ever ejected"
    });
    ensure!(told, "{found}");
    Ok(())
}

fn errors(events: &[Event]) -> usize {
    events.iter().filter(|event| event.what == What::Answered).count()
}

/// Times between an answer and the next request.
fn gaps(events: &[Event]) -> impl Iterator<Item = Duration> {
    let pairs = events.windows(2).filter(|pair| pair[1].what == What::Begun);
    pairs.map(|pair| Duration::from_nanos(pair[1].at - pair[0].at))
}

/// At no time were both left out: while the well replica got many requests in a row, one of them did, too.
fn both_never_out(one: &[Event], other: &[Event], well: &[Event]) -> anyhow::Result<()> {
    let among = |from: u64, to: u64| {
        well.iter().filter(|event| event.what == What::Begun && (from..to).contains(&event.at)).count()
    };
    let out = |events: &[Event]| -> Vec<(u64, u64)> {
        let pairs = events.windows(2).map(|pair| (pair[0].at, pair[1].at));
        pairs.filter(|(from, to)| among(*from, *to) > 20).collect()
    };
    let (one, other) = (out(one), out(other));
    ensure!(!one.is_empty(), "nobody was left out");
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    let both = pairs.filter(|(from, to)| among(*from, *to) > 20).collect::<Vec<_>>();
    ensure!(both.is_empty(), "two of three were out at once: {both:?}");
    Ok(())
}
