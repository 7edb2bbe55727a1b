//! Every command of the command line on a live mesh.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, until};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("the_command_line_on_a_live_mesh", live), ("commands_without_a_mesh_say_what_to_do", without_a_mesh)];

const PATIENCE: Duration = Duration::from_secs(30);

/// Each command does what it says, in tables, JSON and YAML; colours are for terminals; errors end in what to do.
fn live() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _v1 = mesh.serve("reviews", "v1", "reviews-v1")?;
    let _ratings = mesh.serve("ratings", "v1", "ratings-v1")?;
    mesh.until_answers("http://reviews:9080/")?;
    mesh.until_answers("http://ratings:9080/")?;
    resources(&mesh).context("apply, get, wait, delete")?;
    proxies(&mesh).context("proxy-status, proxy-config")?;
    reasons(&mesh).context("explain, analyze")?;
    run(&mesh).context("run")?;
    alone(&mesh).context("check, crds, dashboard, version, completion")
}

/// The exit code and both outputs.
fn told(mut command: Command) -> anyhow::Result<(i32, String, String)> {
    let Output { status, stdout, stderr } = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.code().context("a signal")?, text(&stdout), text(&stderr)))
}

/// A command that is to succeed: what it printed.
fn good(mesh: &Mesh, line: &str) -> anyhow::Result<String> {
    let (code, out, err) = told(mesh.mizzen(line.split_whitespace()))?;
    ensure!(code == 0, "mizzen {line}: {code}: {out}{err}");
    ensure!(!out.contains('\x1b') && !err.contains('\x1b'), "colours in a pipe: {out:?} {err:?}");
    Ok(out)
}

/// A command that is to fail with this exit code, and what it says on standard error.
fn bad(mesh: &Mesh, line: &str, code: i32, says: &[&str]) -> anyhow::Result<()> {
    let (found, out, err) = told(mesh.mizzen(line.split_whitespace()))?;
    ensure!(found == code, "mizzen {line}: {found}, not {code}: {out}{err}");
    for part in says {
        ensure!(err.contains(part), "mizzen {line}: nothing of {part:?} in {err:?}");
    }
    Ok(())
}

/// As JSON and as YAML, which are to say the same.
fn structured(mesh: &Mesh, line: &str) -> anyhow::Result<Value> {
    let json: Value =
        serde_json::from_str(&good(mesh, &format!("{line} -o json"))?).with_context(|| line.to_owned())?;
    let yaml = good(mesh, &format!("{line} -o yaml"))?;
    ensure!(!yaml.trim_start().starts_with('{') && !yaml.is_empty(), "no YAML: {yaml}");
    Ok(json)
}

fn says(text: &str, parts: &[&str]) -> anyhow::Result<()> {
    for part in parts {
        ensure!(text.contains(part), "nothing of {part:?} in:\n{text}");
    }
    Ok(())
}

fn file(mesh: &Mesh, name: &str, text: &str) -> anyhow::Result<String> {
    let file = mesh.folder().join(name);
    std::fs::write(&file, text)?;
    Ok(file.display().to_string())
}

fn resources(mesh: &Mesh) -> anyhow::Result<()> {
    let routes = file(mesh, "routes.yaml", ROUTES)?;
    let shown = "virtualservice.networking.istio.io/reviews";
    ensure!(good(mesh, &format!("apply -f {routes} --dry-run"))?.contains("created (dry run)"));
    bad(mesh, "get virtualservice reviews", 1, &["not found"])?;
    says(&good(mesh, &format!("apply -f {routes}"))?, &[&format!("{shown} created")])?;
    says(&good(mesh, &format!("apply -f {routes}"))?, &[&format!("{shown} unchanged")])?;
    let slower = file(mesh, "slower.yaml", &ROUTES.replace("timeout: 3s", "timeout: 4s"))?;
    says(&good(mesh, &format!("apply -f {slower}"))?, &[&format!("{shown} configured")])?;
    says(&good(mesh, "wait virtualservice reviews")?, &["accepted by all"])?;
    says(&good(mesh, "wait")?, &["everything: accepted by all"])?;

    let wrong = file(mesh, "wrong.yaml", &ROUTES.replace("timeout: 3s", "timeuot: 3s"))?;
    bad(mesh, &format!("apply -f {wrong}"), 1, &["spec.http[0].timeuot", shown])?;
    let broken = file(mesh, "broken.yaml", "kind: [")?;
    bad(mesh, &format!("apply -f {broken}"), 1, &["broken.yaml"])?;
    bad(mesh, "apply -f nowhere.yaml", 1, &["nowhere.yaml"])?;

    says(&good(mesh, "get virtualservices")?, &["NAME", "reviews"])?;
    says(&good(mesh, "get vs -A")?, &["NAMESPACE", "default"])?;
    ensure!(good(mesh, "get vs reviews -o name")?.trim() == shown);
    says(&good(mesh, "get services -o wide")?, &["reviews", "ratings"])?;
    ensure!(structured(mesh, "get vs reviews")?["spec"]["http"][0]["timeout"] == "4s");
    says(&good(mesh, "get workloadentries")?, &["reviews-v1-", "10.44.0."])?;
    bad(mesh, "get nonsense", 1, &["no kind \"nonsense\"", "virtualservices"])?;

    says(&good(mesh, "delete vs reviews")?, &[&format!("{shown} deleted")])?;
    says(&good(mesh, "wait --for=deletion vs reviews")?, &["accepted by all"])?;
    bad(mesh, "delete vs reviews", 1, &["not found"])?;
    good(mesh, "delete vs reviews --ignore-not-found")?;
    bad(mesh, "wait vs reviews", 1, &["there is no", "apply it first"])?;
    good(mesh, &format!("apply -f {routes}"))?;
    good(mesh, "wait virtualservice reviews").map(drop)
}

