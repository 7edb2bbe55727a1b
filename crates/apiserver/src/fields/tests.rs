use super::*;
use crate::kinds::{Core, Kinds};
use serde_json::json;

fn request<'a>(manager: &'a str, now: &'a str) -> Request<'a> {
    Request { manager, api_version: "v1", subresource: "", now, status_apart: true }
}

fn service(ports: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x": "1"}},
        "spec": {"ports": ports, "selector": {"app": "a"}}})
}

fn fields(object: &Value, index: usize) -> &Value {
    &object["metadata"]["managedFields"][index]["fieldsV1"]
}

#[test]
fn a_creation_owns_what_it_added() {
    let kinds = Kinds::standard();
    let id = kinds.core(Core::Service).schema;
    let mut new = service(&json!([{"port": 80, "protocol": "TCP"}]));
    update(&kinds.schemas, id, &json!({"spec": {}, "metadata": {}}), &mut new, &request("curl", "t"));
    assert_eq!(
        fields(&new, 0),
        &json!({
            "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
            "f:spec": {"f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}":
                {".": {}, "f:port": {}, "f:protocol": {}}}, "f:selector": {}}
        })
    );
    assert_eq!(FieldSet::decode(fields(&new, 0)).encode(), *fields(&new, 0));
}

#[test]
fn applying_merges_prunes_and_conflicts() {
    let kinds = Kinds::standard();
    let id = kinds.core(Core::Service).schema;
    let first =
        service(&json!([{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP", "name": "b"}]));
    let done = |live: &Value, config: &Value, who: &str, force: bool| {
        let request = request(who, "t");
        apply(&kinds.schemas, id, live, config, &request, force, |_| {}).map(|applied| {
            let mut object = applied.object.clone();
            applied.finish(&mut object);
            object
        })
    };
    let live = done(&json!({"metadata": {}}), &first, "one", false).unwrap();
    // One manager gives up a port: it goes. Another's label stays.
    let labelled = json!({"metadata": {"name": "a", "labels": {"y": "2"}}});
    let live = done(&live, &labelled, "two", false).unwrap();
    let fewer = service(&json!([{"port": 80, "protocol": "TCP"}]));
    let live = done(&live, &fewer, "one", false).unwrap();
    assert_eq!(live["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    assert_eq!(live["metadata"]["labels"], json!({"x": "1", "y": "2"}));
    // A third wants another value.
    let clash = json!({"metadata": {"name": "a", "labels": {"x": "9"}}});
    let error = done(&live, &clash, "three", false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .metadata.labels.x");
    assert_eq!(error.causes[0].field, ".metadata.labels.x");
    let live = done(&live, &clash, "three", true).unwrap();
    assert_eq!(live["metadata"]["labels"]["x"], "9");
    let again = done(&live, &clash, "three", false).unwrap();
    assert_eq!(again, live);
}
