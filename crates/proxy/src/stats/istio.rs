//! Istio's standard metrics: who called whom, how it ended, how long it took.
//!
//! The number of series is bounded: labels come from peers, and a peer must not be able to fill our memory. What does not
//! fit is counted in one series whose labels all say `overflow`.

use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use decide::{PeerMetadata, ResponseFlags};

use super::histogram::Histogram;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    Http,
    Grpc,
}

/// `connection_security_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    Unknown,
    None,
    MutualTls,
}

/// One end of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub principal: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub canonical_service: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster: Arc<str>,
}

/// The service that was called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

/// The labels of a series of requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    pub reporter: Reporter,
    pub source: Rc<Workload>,
    pub destination: Rc<Workload>,
    pub service: Rc<Service>,
    pub protocol: RequestProtocol,
    pub code: u16,
    pub flags: ResponseFlags,
    pub grpc_status: Option<u32>,
    pub security: Security,
}

/// The labels of a series of TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TcpKey {
    pub reporter: Reporter,
    pub source: Rc<Workload>,
    pub destination: Rc<Workload>,
    pub service: Rc<Service>,
    pub flags: ResponseFlags,
    pub security: Security,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct RequestSeries {
    pub requests: u64,
    pub duration: Histogram,
    pub request_bytes: Histogram,
    pub response_bytes: Histogram,
    pub request_messages: u64,
    pub response_messages: u64,
}

#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct TcpSeries {
    pub opened: u64,
    pub closed: u64,
    pub sent: u64,
    pub received: u64,
}

/// What one request adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSample {
    pub millis: f64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub request_messages: u64,
    pub response_messages: u64,
}

/// Distinct label sets that one worker keeps.
const MAX_SERIES: usize = 4096;

/// The metrics of one worker.
#[derive(Default)]
pub struct IstioStats {
    requests: AHashMap<RequestKey, RequestSeries>,
    tcp: AHashMap<TcpKey, TcpSeries>,
    contexts: Contexts,
    dropped: u64,
}

/// Calls that the application made while it was asked itself: with the trace's headers, and without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contexts {
    pub kept: u64,
    pub lost: u64,
}

impl IstioStats {
    pub fn record(&mut self, key: RequestKey, sample: &RequestSample) {
        let key = self.bounded(key);
        let series = self.requests.entry(key).or_default();
        series.requests += 1;
        series.duration.record(sample.millis);
        series.request_bytes.record(sample.request_bytes as f64);
        series.response_bytes.record(sample.response_bytes as f64);
        series.request_messages += sample.request_messages;
        series.response_messages += sample.response_messages;
    }

    fn bounded(&mut self, key: RequestKey) -> RequestKey {
        if self.requests.len() < MAX_SERIES || self.requests.contains_key(&key) {
            return key;
        }
        self.dropped += 1;
        let source = Rc::new(Workload::all("overflow"));
        let service = Rc::new(Service::all("overflow"));
        // What an upstream may say at will is left out: it would be a series each.
        let (code, grpc_status) = (key.code / 100 * 100, key.grpc_status.filter(|status| *status <= 16));
        let flags = ResponseFlags::NONE;
        RequestKey { destination: source.clone(), source, service, code, grpc_status, flags, ..key }
    }

