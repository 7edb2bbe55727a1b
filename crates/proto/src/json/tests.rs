//! The mapping against known pairs, and properties over random messages of every type.

use proptest::prelude::*;
use serde_json::json;

use super::wire::{put_bytes, put_tag, put_varint};
use super::*;
use crate::pb;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

#[test]
fn a_cluster_reads_as_prost_reads_it() {
    let value = json!({
        "name": "outbound|9080||reviews.default.svc.cluster.local",
        "type": "EDS",
        "connectTimeout": "10s",
        "edsClusterConfig": {"edsConfig": {"ads": {}, "resourceApiVersion": "V3"}},
        "circuitBreakers": {"thresholds": [{"maxConnections": 4294967295u32, "trackRemaining": true}]},
        "typedExtensionProtocolOptions": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {"maxConcurrentStreams": 100}},
            }
        },
        "metadata": {"filterMetadata": {"istio": {"services": [{"host": "reviews", "weight": 1.5, "none": null}]}}},
    });
    let cluster: pb::envoy::config::cluster::v3::Cluster = decode(&value).unwrap();
    assert_eq!(cluster.connect_timeout.map(|d| d.seconds), Some(10));
    assert_eq!(
        cluster.circuit_breakers.as_ref().map(|b| b.thresholds[0].max_connections.map(|v| v.value)),
        Some(Some(u32::MAX))
    );
    assert_eq!(encode(&cluster).unwrap(), value);
}

#[test]
fn names_of_definitions_and_numbers_of_enums_are_taken() {
    let camel = from_value(CLUSTER, &json!({"connectTimeout": "1s", "lbPolicy": "RING_HASH"})).unwrap();
    let snake = from_value(CLUSTER, &json!({"connect_timeout": "1s", "lb_policy": 2})).unwrap();
    assert_eq!(camel, snake);
}

#[test]
fn errors_say_where_and_what_to_write() {
    for (value, error) in [
        (json!({"nmae": "x"}), "nmae: envoy.config.cluster.v3.Cluster has no such field"),
        (
            json!({"lb-policy": 1}),
            "lb-policy: envoy.config.cluster.v3.Cluster has no such field; did you mean lbPolicy?",
        ),
        (
            json!({"connectTimeout": "1m"}),
            "connectTimeout: expected a duration such as \"1.5s\" (seconds only), found \"1m\"",
        ),
        (
            json!({"circuitBreakers": {"thresholds": [{}, {"maxConnections": -1}]}}),
            "circuitBreakers.thresholds[1].maxConnections: -1 is out of range",
        ),
        (
            json!({"type": "EDS", "clusterType": {}}),
            "clusterType: only one of type and clusterType may be set",
        ),
        (
            json!({"connectTimeout": "1s", "connect_timeout": "1s"}),
            "connect_timeout: given twice, also as connectTimeout",
        ),
        (
            json!({"transportSocket": {"typedConfig": {"x": 1}}}),
            "transportSocket.typedConfig: \"@type\" is missing; write \"type.googleapis.com/\" and the name of the message",
        ),
        (
            json!({"transportSocket": {"typedConfig": {"@type": "t/a.B", "x": 1}}}),
            "transportSocket.typedConfig: \"t/a.B\" is not known; its content can only be given as base64 in \"value\"",
        ),
        (
            json!({"typedExtensionProtocolOptions": {"a": {"@type": "t/google.protobuf.Duration", "value": 1}}}),
            "typedExtensionProtocolOptions[\"a\"].value: expected a string, found a number",
        ),
        (json!([]), "expected an object, found a list"),
    ] {
        assert_eq!(from_value(CLUSTER, &value).unwrap_err().to_string(), error);
    }
    assert_eq!(to_value("a.B", &[]).unwrap_err().to_string(), "the type \"a.B\" is not known");
}

#[test]
fn unknown_types_are_kept_as_they_are() {
    let value = json!({"name": "x", "typedConfig": {"@type": "type.googleapis.com/a.B", "value": "AQID"}});
    let bytes = from_value("envoy.config.core.v3.TypedExtensionConfig", &value).unwrap();
    assert_eq!(to_value("envoy.config.core.v3.TypedExtensionConfig", &bytes).unwrap(), value);
}

#[test]
fn istios_own_messages_are_known() {
    let value = json!({
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "typeUrl": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
        "value": {"enable_discovery": true, "protocol": "istio-peer-exchange"},
    });
    let (url, bytes) = any_from_value(&value).unwrap();
    assert_eq!(any_to_value(&url, &bytes).unwrap(), value);
    for name in [
        "istio.networking.nds.v1.NameTable",
        "istio.v1.auth.IstioCertificateRequest",
        "io.istio.http.peer_metadata.Config",
        "stats.PluginConfig",
        "google.rpc.Status",
        "envoy.service.discovery.v3.DiscoveryRequest",
    ] {
        assert!(knows(name), "{name}");
    }
}

#[test]
fn of_a_oneof_the_last_on_the_wire_counts() {
    let mut bytes = from_value(CLUSTER, &json!({"clusterType": {"name": "a"}})).unwrap();
    bytes.extend(from_value(CLUSTER, &json!({"type": "EDS"})).unwrap());
    assert_eq!(to_value(CLUSTER, &bytes).unwrap(), json!({"type": "EDS"}));
}

