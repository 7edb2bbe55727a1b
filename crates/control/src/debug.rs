//! What people and tools may ask of the control plane: `/metrics`, `/prometheus/targets`, `/version`, `/ready`, `/debug/*`, and syncz over ADS.
//!
//! Shows configuration and status, never a secret's content.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::envoy::service::status::v3 as csds;
use proto::pb::google::protobuf::Any;
use proto::{ResourceType, json as mapping};
use serde_json::{Value, json};

use crate::scrape;
use crate::serve::Context;
use crate::status::{Connection, MeshStatus, syncz};
use crate::view::Seen;
use xds::Source as _;

const SYNCZ: &str = "istio.io/debug/syncz";

pub(crate) fn status(context: &Context) -> MeshStatus {
    MeshStatus {
        generation: context.publisher.generation(),
        pending: *context.pending.borrow(),
        proxies: context.connected().iter().map(|connection| connection.status()).collect(),
    }
}

/// The monitoring port, 15014.
pub(crate) fn monitoring(
    context: &Context,
    method: &Method,
    path: &str,
    query: &str,
) -> Response<Full<Bytes>> {
    if method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match path {
        "/metrics" => {
            let mut connected = BTreeMap::new();
            for connection in context.connected() {
                *connected.entry(connection.node.version.to_string()).or_insert(0) += 1;
            }
            let services = context.publisher.snapshot().services().len();
            let body = context.metrics.render(&context.version, &connected, services);
            let mut response = text(StatusCode::OK, body);
            let format = http::HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(http::header::CONTENT_TYPE, format);
            response
        }
        scrape::PATH => json_of(&scrape::targets(context.connected().iter().map(|c| &c.node))),
        "/version" => json_of(&json!({"version": context.version, "revision": context.revision})),
        "/ready" => ready(context),
        "/debug/syncz" => json_of(&syncz(&status(context))),
        "/debug/endpointz" => json_of(&endpointz(context)),
        "/debug/configz" => {
            let part = |name| parameter(query, name).unwrap_or_default();
            let name = base::NamespacedName::new(part("namespace"), part("name"));
            match crate::configz::one(&context.publisher.snapshot(), &part("kind"), &name) {
                Some(config) => json_of(&config),
                None => text(StatusCode::NOT_FOUND, "no such resource; say kind=, namespace= and name=\n"),
            }
        }
        "/debug/keysz" => json_of(&keysz(context)),
        "/debug/connections" => {
            let ids: Vec<_> = context.connected().iter().map(|c| json!(c.status())).collect();
            json_of(&json!({"totalClients": ids.len(), "clients": ids}))
        }
        "/debug/config_dump" => match parameter(query, "proxyID") {
            None => text(StatusCode::BAD_REQUEST, "say whose: /debug/config_dump?proxyID=NAME.NAMESPACE\n"),
            Some(proxy) => match context.connections.find(&proxy) {
                None => text(StatusCode::NOT_FOUND, format!("no proxy {proxy:?} is connected\n")),
                Some(connection) => json_of(&config_dump(context, &connection)),
            },
        },
        "/debug" => text(
            StatusCode::OK,
            "/debug/syncz\n/debug/connections\n/debug/config_dump?proxyID=\n/debug/endpointz\n/debug/configz?kind=&namespace=&name=\n/debug/keysz\n",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "not found; see /debug, /metrics, /prometheus/targets, /version, /ready\n",
        ),
    }
}

/// The keys of tokens, by which field and what stands there.
fn keysz(context: &Context) -> Value {
    let snapshot = context.publisher.snapshot();
    let one = |set: &model::KeySet| json!({"field": *set.name.namespace, "at": *set.name.name, "keys": set.keys, "fault": set.fault});
    snapshot.key_sets().map(one).collect()
}

/// Whether everything that the registries had at the start is served.
pub(crate) fn ready(context: &Context) -> Response<Full<Bytes>> {
    if *context.serving.borrow() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "the registries have not said everything yet\n")
    }
}

