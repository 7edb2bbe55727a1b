//! Wrong YAML is refused with the field's path and a hint, and what was stored before stays as it was.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::garbage::Report;
use e2e::mesh::program;
use e2e::{Mesh, until};

use super::MESH;

/// Where the control plane validates.
const WEBHOOK: &str = "127.0.0.1:15017";

struct Wrong {
    /// What is wrong about it.
    what: &'static str,
    from: &'static str,
    to: &'static str,
    path: &'static str,
    hint: &'static str,
    /// A real API server refuses it by the schema alone, in words of its own where they are given.
    schema: Option<&'static str>,
}

const WRONG: &[Wrong] = &[
    Wrong {
        what: "unknown field",
        from: "weight: 50",
        to: "weigth: 50",
        path: "spec.http[0].route[0].weigth",
        hint: "did you mean \"weight\"?",
        schema: Some("unknown field"),
    },
    Wrong {
        what: "bad enum",
        from: "ROUND_ROBIN",
        to: "ROUNDROBIN",
        path: "spec.trafficPolicy.loadBalancer.simple",
        hint: "did you mean \"ROUND_ROBIN\"?",
        schema: Some("supported values: \"UNSPECIFIED\""),
    },
    Wrong {
        what: "negative weight",
        from: "weight: 50",
        to: "weight: -1",
        path: "spec.http[0].route[0].weight",
        hint: "should be greater than or equal to 0",
        schema: Some("should be greater than or equal to 0"),
    },
    Wrong {
        what: "bad duration",
        from: "timeout: 10s",
        to: "timeout: 10sec",
        path: "spec.http[0].timeout",
        hint: "such as 1.5s",
        schema: Some("such as 1.5s"),
    },
    Wrong {
        what: "bad regex",
        from: "/reviews/[0-9]+",
        to: "/reviews/([0-9]+",
        path: "spec.http[0].match[0].uri.regex",
        hint: "unclosed group",
        schema: None,
    },
    Wrong {
        what: "an operator that nobody knows",
        from: "timeout: 10s",
        to: "timeout: 10s\n    headers: {request: {set: {x-from: '%DOWNSTREAM_REMOTE_ADRESS%'}}}",
        path: "spec.http[0].headers.request.set[x-from]",
        hint: "did you mean \"%DOWNSTREAM_REMOTE_ADDRESS%\"?",
        schema: None,
    },
    Wrong {
        what: "spiffe:// in a principal",
        from: "[cluster.local/",
        to: "[spiffe://cluster.local/",
        path: "spec.rules[0].from[0].source.principals[0]",
        hint: "write \"cluster.local/ns/default/sa/productpage\"",
        schema: None,
    },
    Wrong {
        what: "unknown version",
        from: "networking.istio.io/v1\nkind: VirtualService",
        to: "networking.istio.io/v9\nkind: VirtualService",
        path: "no matches for kind \"VirtualService\"",
        hint: "in version \"networking.istio.io/v9\"",
        schema: Some("in version \"networking.istio.io/v9\""),
    },
];

pub(super) fn on_the_embedded_api() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    mesh.apply(MESH)?;
    refuses(&mesh, |wrong| wrong.hint)?;
    refuses_settings(&mesh)
}

