//! A subset, host or provider that does not exist is stored with a warning, and shown until it does.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::Mesh;
use serde_json::Value;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
";

const ROUTE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default, labels: {istio.io/rev: default}}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /old}}]
    route: [{destination: {host: nowhere}}]
  - route: [{destination: {host: reviews, subset: v9}}]
";

const MISSING: &str = "
apiVersion: v1
kind: Service
metadata: {name: nowhere, namespace: default}
spec: {selector: {app: nowhere}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default, labels: {istio.io/rev: default}}
spec:
  host: reviews
  subsets: [{name: v9, labels: {version: v9}}]
";

const TELEMETRY: &str = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: default, labels: {istio.io/rev: default}}
spec:
  tracing: [{providers: [{name: zipkin}]}]
";

const PROVIDER: &str = "
apiVersion: v1
kind: Service
metadata: {name: zipkin, namespace: default}
spec: {ports: [{name: http, port: 9411}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders: [{name: zipkin, zipkin: {service: zipkin.default.svc.cluster.local, port: 9411}}]
";

/// With the time that a write which leads to another would take several times over.
const QUIET: Duration = Duration::from_secs(2);

pub(super) fn is_shown() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    // The embedded API warns by itself.
    let webhooks = ["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name"];
    if !mesh.kubectl(&webhooks)?.stdout.is_empty() {
        let binding = "--for=jsonpath={.webhooks[0].failurePolicy}=Fail";
        let webhook = "validatingwebhookconfiguration/istio-validator-istio-system";
        mesh.kubectl_ok(&["wait", binding, webhook, "--timeout=30s"]).with_context(|| mesh.logs("up"))?;
    }
    mesh.apply(SERVICE)?;
    let output = mesh.kubectl_with(&["apply"], ROUTE)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "files come in any order: {said}");
    for words in [
        "Warning: spec.http[0].route[0].destination.host: there is no service nowhere",
        "Warning: spec.http[1].route[0].destination.subset: no DestinationRule defines subset \"v9\"",
    ] {
        ensure!(said.contains(words), "no {words:?} in {said}");
    }

    let analysis = mesh.mizzen(["analyze"]).output()?;
    let found = String::from_utf8_lossy(&analysis.stdout);
    ensure!(analysis.status.code() == Some(79), "{analysis:?}");
    ensure!(found.contains("[DanglingHost]") && found.contains("[DanglingSubset]"), "{found}");

    mesh.kubectl_ok(&["wait", "--for=condition=Reconciled=false", "vs/reviews", "--timeout=30s"])
        .with_context(|| mesh.logs("up"))?;
    let shown = stored(&mesh)?;
    let condition = &shown["status"]["conditions"][0];
    ensure!(condition["reason"] == "DanglingHost" && condition["observedGeneration"] == 1, "{shown}");
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains("spec.http[0]") && message.contains("\"v9\""), "{message}");
    let codes = &shown["status"]["validationMessages"];
    ensure!(
        codes[0]["type"]["code"] == "DanglingHost" && codes[1]["type"]["code"] == "DanglingSubset",
        "{codes}"
    );

    // Nothing happens, so nothing is written.
    std::thread::sleep(QUIET);
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let quiet = stored(&mesh)?;
    ensure!(version(&shown) == version(&quiet), "a status is written again and again: {shown}\n{quiet}");

    let output = mesh.kubectl_with(&["apply"], TELEMETRY)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let words = "Warning: spec.tracing[0].providers[0].name: MeshConfig declares no provider \"zipkin\"";
    ensure!(output.status.success() && said.contains(words), "no {words:?} in {said}");
    let of = "--for=jsonpath={.status.conditions[0].reason}=DanglingProvider";
    mesh.kubectl_ok(&["wait", of, "telemetry/traces", "--timeout=30s"]).with_context(|| mesh.logs("up"))?;
    let analysis = mesh.mizzen(["analyze"]).output()?;
    ensure!(String::from_utf8_lossy(&analysis.stdout).contains("[DanglingProvider]"), "{analysis:?}");

    mesh.apply(MISSING)?;
    mesh.apply(PROVIDER)?;
    let mended = ["vs/reviews", "dr/reviews", "telemetry/traces"];
    mesh.kubectl_ok(&[&["wait", "--for=condition=Reconciled", "--timeout=30s"][..], &mended[..]].concat())?;
    let mended = stored(&mesh)?;
    ensure!(mended["status"].get("validationMessages").is_none(), "{mended}");
    ensure!(mended["metadata"]["generation"] == 1 && mended["status"]["observedGeneration"] == 1, "{mended}");
    // Warnings that do not make it wrong remain: no workload has the label.
    let analysis = mesh.mizzen(["analyze"]).output()?;
    ensure!(!String::from_utf8_lossy(&analysis.stdout).contains("Dangling"), "{analysis:?}");
    Ok(())
}

fn stored(mesh: &Mesh) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&mesh.kubectl_ok(&["get", "vs", "reviews", "-o", "json"])?)?)
}
