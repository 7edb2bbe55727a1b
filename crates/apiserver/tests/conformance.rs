//! One suite of requests, sent to ours and to a real kube-apiserver: the same status codes, reasons, causes,
//! defaults, owners of fields, list pages and watch events.

mod support;

use kube::Client;
use serde_json::{Value, json};
use support::{Answer, send, send_as};

const NS: &str = "/api/v1/namespaces/t";

/// How much of the answers must agree.
#[derive(Clone, Copy, PartialEq)]
enum Agree {
    /// Everything that is not made up by the server (UIDs, times, versions, addresses).
    All,
    /// Code, reason, and the fields and reasons of causes; the words may differ.
    Verdict,
}

struct Step {
    method: &'static str,
    path: String,
    content_type: &'static str,
    accept: &'static str,
    body: Vec<u8>,
    agree: Agree,
}

fn step(method: &'static str, path: impl Into<String>, body: &Value) -> Step {
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Step { method, path: path.into(), content_type, accept: "application/json", body, agree: Agree::All }
}

impl Step {
    fn verdict(mut self) -> Self {
        self.agree = Agree::Verdict;
        self
    }

    fn typed(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    fn accepting(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    fn raw(mut self, body: &str) -> Self {
        self.body = body.as_bytes().to_vec();
        self
    }

    async fn run(&self, client: &Client) -> Answer {
        send_as(client, self.method, &self.path, self.content_type, self.accept, self.body.clone()).await
    }
}

fn get(path: impl Into<String>) -> Step {
    step("GET", path, &Value::Null)
}

/// Replaces what a server makes up.
fn normal(key: &str, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.iter_mut().for_each(|(key, value)| normal(key, value));
            map.sort_keys();
        }
        Value::Array(list) => list.iter_mut().for_each(|item| normal(key, item)),
        Value::String(text) => {
            let made_up = matches!(key, "uid" | "resourceVersion" | "continue" | "time")
                || key.ends_with("Timestamp")
                || (key.starts_with("clusterIP") && text.starts_with("10."));
            if made_up {
                *text = format!("<{key}>");
            }
        }
        _ => {}
    }
}

fn shown(answer: &Answer, agree: Agree) -> Value {
    let mut body = answer.body.clone();
    normal("", &mut body);
    if agree == Agree::Verdict {
        let causes: Vec<Value> = body["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            // That CEL rules were not reached is no cause of its own here.
            .filter(|cause| cause["field"] != "<nil>")
            .map(|cause| json!([cause["field"], cause["reason"]]))
            .collect();
        return json!({ "code": answer.code, "reason": body["reason"], "causes": causes });
    }
    json!({ "code": answer.code, "warnings": answer.warnings, "body": body })
}

fn differences(path: &str, ours: &Value, real: &Value, out: &mut Vec<String>) {
    match (ours, real) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let missing = Value::String("<absent>".into());
                let (x, y) = (a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing));
                differences(&format!("{path}.{key}"), x, y, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), x, y, out);
            }
        }
        _ if ours == real => {}
        _ => out.push(format!("  {path}\n    ours {ours}\n    real {real}")),
    }
}

fn service(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

fn config_map(name: &str, labels: &Value, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels }, "data": data })
}

fn virtual_service(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": { "name": name }, "spec": spec })
}

