//! Every verb of kubectl that people use, against a control plane that runs.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use e2e::Mesh;
use serde_json::Value;

use super::MESH;

pub(super) fn all() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    apply(&mesh)?;
    read(&mesh)?;
    change(&mesh)?;
    apply_on_the_server(&mesh)?;
    watch_and_delete(&mesh)?;
    scale(&mesh)
}

fn apply(mesh: &Mesh) -> anyhow::Result<()> {
    let lines = |said: &[u8], word: &str| String::from_utf8_lossy(said).matches(word).count();
    let output = mesh.kubectl_with(&["apply"], MESH)?;
    ensure!(lines(&output.stdout, " created") == 4, "{output:?}");
    let output = mesh.kubectl_with(&["apply"], MESH)?;
    ensure!(lines(&output.stdout, " unchanged") == 4, "{output:?}");
    Ok(())
}

fn read(mesh: &Mesh) -> anyhow::Result<()> {
    // The control plane has looked at it, and says for which generation.
    mesh.kubectl_ok(&["wait", "--for=condition=Reconciled", "vs/reviews", "dr/reviews", "--timeout=30s"])?;
    ensure!(field(mesh, "{.status.observedGeneration}")? == "1");

    let wide = mesh.kubectl_ok(&["get", "vs,svc", "-o", "wide"])?;
    ensure!(
        wide.contains("GATEWAYS") && wide.contains("[\"reviews\"]") && wide.contains("SELECTOR"),
        "{wide}"
    );
    let yaml = mesh.kubectl_ok(&["get", "vs", "reviews", "-o", "yaml"])?;
    ensure!(yaml.contains("kind: VirtualService") && yaml.contains("        subset: v3"), "{yaml}");
    let described = mesh.kubectl_ok(&["describe", "virtualservice", "reviews"])?;
    ensure!(described.contains("Weight:    50") && described.contains("Reconciled"), "{described}");
    let explained = mesh.kubectl_ok(&["explain", "vs.spec.http.timeout"])?;
    ensure!(explained.contains("FIELD: timeout <string>"), "{explained}");
    let explained = mesh.kubectl_ok(&["explain", "destinationrule.spec.subsets", "--recursive"])?;
    ensure!(explained.contains("trafficPolicy"), "{explained}");
    Ok(())
}

/// One field of the VirtualService as it is stored.
fn field(mesh: &Mesh, path: &str) -> anyhow::Result<String> {
    mesh.kubectl_ok(&["get", "vs", "reviews", "-o", &format!("jsonpath={path}")])
}

fn change(mesh: &Mesh) -> anyhow::Result<()> {
    let edit =
        mesh.kubectl_command(&["edit", "vs", "reviews"])?.env("KUBE_EDITOR", "sed -i s/10s/20s/").output()?;
    ensure!(edit.status.success(), "{edit:?}");
    ensure!(field(mesh, "{.spec.http[0].timeout}")? == "20s");
    ensure!(field(mesh, "{.metadata.generation}")? == "2");

    mesh.kubectl_ok(&[
        "patch",
        "vs",
        "reviews",
        "--type=merge",
        "-p",
        r#"{"spec":{"hosts":["reviews","stars"]}}"#,
    ])?;
    let replace = r#"[{"op":"replace","path":"/spec/http/0/timeout","value":"30s"}]"#;
    mesh.kubectl_ok(&["patch", "vs", "reviews", "--type=json", "-p", replace])?;
    ensure!(field(mesh, "{.spec.hosts[1]} {.spec.http[0].timeout}")? == "stars 30s");
    mesh.kubectl_ok(&[
        "patch",
        "svc",
        "reviews",
        "-p",
        r#"{"spec":{"ports":[{"port":9080,"name":"http-web"}]}}"#,
    ])?;
    let port = mesh.kubectl_ok(&["get", "svc", "reviews", "-o", "jsonpath={.spec.ports[*].name}"])?;
    ensure!(port == "http-web", "a strategic merge patch goes by the port: {port}");

    mesh.kubectl_ok(&["label", "vs", "reviews", "team=stars"])?;
    let chosen = mesh.kubectl_ok(&["get", "vs", "-l", "team=stars", "-o", "name"])?;
    ensure!(chosen.trim() == "virtualservice.networking.istio.io/reviews", "{chosen}");
    let other = mesh.kubectl(&["label", "vs", "reviews", "team=other"])?;
    ensure!(!other.status.success(), "a label is not overwritten without being told to");
    mesh.kubectl_ok(&["label", "vs", "reviews", "team-"])?;
    ensure!(field(mesh, "{.metadata.generation}")? == "4", "labels are no change of the spec");
    Ok(())
}