    pub fn tcp(&mut self, key: TcpKey) -> &mut TcpSeries {
        if self.tcp.len() >= MAX_SERIES && !self.tcp.contains_key(&key) {
            self.dropped += 1;
            let source = Rc::new(Workload::all("overflow"));
            let service = Rc::new(Service::all("overflow"));
            return self
                .tcp
                .entry(TcpKey {
                    destination: source.clone(),
                    source,
                    service,
                    flags: ResponseFlags::NONE,
                    ..key
                })
                .or_default();
        }
        self.tcp.entry(key).or_default()
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn heed_context(&mut self, kept: bool) {
        *(if kept { &mut self.contexts.kept } else { &mut self.contexts.lost }) += 1;
    }

    /// `own` is who counted.
    pub fn snapshot(&self, own: &PeerMetadata) -> IstioSnapshot {
        IstioSnapshot {
            contexts: (own_labels(own), self.contexts),
            requests: self.requests.iter().map(|(k, v)| (k.labels(), v.clone())).collect(),
            tcp: self.tcp.iter().map(|(k, v)| (k.labels(), *v)).collect(),
        }
    }
}

/// Label names and values in the order of publication.
pub type Labels = Vec<(&'static str, String)>;

/// The metrics of all workers.
#[derive(Debug, Default)]
pub struct IstioSnapshot {
    /// Of this workload, by its labels.
    pub contexts: (Labels, Contexts),
    pub requests: std::collections::BTreeMap<Labels, RequestSeries>,
    pub tcp: std::collections::BTreeMap<Labels, TcpSeries>,
}

impl IstioSnapshot {
    pub fn merge(&mut self, other: Self) {
        if !other.contexts.0.is_empty() {
            self.contexts.0 = other.contexts.0;
        }
        self.contexts.1.kept += other.contexts.1.kept;
        self.contexts.1.lost += other.contexts.1.lost;
        for (labels, theirs) in other.requests {
            let ours = self.requests.entry(labels).or_default();
            ours.requests += theirs.requests;
            ours.duration.merge(&theirs.duration);
            ours.request_bytes.merge(&theirs.request_bytes);
            ours.response_bytes.merge(&theirs.response_bytes);
            ours.request_messages += theirs.request_messages;
            ours.response_messages += theirs.response_messages;
        }
        for (labels, theirs) in other.tcp {
            let ours = self.tcp.entry(labels).or_default();
            ours.opened += theirs.opened;
            ours.closed += theirs.closed;
            ours.sent += theirs.sent;
            ours.received += theirs.received;
        }
    }
}

impl Workload {
    /// Every label the same.
    pub fn all(text: &str) -> Self {
        let text: Arc<str> = text.into();
        Self {
            workload: text.clone(),
            namespace: text.clone(),
            principal: text.clone(),
            app: text.clone(),
            version: text.clone(),
            canonical_service: text.clone(),
            canonical_revision: text.clone(),
            cluster: text,
        }
    }

    /// A peer of which nothing is known; its canonical revision is `latest` as in Istio.
    pub fn unknown() -> Self {
        Self { canonical_revision: "latest".into(), ..Self::all("unknown") }
    }

    /// From what a workload says of itself, with the identity that was proved.
    pub fn of(peer: &PeerMetadata, principal: Option<&str>) -> Self {
        let or = |text: Option<&str>, default: &str| -> Arc<str> {
            text.filter(|t| !t.is_empty()).unwrap_or(default).into()
        };
        Self {
            workload: or(Some(&peer.workload), "unknown"),
            namespace: or(Some(&peer.namespace), "unknown"),
            principal: or(principal, "unknown"),
            app: or(peer.app(), "unknown"),
            version: or(peer.version(), "unknown"),
            canonical_service: or(peer.canonical_service(), "unknown"),
            canonical_revision: or(peer.canonical_revision(), "latest"),
            cluster: or(Some(&peer.cluster), "unknown"),
        }
    }

    fn push(&self, end: End, labels: &mut Labels) {
        let names = end.names();
        let values = [
            &self.workload,
            &self.namespace,
            &self.principal,
            &self.app,
            &self.version,
            &self.canonical_service,
            &self.canonical_revision,
            &self.cluster,
        ];
        labels.extend(names.into_iter().zip(values.map(|v| v.to_string())));
    }
}

/// Who counted, where no peer is involved.
fn own_labels(own: &PeerMetadata) -> Labels {
    let text = |text: Option<&str>| text.filter(|t| !t.is_empty()).unwrap_or("unknown").to_owned();
    vec![
        ("workload", text(Some(&own.workload))),
        ("workload_namespace", text(Some(&own.namespace))),
        ("app", text(own.app())),
        ("version", text(own.version())),
    ]
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl End {
    fn names(self) -> [&'static str; 8] {
        match self {
            Self::Source => [
                "source_workload",
                "source_workload_namespace",
                "source_principal",
                "source_app",
                "source_version",
                "source_canonical_service",
                "source_canonical_revision",
                "source_cluster",
            ],
            Self::Destination => [
                "destination_workload",
                "destination_workload_namespace",
                "destination_principal",
                "destination_app",
                "destination_version",
                "destination_canonical_service",
                "destination_canonical_revision",
                "destination_cluster",
            ],
        }
    }
}

impl Service {
    pub fn all(text: &str) -> Self {
        let text: Arc<str> = text.into();
        Self { host: text.clone(), name: text.clone(), namespace: text }
    }

    fn push(&self, labels: &mut Labels) {
        labels.push(("destination_service", self.host.to_string()));
        labels.push(("destination_service_name", self.name.to_string()));
        labels.push(("destination_service_namespace", self.namespace.to_string()));
    }
}

fn common(
    reporter: Reporter,
    source: &Workload,
    destination: &Workload,
    service: &Service,
    flags: ResponseFlags,
    security: Security,
) -> Labels {
    let mut labels = Labels::with_capacity(28);
    labels.push(("reporter", if reporter == Reporter::Source { "source" } else { "destination" }.into()));
    source.push(End::Source, &mut labels);
    destination.push(End::Destination, &mut labels);
    service.push(&mut labels);
    labels.push(("response_flags", flags.to_string()));
    let security = match security {
        Security::Unknown => "unknown",
        Security::None => "none",
        Security::MutualTls => "mutual_tls",
    };
    labels.push(("connection_security_policy", security.into()));
    labels
}

impl RequestKey {
    fn labels(&self) -> Labels {
        let mut labels =
            common(self.reporter, &self.source, &self.destination, &self.service, self.flags, self.security);
        let protocol = match self.protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
        };
        labels.push(("request_protocol", protocol.into()));
        labels.push(("response_code", self.code.to_string()));
        labels.push(("grpc_response_status", self.grpc_status.map(|s| s.to_string()).unwrap_or_default()));
        labels
    }
}

impl TcpKey {
    fn labels(&self) -> Labels {
        let mut labels =
            common(self.reporter, &self.source, &self.destination, &self.service, self.flags, self.security);
        labels.push(("request_protocol", "tcp".into()));
        labels
    }
}
