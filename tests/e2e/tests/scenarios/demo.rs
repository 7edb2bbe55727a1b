//! `mizzen demo`: the first thing that anybody sees.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::ask::ask_json;
use e2e::load::visit;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Demo, processes, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("the_demo_s_five_things_to_try_work_and_ctrl_c_leaves_nothing", demo),
    ("the_demo_checks_itself_and_says_what_is_in_its_way", in_the_way),
    ("the_demo_checks_itself_as_an_ordinary_user", ordinary_user),
];

const PAGE: &str = "http://127.0.0.1:9080/productpage";
const REVIEWS: &str = "http://127.0.0.1:9080/api/v1/products/0/reviews";
const PATIENCE: Duration = Duration::from_secs(30);
/// For a demo to come up, be checked and end.
const WHOLE: Duration = Duration::from_secs(120);
const NOBODY: u32 = 65534;
/// What `--check` looks at.
const CHECKS: [&str; 9] = [
    "product page",
    "versions of reviews",
    "kubectl-style API",
    "proxies",
    "metrics",
    "console",
    "mutual TLS",
    "traces",
    "database",
];

/// From the first moment on every page is whole; what is printed can be pasted; Ctrl-C leaves no process, interface,
/// rule, mount or file. A second demo beside it says what is in its way.
fn demo() -> anyhow::Result<()> {
    let before = Traces::now()?;
    let demo = Demo::start(&[])?;
    let report = visit(PAGE, 40)?;
    ensure!(report.ok() == 40, "{report:?}\n{}", demo.said());
    let said = demo.said();
    ensure!(
        said.contains("http://localhost:9080/productpage") && said.contains("http://127.0.0.1:20001/#token="),
        "{said}"
    );
    signs_in(&said)?;

    let things = things_to_try(&said);
    let [half, slow, explain, status, own] = things.as_slice() else {
        anyhow::bail!("not five: {things:?}");
    };
    ensure!(paste(half, &demo)?.contains("virtualservice.networking.istio.io/reviews created"));
    until("every page has stars, black or red", PATIENCE, || {
        let pages: Vec<String> = (0..16).filter_map(|_| Some(visit(REVIEWS, 1).ok()?.last_body)).collect();
        let all_have_stars = pages.iter().all(|page| page.contains("\"stars\""));
        let has = |colour: &str| pages.iter().any(|page| page.contains(colour));
        (all_have_stars && has("\"red\"") && has("\"black\"")).then_some(())
    })?;
    ensure!(paste(slow, &demo)?.contains("virtualservice.networking.istio.io/ratings created"));
    let told = paste(explain, &demo)?;
    ensure!(told.contains("outbound|9080|v") && told.contains("reviews"), "{told}");
    let told = paste(status, &demo)?;
    ensure!(
        told.contains("productpage-v1") && !told.contains("NACK") && told.matches("SYNCED").count() >= 36,
        "{told}"
    );
    let hello = Command::new("sh")
        .args(["-c", &format!("exec {own}")])
        .env("KUBECONFIG", demo.mesh.kubeconfig())
        .env_remove("CARGO")
        .spawn();
    let mut hello = hello.context("a workload of one's own")?;
    let answered = demo.mesh.until_answers("http://hello:8000/");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(hello.id())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    until("it ends", PATIENCE, || hello.try_wait().ok().flatten())?;
    answered?;

    let (status, second) = Demo::run(&["--port", "9081"])?;
    ensure!(
        !status.success() && second.contains("another `mizzen up` or `mizzen demo` runs"),
        "{status}: {second}"
    );

    let (status, left) = demo.interrupt()?;
    ensure!(status.success(), "{status}");
    ensure!(left.is_empty(), "files are left: {left:?}");
    let after = Traces::now()?;
    ensure!(after == before, "left behind: {:?}, before {before:?}", after);
    Ok(())
}

/// The console's address that is printed bears a token that the console takes.
fn signs_in(said: &str) -> anyhow::Result<()> {
    let words = said.split_whitespace();
    let token = words.filter_map(|word| word.split_once("/#token=")).map(|(_, token)| token).next();
    let bearer = format!("Bearer {}", token.context("no token is printed")?);
    let graph = ask_json("http://127.0.0.1:20001/api/graph", &[("authorization", &bearer)])?;
    ensure!(graph["edges"].is_array(), "{graph}");
    Ok(())
}