fn services() -> Vec<Step> {
    let all = format!("{NS}/services");
    let one = |name: &str| format!("{NS}/services/{name}");
    let port = json!([{ "port": 80 }]);
    let post = |body: Value| step("POST", format!("{NS}/services"), &body);
    vec![
        post(service("a", &json!({ "ports": port, "selector": { "app": "a" } }))),
        post(service("a", &json!({ "ports": port }))),
        post(service("headless", &json!({ "ports": port, "clusterIP": "None", "selector": { "a": "b" } }))),
        post(service("bare", &json!({ "clusterIP": "None" }))),
        post(service("out", &json!({ "type": "ExternalName", "externalName": "example.com" }))),
        post(service("two", &json!({ "ports": [{ "name": "x", "port": 1, "targetPort": "web" },
            { "name": "y", "port": 2, "protocol": "UDP", "appProtocol": "http" }], "sessionAffinity": "ClientIP" }))),
        post(service("B_", &json!({ "ports": [{ "port": 800_000 }] }))),
        post(service("c", &json!({ "ports": [{ "port": 1 }, { "port": 2 }] }))),
        post(service("c", &json!({ "ports": [{ "port": 1, "name": "x" }, { "port": 2, "name": "x" }] }))),
        post(service("c", &json!({ "ports": [{ "port": 1, "name": "x" }, { "port": 1, "name": "y" }] }))).verdict(),
        post(service("c", &json!({ "ports": [{ "port": 1, "protocol": "HTTP" }] }))),
        post(service("c", &json!({ "ports": [{ "port": 1, "targetPort": "under_score" }] }))),
        post(service("c", &json!({ "type": "Magic", "ports": port }))).verdict(),
        post(service("c", &json!({ "type": "ExternalName" }))),
        post(service("c", &json!({}))),
        post(service("c", &json!({ "ports": port, "clusterIP": "1.2.3.4" }))).verdict(),
        post(service("c", &json!({ "ports": port, "clusterIP": "nonsense" }))).verdict(),
        post(service("c", &json!({ "ports": "x" }))),
        post(service("c", &json!({ "ports": [{ "port": "x" }] }))).verdict(),
        post(service("c", &json!({ "foo": 1, "ports": [{ "port": 80, "x": 2 }] }))),
        step("POST", format!("{all}?fieldValidation=Strict"), &service("c", &json!({ "foo": 1, "ports": port }))),
        step("POST", format!("{all}?fieldValidation=Ignore&dryRun=All"), &service("d", &json!({ "foo": 1, "ports": port })))
            .verdict(),
        step("POST", format!("{all}?fieldValidation=Nope"), &service("c", &json!({ "ports": port }))).verdict(),
        step("POST", format!("{all}?dryRun=Nope"), &service("c", &json!({ "ports": port }))).verdict(),
        post(json!({ "metadata": { "name": "lazy" }, "spec": { "ports": port } })),
        post(json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "x" } })).verdict(),
        post(json!({ "kind": "Service", "apiVersion": "v2", "metadata": { "name": "x" } })).verdict(),
        post(json!({ "metadata": { "name": "x", "namespace": "other" }, "spec": { "ports": port } })),
        post(json!({ "metadata": { "name": "x", "labels": { "bad key": "v", "k": "bad value" } }, "spec": { "ports": port } }))
            .verdict(),
        post(Value::Null).raw("{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"c\"").verdict(),
        post(Value::Null).raw("apiVersion: v1\nkind: Service\nmetadata: {name: yaml}\nspec: {ports: [{port: 80}]}\n").typed("application/yaml"),
        post(Value::Null).raw("a: [").typed("application/yaml").verdict(),
        post(Value::Null).raw("garbage").typed("application/vnd.kubernetes.protobuf").verdict(),
        post(Value::Null).raw("x").typed("text/plain").verdict(),
        step("POST", "/api/v1/namespaces/nope/services", &service("x", &json!({ "ports": port }))),
        step("PUT", all, &json!({})),
        get(one("a")),
        get(one("nope")),
        step("PATCH", one("a"), &json!({ "metadata": { "labels": { "x": "y" } } })),
        step("PATCH", one("a"), &json!({ "spec": { "clusterIP": "10.96.77.77" } })).verdict(),
        step("PATCH", one("a"), &json!({ "spec": { "ports": [{ "port": 81 }] } })),
        step("PATCH", one("a"), &json!({ "spec": { "ports": [{ "port": 82, "name": "b" }, { "port": 81, "name": "a" }] } }))
            .typed("application/strategic-merge-patch+json"),
        step("PATCH", one("a"), &json!([{ "op": "replace", "path": "/spec/ports/0/port", "value": 83 }]))
            .typed("application/json-patch+json"),
        step("PATCH", one("a"), &json!([{ "op": "test", "path": "/spec/type", "value": "X" }]))
            .typed("application/json-patch+json")
            .verdict(),
        step("PATCH", one("a"), &json!([{ "op": "remove", "path": "/spec/nope" }]))
            .typed("application/json-patch+json")
            .verdict(),
        step("PATCH", one("a"), &json!({})).typed("text/plain").verdict(),
        step("PATCH", one("nope"), &json!({})),
        step("PATCH", one("a"), &json!({ "metadata": { "resourceVersion": "1" } })),
        step("PATCH", one("a"), &json!({ "metadata": { "uid": "other" } })).verdict(),
        step("PATCH", one("a"), &json!({ "metadata": { "name": "other" } })).verdict(),
        step("PUT", one("a"), &service("b", &json!({ "ports": port }))),
        step("PUT", one("a"), &service("a", &json!({ "ports": port }))),
        step("DELETE", one("headless"), &Value::Null),
        step("DELETE", one("headless"), &Value::Null),
        step("DELETE", one("bare"), &json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": "x" } }))
            .verdict(),
        step("DELETE", one("bare"), &json!({ "propagationPolicy": "Sideways" })).verdict(),
    ]
}

