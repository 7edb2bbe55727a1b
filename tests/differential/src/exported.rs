//! Access logs that are sent: what collectors are told by Envoy and by the proxy of the same requests, over Envoy's own
//! service and over OTLP.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::opentelemetry as otlp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::contestant::{Contestant, Kind, Place};
use crate::observe::is_uuid;

const HTTP: u16 = 21_920;
const TCP: u16 = 21_921;
const CLOSED: u16 = 21_922;
const COLLECTOR: u16 = 21_923;
const APPLICATION: u16 = 21_924;
const LIMIT: Duration = Duration::from_secs(20);

/// What collectors were told, as JSON, by the log.
type Told = Arc<Mutex<Logs>>;

type Logs = BTreeMap<String, Vec<Value>>;

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn typed(name: &str, fields: Value) -> Value {
    let mut typed = json!({"@type": format!("type.googleapis.com/{name}")});
    if let (Value::Object(all), Value::Object(own)) = (&mut typed, fields) {
        all.extend(own);
    }
    typed
}

fn bootstrap(host: &str, upstream: &str) -> Value {
    let service = json!({"envoy_grpc": {"cluster_name": "collector"}, "initial_metadata": [{"key": "x-key", "value": "secret"}]});
    let common = |name: &str| json!({"log_name": name, "grpc_service": service, "transport_api_version": "V3", "buffer_flush_interval": "0.1s"});
    let otlp = |name: &str, more: Value| {
        let mut fields = json!({
            "log_name": name, "grpc_service": service, "buffer_flush_interval": "0.1s",
            "resource_attributes": {"values": [
                {"key": "service.name", "value": {"string_value": "s"}}, {"key": "n", "value": {"int_value": 7}}]},
            "body": {"string_value": "%REQ(:METHOD)% %RESPONSE_CODE% %BYTES_SENT%"},
            "attributes": {"values": [
                {"key": "flags", "value": {"string_value": "%RESPONSE_FLAGS%"}},
                {"key": "more", "value": {"kvlist_value": {"values": [
                    {"key": "both", "value": {"array_value": {"values": [
                        {"string_value": "%PROTOCOL%"}, {"string_value": "%REQ(x-absent)%"}]}}}]}}}]},
        });
        if let (Value::Object(all), Value::Object(own)) = (&mut fields, more) {
            all.extend(own);
        }
        typed("envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig", fields)
    };
    let log = |config: Value| json!({"name": "log", "typed_config": config});
    let als = "envoy.extensions.access_loggers.grpc.v3";
    let http_logs = [
        log(typed(
            &format!("{als}.HttpGrpcAccessLogConfig"),
            json!({
                "common_config": common("http"),
                "additional_request_headers_to_log": ["X-Twice", "x-absent"],
                "additional_response_headers_to_log": ["x-said", "x-absent"],
            }),
        )),
        log(otlp("otlp", json!({}))),
        log(otlp("bare", json!({"disable_builtin_labels": true, "stat_prefix": "own", "attributes": null}))),
    ];
    let tcp_logs = [
        log(typed(&format!("{als}.TcpGrpcAccessLogConfig"), json!({"common_config": common("tcp")}))),
        log(otlp("otlp_tcp", json!({"body": {"string_value": "%BYTES_SENT%"}}))),
    ];
    let cluster = |name: &str, port: u16, http2: bool| {
        let mut cluster = json!({
            "name": name, "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(upstream, port)}}]}]},
        });
        if http2 {
            let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            cluster["typed_extension_protocol_options"] =
                json!({name: typed(name, json!({"explicit_http_config": {"http2_protocol_options": {}}}))});
        }
        cluster
    };
    let hcm = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "h", "access_log": http_logs,
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"name": "direct", "match": {"prefix": "/direct"}, "direct_response": {"status": 418, "body": {"inline_string": "tea"}}},
                {"name": "closed", "match": {"prefix": "/closed"}, "route": {"cluster": "closed"}},
                {"name": "app", "match": {"prefix": "/app"}, "route": {"cluster": "app", "prefix_rewrite": "/new"}}]}]},
            "http_filters": [{"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({}))}],
        }),
    );
    let proxy = typed(
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": "t", "cluster": "app", "access_log": tcp_logs}),
    );
    let listener = |name: &str, port: u16, filter: Value| {
        json!({
            "name": name, "address": socket(host, port),
            "filter_chains": [{"filters": [{"name": "filter", "typed_config": filter}]}],
        })
    };
    json!({
        "node": {"id": "id", "cluster": "cluster", "locality": {"region": "r", "zone": "z"}},
        "admin": {"address": socket(host, crate::bootstrap::admin_port())},
        "static_resources": {
            "listeners": [listener("http", HTTP, hcm), listener("tcp", TCP, proxy)],
            "clusters": [
                cluster("collector", COLLECTOR, true), cluster("closed", CLOSED, false),
                cluster("app", APPLICATION, false)],
        },
    })
}

fn grpc_answer() -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Full::from(Bytes::from_static(b"\0\0\0\0\0"));
    let mut answer = Response::new(message.with_trailers(async { Some(Ok(trailers)) }).boxed());
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

