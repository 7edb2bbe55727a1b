//! What is accepted when it is applied, proxies take; what got in all the same spoils nothing beside it.

mod common;

use common::{Mesh, RESOURCES, ingress, sidecar};
use model::{Change, Config, Object};
use proptest::prelude::*;
use proto::ResourceType;
use serde_json::{Value, json};

/// An object that nobody judged.
fn unjudged<T: serde::de::DeserializeOwned>(name: &str, spec: Value) -> Config<T> {
    Config::new(common::name("default", name), 0, serde_json::from_value(spec).unwrap())
}

fn upsert(object: Object) -> Change {
    common::upsert(object)
}

fn accepted(kind: api::Kind, spec: &Value) -> bool {
    let info = kind.info();
    let object = json!({"apiVersion": info.api_version(), "kind": info.name,
        "metadata": {"name": "x", "namespace": "default"}, "spec": spec});
    api::validate(kind, &object).is_ok()
}

/// Listeners and routes of a mesh with that object, as our own proxy reads them: what it refuses, and all of it.
fn told(object: Object) -> (Vec<proto::Rejection>, String) {
    let mut mesh = Mesh::bookinfo("");
    mesh.world.apply(vec![upsert(object)]);
    read(&mesh)
}

fn read(mesh: &Mesh) -> (Vec<proto::Rejection>, String) {
    let mut rejections = Vec::new();
    let mut all = String::new();
    for scope in [sidecar("reviews"), ingress()] {
        for of in [ResourceType::Listener, ResourceType::Route] {
            let changed: Vec<_> = mesh.set(&scope, of).iter().cloned().collect();
            for resource in &changed {
                all += &proto::json::to_value(of.url(), &resource.body).unwrap().to_string();
            }
            let delta = proto::Delta { resource_type: of, changed, removed: Vec::new() };
            rejections.extend(decide::Plan::new().apply(&delta).1);
        }
    }
    (rejections, all)
}

fn route(http: Value) -> Value {
    json!({"hosts": ["details"], "http": [http, {"match": [{"uri": {"exact": "/sound"}}],
        "route": [{"destination": {"host": "details"}}]}, {"route": [{"destination": {"host": "reviews"}}]}]})
}

fn with_header(value: &str) -> Value {
    route(json!({"match": [{"uri": {"exact": "/first"}}], "headers": {"request": {"set": {"x-set": value}}},
        "route": [{"destination": {"host": "details"}, "headers": {"response": {"add": {"x-added": value}}}}]}))
}

fn with_regex(text: &str) -> Value {
    route(json!({"match": [{"uri": {"regex": text}, "name": "first"}, {"headers": {"x": {"regex": text}}}],
        "route": [{"destination": {"host": "details"}}]}))
}

fn with_rewrite(pattern: &str, to: &str) -> Value {
    let rewrite = json!({"uriRegexRewrite": {"match": pattern, "rewrite": to}});
    route(json!({"match": [{"uri": {"exact": "/first"}}], "rewrite": rewrite,
        "route": [{"destination": {"host": "details"}}]}))
}

fn with_filter(text: &str) -> Value {
    json!({"accessLogging": [{"providers": [{"name": "envoy"}], "filter": {"expression": text}}]})
}

fn with_tag(text: &str) -> Value {
    json!({"tracing": [{"providers": [{"name": "zipkin"}],
        "customTags": {"own": {"formatter": {"value": text}}, "sound": {"literal": {"value": "a"}}}}]})
}

/// Whether it is accepted, and what is said if proxies do not take what was.
fn agreed_on_service(spec: Value) -> Result<bool, TestCaseError> {
    if !accepted(api::Kind::VirtualService, &spec) {
        return Ok(false);
    }
    let (rejections, all) = told(Object::VirtualService(unjudged("x", spec.clone())));
    prop_assert!(rejections.is_empty(), "{spec}: {rejections:#?}");
    prop_assert!(
        all.contains("/first") || spec.to_string().contains("regex"),
        "{spec}: the route is missing"
    );
    Ok(true)
}

fn agreed_on_telemetry(spec: Value, marked: &str) -> Result<bool, TestCaseError> {
    if !accepted(api::Kind::Telemetry, &spec) {
        return Ok(false);
    }
    let (rejections, all) = told(Object::Telemetry(unjudged("x", spec.clone())));
    prop_assert!(rejections.is_empty(), "{spec}: {rejections:#?}");
    prop_assert!(all.contains(marked), "{spec}: {marked} is missing");
    Ok(true)
}