fn applies() -> Vec<Step> {
    let one = |name: &str, more: &str| format!("{NS}/configmaps/{name}?fieldManager={more}");
    let apply = |name: &str, more: &str, body: Value| {
        step("PATCH", one(name, more), &body).typed("application/apply-patch+yaml")
    };
    let map = |data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data });
    let svc = |ports: Value| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "selector": { "a": "b" }, "ports": ports } })
    };
    let service = |more: &str, body: Value| {
        step("PATCH", format!("{NS}/services/s?fieldManager={more}"), &body)
            .typed("application/apply-patch+yaml")
    };
    let gone = |body: &Value| step("PATCH", format!("{NS}/configmaps/m"), body);
    vec![
        apply("m", "one", map(json!({ "a": "1", "b": "2" }))),
        apply("m", "one", map(json!({ "a": "1", "b": "2" }))),
        apply("m", "two", map(json!({ "a": "9" }))),
        apply("m", "two", map(json!({ "a": "9", "b": "9" }))),
        apply("m", "two", map(json!({ "a": "1", "c": "3" }))),
        apply("m", "one", map(json!({ "b": "2" }))),
        apply("m", "two&force=true", map(json!({ "b": "7" }))),
        gone(&json!({ "data": { "d": "4" } })),
        gone(&json!({ "data": { "b": "8" } })),
        apply("m", "two", map(json!({ "b": "9" }))),
        apply("m", "", map(json!({ "b": "7" }))).verdict(),
        apply("m", "one", json!({ "metadata": { "name": "m" } })).verdict(),
        apply("m", "one", json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m", "managedFields": [{ "manager": "x" }] } }))
            .verdict(),
        service("one", svc(json!([{ "port": 80, "name": "http" }, { "port": 81, "name": "other" }]))),
        service("one", svc(json!([{ "port": 81, "name": "other" }, { "port": 80, "name": "http", "targetPort": 8080 }]))),
        service("two", json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "labels": { "l": "1" } },
            "spec": { "ports": [{ "port": 82, "name": "third" }] } })),
        service("one", svc(json!([{ "port": 80, "name": "http" }]))),
        service("three", svc(json!([{ "port": 80, "name": "renamed" }]))),
        service("three", json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" }, "spec": { "nope": 1 } })).verdict(),
        step("PATCH", format!("{NS}/services/s/status?fieldManager=st"), &json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "s" }, "status": { "conditions": [{ "type": "A", "status": "True", "reason": "R",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })).typed("application/apply-patch+yaml"),
        get(format!("{NS}/services/s")),
    ]
}

