//! `mizzen demo`: the first thing that anybody sees.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::load::visit;
use e2e::stage::Scenario;
use e2e::{Demo, processes, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("the_demo_s_five_things_to_try_work_and_ctrl_c_leaves_nothing", demo),
    ("the_demo_checks_itself_and_says_what_is_in_its_way", in_the_way),
];

const PAGE: &str = "http://127.0.0.1:9080/productpage";
const REVIEWS: &str = "http://127.0.0.1:9080/api/v1/products/0/reviews";
const PATIENCE: Duration = Duration::from_secs(30);

/// From the first moment on every page is whole; what is printed can be pasted; Ctrl-C leaves no process, interface,
/// rule, mount or file. A second demo beside it says what is in its way.
fn demo() -> anyhow::Result<()> {
    let before = Traces::now()?;
    let demo = Demo::start(&[])?;
    let report = visit(PAGE, 40)?;
    ensure!(report.ok() == 40, "{report:?}\n{}", demo.said());
    let said = demo.said();
    ensure!(
        said.contains("http://localhost:9080/productpage") && said.contains("http://127.0.0.1:20001/"),
        "{said}"
    );

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
    ensure!(
        status.success() && said.matches("ok  ").count() >= 3 && !said.contains("FAIL"),
        "{status}: {said}"
    );
    Ok(())
}