/// The commands that the demo prints, in their order.
fn things_to_try(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let numbered =
        |line: &str| line.trim_start().split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok());
    lines.windows(2).filter(|pair| numbered(pair[0])).map(|pair| pair[1].trim().to_owned()).collect()
}

fn paste(command: &str, demo: &Demo) -> anyhow::Result<String> {
    let mut shell = Command::new("sh");
    let output =
        shell.args(["-c", command]).env("KUBECONFIG", demo.mesh.kubeconfig()).env_remove("CARGO").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What could be left behind on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// What this process started, by whatever steps, and their programs.
    processes: BTreeSet<(u32, String)>,
    links: String,
    rules: String,
    mounts: usize,
}

impl Traces {
    fn now() -> anyhow::Result<Self> {
        // Whoever loses the parent becomes a child of this process; an entry without a program has ended.
        nix::sys::prctl::set_child_subreaper(true)?;
        let alive = processes::descendants(std::process::id()).into_iter();
        let processes = alive.filter_map(|pid| Some((pid, processes::program_of(pid)?)));
        let output = |program: &str, arguments: &[&str]| -> anyhow::Result<String> {
            let output =
                Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        Ok(Self {
            processes: processes.collect(),
            links: output("ip", &["-brief", "link"])?,
            rules: testkit::peers::find("nft")
                .map_or(Ok(String::new()), |nft| output(&nft.display().to_string(), &["list", "ruleset"]))?,
            mounts: std::fs::read_to_string("/proc/self/mountinfo")?.lines().count(),
        })
    }
}

/// `demo --check` finds everything well and ends; a port in use is told at once, with what to do.
fn in_the_way() -> anyhow::Result<()> {
    for (port, says) in [(9080, "--port"), (15012, "another control plane")] {
        let taken = TcpListener::bind(("127.0.0.1", port))?;
        let (status, said) = Demo::run(&["--check"])?;
        ensure!(
            !status.success() && said.contains(&port.to_string()) && said.contains(says),
            "{status}: {said}"
        );
        drop(taken);
    }
    let (status, said) = Demo::run(&["--check"])?;
    ensure!(status.success(), "{status}: {said}");
    all_well(&said)
}

/// Everything was looked at and found well; the database is a real one where this machine has one.
fn all_well(said: &str) -> anyhow::Result<()> {
    for check in CHECKS {
        ensure!(said.lines().any(|line| line.starts_with(&format!("ok    {check}: "))), "{check}: {said}");
    }
    ensure!(!said.contains("FAIL"), "{said}");
    let is_real = said.contains("database: MariaDB 1");
    let (server, installer) = (testkit::peers::find("mariadbd"), testkit::peers::find("mariadb-install-db"));
    ensure!(is_real == (server.is_some() && installer.is_some()), "{said}");
    Ok(())
}

/// An ordinary user needs nobody's help for a mesh, and leaves as little behind.
fn ordinary_user() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let as_nobody = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
        command.arg(program).current_dir("/").stdin(Stdio::null());
        command
    };
    let mut alone = as_nobody(Path::new("unshare"));
    let output = alone.args(["--user", "--map-root-user", "--net", "true"]).output().context("setpriv")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no user namespaces: {why}");
        println!("skipped: needs root, and user namespaces for ordinary users");
        return Ok(());
    }
    // Where root builds, nobody else may read.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    for name in ["mizzen", "mizzen-proxy", "bookinfo"] {
        std::fs::copy(program(name), folder.path().join(name))?;
    }
    let own = ["tmp", "home"].map(|name| folder.path().join(name));
    for own in &own {
        std::fs::create_dir(own)?;
        chown(own, Some(NOBODY), Some(NOBODY))?;
    }
    let said = folder.path().join("said");
    let file = File::create(&said)?;
    let mut command = as_nobody(&folder.path().join("mizzen"));
    for unset in ["CARGO", "KUBECONFIG", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
        command.env_remove(unset);
    }
    command.args(["demo", "--check"]).env("TMPDIR", &own[0]).env("HOME", &own[1]);
    let mut demo = command.stdout(file.try_clone()?).stderr(file).spawn()?;
    let status = until("the demo ends", WHOLE, || demo.try_wait().ok().flatten());
    if status.is_err() {
        let _ = demo.kill();
    }
    let told = std::fs::read_to_string(&said)?;
    let status = status.with_context(|| told.clone())?;
    ensure!(status.success(), "{status}: {told}");
    all_well(&told)?;
    for own in &own {
        let left: Vec<_> = std::fs::read_dir(own)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
    }
    Ok(())
}