fn apply_on_the_server(mesh: &Mesh) -> anyhow::Result<()> {
    let changed = MESH.replace("timeout: 10s", "timeout: 40s");
    let differs = mesh.kubectl_with(&["diff"], &changed)?;
    let shown = String::from_utf8_lossy(&differs.stdout);
    ensure!(differs.status.code() == Some(1) && shown.contains("timeout: 40s"), "{differs:?}");

    let arguments = ["apply", "--server-side", "--field-manager=pipeline"];
    let conflict = mesh.kubectl_with(&arguments, &changed)?;
    let said = String::from_utf8_lossy(&conflict.stderr);
    ensure!(!conflict.status.success() && said.contains("conflict with \"kubectl-"), "{said}");
    ensure!(field(mesh, "{.spec.http[0].timeout}")? == "30s", "a conflict changes nothing");
    let forced = mesh.kubectl_with(&[&arguments[..], &["--force-conflicts"]].concat(), &changed)?;
    ensure!(forced.status.success(), "{forced:?}");
    ensure!(field(mesh, "{.spec.http[0].timeout}")? == "40s");
    let managers = mesh.kubectl_ok(&["get", "vs", "reviews", "--show-managed-fields", "-o", "json"])?;
    let managers: Value = serde_json::from_str(&managers)?;
    let list = managers["metadata"]["managedFields"].as_array().context("managedFields")?;
    ensure!(list.iter().any(|m| m["manager"] == "pipeline" && m["operation"] == "Apply"), "{list:?}");
    let same = mesh.kubectl_with(&["diff", "--server-side", "--field-manager=pipeline"], &changed)?;
    ensure!(same.status.code() == Some(0), "{same:?}");
    Ok(())
}

fn watch_and_delete(mesh: &Mesh) -> anyhow::Result<()> {
    let arguments = ["get", "vs", "reviews", "-w", "--no-headers"];
    let mut watch = mesh.kubectl_command(&arguments)?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("its output")?).lines();
    let mut next = move || lines.next().context("the watch ended")?.context("the watch's output");
    let outcome = (|| {
        let first = next()?;
        ensure!(first.starts_with("reviews") && first.contains("[\"reviews\"]"), "{first}");
        let change = r#"{"spec":{"hosts":["reviews","watched"]}}"#;
        mesh.kubectl_ok(&["patch", "vs", "reviews", "--type=merge", "-p", change])?;
        // Its status may be told in between.
        while !next()?.contains("watched") {}
        mesh.kubectl_ok(&["delete", "vs", "reviews"])?;
        next().map(drop)
    })();
    watch.kill()?;
    watch.wait()?;
    outcome?;
    mesh.kubectl_ok(&["wait", "--for=delete", "vs/reviews", "--timeout=10s"])?;
    let gone = mesh.kubectl(&["get", "vs", "reviews"])?;
    let said = String::from_utf8_lossy(&gone.stderr);
    ensure!(said.contains("virtualservices.networking.istio.io \"reviews\" not found"), "{said}");
    Ok(())
}

/// A Deployment is not run here, but who scales it is not turned away.
fn scale(mesh: &Mesh) -> anyhow::Result<()> {
    mesh.kubectl_ok(&["create", "deployment", "web", "--image=none"])?;
    mesh.kubectl_ok(&["scale", "deployment", "web", "--replicas=3", "--current-replicas=1"])?;
    mesh.kubectl_ok(&["wait", "--for=jsonpath={.spec.replicas}=3", "deployment/web", "--timeout=5s"])?;
    let wrong = mesh.kubectl(&["scale", "deployment", "web", "--replicas=1", "--current-replicas=2"])?;
    ensure!(!wrong.status.success(), "it has 3 replicas, not 2");
    // Too much is told so, not cut off.
    let notes = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: notes}}\ndata: {{a: {}}}\n",
        "x".repeat(5 << 20)
    );
    let large = mesh.kubectl_with(&["create"], &notes)?;
    let said = String::from_utf8_lossy(&large.stderr);
    ensure!(!large.status.success() && said.contains("Request entity too large"), "{said}");
    Ok(())
}
