//! What is refused, and where the refusal says it stands; and the page of the documentation that says the same.

use proto::json::from_value;
use serde_json::{Value, json};

use super::table::{HONOURED, WITHOUT_EFFECT};
use super::{TABLE, check};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const LISTENER: &str = "envoy.config.listener.v3.Listener";

fn refused(message: &str, value: &Value) -> Option<String> {
    check(message, &from_value(message, value).unwrap()).err().map(|refusal| refusal.field())
}

fn listener(filters: &Value) -> Value {
    let hcm = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({"name": "l", "filterChains": [{"filters": [{"name": "h", "typedConfig": {"@type": hcm, "httpFilters": filters}}]}]})
}

#[test]
fn a_field_that_is_not_honoured_is_refused_by_its_path() {
    let fault = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
    let limited = |optional: bool| {
        listener(
            &json!([{"name": "f", "isOptional": optional, "typedConfig": {"@type": fault, "maxActiveFaults": 3}}]),
        )
    };
    for (message, value, expected) in [
        (CLUSTER, json!({"name": "a", "altStatName": "b"}), None),
        (CLUSTER, json!({"name": "a", "lrsServer": {"self": {}}}), Some("lrsServer")),
        (CLUSTER, json!({"outlierDetection": {"monitors": []}}), None),
        (
            CLUSTER,
            json!({"loadAssignment": {"endpoints": [{}, {"lbEndpoints": [{"endpoint": {"observabilityName": "x"}}]}]}}),
            Some("loadAssignment.endpoints[1].lbEndpoints[0].endpoint.observabilityName"),
        ),
        (
            LISTENER,
            limited(false),
            Some("filterChains[0].filters[0].typedConfig.httpFilters[0].typedConfig.maxActiveFaults"),
        ),
        (LISTENER, limited(true), None),
        (
            LISTENER,
            json!({"address": {"socketAddress": {"address": "::1", "portValue": 1, "protocol": "UDP"}}}),
            Some("address.socketAddress.protocol"),
        ),
        (LISTENER, json!({"filterChains": [{"useProxyProto": true}]}), Some("filterChains[0].useProxyProto")),
        (
            LISTENER,
            json!({"filterChains": [{"transportSocket": {"typedConfig": {"@type": TLS, "ocspStaplePolicy": "MUST_STAPLE"}}}]}),
            Some("filterChains[0].transportSocket.typedConfig.ocspStaplePolicy"),
        ),
    ] {
        assert_eq!(refused(message, &value).as_deref(), expected, "{value}");
    }
    // A number that no definition has.
    assert_eq!(check(CLUSTER, &[0xf8, 0x3e, 1]).unwrap_err().field(), "<1007>");
}

#[test]
fn the_table_names_what_there_is() {
    for (message, fields) in TABLE.iter().filter(|(message, _)| **message != "xds.type.v3.TypedStruct") {
        let known = proto::json::field_names(message).unwrap_or_else(|| panic!("no message {message}"));
        for field in fields {
            assert!(known.contains(field), "{message} has no field {field}");
        }
    }
    for (message, field, _) in WITHOUT_EFFECT {
        let line = HONOURED.lines().find(|line| line.split(':').next() == Some(message)).unwrap_or_default();
        assert!(!line.split_whitespace().any(|f| f == *field), "{message}.{field} is in both lists");
    }
}

#[test]
fn the_documentation_lists_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/proxy-support.md");
    let page = page();
    if std::env::var_os("MIZZEN_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/proxy-support.md is not what the table says: MIZZEN_WRITE_DOCS=1 cargo test -p decide"
    );
}

fn page() -> String {
    let mut page = "# What the proxy honours\n\nGenerated from the table by which the proxy decides. Each message \
        of Envoy's v3 API has the fields that are honoured; whatever else a resource sets is refused with its full path, \
        and the resource is rejected alone. A message that is not listed is refused wherever it stands.\n\n\
        | message | fields |\n|---|---|\n"
        .to_owned();
    for line in HONOURED.lines() {
        let (message, fields) = line.split_once(':').unwrap();
        let fields: Vec<_> = fields.split_whitespace().map(|field| format!("`{field}`")).collect();
        page.push_str(&format!("| `{message}` | {} |\n", fields.join(" ")));
    }
    page.push_str("\n## Accepted without effect\n\n| message | field | why |\n|---|---|---|\n");
    for (message, field, why) in WITHOUT_EFFECT {
        page.push_str(&format!("| `{message}` | `{field}` | {why} |\n"));
    }
    page
}