fn note(told: &Told, log: String, what: impl IntoIterator<Item = Value>) {
    told.lock().unwrap_or_else(PoisonError::into_inner).entry(log).or_default().extend(what);
}

fn encoded(message: &impl prost::Name) -> Value {
    proto::json::encode(message).unwrap_or_else(|error| json!({"error": error.to_string()}))
}

/// One message of Envoy's own service; what names the log comes with the first of a stream alone.
fn own(told: &Told, log: &mut String, message: &[u8]) {
    use proto::pb::envoy::service::accesslog::v3::{
        StreamAccessLogsMessage, stream_access_logs_message as m,
    };
    let Ok(message) = StreamAccessLogsMessage::decode(message) else { return };
    if let Some(identifier) = message.identifier {
        let node = identifier.node.unwrap_or_default();
        *log = format!("{} of {} {}", identifier.log_name, node.id, node.cluster);
    }
    let entries: Vec<_> = match message.log_entries {
        Some(m::LogEntries::HttpLogs(all)) => all.log_entry.iter().map(encoded).collect(),
        Some(m::LogEntries::TcpLogs(all)) => all.log_entry.iter().map(encoded).collect(),
        None => Vec::new(),
    };
    note(told, log.clone(), entries);
}

fn records(told: &Told, message: &[u8]) {
    let Ok(export) = otlp::ExportLogs::decode(message) else { return };
    for resource in export.resource_logs {
        let attributes: Vec<_> =
            resource.resource.unwrap_or_default().attributes.iter().map(encoded).collect();
        let log = format!("otlp of {}", json!(attributes));
        for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            ensure_time(&record);
            let attributes: Vec<_> = record.attributes.iter().map(encoded).collect();
            let said = json!({
                "body": record.body.as_ref().map(encoded), "attributes": attributes,
                "trace": record.trace_id.len(), "span": record.span_id.len(),
            });
            note(told, log.clone(), [said]);
        }
    }
}

fn ensure_time(record: &otlp::LogRecord) {
    assert!(record.time_unix_nano > 1_700_000_000_000_000_000, "{record:?}");
}

async fn collect(request: Request<Incoming>, told: Told) -> Response<BoxBody<Bytes, Infallible>> {
    let is_own = request.uri().path() == "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
    let is_otlp = request.uri().path() == "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let key = request.headers().get("x-key").cloned();
    if !(is_own || is_otlp) || key.is_none_or(|key| key != "secret") {
        note(&told, "strange".into(), [json!(request.uri().path())]);
        return Response::new(Full::default().boxed());
    }
    let (mut body, mut read, mut log) = (request.into_body(), Vec::new(), String::new());
    while let Some(Ok(frame)) = body.frame().await {
        read.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(message) = crate::grpc::next_message(&mut read) {
            if is_own {
                own(&told, &mut log, &message[5..]);
            } else {
                records(&told, &message[5..]);
            }
        }
    }
    grpc_answer()
}

async fn application(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    while stream.read_buf(&mut seen).await? > 0 {
        if seen.ends_with(b"\r\n\r\n") || seen.ends_with(b"body") {
            let answer =
                b"HTTP/1.1 200 OK\r\nx-said: well\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            return Ok(());
        }
    }
    Ok(())
}

/// To the end of the answer.
async fn ask(host: &str, port: u16, request: &[u8]) -> anyhow::Result<()> {
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::ensure!(!answer.is_empty(), "no answer");
        Ok(())
    };
    tokio::time::timeout(LIMIT, asked).await?
}

/// How large heads are on the wire, which the proxy does not count; of an answer's Envoy counts what it adds at the end.
const UNTOLD: [&str; 7] = [
    "downstreamWireBytesSent",
    "downstreamWireBytesReceived",
    "downstreamHeaderBytesSent",
    "downstreamHeaderBytesReceived",
    "upstreamHeaderBytesSent",
    "upstreamHeaderBytesReceived",
    "responseHeadersBytes",
];

/// What no two runs have in common: times, ports that the kernel chose, ids, whose loopback address it is.
fn scrub(value: &mut Value, names: &[(String, &str)]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !UNTOLD.contains(&name.as_str()));
            for (name, value) in fields.iter_mut() {
                let is_time = name.starts_with("timeTo") || matches!(name.as_str(), "startTime" | "duration");
                if is_time {
                    *value = "TIME".into();
                } else if name == "portValue"
                    && value.as_u64().is_some_and(|port| !(20_000..=30_000).contains(&port))
                {
                    *value = "PORT".into();
                }
                scrub(value, names);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| scrub(value, names)),
        Value::String(text) if is_uuid(text) => *text = "UUID".into(),
        Value::String(text) => {
            for (real, name) in names {
                *text = text.replace(real, name);
            }
        }
        _ => {}
    }
}