/// Texts that are nearly formats.
fn formats() -> impl Strategy<Value = String> {
    let names: Vec<String> = syntax::format::names().collect();
    let piece = prop_oneof![
        4 => proptest::sample::select(names.clone()).prop_map(|name| format!("%{name}%")),
        4 => (proptest::sample::select(names), "[A-Za-z:?()x-]{0,12}")
            .prop_map(|(name, argument)| format!("%{name}({argument})%")),
        2 => "%(REQ|RESP|TRAILER|START_TIME|PATH|GRPC_STATUS)[(][a-zA-Z%:?. -]{0,10}[)](:[0-9]{1,3})?%",
        2 => Just("%%".to_owned()),
        3 => "[a-z ]{0,5}",
        1 => "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

/// Texts that are nearly CEL.
fn expressions() -> impl Strategy<Value = String> {
    let words = [
        "response.code",
        "request.headers['x']",
        "request.path",
        "connection.mtls",
        "metadata.filter_metadata['a']",
        "response.cod",
        "400",
        "'a'",
        "true",
        "(",
        ")",
        "!",
        "&&",
        "||",
        ">=",
        "==",
        "in",
        "[1, 2]",
        "?",
        ":",
        "+",
        ".startsWith('/a')",
        ".matches('a+')",
        ".matches('(')",
        ".size()",
        "has(",
        "-1",
        "",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 1..6)
        .prop_map(|words| words.join(" "))
}

/// Texts that are nearly regular expressions.
fn regexes() -> impl Strategy<Value = String> {
    let parts = [
        "a",
        "/",
        ".*",
        "[a-z]+",
        "\\d",
        "\\w{50}",
        "(a|b)",
        "(",
        ")",
        "{100}",
        "*",
        "\\p{Greek}",
        "(?i)",
        "(?x)",
        "#",
        "[^/]",
        "^",
        "$",
        "\\1",
        "\\",
        "ä",
        "(?:",
        "(?P<n>a)",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 1..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn formats_that_are_accepted_are_taken(text in formats()) {
        agreed_on_service(with_header(&text))?;
        agreed_on_telemetry(with_tag(&text), "\"own\"")?;
        if let Ok((_, _)) = api::parse_mesh_config(&json!({"accessLogFormat": text}).to_string()) {
            let mut mesh = Mesh::bookinfo("");
            mesh.world.apply(vec![common::mesh(
                &json!({"accessLogFile": "/dev/stdout", "accessLogFormat": text}).to_string(),
            )]);
            let (rejections, all) = read(&mesh);
            prop_assert!(rejections.is_empty(), "{text}: {rejections:#?}");
            prop_assert!(all.contains("envoy.access_loggers.file"), "{text}");
        }
    }

    #[test]
    fn filters_that_are_accepted_are_taken(text in expressions()) {
        agreed_on_telemetry(with_filter(&text), "ExpressionFilter")?;
    }

    #[test]
    fn regexes_that_are_accepted_are_taken(text in regexes(), to in "(/|\\\\[0-3]|[a-z$]|\\\\){0,3}") {
        agreed_on_service(with_regex(&text))?;
        agreed_on_service(with_rewrite(&text, &to))?;
    }
}

#[test]
fn there_is_something_that_is_accepted() {
    for (text, good) in [("%PROTOCOL%", true), ("%REQ(x-a?:PATH):8% 100%%", true), ("%NOPE%", false)] {
        assert_eq!(agreed_on_service(with_header(text)).unwrap(), good, "{text}");
        assert_eq!(agreed_on_telemetry(with_tag(text), "own").unwrap(), good, "{text}");
    }
    assert!(agreed_on_telemetry(with_filter("response.code >= 400"), "ExpressionFilter").unwrap());
    assert!(agreed_on_service(with_regex("/v[0-9]+/.*")).unwrap());
    assert!(agreed_on_service(with_rewrite("^/v([0-9]+)", "/\\1")).unwrap());
}

/// Each with what must be left out, and what must still be said beside it.
#[test]
fn what_got_in_unjudged_spoils_nothing_beside_it() {
    let service = |spec: Value| Object::VirtualService(unjudged("x", spec));
    let telemetry = |spec: Value| Object::Telemetry(unjudged("x", spec));
    for (object, gone, kept) in [
        (service(with_header("%NOPE%")), vec!["%NOPE%"], vec!["/first", "/sound"]),
        (service(with_regex("a(")), vec!["a("], vec!["/sound"]),
        (service(with_rewrite("a(", "b")), vec!["a(", "/first"], vec!["/sound"]),
        (service(with_rewrite("a", "\\3")), vec!["/first"], vec!["/sound"]),
        (telemetry(with_filter("a +")), vec!["a +"], vec!["virtualInbound"]),
        (telemetry(with_tag("%NOPE%")), vec!["%NOPE%"], vec!["\"sound\"", "ZipkinConfig"]),
    ] {
        let name = format!("{object:?}");
        let (rejections, all) = told(object);
        assert_eq!(rejections, [], "{name}");
        for text in gone {
            assert!(!all.contains(text), "{name}: {text} is still there");
        }
        for text in kept {
            assert!(all.contains(text), "{name}: {text} is missing");
        }
    }
    let mut config = api::parse_mesh_config("{accessLogFile: /dev/stdout}").unwrap().0;
    for (format, json) in [("%NOPE%", false), ("no JSON", true), ("{\"a\": \"%NOPE%\"}", true)] {
        config.access_log_format = format.into();
        config.access_log_encoding =
            if json { api::mesh::AccessLogEncoding::Json } else { api::mesh::AccessLogEncoding::Text };
        let mut world = Mesh::bookinfo(RESOURCES);
        world.world.apply(vec![upsert(Object::Mesh(Box::new(config.clone())))]);
        let (rejections, all) = read(&world);
        assert_eq!(rejections, [], "{format}");
        assert!(!all.contains("envoy.access_loggers.file"), "{format}");
        let found = world.world.snapshot().findings();
        assert!(
            found.iter().any(|f| f.code == "Malformed" && f.field.starts_with("accessLogFormat")),
            "{found:?}"
        );
    }
}
