use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::connection::{Connection, TlsInfo};
use crate::flags::ResponseFlags;
use crate::headers::Headers;
use crate::log::Times;
use crate::request::{Method, Request};

#[test]
fn operators_write_what_envoy_writes() {
    let mut connection = Connection::new("10.0.0.9:1000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    connection.tls = Some(Arc::new(TlsInfo {
        peer_uris: ["spiffe://a".into()].into_iter().collect(),
        ..TlsInfo::default()
    }));
    let mut request = Request::new(Method::Get, "reviews:9080", "/a?b=c&d=%20%zz&e")
        .with_header("X-User", "jo")
        .with_header("x-twice", "first")
        .with_header("x-twice", "second");
    request.metadata.set("f", "k", serde_json::json!({"deep": [1]}));
    let headers: Headers = [("grpc-status", "14")].into_iter().collect();
    let host = upstream::Address::parse("10.0.0.2", 9080);
    let state = [(Arc::from("key"), "value".to_owned())];
    let mut entry = LogEntry::new(&connection, SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
    entry.request = Some(&request);
    entry.response_trailers = Some(&headers);
    entry.response_code = 503;
    entry.flags =
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE.with(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    entry.times = Times {
        total: Some(Duration::from_millis(12)),
        first_upstream_rx: Some(Duration::from_millis(5)),
        last_downstream_tx: Some(Duration::from_millis(11)),
        ..Times::default()
    };
    entry.upstream.host = Some(&host);
    entry.filter_state = &state;
    for (format, expected) in [
        ("%START_TIME%", "1970-01-01T00:00:01.500Z"),
        ("%START_TIME(%s.%3f)%", "1.500"),
        ("%REQ(:METHOD)% %REQ(X-NONE?x-user)% %REQ(X-NONE)%", "GET jo -"),
        ("%REQ(:PATH):2%|%REQ_WITHOUT_QUERY(:PATH)%|%PATH(NQ)%", "/a|/a|/a"),
        ("%PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS%", "HTTP/1.1 503 URX,UF"),
        ("%RESPONSE_FLAGS_LONG%", "UpstreamRetryLimitExceeded,UpstreamConnectionFailure"),
        ("%DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_DURATION%", "12 5 6 -"),
        ("%COMMON_DURATION(US_RX_BEG:DS_TX_END:us)%", "6000"),
        ("%UPSTREAM_HOST% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS%", "10.0.0.2:9080 - -"),
        ("%UPSTREAM_HOST_NAME% %RESP(:STATUS)% %RESP(X-NONE?:STATUS)%", "10.0.0.2:9080 503 503"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.9"),
        ("%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%", "spiffe://a -"),
        ("%GRPC_STATUS% %GRPC_STATUS(NUMBER)% %GRPC_STATUS(SNAKE_STRING)%", "Unavailable 14 UNAVAILABLE"),
        ("%DYNAMIC_METADATA(f:k)% %DYNAMIC_METADATA(f:x)%", "{\"deep\":[1]} -"),
        ("%FILTER_STATE(key:PLAIN)% %FILTER_STATE(none)%", "value -"),
        ("%QUERY_PARAM(b)%|%QUERY_PARAM(d)%|%QUERY_PARAM(e)%|%QUERY_PARAM(f)%", "c| %zz||-"),
        ("%REQ(X-TWICE)%", "first"),
        ("100%% %TRAILER(GRPC-STATUS)%", "100% 14"),
        ("%BYTES_RECEIVED% %ROUTE_NAME% %REQUESTED_SERVER_NAME%", "0 - -"),
    ] {
        let mut out = String::new();
        Format::new(format).unwrap_or_else(|e| panic!("{format}: {e}")).render(&entry, &mut out);
        assert_eq!(out, expected, "{format}");
    }
}

#[test]
fn what_is_no_operator_is_refused_by_name() {
    assert_eq!(
        Format::new("%NONSENSE%").unwrap_err(),
        "%NONSENSE% is no operator that this proxy knows",
        "syntax has the others"
    );
    assert!(Format::new(DEFAULT_ENVOY).is_ok() && Format::new(DEFAULT_ISTIO).is_ok());
}

#[test]
fn json_keeps_the_kinds_of_values() {
    use proto::pb::google::protobuf::{Struct, Value as Pb, value::Kind};
    let text = |t: &str| Pb { kind: Some(Kind::StringValue(t.into())) };
    let fields = Struct {
        fields: [
            ("code".to_owned(), text("%RESPONSE_CODE%")),
            ("none".to_owned(), text("%ROUTE_NAME%")),
            ("both".to_owned(), text("%RESPONSE_CODE% %RESPONSE_FLAGS%")),
        ]
        .into(),
    };
    let connection = Connection::new("10.0.0.9:1000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let entry = LogEntry { response_code: 200, ..LogEntry::new(&connection, SystemTime::UNIX_EPOCH) };
    let full = JsonFormat::compile(&fields, false).unwrap().render(&entry);
    assert_eq!(full, serde_json::json!({"both": "200 -", "code": 200, "none": null}));
    let short = JsonFormat::compile(&fields, true).unwrap().render(&entry);
    assert_eq!(short, serde_json::json!({"both": "200 -", "code": 200}));
}

#[test]
fn a_grpc_status_that_is_none_is_told_as_minus_one() {
    let connection = Connection::new("10.0.0.9:1000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    for (status, expected) in [("0", "OK 0"), ("17", "17 17"), ("-1", "-1 -1"), ("x", "-1 -1")] {
        let headers: Headers = [("grpc-status", status)].into_iter().collect();
        let mut entry = LogEntry::new(&connection, SystemTime::UNIX_EPOCH);
        entry.response_headers = Some(&headers);
        let mut out = String::new();
        Format::new("%GRPC_STATUS% %GRPC_STATUS_NUMBER%").unwrap().render(&entry, &mut out);
        assert_eq!(out, expected, "{status}");
    }
}