#[test]
fn pieces_of_a_message_are_merged() {
    let mut bytes = from_value(CLUSTER, &json!({"loadAssignment": {"clusterName": "a"}})).unwrap();
    bytes.extend(from_value(CLUSTER, &json!({"loadAssignment": {"endpoints": [{"priority": 1}]}})).unwrap());
    let merged = json!({"loadAssignment": {"clusterName": "a", "endpoints": [{"priority": 1}]}});
    assert_eq!(to_value(CLUSTER, &bytes).unwrap(), merged);
}

#[test]
fn what_is_set_is_listed_with_its_path() {
    let mut bytes = from_value(ROUTES, &json!({
        "name": "80",
        "validateClusters": false,
        "virtualHosts": [{"name": "a", "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": "c", "timeout": "0s"},
            "typedPerFilterConfig": {"f": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "maxActiveFaults": 3}},
        }]}],
    })).unwrap();
    put_bytes(&mut bytes, 99, b"?");
    let mut seen = Vec::new();
    set_fields(ROUTES, &bytes, &mut |field| {
        seen.push(format!("{}={}", field.path, field.name));
        if field.name == "match" { Walk::Over } else { Walk::Into }
    })
    .unwrap();
    assert_eq!(
        seen,
        [
            "name=name",
            "virtualHosts[0]=virtual_hosts",
            "virtualHosts[0].name=name",
            "virtualHosts[0].routes[0]=routes",
            "virtualHosts[0].routes[0].match=match",
            "virtualHosts[0].routes[0].route=route",
            "virtualHosts[0].routes[0].route.cluster=cluster",
            "virtualHosts[0].routes[0].route.timeout=timeout",
            "virtualHosts[0].routes[0].typedPerFilterConfig[\"f\"]=typed_per_filter_config",
            "virtualHosts[0].routes[0].typedPerFilterConfig[\"f\"].maxActiveFaults=max_active_faults",
            "validateClusters=validate_clusters",
            "<99>=",
        ]
    );
}

#[test]
fn depth_is_bounded() {
    let mut bytes = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        put_bytes(&mut outer, 6, &{
            let mut list = Vec::new();
            put_bytes(&mut list, 1, &bytes);
            list
        });
        bytes = outer;
    }
    let error = to_value("google.protobuf.Value", &bytes).unwrap_err();
    assert_eq!(error.reason, "messages are nested too deeply");
}

fn draw(choices: &mut impl Iterator<Item = u64>) -> u64 {
    choices.next().unwrap_or(0)
}

/// A message of random content; `choices` drives every decision, so that proptest can shrink it.
fn random(message: Message, choices: &mut impl Iterator<Item = u64>, depth: u32) -> Vec<u8> {
    let mut out = Vec::new();
    match message.name() {
        "google.protobuf.Duration" | "google.protobuf.Timestamp" => {
            put_tag(&mut out, 1, 0);
            put_varint(&mut out, draw(choices) % 1_000_000);
            return out;
        }
        "google.protobuf.Any" => {
            put_bytes(&mut out, 1, b"type.googleapis.com/google.protobuf.BoolValue");
            put_bytes(&mut out, 2, &[8, 1]);
            return out;
        }
        "google.protobuf.FieldMask"
        | "google.protobuf.Value"
        | "google.protobuf.Struct"
        | "google.protobuf.ListValue" => {
            return out;
        }
        _ => {}
    }
    for field in message.fields() {
        if !draw(choices).is_multiple_of(3) && message.fields().count() > 2 {
            continue;
        }
        let raw = draw(choices);
        match field.kind() {
            Kind::Message if depth < 4 => {
                put_bytes(&mut out, field.number(), &random(field.message(), choices, depth + 1))
            }
            Kind::Message => {}
            Kind::String => put_bytes(&mut out, field.number(), raw.to_string().as_bytes()),
            Kind::Bytes => put_bytes(&mut out, field.number(), &raw.to_le_bytes()),
            kind => {
                put_tag(&mut out, field.number(), scalar::wire_type(kind));
                match (kind, scalar::wire_type(kind)) {
                    (Kind::Bool, _) => put_varint(&mut out, raw % 2),
                    (Kind::Enum, _) => put_varint(&mut out, raw % 4),
                    (Kind::Int32, _) => put_varint(&mut out, i64::from(raw as i32) as u64),
                    (Kind::Uint32 | Kind::Sint32, _) => put_varint(&mut out, u64::from(raw as u32)),
                    (_, 0) => put_varint(&mut out, raw),
                    (Kind::Double, _) => out.extend((raw as f64 / 7.0).to_le_bytes()),
                    (Kind::Float, _) => out.extend((raw as f32 / 7.0).to_le_bytes()),
                    (_, 1) => out.extend(raw.to_le_bytes()),
                    _ => out.extend((raw as u32).to_le_bytes()),
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_written_reads_back(index in any::<prop::sample::Index>(), choices in prop::collection::vec(any::<u64>(), 0..300)) {
        let all: Vec<_> = Message::all().filter(|m| !m.is_map_entry()).collect();
        let message = all[index.index(all.len())];
        let bytes = random(message, &mut choices.into_iter(), 0);
        let value = to_value(message.name(), &bytes).unwrap();
        let again = from_value(message.name(), &value).unwrap();
        prop_assert_eq!(to_value(message.name(), &again).unwrap(), value);
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(index in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let all: Vec<_> = Message::all().collect();
        let name = all[index.index(all.len())].name();
        let _ = to_value(name, &bytes);
        let _ = set_fields(name, &bytes, &mut |_| Walk::Into);
    }
}
