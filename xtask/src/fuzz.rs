//! Fuzzing: the workspace's own crates are built once more, counting what they run through, and libFuzzer plays to them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::shell;

/// Look for inputs that break what reads from peers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these targets
    targets: Vec<String>,
    /// How long each of them is looked at
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Leave what was found outside of the tree, reduced to what adds something
    #[arg(long)]
    minimize: bool,
    /// Only what `cargo xtask test` tries: the same inputs each time
    #[arg(long, conflicts_with = "minimize")]
    same: bool,
    /// Say which targets there are
    #[arg(long)]
    list: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let all = targets()?;
    if args.list {
        println!("{}", all.join("\n"));
        return Ok(());
    }
    if let Some(unknown) = args.targets.iter().find(|t| !all.contains(t)) {
        anyhow::bail!("no target is called {unknown:?}; there are {}", all.join(", "));
    }
    let wanted = if args.targets.is_empty() { all } else { args.targets.clone() };
    let each = Duration::from_secs_f64(args.minutes * 60.0);
    let after = match (args.same, args.minimize) {
        (true, _) => After::TheSameEachTime,
        (false, true) => After::Reducing,
        (false, false) => After::Growing,
    };
    play(&wanted, each, after)
}

/// Every target, for a share of so long at most: the same inputs each time, so that who changed nothing finds nothing new.
pub fn briefly(together: Duration) -> anyhow::Result<()> {
    let all = targets()?;
    play(&all, together / u32::try_from(all.len())?, After::TheSameEachTime)
}

/// How a target is played to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// From the committed inputs, by one seed.
    TheSameEachTime,
    /// From all that was found before, which grows.
    Growing,
    /// The same, reduced to what adds something at the end.
    Reducing,
}

/// How many inputs are tried where they are the same each time.
const TRIES: u32 = 50_000;

fn play(targets: &[String], each: Duration, after: After) -> anyhow::Result<()> {
    let engine = build()?;
    let mut crashed = Vec::new();
    for target in targets {
        let found = fuzz(&engine, target, each, after)?;
        if found.is_empty() && after == After::Reducing {
            reduce(&engine, target)?;
        }
        crashed.extend(found);
    }
    if crashed.is_empty() {
        return Ok(());
    }
    for input in &crashed {
        println!("crashes: {}", input.display());
    }
    anyhow::bail!("{} inputs crash: mend it, and keep each in fuzz/crashes/TARGET", crashed.len())
}

/// The targets, as their table in `fuzz/src/lib.rs` has them.
fn targets() -> anyhow::Result<Vec<String>> {
    let table = std::fs::read_to_string(shell::root().join("fuzz/src/lib.rs"))?;
    let rows = table.split("target(\"").skip(1);
    Ok(rows.filter_map(|row| row.split_once('"').map(|(name, _)| name.to_owned())).collect())
}

/// The instrumented program. Only the workspace's own crates are instrumented; the others are those of the daily loop.
fn build() -> anyhow::Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo
        .env("RUSTC_WORKSPACE_WRAPPER", shell::root().join("fuzz/rustc"))
        .args(["test", "--workspace", "--features", "fuzz/engine", "--test", "engine", "--no-run"])
        .args(["--message-format", "json", "--quiet"])
        .stderr(Stdio::inherit());
    let messages = shell::output(&mut cargo).context("the instrumented build")?;
    let mut programs = messages.lines().rev().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "engine").then_some(())?;
        message["executable"].as_str().map(PathBuf::from)
    });
    programs.next().context("cargo built no engine")
}

/// Where what was found is kept: outside of the tree.
fn grown(target: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let folder = std::env::var_os("MIZZEN_FUZZ_CORPUS").map(PathBuf::from);
    folder.unwrap_or_else(|| home().join(".cache/mizzen/fuzz")).join(target)
}

fn kept(kind: &str, target: &str) -> PathBuf {
    shell::root().join("fuzz").join(kind).join(target)
}

/// Plays one target, and says what crashed it.
fn fuzz(engine: &Path, target: &str, time: Duration, after: After) -> anyhow::Result<Vec<PathBuf>> {
    let same = after == After::TheSameEachTime;
    // What is found goes to the first folder of inputs.
    let corpus = if same { shell::root().join("target/fuzz/same").join(target) } else { grown(target) };
    if same && corpus.exists() {
        std::fs::remove_dir_all(&corpus)?;
    }
    std::fs::create_dir_all(&corpus)?;
    let artifacts = shell::root().join("target/fuzz").join(target);
    if artifacts.exists() {
        std::fs::remove_dir_all(&artifacts)?;
    }
    std::fs::create_dir_all(&artifacts)?;
    let mut run = shell::command(engine);
    run.env("MIZZEN_FUZZ", target)
        .env("RUST_BACKTRACE", "1")
        .arg(&corpus)
        .args(if same { vec!["-seed=1".to_owned(), format!("-runs={TRIES}")] } else { Vec::new() })
        .args([kept("corpus", target), kept("crashes", target)].iter().filter(|folder| folder.exists()))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .args([
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-max_len=8192",
            "-print_final_stats=1",
            "-use_value_profile=1",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = run.spawn().with_context(|| engine.display().to_string())?;
    let mut told = Vec::new();
    let mut last = String::new();
    let mut shown = std::time::Instant::now();
    for line in BufReader::new(child.stderr.take().context("no output")?).lines().map_while(Result::ok) {
        if line.starts_with('#') && line.contains("cov:") {
            if shown.elapsed() > Duration::from_secs(60) {
                println!("{target}: {line}");
                shown = std::time::Instant::now();
            }
            last = line;
        } else {
            told.push(line);
        }
    }
    let status = child.wait()?;
    let number = |name: &str| {
        let line = told.iter().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    let covered = last.split_whitespace().skip_while(|word| *word != "cov:").nth(1).unwrap_or("?").to_owned();
    println!(
        "{target}: {} executions, {} a second, {covered} edges",
        number("stat::number_of_executed_units:"),
        number("stat::average_exec_per_sec:"),
    );
    let inputs =
        std::fs::read_dir(&artifacts)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
    if !status.success() {
        told.iter()
            .filter(|line| !line.starts_with("INFO") && !line.starts_with("stat::"))
            .for_each(|line| println!("{line}"));
        anyhow::ensure!(!inputs.is_empty(), "{target} ended with {status}");
    }
    Ok(inputs)
}

/// Leaves in the grown corpus only what adds something.
fn reduce(engine: &Path, target: &str) -> anyhow::Result<()> {
    let (corpus, small) = (grown(target), grown(&format!("{target}.small")));
    std::fs::create_dir_all(&small)?;
    let mut run = shell::command(engine);
    run.env("MIZZEN_FUZZ", target).arg("-merge=1").args([&small, &corpus]);
    shell::run(run.stdout(Stdio::null()).stderr(Stdio::null()))?;
    std::fs::remove_dir_all(&corpus)?;
    std::fs::rename(&small, &corpus)?;
    Ok(())
}