fn others() -> Vec<Step> {
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": {
        "selector": { "matchLabels": { "a": "b" } },
        "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [
            { "name": "c", "image": "x:1", "ports": [{ "containerPort": 80 }] }] } } } });
    let mut wrong = deployment;
    wrong["spec"]["template"]["metadata"]["labels"] = json!({ "a": "c" });
    wrong["spec"]["template"]["spec"]["containers"] = json!([]);
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "e" },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }] });
    let mut bad_slice = slice.clone();
    bad_slice["endpoints"][0]["addresses"] = json!(["nope"]);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [
        { "name": "c", "image": "nginx" }] } });
    vec![
        step("POST", "/api/v1/namespaces", &json!({ "metadata": { "name": "u", "labels": { "x": "y" } } })),
        step("POST", "/api/v1/namespaces", &json!({ "metadata": { "name": "Bad" } })),
        step("POST", "/api/v1/namespaces", &json!({ "metadata": {} })).verdict(),
        step("PATCH", "/api/v1/namespaces/u", &json!({ "metadata": { "annotations": { "a": "b" } } })),
        step("DELETE", "/api/v1/namespaces/kube-system", &Value::Null).verdict(),
        step("POST", format!("{NS}/configmaps"), &json!({ "metadata": {}, "data": {} })).verdict(),
        step("POST", format!("{NS}/configmaps"), &json!({ "metadata": { "name": "x/y" } })).verdict(),
        step(
            "POST",
            format!("{NS}/configmaps"),
            &json!({ "metadata": { "name": "rv", "resourceVersion": "5" } }),
        )
        .verdict(),
        step(
            "POST",
            format!("{NS}/configmaps"),
            &json!({ "metadata": { "name": "fin", "finalizers": ["example.com/hold"] } }),
        ),
        step("DELETE", format!("{NS}/configmaps/fin"), &Value::Null),
        step("PATCH", format!("{NS}/configmaps/fin"), &json!({ "metadata": { "finalizers": null } })),
        get(format!("{NS}/configmaps/fin")),
        step(
            "POST",
            format!("{NS}/secrets"),
            &json!({ "metadata": { "name": "s" }, "stringData": { "a": "b" } }),
        ),
        step("PATCH", format!("{NS}/secrets/s"), &json!({ "type": "other" })),
        step("PATCH", format!("{NS}/secrets/s"), &json!({ "immutable": true })),
        step("PATCH", format!("{NS}/secrets/s"), &json!({ "data": { "c": "Yg==" } })),
        step(
            "POST",
            format!("{NS}/secrets"),
            &json!({ "metadata": { "name": "t" }, "type": "kubernetes.io/tls" }),
        )
        .verdict(),
        step(
            "POST",
            format!("{NS}/secrets"),
            &json!({ "metadata": { "name": "t" }, "data": { "bad/key": "" } }),
        )
        .verdict(),
        step("POST", format!("{NS}/serviceaccounts"), &json!({ "metadata": { "name": "sa" } })),
        step("POST", "/apis/apps/v1/namespaces/t/deployments", &wrong).verdict(),
        step("POST", format!("{NS}/pods"), &json!({ "metadata": { "name": "q" }, "spec": {} })).verdict(),
        step("POST", format!("{NS}/pods"), &pod).verdict(),
        step("POST", "/apis/discovery.k8s.io/v1/namespaces/t/endpointslices", &slice),
        step("POST", "/apis/discovery.k8s.io/v1/namespaces/t/endpointslices", &bad_slice).verdict(),
        step("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &json!({ "spec": { "token": "junk" } }))
            .verdict(),
        step(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &json!({ "spec": { "resourceAttributes": { "verb": "get", "resource": "pods" } } }),
        )
        .verdict(),
        step(
            "POST",
            format!("{NS}/serviceaccounts/sa/token"),
            &json!({ "spec": { "audiences": ["istio-ca"], "expirationSeconds": 5 } }),
        )
        .verdict(),
        step("POST", format!("{NS}/serviceaccounts/nope/token"), &json!({ "spec": {} })),
        get("/api/v1/nope"),
        get("/apis/nope/v1/x"),
        get("/nope"),
        get("/api/v1/namespaces/t/services/a/nope").verdict(),
        get(format!("{NS}/configmaps?labelSelector=a%3D%3D%3Db")).verdict(),
        get(format!("{NS}/configmaps?fieldSelector=spec.foo%3D1")),
        get(format!("{NS}/configmaps?continue=zzz")).verdict(),
        get(format!("{NS}/configmaps?resourceVersion=abc")),
        get(format!("{NS}/configmaps?resourceVersionMatch=Exact")).verdict(),
        get(format!("{NS}/configmaps?resourceVersion=5&resourceVersionMatch=Nope")).verdict(),
        get(format!("{NS}/configmaps?resourceVersion=0&resourceVersionMatch=Exact")).verdict(),
        get(format!("{NS}/configmaps?watch=1&resourceVersion=abc")).verdict(),
        get(format!("{NS}/configmaps?watch=1&sendInitialEvents=true")).verdict(),
        get(format!("{NS}/configmaps")).accepting("application/xml").verdict(),
    ]
}

