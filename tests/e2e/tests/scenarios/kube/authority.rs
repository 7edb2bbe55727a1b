//! On a cluster the authority's root is where Istio keeps it, and everybody is told what to trust.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{Mesh, until};

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn is_kept() -> anyhow::Result<()> {
    let mut mesh = Mesh::start()?;
    let own = published(&mesh, "default", |_| true)?;
    let kept = mesh.kubectl_ok(&[
        "-n",
        "istio-system",
        "get",
        "secret",
        "istio-ca-secret",
        "-o",
        "jsonpath={.type}",
    ])?;
    ensure!(kept == "istio.io/ca-root", "{kept}");
    ensure!(!mesh.folder().join("data/ca").exists(), "the root is in the data folder too");
    mesh.kubectl_ok(&["create", "namespace", "later"])?;
    ensure!(published(&mesh, "later", |_| true)? == own, "a namespace that comes later has other roots");

    // A control plane on another machine is the same authority.
    mesh.stop_control_plane()?;
    std::fs::remove_dir_all(mesh.folder().join("data"))?;
    mesh.restart()?;
    mesh.kubectl_ok(&["create", "namespace", "after"])?;
    ensure!(published(&mesh, "after", |_| true)? == own, "a restart made another root");

    // What somebody plugs in is used instead.
    mesh.stop_control_plane()?;
    let plugged = plug_in(&mesh)?;
    mesh.restart()?;
    published(&mesh, "default", |roots| roots.contains(plugged.trim()))?;
    let _reviews = mesh.serve("reviews", "v1", "reviews")?;
    mesh.until_answers("http://reviews:9080/")
}

/// The roots that a namespace is told to trust, once they are as they should be.
fn published(
    mesh: &Mesh,
    namespace: &str,
    as_they_should_be: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    let of =
        ["-n", namespace, "get", "configmap", "istio-ca-root-cert", "-o", r"jsonpath={.data.root-cert\.pem}"];
    until(&format!("the roots of namespace {namespace}"), PATIENCE, || {
        mesh.kubectl_ok(&of)
            .ok()
            .filter(|roots| roots.contains("BEGIN CERTIFICATE") && as_they_should_be(roots))
    })
    .with_context(|| mesh.logs("up"))
}

/// Makes an authority with openssl and the Secret `cacerts` of it; its certificate.
fn plug_in(mesh: &Mesh) -> anyhow::Result<String> {
    let at = |name: &str| mesh.folder().join(name).display().to_string();
    let (certificate, key) = (at("ca-cert.pem"), at("ca-key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "30",
        ])
        .args(["-subj", "/O=plugged in", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let from = |name: &str, path: &str| format!("--from-file={name}={path}");
    std::fs::write(at("cert-chain.pem"), "")?;
    mesh.kubectl_ok(&[
        "-n",
        "istio-system",
        "create",
        "secret",
        "generic",
        "cacerts",
        &from("ca-cert.pem", &certificate),
        &from("ca-key.pem", &key),
        &from("cert-chain.pem", &at("cert-chain.pem")),
        &from("root-cert.pem", &certificate),
    ])?;
    Ok(std::fs::read_to_string(certificate)?)
}
