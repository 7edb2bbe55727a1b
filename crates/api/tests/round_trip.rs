//! What the schemas allow, the types read, write and read again unchanged.

use api::Kind;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Any value that a structural schema allows.
fn any_value(schema: &Value) -> BoxedStrategy<Value> {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return Just(json!({"any": "thing"})).boxed();
    }
    match schema["type"].as_str() {
        Some("object") => any_object(schema),
        Some("array") => {
            let least = usize::from(schema["minItems"].as_u64().is_some());
            // Lists that are maps by a key must not repeat it.
            let most = if schema["x-kubernetes-list-type"] == "map" { 1 } else { 2 };
            prop::collection::vec(any_value(&schema["items"]), least..=most).prop_map(Value::from).boxed()
        }
        Some("string") => any_string(schema),
        Some("integer") => {
            let bound = |key: &str, other: i64| schema[key].as_f64().map_or(other, |bound| bound as i64);
            (bound("minimum", -100)..=bound("maximum", 1 << 30)).prop_map(Value::from).boxed()
        }
        Some("number") => (0..=800_u16).prop_map(|eighths| json!(f64::from(eighths) / 8.0)).boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        other => panic!("no type: {other:?} in {schema}"),
    }
}

fn any_string(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(values) = schema["enum"].as_array() {
        return select(values.clone()).boxed();
    }
    let duration = schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("ms"));
    if duration || schema["x-kubernetes-validations"].is_array() {
        return select(vec![json!("1.5s"), json!("1h"), json!("500ms"), json!("1m0.25s")]).boxed();
    }
    if schema["format"] == "byte" {
        return Just(json!("aGVsbG8=")).boxed();
    }
    "[a-z]{1,8}".prop_map(Value::from).boxed()
}

/// Any of the properties, but of a group of which one may be set only its first that was drawn.
fn any_object(schema: &Value) -> BoxedStrategy<Value> {
    if schema["additionalProperties"].is_object() {
        // Digits, since some maps are by port.
        let entry = ("[1-9][0-9]{0,3}", any_value(&schema["additionalProperties"]));
        return prop::collection::btree_map(entry.0, entry.1, 0..=2)
            .prop_map(|entries| Value::Object(entries.into_iter().collect()))
            .boxed();
    }
    let names: Vec<String> =
        schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
    let schema = schema.clone();
    subsequence(names.clone(), 0..=names.len().min(4))
        .prop_flat_map(move |chosen| {
            let chosen = keep_groups(&schema, &names, chosen);
            let values: Vec<_> = chosen.iter().map(|name| any_value(&schema["properties"][name])).collect();
            (Just(chosen), values)
        })
        .prop_map(|(names, values)| Value::Object(names.into_iter().zip(values).collect()))
        .boxed()
}

fn keep_groups(schema: &Value, all: &[String], mut chosen: Vec<String>) -> Vec<String> {
    let required = |name: &str| schema["required"].as_array().is_some_and(|list| list.contains(&json!(name)));
    chosen.extend(all.iter().filter(|name| required(name)).cloned());
    chosen.sort();
    chosen.dedup();
    for group in groups(schema) {
        let mut seen = false;
        chosen.retain(|name| !group.contains(name) || !std::mem::replace(&mut seen, true));
    }
    chosen
}

/// Groups of properties of which one may be set.
fn groups(schema: &Value) -> Vec<Vec<String>> {
    let several = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    let names = |choice: &Value| choice["required"][0].as_str().map(str::to_string);
    several
        .iter()
        .filter_map(|one| one["oneOf"].as_array())
        .map(|choices| choices.iter().filter_map(names).collect())
        .collect()
}

fn any_spec() -> impl Strategy<Value = (Kind, Value)> {
    select(Kind::all().collect::<Vec<_>>()).prop_flat_map(|kind| {
        let spec = any_value(&api::schema::object_schema(kind)["properties"]["spec"]);
        (Just(kind), spec)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn specs_survive((kind, spec) in any_spec()) {
        let read = |spec: &Value| api::parse(kind, &json!({"spec": spec}));
        let first = read(&spec).map_err(|errors| TestCaseError::fail(format!("{kind} {spec}: {errors:?}")))?;
        let written = first.to_json();
        // Defaults are not written, so what is required may be gone; everything that is left must be the same.
        let second = api::parse(kind, &json!({"spec": with_required(kind, &spec, &written)}));
        let second = second.map_err(|errors| TestCaseError::fail(format!("{kind} {written}: {errors:?}")))?;
        prop_assert_eq!(first, second);
    }

    #[test]
    fn validation_never_panics((kind, spec) in any_spec()) {
        api::validate(kind, &json!({"metadata": {"name": "x"}, "spec": spec}));
    }

    #[test]
    fn any_json_is_judged((kind, spec) in (select(Kind::all().collect::<Vec<_>>()), any_json())) {
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        let judged = api::validate(kind, &object);
        // What passes is readable.
        prop_assert!(!judged.is_ok() || api::parse(kind, &object).is_ok());
    }

    #[test]
    fn durations_survive(nanos in 0..=i64::MAX as u64) {
        let duration = api::Duration(std::time::Duration::from_nanos(nanos));
        prop_assert_eq!(duration.to_string().parse::<api::Duration>().unwrap(), duration);
    }
}

/// JSON whose keys are often those of resources.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        select(vec!["*", "5s", "STRICT", "a.b"]).prop_map(Value::from),
    ];
    let keys =
        ["hosts", "host", "http", "match", "route", "destination", "uri", "servers", "port", "rules", "mtls"];
    leaf.prop_recursive(5, 32, 4, move |inner| {
        let key = prop_oneof![4 => select(keys.to_vec()).prop_map(String::from), 1 => ".{0,4}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// `written`, with the defaults that the schema requires put back from what was read.
fn with_required(kind: Kind, spec: &Value, written: &Value) -> Value {
    fn merge(schema: &Value, original: &Value, written: &mut Value) {
        match (original, written) {
            (Value::Object(original), Value::Object(written)) => {
                let values = &schema["additionalProperties"];
                for (name, value) in original {
                    let child = if values.is_object() { values } else { &schema["properties"][name] };
                    let required =
                        schema["required"].as_array().is_some_and(|list| list.contains(&json!(name)));
                    if required && !written.contains_key(name) {
                        written.insert(name.clone(), value.clone());
                    }
                    if let Some(written) = written.get_mut(name) {
                        merge(child, value, written);
                    }
                }
            }
            (Value::Array(original), Value::Array(written)) => {
                for (original, written) in original.iter().zip(written) {
                    merge(&schema["items"], original, written);
                }
            }
            _ => {}
        }
    }
    let mut merged = written.clone();
    merge(&api::schema::object_schema(kind)["properties"]["spec"], spec, &mut merged);
    merged
}