/// The name of a proxy of that workload.
fn proxy(mesh: &Mesh, workload: &str) -> anyhow::Result<String> {
    let status: Value = serde_json::from_str(&good(mesh, "proxy-status -o json")?)?;
    let mut names = status["proxies"].as_array().into_iter().flatten().filter_map(|p| p["proxy"].as_str());
    names
        .find(|name| name.starts_with(workload))
        .map(str::to_owned)
        .with_context(|| format!("no {workload}: {status}"))
}

fn proxies(mesh: &Mesh) -> anyhow::Result<()> {
    let table = good(mesh, "proxy-status")?;
    says(
        &table,
        &["NAME", "CDS", "LDS", "EDS", "RDS", "reviews-v1-", "SYNCED", "sidecar", "Kubernetes", "0.1"],
    )?;
    ensure!(!table.contains("NACK") && !table.contains("STALE"), "{table}");
    ensure!(structured(mesh, "proxy-status")?["settled"] == true);
    bad(mesh, "proxy-status nobody", 1, &["no proxy \"nobody\"", "mizzen proxy-status"])?;
    let ratings = proxy(mesh, "ratings-v1")?;
    says(&good(mesh, &format!("proxy-status {ratings}"))?, &["has accepted everything", "CDS"])?;
    let coloured = Command::new("script")
        .args(["-qec", &format!("{} proxy-status", program("mizzen").display()), "/dev/null"])
        .output()
        .context("script (bsdutils)")?;
    says(&String::from_utf8_lossy(&coloured.stdout), &["\x1b[32mSYNCED\x1b[0m"])?;

    says(&good(mesh, &format!("proxy-config listeners {ratings}"))?, &["15001", "15006", "0.0.0.0"])?;
    says(
        &good(mesh, &format!("proxy-config routes {ratings} --name 9080"))?,
        &["reviews", "reviews.default", "9080"],
    )?;
    says(
        &good(mesh, &format!("pc clusters {ratings} --fqdn reviews"))?,
        &["reviews.default.svc.cluster.local", "9080", "v1"],
    )?;
    says(
        &good(mesh, &format!("pc endpoints {ratings} --cluster reviews"))?,
        &["10.44.0.", "outbound|9080||reviews"],
    )?;
    says(
        &good(mesh, "pc secrets ratings-v1")?,
        &["default", "spiffe://cluster.local/ns/default/sa/ratings"],
    )?;
    for kind in ["listeners", "routes", "clusters", "endpoints", "secrets"] {
        ensure!(structured(mesh, &format!("pc {kind} {ratings}"))?.is_array(), "{kind}");
    }
    bad(mesh, "pc routes nobody", 1, &["no proxy \"nobody\""])
}

