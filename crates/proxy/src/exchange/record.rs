//! What is remembered of a request until its end: for the access log, metrics and spans.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use decide::{
    Decision, Direction, Ended, Hcm, Headers, Known, LogEntry, PeerMetadata, Request, ResponseFlags, Times,
    UpstreamEntry,
};
use upstream::Host;

use super::pump::{Interrupt, RequestBody};
use super::serve::HttpConnection;
use super::spans::{Traced, Tried};
use crate::cluster::{Cluster, UpstreamInfo};
use crate::stats::RequestSample;
use crate::telemetry::Call;

pub struct Record {
    pub started: Instant,
    pub wall: SystemTime,
    pub code: u16,
    /// The client did not get this answer: the redirect was followed in its place.
    pub is_followed: bool,
    pub flags: ResponseFlags,
    pub details: Cow<'static, str>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub request_header_bytes: u64,
    /// The client speaks gRPC, whatever filters made of its request.
    pub is_grpc: bool,
    pub request_complete: Option<Duration>,
    pub sent_at: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub last_byte: Option<Duration>,
    pub attempts: u32,
    pub cluster: Option<Rc<Cluster>>,
    pub host: Option<Host>,
    pub info: Option<Rc<UpstreamInfo>>,
    pub upstream_protocol: Option<decide::Version>,
    /// Sent to and received from the upstream, framing included.
    pub upstream_wire: (u64, u64),
    /// What the client spoke, where its request could not be read.
    pub protocol: Option<decide::Version>,
    pub transport_failure: String,
    pub upstream_peer: Option<Arc<PeerMetadata>>,
    pub response_headers: Option<Headers>,
    pub response_trailers: Option<Headers>,
    pub local_body: String,
    pub request_messages: u64,
    pub response_messages: u64,
    pub trace: Option<Traced>,
}

impl Record {
    pub fn new(connection: &HttpConnection) -> Self {
        connection.stats.rq_total.inc();
        connection.stats.rq_active.inc();
        Self {
            started: Instant::now(),
            wall: SystemTime::now(),
            code: 0,
            is_followed: false,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            bytes_received: 0,
            bytes_sent: 0,
            request_header_bytes: 0,
            is_grpc: false,
            request_complete: None,
            sent_at: None,
            first_byte: None,
            last_byte: None,
            attempts: 0,
            cluster: None,
            host: None,
            info: None,
            upstream_protocol: None,
            upstream_wire: (0, 0),
            protocol: None,
            transport_failure: String::new(),
            upstream_peer: None,
            response_headers: None,
            response_trailers: None,
            local_body: String::new(),
            request_messages: 0,
            response_messages: 0,
            trace: None,
        }
    }

    /// What came by now of the request's body, where it has one.
    pub fn received(&mut self, body: Option<&RequestBody>, bodiless: bool) {
        self.bytes_received = body.map_or(0, |body| body.received);
        let complete = body.map_or(bodiless, |body| body.complete);
        let since = |at: Instant| at.saturating_duration_since(self.started);
        self.request_complete =
            complete.then(|| body.and_then(|body| body.completed).map_or(Duration::ZERO, since));
    }