async fn play(kind: Kind, envoy: &Path, place: Place) -> anyhow::Result<(Logs, BTreeMap<String, i64>)> {
    let folder = tempfile::tempdir()?;
    let (host, upstream) = (place.proxy(kind).to_string(), place.upstream(kind));
    let told = Told::default();
    let collector = TcpListener::bind(SocketAddr::from((upstream, COLLECTOR))).await?;
    let app = TcpListener::bind(SocketAddr::from((upstream, APPLICATION))).await?;
    let mut serving = tokio::task::JoinSet::new();
    let shared = told.clone();
    serving.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = collector.accept().await {
            let told = shared.clone();
            let service = hyper::service::service_fn(move |request| {
                let told = told.clone();
                async move { Ok::<_, Infallible>(collect(request, told).await) }
            });
            connections.spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    serving.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = app.accept().await {
            connections.spawn(application(stream));
        }
    });
    let config = bootstrap(&host, &upstream.to_string());
    let proxy = Contestant::start(kind, envoy, place, &config, folder.path(), &[]).await?;
    for (method, path, more) in [
        ("GET", "/direct", "x-twice: a\r\nx-twice: b\r\nreferer: http://r/\r\nx-forwarded-for: 1.2.3.4\r\n"),
        ("POST", "/app?a=b", "content-length: 4\r\nuser-agent: me\r\nx-request-id: own\r\n"),
        ("GET", "/closed", ""),
        ("PURGE", "/none", ""),
    ] {
        let body = if method == "POST" { "body" } else { "" };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n{body}");
        ask(&host, HTTP, request.as_bytes()).await?;
    }
    ask(&host, TCP, b"GET / HTTP/1.1\r\n\r\n").await?;
    let wanted = |told: &Logs| {
        let count = |of: &str| {
            told.iter().filter(|(log, _)| log.starts_with(of)).map(|(_, all)| all.len()).sum::<usize>()
        };
        // Three logs of OTLP: two of four requests, one of a connection.
        count("http") == 4 && count("tcp") == 1 && count("otlp") == 9
    };
    let came = async {
        loop {
            let now = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if wanted(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(LIMIT, came).await;
    let mut came = match came {
        Ok(came) => came,
        Err(_) => {
            anyhow::bail!("{kind:?} has told only {:#?}", told.lock().unwrap_or_else(PoisonError::into_inner))
        }
    };
    let names = [(host, "PROXY"), (upstream.to_string(), "UPSTREAM")];
    for (log, values) in &mut came {
        for value in values {
            scrub(value, &names);
            // Envoy gives connections of plain TCP an id that nothing else speaks of.
            if let (true, Some(common)) = (log.starts_with("tcp"), value["commonProperties"].as_object_mut())
            {
                common.remove("streamId");
            }
        }
    }
    let counted = async {
        loop {
            let stats = proxy.stats().await?;
            let logs: BTreeMap<_, _> =
                stats.into_iter().filter(|(name, n)| name.starts_with("access_logs.") && *n > 0).collect();
            if logs.values().sum::<i64>() >= 18 {
                return anyhow::Ok(logs);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counts = tokio::time::timeout(LIMIT, counted).await??;
    proxy.stop().await?;
    Ok((came, counts))
}

/// # Errors
/// What Envoy tells and the proxy does not, or the other way round.
pub async fn compare() -> anyhow::Result<()> {
    let Some(envoy) = testkit::peers::need("envoy") else { return Ok(()) };
    let place = Place::of_this_process();
    let (theirs, ours) =
        tokio::try_join!(play(Kind::Envoy, &envoy, place), play(Kind::Mizzen, &envoy, place))?;
    let logs: BTreeSet<_> = theirs.0.keys().chain(ours.0.keys()).collect();
    let mut differences = Vec::new();
    for log in logs {
        let of = |all: &Logs| all.get(log).cloned().unwrap_or_default();
        let (theirs, ours) = (of(&theirs.0), of(&ours.0));
        if theirs.len() != ours.len() {
            differences.push(format!("{log}: {} records and {}", theirs.len(), ours.len()));
        }
        let pairs = theirs.iter().zip(&ours).enumerate().filter(|(_, (theirs, ours))| theirs != ours);
        differences.extend(pairs.map(|(i, (theirs, ours))| format!("{log} {i}: {}", diff(theirs, ours))));
    }
    ensure!(differences.is_empty(), "collectors are told otherwise:\n{}", differences.join("\n"));
    ensure!(theirs.1 == ours.1, "counted otherwise: {:#?} {:#?}", theirs.1, ours.1);
    Ok(())
}

/// The lines of either that the other lacks.
fn diff(theirs: &Value, ours: &Value) -> String {
    let shown = |value| serde_json::to_string_pretty(value).unwrap_or_default();
    let (theirs, ours) = (shown(theirs), shown(ours));
    let only = |a: &str, b: &str| {
        let of_b: Vec<_> = b.lines().map(|line| line.trim_end_matches(',')).collect();
        let lines = a.lines().map(|line| line.trim_end_matches(','));
        lines.filter(|line| !of_b.contains(line)).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    format!("only Envoy: {:?}, only here: {:?}", only(&theirs, &ours), only(&ours, &theirs))
}