fn custom() -> Vec<Step> {
    let all = "/apis/networking.istio.io/v1/namespaces/t/virtualservices";
    let one = |name: &str| format!("{all}/{name}");
    let route = json!({ "hosts": ["a"], "http": [{ "route": [{ "destination": { "host": "a" } }] }] });
    let post = |body: Value| step("POST", all, &body);
    vec![
        post(virtual_service("v", &route)),
        post(virtual_service("v", &route)),
        post(virtual_service("w", &json!({ "hosts": "a" }))).verdict(),
        post(virtual_service("w", &json!({ "hosts": ["a"], "http": [{ "nope": 1,
            "route": [{ "destination": { "host": "a" } }] }] }))),
        step("POST", format!("{all}?fieldValidation=Strict"), &virtual_service("x", &json!({ "hosts": ["a"], "nope": 1 }))),
        post(json!({ "metadata": { "name": "x" } })).verdict(),
        post(json!({ "apiVersion": "networking.istio.io/v1beta1", "kind": "VirtualService", "metadata": { "name": "x" } })).verdict(),
        get(one("v")),
        get("/apis/networking.istio.io/v1alpha3/namespaces/t/virtualservices/v"),
        step("PATCH", one("v"), &json!({ "spec": { "hosts": ["b"] } })),
        step("PATCH", one("v"), &json!({ "metadata": { "labels": { "x": "y" } } })),
        step("PATCH", one("v"), &json!({ "spec": {} })).typed("application/strategic-merge-patch+json").verdict(),
        step("PATCH", format!("{}/status", one("v")), &json!({ "status": { "observedGeneration": 2 } })).verdict(),
        step("PATCH", format!("{}?fieldManager=one", one("y")), &virtual_service("y", &route)).typed("application/apply-patch+yaml"),
        step("PATCH", format!("{}?fieldManager=two", one("y")), &virtual_service("y", &json!({ "hosts": ["c"] })))
            .typed("application/apply-patch+yaml"),
        step("DELETE", one("y"), &Value::Null),
        get(format!("{all}?fieldSelector=spec.hosts%3Da")).verdict(),
    ]
}

async fn walk(ours: &Client, real: &Client, steps: Vec<Step>, failures: &mut Vec<String>) {
    for step in steps {
        let (a, b) = (step.run(ours).await, step.run(real).await);
        let mut out = Vec::new();
        differences("", &shown(&a, step.agree), &shown(&b, step.agree), &mut out);
        if !out.is_empty() {
            let body = String::from_utf8_lossy(&step.body).chars().take(160).collect::<String>();
            let said = if step.agree == Agree::Verdict {
                format!("\n  ours: {}\n  real: {}", a.body["message"], b.body["message"])
            } else {
                String::new()
            };
            failures.push(format!("{} {} {body}\n{}{said}", step.method, step.path, out.join("\n")));
        }
    }
}