/// The schemas refuse what they can, the webhook the rest, whatever else is thrown at it meanwhile: at once where the
/// objects are of our revision. Where they are not, their status says what is wrong.
pub(super) fn on_a_cluster() -> anyhow::Result<()> {
    let mut mesh = Mesh::start()?;
    mesh.kubectl_ok(&["get", "crd", "virtualservices.networking.istio.io"])?;
    let policy = "jsonpath={.webhooks[0].failurePolicy}";
    let webhook = ["get", "validatingwebhookconfiguration", "istio-validator-istio-system", "-o", policy];
    until("the webhook is binding", Duration::from_secs(30), || {
        mesh.kubectl_ok(&webhook).ok().filter(|policy| policy == "Fail")
    })
    .with_context(|| mesh.logs("up"))?;
    mesh.apply(MESH)?;
    let mut thrower = Command::new(program("mizzen-e2e"));
    let thrower = thrower.args(["garbage", "--tcp", WEBHOOK]).stdout(Stdio::piped()).spawn()?;
    refuses(&mesh, |wrong| wrong.schema.unwrap_or(wrong.hint))?;
    let thrown: Report = serde_json::from_slice(&thrower.wait_with_output()?.stdout)?;
    let noise = thrown.get(WEBHOOK).and_then(|kinds| kinds.get("noise"));
    ensure!(noise.is_some_and(|outcome| outcome.contains("TLS alert")), "{thrown:#?}");
    refuses_settings(&mesh)?;

    // An object of nobody's revision is not ours to refuse.
    let principal = "spiffe://cluster.local/ns/default/sa/x";
    let foreign = format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: foreign, namespace: default}}
spec:
  selector: {{matchLabels: {{app: foreign}}}}
  rules: [{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}]
"
    );
    mesh.apply(&foreign)?;
    mesh.kubectl_ok(&["wait", "--for=condition=Reconciled=false", "ap/foreign", "--timeout=30s"])?;
    let said = mesh.kubectl_ok(&["get", "ap", "foreign", "-o", "jsonpath={.status.conditions[0]}"])?;
    ensure!(said.contains("\"reason\":\"Refused\"") && said.contains("source.principals[0]"), "{said}");
    mesh.apply(&foreign.replace("spiffe://", ""))?;
    mesh.kubectl_ok(&["wait", "--for=condition=Reconciled", "ap/foreign", "--timeout=30s"])?;

    // Whoever leaves holds nobody up.
    mesh.stop_control_plane()?;
    let gone = mesh.kubectl(&webhook)?;
    ensure!(!gone.status.success(), "the webhook of a control plane that has gone is still registered");
    mesh.apply(&MESH.replace("weight: 50", "weight: 10"))
}

fn refuses(mesh: &Mesh, hint: impl Fn(&Wrong) -> &'static str) -> anyhow::Result<()> {
    let before = stored(mesh)?;
    for wrong in WRONG {
        let text = MESH.replace(wrong.from, wrong.to);
        let object = text.split("---").find(|part| part.contains(wrong.to)).context(wrong.what)?;
        let output = mesh.kubectl_with(&["apply"], object)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{}: accepted", wrong.what);
        ensure!(said.contains(wrong.path) && said.contains(hint(wrong)), "{}: {said}", wrong.what);
    }
    let after = stored(mesh)?;
    ensure!(before == after, "something was stored: {before}\n{after}");
    Ok(())
}

/// The mesh's own settings, which no schema describes.
fn refuses_settings(mesh: &Mesh) -> anyhow::Result<()> {
    let map = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{text}'}}\n"
        )
    };
    let apply = |text: &str| {
        let output = mesh.kubectl_with(&["apply"], &map(text))?;
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (taken, said) = apply("{connectTimeout: 5s, ingressClass: x}")?;
    ensure!(taken && said.contains("Warning: data.mesh.ingressClass: "), "{said}");
    let (taken, said) = apply("accessLogFormat: \"%NOSUCH%\"")?;
    ensure!(
        !taken && said.contains("data.mesh.accessLogFormat") && said.contains("is no operator"),
        "{said}"
    );
    let kept = ["get", "configmap", "istio", "-n", "istio-system", "-o", "jsonpath={.data.mesh}"];
    let kept = mesh.kubectl_ok(&kept)?;
    ensure!(kept == "{connectTimeout: 5s, ingressClass: x}", "{kept}");
    Ok(())
}

/// Generations and specs of all that was applied.
fn stored(mesh: &Mesh) -> anyhow::Result<String> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.metadata.generation} {.spec}{end}";
    mesh.kubectl_ok(&["get", "vs,dr,ap", "-o", template])
}