fn reasons(mesh: &Mesh) -> anyhow::Result<()> {
    let text = good(mesh, "explain --from ratings-v1 http://reviews:9080/reviews/0")?;
    says(
        &text,
        &[
            "At default/ratings-v1",
            "(outbound)",
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "timeout 3s",
            "LEAST_REQUEST",
            "At default/reviews-v1",
            "(inbound)",
        ],
    )?;
    let way = structured(mesh, "explain --from ratings-v1 http://reviews:9080/reviews/0")?;
    ensure!(way["outbound"]["route"] == "slow" && way["inbound"]["cluster"] == "inbound|9080||", "{way:#}");
    bad(
        mesh,
        "explain --from nobody http://reviews:9080/",
        1,
        &["there is no workload \"nobody\"", "ratings-v1-"],
    )?;
    bad(mesh, "explain --from ratings-v1 ftp://reviews/", 1, &["http://, https:// or tcp://"])?;

    says(&good(mesh, "analyze")?, &["nothing found"])?;
    let dangling = file(mesh, "dangling.yaml", &ROUTES.replace("subset: v1", "subset: v7"))?;
    let analyze =
        |options: &str| told(mesh.mizzen(format!("analyze -f {dangling} {options}").split_whitespace()));
    let (code, out, _) = analyze("")?;
    ensure!(code == 79, "{code}: {out}");
    says(
        &out,
        &["Error [DanglingSubset]", "spec.http[0].route[0].destination.subset", "v7", "write one of"],
    )?;
    let (_, out, _) = analyze("-o json")?;
    let found: Value = serde_json::from_str(&out)?;
    ensure!(found[0]["code"] == "DanglingSubset" && found[0]["name"] == "reviews", "{found:#}");
    Ok(())
}

/// A process' output, exit code and signals are its own, and it sees nothing of the mesh.
fn run(mesh: &Mesh) -> anyhow::Result<()> {
    let mut command =
        mesh.mizzen(["run", "--service", "job", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    command.env("OWN", "kept");
    ensure!(told(command)? == (7, "out\n".into(), "err\n".into()));
    let killed = mesh.mizzen(["run", "--service", "job", "--", "sh", "-c", "kill -9 $$"]).status()?;
    ensure!(std::os::unix::process::ExitStatusExt::signal(&killed) == Some(9), "{killed}");
    bad(mesh, "run --service job -- no-such-program", 127, &["no-such-program"])?;
    bad(mesh, "run --service job --port 9080 -- true", 2, &["--port"])?;
    until("the jobs' entries are gone", PATIENCE, || {
        good(mesh, "get workloadentries").ok().filter(|table| !table.contains("job"))
    })
    .map(drop)
}

fn alone(mesh: &Mesh) -> anyhow::Result<()> {
    let findings: Value = serde_json::from_str(&good(mesh, "check -o json")?)?;
    ensure!(findings.as_array().is_some_and(|found| found.len() > 5), "{findings}");
    says(&good(mesh, "check")?, &["ok", "file descriptors", "6443"])?;
    let crds = good(mesh, "crds")?;
    ensure!(crds.matches("kind: CustomResourceDefinition").count() >= 12);
    ensure!(good(mesh, "version")?.starts_with("mizzen 0."));
    for shell in ["bash", "zsh", "fish"] {
        says(&good(mesh, &format!("completion {shell}"))?, &["proxy-status", "mizzen"])?;
    }
    let address = good(mesh, "dashboard --no-browser")?;
    ensure!(address.starts_with("http://127.0.0.1:20001/#token="), "{address}");
    ensure!(e2e::mesh::get("127.0.0.1:20001", "/") == Some(200));
    ensure!(e2e::mesh::get("127.0.0.1:20001", "/api/graph") == Some(401), "the graph is shown to everybody");
    let second = mesh.mizzen(["up", "--data-dir"]).arg(mesh.folder().join("second")).output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(!second.status.success() && said.contains("6443") && said.contains("in use"), "{said}");
    Ok(())
}

/// With nothing to talk to, every command says so and what to start.
fn without_a_mesh() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mizzen = |line: &str| {
        let mut command = Command::new(program("mizzen"));
        command.args(line.split_whitespace()).env("HOME", folder.path()).env_remove("CARGO");
        for unset in ["KUBECONFIG", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env_remove(unset);
        }
        told(command)
    };
    let lines = [
        "get vs",
        "delete vs reviews",
        "wait",
        "wait vs reviews",
        "proxy-status",
        "proxy-config routes a",
        "explain --from a http://b/",
        "analyze",
        "run --service a -- true",
        "dashboard --no-browser",
    ];
    for line in lines {
        let (code, out, err) = mizzen(line)?;
        ensure!(
            code == 1 && err.contains("mizzen up") && out.is_empty(),
            "mizzen {line}: {code}: {out}{err}"
        );
        ensure!(err.starts_with("error: ") && err.lines().count() <= 3, "mizzen {line}: {err}");
    }
    let (code, _, err) = mizzen("frobnicate")?;
    ensure!(code == 2 && err.contains("frobnicate") && err.contains("--help"), "{code}: {err}");
    Ok(())
}

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - name: slow
    route: [{destination: {host: reviews, subset: v1}}]
    timeout: 3s
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}]
";
