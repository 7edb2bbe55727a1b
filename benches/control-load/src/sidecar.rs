//! One simulated sidecar: asks as Envoy does, acknowledges everything, and tells when.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::client::conn::http2::SendRequest;
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::sync::mpsc;
use xds::Mode;
use xds::grpc::{DELTA, Outbound, SOTW, Sender, outbound, request};

use crate::wire::{Head, Messages};

/// Something that a sidecar has acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) sidecar: usize,
    pub(crate) resource_type: ResourceType,
    pub(crate) resources: usize,
    pub(crate) bytes: usize,
    pub(crate) at: Instant,
}

/// Names that a sidecar asks for, encoded once for all requests that carry them.
#[derive(Default)]
struct Wanted {
    encoded: Bytes,
}

impl Wanted {
    fn new(mode: Mode, names: Vec<String>) -> Self {
        let encoded = match mode {
            Mode::Delta => {
                pb::DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() }
                    .encode_to_vec()
            }
            Mode::Sotw => {
                pb::DiscoveryRequest { resource_names: names, ..Default::default() }.encode_to_vec()
            }
        };
        Self { encoded: encoded.into() }
    }

    fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }
}

pub(crate) async fn run(
    number: usize,
    services: usize,
    mode: Mode,
    authority: String,
    mut http: SendRequest<Outbound>,
    tell: mpsc::UnboundedSender<Acknowledged>,
) -> Result<()> {
    let path = if mode == Mode::Delta { DELTA } else { SOTW };
    let (sender, body) = outbound();
    let uri = format!("http://{authority}{path}").parse()?;
    let response = http.send_request(request(uri, body, None)?);
    let mut node = Some(node(number, services));
    for t in [ResourceType::Cluster, ResourceType::Listener] {
        subscribe(&sender, mode, t, node.take(), &Wanted::default()).await?;
    }
    let response = response.await.context("opening the stream")?;
    let mut messages = Messages::new(response.into_body());
    let (mut endpoints, mut routes) = (Wanted::default(), Wanted::default());
    loop {
        // The type stands before the resources in what our own server writes.
        let clusters_wanted = endpoints.is_empty();
        let names = |head: &Head| clusters_wanted && head.type_url == ResourceType::Cluster.url();
        let Some(head) = messages.next(mode == Mode::Delta, names).await? else { break };
        let Some(t) = ResourceType::from_url(&head.type_url) else { bail!("type {:?}", head.type_url) };
        let none = Wanted::default();
        let wanted = match t {
            ResourceType::Endpoint => &endpoints,
            ResourceType::Route => &routes,
            _ => &none,
        };
        acknowledge(&sender, mode, &head, wanted).await?;
        let (resources, bytes) = (head.resources, head.bytes);
        let acknowledged =
            Acknowledged { sidecar: number, resource_type: t, resources, bytes, at: Instant::now() };
        if t == ResourceType::Cluster && endpoints.is_empty() {
            let outbound = head.names.into_iter().filter(|name| name.starts_with("outbound|"));
            endpoints = Wanted::new(mode, outbound.collect());
            subscribe(&sender, mode, ResourceType::Endpoint, None, &endpoints).await?;
        }
        if t == ResourceType::Listener && routes.is_empty() {
            // All services are on port 80, so that this is the one route configuration that listeners refer to.
            routes = Wanted::new(mode, vec!["80".to_owned()]);
            subscribe(&sender, mode, ResourceType::Route, None, &routes).await?;
        }
        if tell.send(acknowledged).is_err() {
            return Ok(());
        }
    }
    bail!("the control plane ended the stream")
}

async fn subscribe(
    sender: &Sender,
    mode: Mode,
    t: ResourceType,
    node: Option<core::Node>,
    wanted: &Wanted,
) -> Result<()> {
    let type_url = t.url().to_owned();
    let head = match mode {
        Mode::Delta => pb::DeltaDiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec(),
        Mode::Sotw => pb::DiscoveryRequest { node, type_url, ..Default::default() }.encode_to_vec(),
    };
    sender.send(head.into(), wanted.encoded.clone()).await.context("the stream is closed")
}

/// In state of the world every request says all names again.
async fn acknowledge(sender: &Sender, mode: Mode, head: &Head, wanted: &Wanted) -> Result<()> {
    let (type_url, response_nonce) = (head.type_url.clone(), head.nonce.clone());
    let (head, names) = match mode {
        Mode::Delta => {
            let request = pb::DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() };
            (request.encode_to_vec(), Bytes::new())
        }
        Mode::Sotw => {
            let version_info = head.version.clone();
            let request =
                pb::DiscoveryRequest { type_url, response_nonce, version_info, ..Default::default() };
            (request.encode_to_vec(), wanted.encoded.clone())
        }
    };
    sender.send(head.into(), names).await.context("the stream is closed")
}

fn node(number: usize, services: usize) -> core::Node {
    let text = |value: String| Value { kind: Some(Kind::StringValue(value)) };
    let labels =
        Struct { fields: [("app".to_owned(), text(format!("service-{}", number % services)))].into() };
    let fields = [
        ("NAMESPACE".to_owned(), text("default".into())),
        ("SERVICE_ACCOUNT".to_owned(), text("default".into())),
        ("ISTIO_VERSION".to_owned(), text("1.30.0".into())),
        ("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) }),
    ];
    let address = format!("10.200.{}.{}", number / 250, number % 250 + 1);
    core::Node {
        id: format!("sidecar~{address}~sidecar-{number}.default~default.svc.cluster.local"),
        metadata: Some(Struct { fields: fields.into() }),
        ..Default::default()
    }
}
