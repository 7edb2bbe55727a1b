//! What the service is told of a request.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::service::auth::v3 as pb;
use proto::pb::google::protobuf::{self as well_known, Timestamp};
use serde_json::{Map, Value};

use super::{BodySettings, ExtAuthz, HttpService, Service};
use crate::ask::{Call, ReceivedBody};
use crate::connection::Connection;
use crate::headers::{HeaderName, Known};
use crate::log::LogEntry;
use crate::machine::Context;
use crate::request::{Method, Request};

pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// A request as it is told.
struct Told<'a> {
    cx: &'a Context<'a>,
    request: &'a Request,
    /// Lower-case names, in order, pseudo headers first.
    headers: Vec<(String, Bytes)>,
    body: Option<(Bytes, BodySettings)>,
    received: u64,
}

impl ExtAuthz {
    /// The question to ask.
    pub(crate) fn call(
        &self,
        cx: &Context<'_>,
        request: &Request,
        body: Option<(ReceivedBody, BodySettings)>,
        extensions: HashMap<String, String>,
    ) -> Call {
        let mut headers = self.told_headers(request);
        let received = body.as_ref().map_or(0, |(body, _)| body.data.len() as u64);
        let body = body.map(|(body, settings)| {
            let part = body.data.len().min(usize::try_from(settings.max_bytes).unwrap_or(usize::MAX));
            let partial = if part < body.data.len() { "true" } else { "false" };
            headers.push((PARTIAL_BODY.to_owned(), Bytes::from_static(partial.as_bytes())));
            (body.data.slice(..part), settings)
        });
        let told = Told { cx, request, headers, body, received };
        match &self.service {
            Service::Grpc(target) => {
                let check = pb::CheckRequest { attributes: Some(self.attributes(told, extensions)) };
                Call::grpc(target, CHECK, &check)
            }
            Service::Http(service) => service.call(told),
        }
    }

    fn told_headers(&self, request: &Request) -> Vec<(String, Bytes)> {
        let pseudo = [
            (":authority", request.authority.as_str()),
            (":path", &request.path),
            (":method", request.method.as_str()),
            (":scheme", &request.scheme),
        ];
        let pseudo = pseudo
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
        let own = request
            .headers
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name.bytes()).to_ascii_lowercase(), value.clone()));
        pseudo
            .chain(own)
            .filter(|(name, _)| {
                // What a client says of this would be believed.
                name != PARTIAL_BODY
                    && !self.disallowed.matches(name.as_bytes())
                    && self.allowed.as_ref().is_none_or(|allowed| allowed.matches(name.as_bytes()))
            })
            .collect()
    }

    fn attributes(&self, told: Told<'_>, extensions: HashMap<String, String>) -> pb::AttributeContext {
        let Told { cx, request, headers, body, received } = told;
        let connection = cx.connection;
        let since = cx.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut http = pb::attribute_context::HttpRequest {
            id: connection.id.to_string(),
            method: request.method.as_str().to_owned(),
            path: request.path.clone(),
            host: request.authority.clone(),
            scheme: request.scheme.to_string(),
            size: i64::try_from(received).unwrap_or(i64::MAX),
            protocol: request.version.as_str().to_owned(),
            ..Default::default()
        };
        if self.raw_headers {
            let headers = headers.into_iter().map(|(key, value)| core::HeaderValue {
                key,
                raw_value: value.to_vec(),
                ..Default::default()
            });
            http.header_map = Some(core::HeaderMap { headers: headers.collect() });
        } else {
            http.headers = joined(headers).into_iter().map(|(k, v)| (k, printable(&v))).collect();
        }
        if let Some((data, settings)) = body {
            if settings.as_bytes {
                http.raw_body = data.to_vec();
            } else {
                http.body = printable(&data);
            }
        }
        let service = request.headers.known(Known::XEnvoyDownstreamServiceCluster).map(|s| printable(s));
        let namespaces = self.metadata_namespaces.iter();
        let metadata = namespaces
            .filter_map(|name| Some((name.to_string(), struct_of(request.metadata.filter(name)?))))
            .collect();
        let (source, destination) = peers(connection, self.peer_certificate, service.unwrap_or_default());
        pb::AttributeContext {
            source: Some(source),
            destination: Some(destination),
            request: Some(pb::attribute_context::Request {
                time: Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }),
                http: Some(http),
            }),
            context_extensions: extensions,
            metadata_context: Some(core::Metadata { filter_metadata: metadata, ..Default::default() }),
            route_metadata_context: Some(core::Metadata::default()),
            tls_session: self
                .tls_session
                .then(|| pb::attribute_context::TlsSession { sni: connection.server_name.to_string() }),
        }
    }
}

