//! Where scenarios play: each in a process and a network namespace of its own.

use std::io::{Read, Seek};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::processes;

/// A scenario: its name, and what happens.
pub type Scenario = (&'static str, fn() -> anyhow::Result<()>);

/// Scenarios that are played once more in other circumstances.
pub struct Variation {
    /// What the circumstances are called: it stands before the scenarios' names.
    pub name: &'static str,
    /// Brings them about in the process of a scenario; false where this machine cannot have them.
    pub prepare: fn() -> bool,
    pub tables: &'static [&'static [Scenario]],
}

const CHILD: &str = "MIZZEN_SCENARIO";

/// A scenario with what comes before it.
struct Act {
    name: String,
    prepare: fn() -> bool,
    body: fn() -> anyhow::Result<()>,
}

/// The `main` of a test program: lists, filters and runs scenarios, or plays the one that the environment names.
pub fn run(tables: &'static [&'static [Scenario]], variations: &[Variation]) -> ExitCode {
    let plain = Variation { name: "", prepare: || true, tables };
    let acts: Vec<Act> = std::iter::once(&plain).chain(variations).flat_map(acts).collect();
    if let Some(name) = std::env::var_os(CHILD) {
        let name = name.to_string_lossy().into_owned();
        return match play(&acts, &name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("{error:?}\n{logs}");
                ExitCode::FAILURE
            }
        };
    }
    let trials = acts.into_iter().map(|act| Trial::test(act.name.clone(), move || start(&act.name)));
    // A scenario waits about as long as it computes: two at once fill the cores of a small machine.
    let arguments = Arguments::from_args();
    let arguments = Arguments { test_threads: arguments.test_threads.or(Some(2)), ..arguments };
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    tell_the_slowest();
    conclusion.exit_code()
}

/// What the programs of a scenario wrote.
static LOGS: Mutex<String> = Mutex::new(String::new());

/// Keeps the programs' logs, whose files go now, in case the scenario turns out to have failed.
pub fn keep_for_a_failure(logs: String) {
    *LOGS.lock().unwrap_or_else(PoisonError::into_inner) = logs;
}

/// How long each took when it was first played.
static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn tell_the_slowest() {
    let mut took = std::mem::take(&mut *TOOK.lock().unwrap_or_else(PoisonError::into_inner));
    took.sort_unstable_by(|a, b| b.cmp(a));
    for (took, name) in took.iter().filter(|(took, _)| *took > LONG) {
        println!("long: {:.1} s {name}", took.as_secs_f64());
    }
}

/// What a scenario may take on a machine that does nothing else.
const LONG: Duration = Duration::from_secs(10);

/// Many play beside each other; who plays for the second time plays alone.
static STAGE: RwLock<()> = RwLock::new(());

/// How many of all may fail beside others and yet hold when they play alone: more is no accident.
const SECOND_CHANCES: usize = 3;
static PLAYED_TWICE: AtomicUsize = AtomicUsize::new(0);

fn acts(variation: &Variation) -> Vec<Act> {
    let prepare = variation.prepare;
    let scenarios = variation.tables.iter().flat_map(|table| table.iter());
    scenarios
        .map(|(name, body)| Act { name: format!("{}{name}", variation.name), prepare, body: *body })
        .collect()
}

/// Plays a scenario; one that fails is played once more, and says so, since it shares the machine with others. Few have
/// that chance.
fn start(name: &str) -> Result<(), Failed> {
    let first = {
        let _beside_others = STAGE.read().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let played = play_apart(name)?;
        TOOK.lock().unwrap_or_else(PoisonError::into_inner).push((began.elapsed(), name.to_owned()));
        played
    };
    let Err(first) = first else { return Ok(()) };
    if PLAYED_TWICE.fetch_add(1, Ordering::Relaxed) >= SECOND_CHANCES {
        return Err(first.into());
    }
    let _alone = STAGE.write().unwrap_or_else(PoisonError::into_inner);
    println!("played twice: {name}");
    eprintln!("{name} failed the first time: {first}");
    play_apart(name)?.map_err(Failed::from)
}

/// When a scenario is given up: it hangs, and all others wait for it.
const GIVEN_UP: Duration = Duration::from_secs(240);

/// In a process of its own; what it said, if it failed.
fn play_apart(name: &str) -> std::io::Result<Result<(), String>> {
    // A file, not a pipe: what a scenario leaves behind must not keep us waiting.
    let mut said = tempfile::tempfile()?;
    let mut command = Command::new(std::env::current_exe()?);
    // Servers written in Go live too shortly here to collect garbage as often as they do.
    command.env(CHILD, name).env("RUST_LIB_BACKTRACE", "0").env("GOGC", "400");
    let mut child =
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?).spawn()?;
    let ended = crate::until(name, GIVEN_UP, || child.try_wait().transpose());
    if ended.is_err() {
        for pid in processes::descendants(child.id()).into_iter().chain([child.id()]) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        child.wait()?;
    }
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        println!("{line}");
    }
    let succeeded = match ended {
        Ok(status) => status?.success(),
        Err(late) => {
            text.push_str(&format!("\nit was ended: {late}\n"));
            false
        }
    };
    Ok(if succeeded { Ok(()) } else { Err(text) })
}

/// Gives this scenario temporary folders of its own, so that all in them is its doing.
pub fn own_temporary_folders() -> anyhow::Result<()> {
    use nix::mount::{MsFlags, mount};
    const NONE: Option<&str> = None;
    let (program, peers) = (std::env::current_exe()?, testkit::peers::folder());
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for folder in ["/tmp", "/var/tmp", "/dev/shm"] {
        // A project or peers that lie there themselves must stay in sight.
        if ![&program, &peers].iter().any(|needed| needed.starts_with(folder)) {
            mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))
                .with_context(|| format!("cover {folder}"))?;
        }
    }
    Ok(())
}

fn play(acts: &[Act], name: &str) -> anyhow::Result<()> {
    let Some(act) = acts.iter().find(|act| act.name == name) else {
        bail!("no scenario is called {name}");
    };
    own_network()?;
    if (act.prepare)() { (act.body)() } else { Ok(()) }
}

/// Moves this process, which must be of one thread, into a network of its own that has nothing but a loopback interface.
pub fn own_network() -> anyhow::Result<()> {
    // As root a network namespace is enough; others need a user namespace, in which they are root.
    let mut flags = CloneFlags::CLONE_NEWNET;
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context("this machine does not let tests have network namespaces")?;
    if !user.is_root() {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (iproute2)")?;
    anyhow::ensure!(up.success(), "the loopback interface does not come up");
    Ok(())
}
