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
use xds::grpc::{DELTA, Inbound, Outbound, SOTW, Sender, outbound, request};

use crate::wire;

/// Something that a sidecar has acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) sidecar: usize,
    pub(crate) resource_type: ResourceType,
    pub(crate) resources: usize,
    pub(crate) bytes: usize,
    pub(crate) at: Instant,
}

/// Raw bytes of a message, decoded by nobody.
#[derive(Clone, PartialEq, Debug, Default)]
struct Raw(Bytes);

impl prost::Message for Raw {
    fn encode_raw(&self, buf: &mut impl bytes::BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    fn decode(mut buf: impl bytes::Buf) -> Result<Self, prost::DecodeError> {
        Ok(Self(buf.copy_to_bytes(buf.remaining())))
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
        send(&sender, subscription(mode, t, node.take(), &[])).await?;
    }
    let response = response.await.context("opening the stream")?;
    let mut inbound = Inbound::new(response.into_body(), 1 << 30);
    let (mut endpoints, mut routes) = (Vec::new(), Vec::new());
    while let Some(Raw(bytes)) = inbound.message::<Raw>().await? {
        let head = wire::read(&bytes, mode == Mode::Delta).context("an unreadable response")?;
        let Some(t) = ResourceType::from_url(head.type_url) else { bail!("type {:?}", head.type_url) };
        let names = if t == ResourceType::Endpoint { &endpoints } else { &routes };
        let names: &[String] =
            if matches!(t, ResourceType::Endpoint | ResourceType::Route) { names } else { &[] };
        send(&sender, acknowledgement(mode, t, &head, names)).await?;
        let resources = head.names.len();
        let acknowledged = Acknowledged {
            sidecar: number,
            resource_type: t,
            resources,
            bytes: bytes.len(),
            at: Instant::now(),
        };
        if t == ResourceType::Cluster && endpoints.is_empty() {
            let outbound = head.names.iter().filter(|name| name.starts_with("outbound|"));
            endpoints = outbound.map(|name| (*name).to_owned()).collect();
            send(&sender, subscription(mode, ResourceType::Endpoint, None, &endpoints)).await?;
        }
        if t == ResourceType::Listener && routes.is_empty() {
            // All services are on port 80, so that this is the one route configuration that listeners refer to.
            routes = vec!["80".to_owned()];
            send(&sender, subscription(mode, ResourceType::Route, None, &routes)).await?;
        }
        if tell.send(acknowledged).is_err() {
            return Ok(());
        }
    }
    bail!("the control plane ended the stream: {:?}", inbound.status())
}

async fn send(sender: &Sender, message: Vec<u8>) -> Result<()> {
    sender.send(Bytes::from(message), Bytes::new()).await.context("the stream is closed")
}

fn subscription(mode: Mode, t: ResourceType, node: Option<core::Node>, names: &[String]) -> Vec<u8> {
    let type_url = t.url().to_owned();
    match mode {
        Mode::Delta => pb::DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: names.to_vec(),
            ..Default::default()
        }
        .encode_to_vec(),
        Mode::Sotw => {
            pb::DiscoveryRequest { node, type_url, resource_names: names.to_vec(), ..Default::default() }
                .encode_to_vec()
        }
    }
}

fn acknowledgement(mode: Mode, t: ResourceType, head: &wire::Head<'_>, names: &[String]) -> Vec<u8> {
    let (type_url, response_nonce) = (t.url().to_owned(), head.nonce.to_owned());
    match mode {
        Mode::Delta => {
            pb::DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }.encode_to_vec()
        }
        Mode::Sotw => pb::DiscoveryRequest {
            type_url,
            response_nonce,
            version_info: head.version.to_owned(),
            resource_names: names.to_vec(),
            ..Default::default()
        }
        .encode_to_vec(),
    }
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
