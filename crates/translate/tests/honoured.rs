//! Nothing that is accepted is ignored in silence: everything that a policy may ask about reaches its filter.

mod common;

use std::collections::BTreeSet;

use api::support::{Support, table};
use common::{Mesh, sidecar};
use serde_json::{Value, json};

/// The principals and permissions of a policy's only rule, as the filter of the workload says them.
fn rule(action: &str, rule: &Value) -> Value {
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"action": action, "rules": [rule]},
    });
    let judged = api::validate(api::Kind::AuthorizationPolicy, &policy);
    assert!(judged.errors.is_empty(), "{rule}: {:?}", judged.errors);
    let mesh = Mesh::bookinfo(&policy.to_string());
    let listener = mesh.listener(&sidecar("reviews"), "virtualInbound");
    let chains = listener["filterChains"].as_array().cloned().unwrap_or_default();
    let chain = chains.iter().find(|chain| chain["filterChainMatch"]["destinationPort"] == 9080);
    let mut rest = vec![chain.cloned().unwrap_or_default()];
    while let Some(value) = rest.pop() {
        if let Some(rules) = value.pointer("/rules/policies/ns[default]-policy[x]-rule[0]") {
            return rules.clone();
        }
        match value {
            Value::Object(map) => rest.extend(map.into_iter().map(|(_, value)| value)),
            Value::Array(list) => rest.extend(list),
            _ => {}
        }
    }
    panic!("{action} {rule}: no rule is told");
}

#[test]
fn every_key_that_a_condition_may_have_is_asked_about() {
    let cases = [
        ("request.headers[x-role]", "reader", "stringMatch"),
        ("source.ip", "10.0.0.0/8", "directRemoteIp"),
        ("remote.ip", "10.0.0.0/8", "remoteIp"),
        ("source.namespace", "shop", r".*/ns/shop/.*"),
        ("source.serviceAccount", "shop/cart", r"spiffe://.+/ns/shop/sa/cart"),
        ("source.trustDomain", "example.org", r"spiffe://example\\.org/.*"),
        ("source.principal", "cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b"),
        ("destination.ip", "10.0.0.1", "destinationIp"),
        ("destination.port", "9080", "destinationPort"),
        ("connection.sni", "a.example.com", "requestedServerName"),
    ];
    let family = |key: &str| key.split_inclusive('[').next().unwrap_or_default().to_owned();
    let tried: BTreeSet<String> = cases.iter().map(|(key, ..)| family(key)).collect();
    assert_eq!(tried, api::security::CONDITION_KEYS.iter().map(|key| (*key).to_owned()).collect());
    for action in ["ALLOW", "DENY", "AUDIT"] {
        let everything = rule(action, &json!({}));
        for (key, value, told) in cases {
            for field in ["values", "notValues"] {
                let asked = rule(action, &json!({"when": [{"key": key, field: [value]}]}));
                assert_ne!(asked, everything, "{action} {key} {field}");
                let text = asked.to_string();
                assert!(text.contains(told), "{action} {key} {field}: {text}");
                assert_eq!(text.contains("not"), field == "notValues", "{action} {key} {field}: {text}");
            }
        }
    }
}

#[test]
fn every_honoured_field_of_a_policy_s_rules_is_asked_about() {
    let value = |field: &str| match field.trim_start_matches("not").to_ascii_lowercase().as_str() {
        "principals" => "cluster.local/ns/a/sa/b",
        "ipblocks" | "remoteipblocks" => "10.0.0.0/8",
        "ports" => "9080",
        "methods" => "GET",
        "paths" => "/a",
        _ => "a",
    };
    let mut tried = 0;
    for row in table() {
        if row.kind != "AuthorizationPolicy" || row.support != Support::Honoured {
            continue;
        }
        let of = |prefix: &str| row.path.strip_prefix(prefix).map(str::to_owned);
        let written = if let Some(field) = of("rules[].from[].source.") {
            json!({"from": [{"source": {&field: [value(&field)]}}]})
        } else if let Some(field) = of("rules[].to[].operation.") {
            json!({"to": [{"operation": {&field: [value(&field)]}}]})
        } else {
            continue;
        };
        for action in ["ALLOW", "DENY"] {
            assert_ne!(rule(action, &written), rule(action, &json!({})), "{action} {}", row.path);
        }
        tried += 1;
    }
    assert_eq!(tried, 20);
}
