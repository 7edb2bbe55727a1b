//! The real kubectl against ours: every verb that people use.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Kubectl {
    program: PathBuf,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Kubectl {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(line.split('␣').map(str::trim).flat_map(|part| part.split_whitespace()))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.folder.path())
            .env("KUBECACHEDIR", self.folder.path())
            .current_dir(self.folder.path());
        command
    }

    async fn run(&self, line: &str) -> Output {
        self.with(self.command(line)).await
    }

    async fn with(&self, command: Command) -> Output {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await.unwrap().unwrap()
    }

    async fn ok(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails.
    async fn fails(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(!output.status.success(), "kubectl {line} should fail");
        String::from_utf8(output.stderr).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, labels: {app: reviews}}
spec: {ports: [{port: 9080, name: http}], selector: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 50}
    - {destination: {host: reviews, subset: v3}, weight: 50}
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]
";

fn start(ours: &support::Ours) -> Option<Kubectl> {
    let program = testkit::peers::need("kubectl")?;
    let kubeconfig = ours.handle.kubeconfig_path().to_owned();
    Some(Kubectl { program, folder: tempfile::tempdir().unwrap(), kubeconfig })
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_reads_and_writes_the_mesh() {
    let ours = support::ours().await;
    let Some(kubectl) = start(&ours) else { return };
    kubectl.file("mesh.yaml", MESH);
    assert_eq!(kubectl.ok("apply -f mesh.yaml").await.matches("created").count(), 3);
    assert_eq!(kubectl.ok("apply -f mesh.yaml").await.matches("unchanged").count(), 3);
    let wide = kubectl.ok("get vs,dr,svc -o wide").await;
    for part in [
        "GATEWAYS",
        r#"["reviews"]"#,
        "destinationrule.networking.istio.io/reviews",
        "app=reviews",
        "9080/TCP",
    ] {
        assert!(wide.contains(part), "{part} is not in\n{wide}");
    }
    let yaml = kubectl.ok("get virtualservice reviews -o yaml").await;
    assert!(yaml.contains("weight: 50") && yaml.contains("generation: 1"), "{yaml}");
    assert!(kubectl.ok("describe svc reviews").await.contains("TargetPort:"), "describe");
    assert!(kubectl.ok("describe vs reviews").await.contains("Subset:  v3"), "describe");
    assert!(kubectl.ok("explain vs.spec.http.route").await.contains("weight\t<integer>"), "explain");
    assert!(kubectl.ok("explain svc.spec.ports").await.contains("targetPort"), "explain");

    let editor = kubectl.file("editor.sh", "#!/bin/sh\nsed -i 's/weight: 50/weight: 40/' \"$1\"\n");
    executable(&editor);
    let mut edit = kubectl.command("edit vs reviews");
    edit.env("KUBE_EDITOR", &editor);
    let output = kubectl.with(edit).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = "get vs reviews -o jsonpath={.spec.http[0].route[*].weight},{.metadata.generation}";
    assert_eq!(kubectl.ok(weights).await, "40 40,2");

    let diff = kubectl.run("diff -f mesh.yaml").await;
    assert_eq!(diff.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&diff.stdout).contains("+      weight: 50"));
    kubectl.ok("apply -f mesh.yaml").await;
    assert_eq!(kubectl.run("diff -f mesh.yaml").await.status.code(), Some(0));

    kubectl.ok("label svc reviews tier=back").await;
    kubectl.ok(r#"patch svc reviews -p {"spec":{"ports":[{"port":9080,"name":"http2"}]}}"#).await;
    kubectl.ok(r#"patch vs reviews --type=merge -p {"spec":{"hosts":["reviews","other"]}}"#).await;
    kubectl.ok(r#"patch vs reviews --type=json -p [{"op":"remove","path":"/spec/hosts/1"}]"#).await;
    assert_eq!(kubectl.ok("get svc -l tier=back -o jsonpath={.items[*].spec.ports[0].name}").await, "http2");
    assert_eq!(kubectl.ok("get vs reviews -o jsonpath={.spec.hosts}").await, r#"["reviews"]"#);
    let strategic = kubectl.fails(r#"patch vs reviews -p {"spec":{}}"#).await;
    assert!(strategic.contains("strategic-merge-patch+json is not supported"), "{strategic}");

    let conflict = kubectl.fails("apply --server-side --field-manager=other -f mesh.yaml").await;
    assert!(conflict.contains(".spec.ports"), "{conflict}");
    kubectl.ok("apply --server-side --force-conflicts --field-manager=other -f mesh.yaml").await;
    assert_eq!(kubectl.ok("get svc reviews -o jsonpath={.spec.ports[0].name}").await, "http");

    kubectl.ok("delete vs reviews").await;
    kubectl.ok("wait --for=delete vs/reviews --timeout=10s").await;
    let gone = kubectl.fails("get vs reviews").await;
    assert!(gone.contains(r#"virtualservices.networking.istio.io "reviews" not found"#), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_yaml_is_refused_and_changes_nothing() {
    let ours = support::ours().await;
    let Some(kubectl) = start(&ours) else { return };
    kubectl.file("mesh.yaml", MESH);
    kubectl.ok("apply -f mesh.yaml").await;
    let read = "get vs reviews -o jsonpath={.spec}";
    let before = kubectl.ok(read).await;
    for (from, to, said) in [
        ("weight: 50", "weigth: 50", "unknown field \"spec.http[0].route[0].weigth\""),
        ("weight: 50", "weight: -1", "spec.http[0].route[0].weight"),
        ("weight: 50", "weight: much", "spec.http[0].route[0].weight"),
        ("hosts: [reviews]", "hosts: reviews", "spec.hosts"),
        (
            "  http:",
            "  http:\n  - timeout: soon\n    route: [{destination: {host: reviews}}]",
            "spec.http[0].timeout",
        ),
    ] {
        kubectl.file("wrong.yaml", &MESH.replace(from, to));
        let message = kubectl.fails("apply -f wrong.yaml").await;
        assert!(message.contains(said), "{to}: {message}");
        assert_eq!(kubectl.ok(read).await, before, "{to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_mesh_config_is_refused_and_another_config_map_is_nobody_s() {
    let ours = support::ours().await;
    let Some(kubectl) = start(&ours) else { return };
    let write = |name: &str, text: &str| {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata:\n  mesh: |\n    {text}\n"
        );
        kubectl.file("map.yaml", &map);
    };
    write("istio", "connectTimeout: 5s");
    kubectl.ok("apply -f map.yaml").await;
    for (text, said) in [
        ("connectTimeout: 5", "data.mesh.connectTimeout: Invalid value"),
        ("trustDomian: x", "data.mesh.trustDomian"),
        ("accessLogFormat: '%NOPE%'", "data.mesh.accessLogFormat: Invalid value"),
        ("a: [", "data.mesh: Invalid value"),
    ] {
        write("istio", text);
        let message = kubectl.fails("apply -f map.yaml").await;
        assert!(message.contains(said), "{text}: {message}");
        let stored = kubectl.ok("get configmap istio -n istio-system -o jsonpath={.data.mesh}").await;
        assert_eq!(stored.trim(), "connectTimeout: 5s", "{text}");
    }
    write("istio", "ingressClass: x");
    let output = kubectl.run("apply -f map.yaml").await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Warning: data.mesh.ingressClass: "), "{said}");
    write("other", "connectTimeout: 5");
    kubectl.ok("apply -f map.yaml").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_creates_waits_and_watches() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let ours = support::ours().await;
    let Some(kubectl) = start(&ours) else { return };
    // These go out as protobuf.
    kubectl.ok("create namespace shop").await;
    kubectl.ok("-n shop create configmap settings --from-literal=a=b").await;
    kubectl.ok("-n shop create secret generic hush --from-literal=k=v").await;
    kubectl.ok("-n shop create serviceaccount till").await;
    assert_eq!(kubectl.ok("-n shop get secret hush -o jsonpath={.data.k}").await, "dg==");
    let token = kubectl.ok("-n shop create token till --audience=istio-ca --duration=20m").await;
    assert_eq!(token.trim().split('.').count(), 3);
    assert!(kubectl.ok("auth whoami").await.contains("system:masters"));

    let mut watch = tokio::process::Command::from(kubectl.command("-n shop get configmap -w --no-headers"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("settings"));
    kubectl.ok("-n shop create configmap more --from-literal=a=b").await;
    assert!(lines.next_line().await.unwrap().unwrap().starts_with("more"));
    watch.kill().await.unwrap();

    let output = kubectl.run("-n shop create deployment web --image=nginx:1 --port=80").await;
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("mizzen run --service web --namespace shop --port http=80"), "{warning}");
    kubectl.ok("-n shop wait --for=condition=Available=false deployment/web --timeout=20s").await;
    let reason = "-n shop get deployment web -o jsonpath={.status.conditions[0].reason}";
    assert_eq!(kubectl.ok(reason).await, "NoRuntime");

    kubectl.ok("delete namespace shop").await;
    kubectl.ok("wait --for=delete namespace/shop --timeout=20s").await;
    assert!(kubectl.ok("-n shop get configmap -o name").await.is_empty());
}
