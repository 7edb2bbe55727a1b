//! Policies whose verdict is somebody else's: `action: CUSTOM`.

use std::time::Duration;

use anyhow::ensure;
use e2e::authorize::{CALLED, REFUSAL, WORD};
use e2e::load::Report;
use e2e::mesh::program;
use e2e::stage::Scenario;
use e2e::{Mesh, until};

pub(crate) const SCENARIOS: &[Scenario] = &[("authorization_asks_somebody_else", somebody_else)];

const PATIENCE: Duration = Duration::from_secs(20);
const OPEN: &str = "http://reviews:9080/open";
const ASKED: &str = "http://reviews:9080/asked";

/// Over HTTP and over gRPC: who says the word is let in, and the application learns it; others get the authorizer's own
/// answer; where no rule matches nobody is asked; `explain` says who would be. An authorizer that is down lets nobody in, or
/// everybody where it is to fail open; one that is not declared lets nobody in.
pub(crate) fn somebody_else() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let _reviews = mesh.serve("reviews", "v1", "one")?;
    let command = |port: &str| [program("mizzen-e2e"), "authorize".into(), "--port".into(), port.into()];
    let http = mesh.start_service("words", "http=9000", command("9000"))?;
    let grpc = mesh.start_service("calls", "grpc=9001", command("9001"))?;
    mesh.until_answers(OPEN)?;
    mesh.steer(&providers(false))?;
    for (provider, service) in [("over-http", "words"), ("over-grpc", "calls")] {
        mesh.steer(&policy(provider))?;
        let denied = until("the authorizer denies", PATIENCE, || {
            ask(&mesh, ASKED, &[]).ok().filter(|report| report.status(403) == 1)
        })?;
        ensure!(denied.last.body == REFUSAL, "{provider}: {denied:?}");
        let allowed = ask(&mesh, ASKED, &[&format!("{WORD}: friend")])?;
        let told = allowed.last.body.contains(&format!("\"{CALLED}\":\"friend\""));
        ensure!(allowed.status(200) == 1 && told, "{provider}: {allowed:?}");
        let unasked = ask(&mesh, OPEN, &[])?;
        ensure!(unasked.status(200) == 1 && !unasked.last.body.contains(CALLED), "{provider}: {unasked:?}");
        let explained = mesh.mizzen_ok(&["explain", "--from", "words", ASKED])?;
        let named = explained.contains(&format!("istio-ext-authz-{provider}-ns[default]-policy[reviews]"))
            && explained.contains(&format!("||{service}.default.svc.cluster.local"));
        ensure!(named, "{provider}: {explained}");
    }
    http.kill();
    grpc.kill();
    for provider in ["over-http", "over-grpc"] {
        mesh.steer(&policy(provider))?;
        let word = format!("{WORD}: friend");
        let report = until("nobody is let in", PATIENCE, || {
            ask(&mesh, ASKED, &[&word]).ok().filter(|report| report.status(403) == 1)
        })?;
        ensure!(report.last.body.is_empty(), "{provider}: {report:?}");
    }
    mesh.steer(&providers(true))?;
    for provider in ["over-http", "over-grpc"] {
        mesh.steer(&policy(provider))?;
        until("everybody is let in", PATIENCE, || {
            ask(&mesh, ASKED, &[]).ok().filter(|report| report.status(200) == 1)
        })?;
    }
    mesh.steer(&policy("nobody"))?;
    let report = until("nobody is let in", PATIENCE, || {
        ask(&mesh, ASKED, &[]).ok().filter(|report| report.status(403) == 1)
    })?;
    ensure!(report.last.body == "RBAC: access denied", "{report:?}");
    ensure!(ask(&mesh, OPEN, &[])?.status(200) == 1, "what no rule selects is denied");
    Ok(())
}

fn ask(mesh: &Mesh, url: &str, headers: &[&str]) -> anyhow::Result<Report> {
    let mut arguments = vec!["--url", url, "--count", "1", "--connections", "1"];
    arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
    mesh.load(&arguments)
}

fn providers(fail_open: bool) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    extensionProviders:
    - name: over-http
      envoyExtAuthzHttp:
        service: words.default.svc.cluster.local
        port: 9000
        timeout: 2s
        failOpen: {fail_open}
        includeRequestHeadersInCheck: [{WORD}]
        headersToUpstreamOnAllow: [{CALLED}]
    - name: over-grpc
      envoyExtAuthzGrpc:
        service: default/calls.default.svc.cluster.local
        port: 9001
        timeout: 2s
        failOpen: {fail_open}
"
    )
}

fn policy(provider: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: reviews, namespace: default}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{to: [{{operation: {{paths: [/asked]}}}}]}}]
"
    )
}