impl HttpService {
    /// The request's head, with another path and without its body, or with the part of it that is wanted.
    fn call(&self, told: Told<'_>) -> Call {
        let mut request = Request::new(Method::Get, "", "");
        request.scheme = "http".into();
        let body = told.body.map(|(data, _)| data).unwrap_or_default();
        request.headers.append(Known::ContentLength, body.len().to_string());
        for (name, value) in joined(told.headers) {
            let text = String::from_utf8_lossy(&value);
            match name.as_str() {
                ":method" => request.method = Method::new(&text),
                ":authority" => request.authority = text.into_owned(),
                ":path" if !self.path_override.is_empty() => request.path = self.path_override.to_string(),
                ":path" => request.path = format!("{}{text}", self.path_prefix),
                ":scheme" | "content-length" => {}
                _ => request.headers.append(HeaderName::from(name.as_str()), value),
            }
        }
        let mut entry = LogEntry::new(told.cx.connection, told.cx.start);
        entry.request = Some(told.request);
        self.headers_to_add.apply_simply(&mut request.headers, &entry);
        Call::http(self.cluster.clone(), request, body, self.timeout)
    }
}

/// Repeated headers as one, as a map holds them.
fn joined(headers: Vec<(String, Bytes)>) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::<String, Bytes>::new();
    for (name, value) in headers {
        match all.get_mut(&name) {
            Some(before) => *before = [&before[..], b",", &value].concat().into(),
            None => _ = all.insert(name, value),
        }
    }
    all
}

/// Envoy writes an exclamation mark for each byte that is no UTF-8.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n('!', chunk.invalid().len()));
    }
    text
}

/// Both ends of a connection.
pub(super) fn peers(
    connection: &Connection,
    certificate: bool,
    service: String,
) -> (pb::attribute_context::Peer, pb::attribute_context::Peer) {
    let tls = connection.tls.as_deref();
    let certificate = tls.filter(|_| certificate).map(|tls| tls.peer_pem.to_string());
    let source = pb::attribute_context::Peer {
        address: Some(address(connection.remote)),
        service,
        principal: tls.map(|tls| tls.principal().to_owned()).unwrap_or_default(),
        certificate: certificate.unwrap_or_default(),
        ..Default::default()
    };
    let destination = pb::attribute_context::Peer {
        address: Some(address(connection.local)),
        principal: tls
            .map(|tls| tls.local_uris.first().or(tls.local_dns.first()).unwrap_or(&tls.local_subject))
            .map(|name| name.to_string())
            .unwrap_or_default(),
        ..Default::default()
    };
    (source, destination)
}

fn address(address: SocketAddr) -> core::Address {
    use core::address::Address as Kind;
    use core::socket_address::PortSpecifier;
    core::Address {
        address: Some(Kind::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

pub(crate) fn struct_of(map: &Map<String, Value>) -> well_known::Struct {
    well_known::Struct { fields: map.iter().map(|(k, v)| (k.clone(), value_of(v))).collect() }
}

fn value_of(value: &Value) -> well_known::Value {
    use well_known::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(all) => {
            Kind::ListValue(well_known::ListValue { values: all.iter().map(value_of).collect() })
        }
        Value::Object(map) => Kind::StructValue(struct_of(map)),
    };
    well_known::Value { kind: Some(kind) }
}