/// `istioctl proxy-status` asks over ADS: one resource for each proxy, with the state of each of its types.
pub(crate) fn over_ads(context: &Context, type_url: &str) -> Option<pb::DiscoveryResponse> {
    if type_url != SYNCZ {
        return None;
    }
    let connections = context.connected();
    let resources = connections.iter().map(|connection| {
        let status = connection.status();
        let of_type = |t: &crate::status::TypeState| csds::client_config::GenericXdsConfig {
            type_url: t.type_url.to_owned(),
            config_status: match t.state {
                "SYNCED" => csds::ConfigStatus::Synced,
                "STALE" => csds::ConfigStatus::Stale,
                _ => csds::ConfigStatus::Error,
            }
            .into(),
            ..Default::default()
        };
        let node =
            proto::pb::envoy::config::core::v3::Node { id: status.node_id.to_string(), ..Default::default() };
        let config = csds::ClientConfig {
            node: Some(node),
            generic_xds_configs: status.types.iter().map(of_type).collect(),
            ..Default::default()
        };
        Any {
            type_url: "type.googleapis.com/envoy.service.status.v3.ClientConfig".to_owned(),
            value: prost::Message::encode_to_vec(&config),
        }
    });
    Some(pb::DiscoveryResponse {
        type_url: SYNCZ.to_owned(),
        resources: resources.collect(),
        ..Default::default()
    })
}

/// What the proxy is to have, in the shape of Envoy's own dump. Of secrets only the names.
fn config_dump(context: &Context, connection: &Connection) -> Value {
    let view = context.publisher.view(&connection.scope);
    let seen = Seen { view: &view, authenticated: connection.authenticated };
    let of = |of: ResourceType, field: &str| {
        let show = |resource: &proto::Resource| {
            let body = mapping::any_to_value(of.url(), &resource.body);
            json!({
                "versionInfo": format!("{:016x}", resource.version),
                (field): body.unwrap_or_else(|e| json!({"error": e.to_string()})),
            })
        };
        seen.all(of).resources().map(show).collect::<Vec<_>>()
    };
    let listeners: Vec<_> = seen
        .all(ResourceType::Listener)
        .resources()
        .zip(of(ResourceType::Listener, "listener"))
        .map(|(resource, state)| json!({"name": *resource.name, "activeState": state}))
        .collect();
    let secrets: Vec<_> =
        seen.all(ResourceType::Secret).resources().map(|resource| json!({"name": *resource.name})).collect();
    let type_url = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
    json!({"configs": [
        {"@type": type_url("ClustersConfigDump"), "dynamicActiveClusters": of(ResourceType::Cluster, "cluster")},
        {"@type": type_url("EndpointsConfigDump"),
            "dynamicEndpointConfigs": of(ResourceType::Endpoint, "endpointConfig")},
        {"@type": type_url("ListenersConfigDump"), "dynamicListeners": listeners},
        {"@type": type_url("RoutesConfigDump"), "dynamicRouteConfigs": of(ResourceType::Route, "routeConfig")},
        {"@type": type_url("SecretsConfigDump"), "dynamicActiveSecrets": secrets},
    ]})
}

fn endpointz(context: &Context) -> Value {
    let snapshot = context.publisher.snapshot();
    let services = snapshot.services().iter().map(|service| {
        let endpoints = snapshot.endpoints(&service.key).map(|endpoints| {
            let show = |e: &model::Endpoint| {
                json!({
                    "address": *e.address,
                    "port": e.port,
                    "portName": *e.port_name,
                    "health": format!("{:?}", e.health),
                    "workload": *e.workload,
                    "namespace": *e.namespace,
                    "serviceAccount": *e.service_account,
                    "locality": e.locality.to_string(),
                    "network": *e.network,
                    "mutualTls": e.mutual_tls,
                    "weight": e.weight,
                })
            };
            endpoints.all.iter().map(show).collect::<Vec<_>>()
        });
        json!({"svc": *service.key.host, "namespace": *service.key.namespace, "ep": endpoints.unwrap_or_default()})
    });
    services.collect()
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

pub(crate) fn json_of(value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    Some(percent_decode(pair.1))
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let decoded = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(decoded.unwrap_or(bytes[at]));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
