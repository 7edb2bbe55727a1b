//! Identity and authorization.

use std::time::Duration;

use anyhow::ensure;
use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("identity_is_proven_with_no_configuration", identity),
    ("authorization_by_method_and_path", authorization),
];

const URL: &str = "http://reviews:9080/reviews/0";
const PATIENCE: Duration = Duration::from_secs(10);

/// Every call is mutual TLS with no configuration at all, and the callee learns who called; no key is in any file.
pub(crate) fn identity() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]
",
    )?;
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
",
    )?;
    // The client's identity is the only one that is let in: were it not proven, this would be denied.
    until("the client is let in by its identity", PATIENCE, || {
        mesh.load(&["--url", URL, "--count", "20"]).ok().filter(|report| report.failed() == 0)
    })?;
    for entry in walk(mesh.folder()) {
        let text = std::fs::read(&entry).unwrap_or_default();
        let has_key = text.windows(11).any(|window| window == b"PRIVATE KEY");
        ensure!(!has_key, "a private key lies in {}", entry.display());
    }
    Ok(())
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// A rule on method and path answers 403 with Envoy's body, and a changed policy acts on open connections.
pub(crate) fn authorization() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    mesh.until_answers(URL)?;
    let load = mesh.start_load(&["--url", URL, "--connections", "1", "--pause", "10"])?;
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: default}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules: [{to: [{operation: {methods: [GET], paths: ['/reviews/*']}}]}]
",
    )?;
    let denied = until("the policy holds", PATIENCE, || {
        mesh.load(&["--url", URL, "--count", "1"]).ok().filter(|report| report.status(403) == 1)
    })?;
    ensure!(denied.last_failure == "RBAC: access denied", "{denied:?}");
    let other = mesh.load(&["--url", "http://reviews:9080/other", "--count", "1"])?;
    ensure!(other.ok() == 1, "another path is denied too: {other:?}");
    let report = load.stop()?;
    ensure!(
        report.status(403) > 0 && report.errors.is_empty(),
        "the open connection was not denied: {report:?}"
    );
    Ok(())
}