    /// The client did not wait for its answer; other interrupts say nothing of that.
    pub fn client_left(&mut self, interrupt: &Interrupt) {
        let (flag, details) = match interrupt {
            Interrupt::DownstreamGone => {
                (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            }
            Interrupt::DownstreamReset => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
            _ => return,
        };
        self.flags.insert(flag);
        self.details = details.into();
    }

    /// Counts, logs and reports the request.
    pub fn finish(
        mut self,
        connection: &HttpConnection,
        hcm: &Hcm,
        request: Option<&Request>,
        decision: Option<&Decision>,
    ) {
        let total = self.started.elapsed();
        if let Some(request) = request {
            self.request_header_bytes = header_bytes(request);
        }
        let stats = &connection.stats;
        stats.rq_active.dec();
        if self.code != 0 && !self.is_followed {
            stats.rq_completed.inc();
            stats.code(self.code);
        }
        stats.observe(total.as_secs_f64() * 1000.0);
        if let Some(request) = request
            && hcm.counts_istio_stats()
        {
            self.count(connection, request, decision, total);
        }
        let worker = &connection.worker;
        if let Some(decision) = decision.filter(|decision| decision.is_counted()) {
            let ended = self.ended();
            worker.count(&worker.with_rng(|rng| decision.end(&ended, Instant::now(), rng)));
        }
        let trace = self.trace.take();
        if hcm.access_log.is_empty() && trace.is_none() {
            return;
        }
        let target = self.cluster.as_ref().map(|c| c.target());
        let chain = connection.chain();
        let mut entry = LogEntry::new(&connection.connection, self.wall);
        entry.request = request;
        entry.protocol = self.protocol;
        entry.filter_chain = &chain.name;
        (entry.upstream_wire_bytes_sent, entry.upstream_wire_bytes_received) = self.upstream_wire;
        entry.response_trailer_bytes = self.response_trailers.as_ref().map_or(0, |h| h.byte_size() as u64);
        entry.response_headers = self.response_headers.as_ref();
        entry.response_trailers = self.response_trailers.as_ref();
        entry.response_code = self.code;
        entry.response_code_details = &self.details;
        entry.flags = self.flags;
        entry.bytes_received = self.bytes_received;
        entry.bytes_sent = self.bytes_sent;
        entry.request_header_bytes = self.request_header_bytes;
        entry.response_header_bytes = self.response_headers.as_ref().map_or(0, |h| h.byte_size() as u64);
        entry.times = Times {
            total: Some(total),
            last_request_byte: self.request_complete,
            first_upstream_tx: self.sent_at,
            last_upstream_tx: self
                .sent_at
                .zip(self.request_complete)
                .map(|(sent, complete)| sent.max(complete)),
            first_upstream_rx: self.first_byte,
            last_upstream_rx: self.last_byte,
            first_downstream_tx: self.first_byte.or((self.code != 0).then_some(total)),
            last_downstream_tx: Some(total),
            ..Times::default()
        };
        entry.listener = &connection.listener;
        entry.hostname = &worker.node.hostname;
        entry.span = trace.as_ref().map(Traced::ids);
        entry.local_reply_body = &self.local_body;
        if let Some(decision) = decision {
            entry.route_name = decision.route_name();
            entry.downstream_remote = decision.remote;
            entry.downstream_peer = decision.peer.as_deref();
            entry.sampled = decision.trace.sampled;
        }
        let meant = decision.and_then(Decision::destination);
        entry.upstream = UpstreamEntry {
            cluster: target.as_ref().map(|t| &*t.stat_name).or(meant.map(|c| &*c.stat_name)).unwrap_or(""),
            cluster_raw: target.as_ref().map(|t| &*t.name).or(meant.map(|c| &*c.name)).unwrap_or(""),
            host: self.host.as_ref().map(Host::address),
            host_name: self.host.as_ref().map_or("", |h| &h.endpoint.hostname),
            local: self.info.as_ref().and_then(|i| i.local),
            attempts: self.attempts,
            transport_failure: &self.transport_failure,
            tls: self.info.as_ref().and_then(|i| i.tls.as_deref()),
            protocol: self.upstream_protocol,
            connection_id: self.info.as_ref().map(|i| i.id),
            peer: self.upstream_peer.as_deref(),
        };
        if !hcm.access_log.is_empty() {
            worker.write_log(&hcm.access_log, &entry);
        }
        if let (Some(mut trace), Some(request)) = (trace, request) {
            if let (Some(target), Some(host)) = (&target, &self.host) {
                let status = Some(self.code).filter(|code| *code != 0);
                let retries = self.attempts.saturating_sub(1);
                trace.end_try(worker, hcm, &Tried { target, host, status, flags: self.flags, retries });
            }
            trace.report(worker, hcm, request, &entry, decision);
        }
    }

    /// What filters learn of the answer that look at how answers are.
    fn ended(&self) -> Ended {
        let headers = self.response_headers.as_ref();
        let status = |headers: Option<&Headers>| -> Option<u32> {
            headers?.known_str(Known::GrpcStatus)?.parse().ok()
        };
        let is_grpc =
            headers.and_then(|h| h.known(Known::ContentType)).is_some_and(|t| decide::is_grpc_type(t));
        let left = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        Ended {
            status: self.code,
            grpc: is_grpc.then(|| status(headers).or_else(|| status(self.response_trailers.as_ref()))),
            complete: self.code != 0
                && !self.flags.has(left)
                && !self.flags.has(ResponseFlags::DOWNSTREAM_REMOTE_RESET),
        }
    }

    fn count(
        &self,
        connection: &HttpConnection,
        request: &Request,
        decision: Option<&Decision>,
        total: Duration,
    ) {
        if connection.direction == Direction::Unspecified {
            return;
        }
        let worker = &connection.worker;
        let target = self.cluster.as_ref().map(|c| c.target());
        let meant = decision.and_then(Decision::destination);
        let cluster = target.as_ref().map(|t| &*t.config).or(meant.map(|cluster| &**cluster));
        let grpc_status = |headers: &Option<Headers>| -> Option<u32> {
            headers.as_ref()?.known_str(Known::GrpcStatus)?.parse().ok()
        };
        let grpc = request
            .is_grpc()
            .then(|| grpc_status(&self.response_trailers).or_else(|| grpc_status(&self.response_headers)));
        let call = Call {
            direction: connection.direction,
            connection: &connection.connection,
            cluster,
            authority: &request.authority,
            route: decision.map_or("", Decision::route_name),
            downstream_peer: decision.and_then(|d| d.peer.as_ref()),
            upstream_peer: self.upstream_peer.as_ref(),
            endpoint: self.host.as_ref().map(|h| &h.endpoint.workload),
            upstream_tls: self.info.as_ref().and_then(|i| i.tls.as_deref()),
            flags: self.flags,
        };
        let sample = RequestSample {
            millis: total.as_secs_f64() * 1000.0,
            request_bytes: self.request_header_bytes + self.bytes_received,
            response_bytes: self.response_headers.as_ref().map_or(0, |h| h.byte_size() as u64)
                + self.bytes_sent,
            request_messages: self.request_messages,
            response_messages: self.response_messages,
        };
        worker.telemetry.request(&mut worker.istio.borrow_mut(), &call, self.code, grpc, &sample);
    }
}

/// Names and values as they are in the end, pseudo headers included, as Envoy counts them.
fn header_bytes(request: &Request) -> u64 {
    let pseudo = [
        (":method", request.method.as_str()),
        (":path", &request.path),
        (":authority", &request.authority),
        (":scheme", &request.scheme),
    ];
    let pseudo = pseudo.iter().filter(|(_, value)| !value.is_empty());
    (pseudo.map(|(name, value)| name.len() + value.len()).sum::<usize>() + request.headers.byte_size()) as u64
}