/// Pages of a list, and what a watch from before tells.
async fn pages_and_watches(ours: &Client, real: &Client, failures: &mut Vec<String>) {
    let (mut told, mut pages) = (Vec::new(), Vec::new());
    for client in [ours, real] {
        let base = "/api/v1/namespaces/pages/configmaps";
        send(
            client,
            "POST",
            "/api/v1/namespaces",
            "application/json",
            json!({ "metadata": { "name": "pages" } }).to_string().into(),
        )
        .await;
        let start = send(client, "GET", base, "", vec![]).await.body["metadata"]["resourceVersion"].clone();
        let start = start.as_str().unwrap().to_owned();
        for index in 0..7 {
            let body = config_map(
                &format!("c{index}"),
                &json!({ "odd": (index % 2).to_string() }),
                &json!({ "k": "v" }),
            );
            send(client, "POST", base, "application/json", body.to_string().into()).await;
        }
        let mut seen = Vec::new();
        let first = send(client, "GET", &format!("{base}?limit=3"), "", vec![]).await.body;
        // A change between two pages is not seen by the second.
        send(client, "DELETE", &format!("{base}/c5"), "", vec![]).await;
        let patch = json!({ "metadata": { "labels": { "odd": "1" } } }).to_string();
        send(client, "PATCH", &format!("{base}/c0"), "application/merge-patch+json", patch.into()).await;
        let mut page = first;
        loop {
            let names: Vec<Value> = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["metadata"]["name"].clone())
                .collect();
            seen.push(json!([names, page["metadata"]["remainingItemCount"]]));
            let Some(token) = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) else {
                break;
            };
            page = send(client, "GET", &format!("{base}?limit=3&continue={token}"), "", vec![]).await.body;
        }
        let selected =
            send(client, "GET", &format!("{base}?labelSelector=odd%3D1&limit=2"), "", vec![]).await.body;
        seen.push(json!([
            selected["items"].as_array().map(Vec::len),
            selected["metadata"]["remainingItemCount"]
        ]));
        let exact = format!("{base}?resourceVersion={start}&resourceVersionMatch=Exact");
        seen.push(json!(
            send(client, "GET", &exact, "", vec![]).await.body["items"].as_array().map(Vec::len)
        ));
        let future = send(client, "GET", &format!("{base}?resourceVersion=99999999"), "", vec![]).await;
        seen.push(json!([future.code, future.body["reason"], future.body["details"]["causes"][0]["reason"]]));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let table = send_as(client, "GET", base, "", table, vec![]).await.body;
        let columns = table["columnDefinitions"].as_array().unwrap().iter();
        seen.push(json!(columns.map(|column| column["name"].clone()).collect::<Vec<_>>()));
        pages.push(seen);

        let mut events = Vec::new();
        for query in [
            format!("resourceVersion={start}"),
            format!("resourceVersion={start}&labelSelector=odd%3D1"),
            "resourceVersion=0&fieldSelector=metadata.name%3Dc3".into(),
            "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan".into(),
        ] {
            let path = format!("{base}?watch=1&timeoutSeconds=1&{query}");
            let Value::String(lines) = send(client, "GET", &path, "", vec![]).await.body else {
                events.push(json!("not several lines"));
                continue;
            };
            for line in lines.lines() {
                let mut event: Value = serde_json::from_str(line).unwrap();
                normal("", &mut event);
                // Bookmarks at the end of a watch are sent when it suits the server.
                let end = event.pointer("/object/metadata/annotations/k8s.io~1initial-events-end").is_some();
                if event["type"] != "BOOKMARK" || end {
                    let object = &event["object"];
                    events.push(json!([
                        event["type"],
                        object["kind"],
                        object["apiVersion"],
                        object["metadata"]["name"],
                        object["metadata"]["labels"],
                        object["metadata"]["annotations"],
                        object["data"]
                    ]));
                }
            }
        }
        told.push(json!(events));
    }
    let mut out = Vec::new();
    differences("pages", &json!(pages[0]), &json!(pages[1]), &mut out);
    differences("watch", &told[0], &told[1], &mut out);
    failures.extend(out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_answers_as_a_real_kube_apiserver_does() {
    let Some(real) = support::real().await else { return };
    let ours = support::ours().await;
    let (a, b) = (ours.client(), support::client(&real.url, support::TOKEN));
    for crd in api::crds() {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let made = send(&b, "POST", path, "application/json", crd.to_string().into()).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    for client in [&a, &b] {
        let body = json!({ "metadata": { "name": "t" } }).to_string();
        assert_eq!(
            send(client, "POST", "/api/v1/namespaces", "application/json", body.into()).await.code,
            201
        );
    }
    // The real one needs a moment before it serves what the CRDs define.
    let path = "/apis/security.istio.io/v1/namespaces/t/peerauthentications";
    let other = "/apis/networking.istio.io/v1/namespaces/t/virtualservices";
    while send(&b, "GET", path, "", vec![]).await.code != 200
        || send(&b, "GET", other, "", vec![]).await.code != 200
    {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let mut failures = Vec::new();
    for steps in [services(), applies(), others(), custom()] {
        walk(&a, &b, steps, &mut failures).await;
    }
    pages_and_watches(&a, &b, &mut failures).await;
    assert!(failures.is_empty(), "{} differences:\n\n{}", failures.len(), failures.join("\n\n"));
}
