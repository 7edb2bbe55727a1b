//! One try: a connection, the request sent on it, the response's head.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decide::{Forward, Known, Method, UpstreamTransport, Version};
use upstream::Host;

use super::failure::TryError;
use super::pump::{Interrupt, RequestBody, await_head, while_wanted};
use super::timers::Timers;
use crate::cluster::{
    AcquireError, Cluster, H1Lease, H2Lease, HttpProtocol, Lease, Target, TlsOverride, UpstreamInfo, Want,
};
use crate::stats::HttpStats;
use crate::wire::{
    BodyLength, Downstream, H2ClientStream, RequestHead, Reset, ResponseHead, Upstream, h2_request_of,
    reset_of,
};

/// What holds the connection while its stream is in use.
pub enum Held {
    H1(H1Lease),
    /// Held: its drop ends the count of streams.
    H2(H2Lease),
}

/// A try that got as far as a response.
pub struct Begun {
    pub upstream: Upstream,
    pub held: Held,
    pub head: ResponseHead,
    pub info: Rc<UpstreamInfo>,
    pub sent_at: Instant,
}

/// What a failed try leaves behind.
pub struct Failed {
    pub error: TryError,
    /// On a connection that had served before, and the peer never began to answer.
    pub stale: bool,
    pub sent: bool,
    pub info: Option<Rc<UpstreamInfo>>,
    /// What the connection spoke, where there was one.
    pub version: Option<Version>,
}

impl Failed {
    fn before(error: impl Into<TryError>) -> Self {
        Self { error: error.into(), stale: false, sent: false, info: None, version: None }
    }
}

impl From<AcquireError> for TryError {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(error)
    }
}

/// What does not change from try to try.
pub struct Plan<'a> {
    pub cluster: &'a Rc<Cluster>,
    pub forward: &'a Forward,
    /// Of who answers the client.
    pub stats: &'a HttpStats,
}

impl Plan<'_> {
    /// An interim answer that goes on to the client.
    pub fn count_interim(&self, head: &ResponseHead) {
        self.cluster.stats().code(head.response.status);
        self.cluster.stats().rq_completed.inc();
        self.stats.code(head.response.status);
        self.stats.rq_completed.inc();
    }

    fn http2(&self, version: Version) -> (bool, bool) {
        match self.cluster.target().protocol {
            HttpProtocol::Http1 => (false, false),
            HttpProtocol::Http2 => (true, false),
            HttpProtocol::Downstream => (version == Version::Http2, false),
            HttpProtocol::Alpn => (false, true),
        }
    }
}

/// A request that was sent to a host, or is being sent.
pub struct Flying {
    pub upstream: Upstream,
    held: Held,
    info: Rc<UpstreamInfo>,
    pub sent_at: Instant,
    /// On a connection that had served before.
    reused: bool,
    /// The body waits for a tunnel to be accepted.
    pub holds_body: bool,
}

/// Sends the request to the host and waits for the head of its answer.
pub async fn attempt(
    plan: &Plan<'_>,
    host: &Host,
    request: &RequestHead,
    fresh: bool,
    down: &mut Downstream<'_>,
    body: &mut RequestBody,
    timers: &mut Timers,
) -> Result<Begun, Failed> {
    let mut flying = match while_wanted(down, timers, launch(plan, host, request, fresh)).await {
        Ok(launched) => launched?,
        Err(interrupt) => return Err(Failed::before(interrupt)),
    };
    let idle = plan.forward.retry.as_ref().and_then(|retry| retry.policy.per_try_idle_timeout);
    timers.start_try(plan.forward.per_try_timeout, idle);
    if flying.holds_body {
        body.hold();
    }
    match await_head(plan, down, &mut flying.upstream, body, timers).await {
        Ok(head) => Ok(flying.arrived(head)),
        Err(interrupt) => Err(flying.fail(plan.cluster, interrupt)),
    }
}

/// Finds a connection to the host and puts the request's head on it.
pub async fn launch(
    plan: &Plan<'_>,
    host: &Host,
    request: &RequestHead,
    fresh: bool,
) -> Result<Flying, Failed> {
    let (http2, by_alpn) = plan.http2(request.request.version);
    let want = Want {
        host,
        http2,
        by_alpn,
        tls: tls_override(
            &plan.cluster.target(),
            host,
            &request.request.authority,
            plan.forward.alpn.as_deref(),
            http2,
            by_alpn,
        ),
        priority: plan.forward.priority,
        fresh,
        careful: !is_idempotent(&request.request.method),
    };
    let acquired = plan.cluster.acquire(&want).await.map_err(Failed::before)?;
    plan.cluster.stats().rq_total.inc();
    let sent_at = Instant::now();
    match acquired {
        Lease::H1(lease) => launch_h1(lease, request, sent_at),
        Lease::H2(lease) => launch_h2(lease, request, sent_at).await,
    }
}

impl Flying {
    /// The head of the answer is there.
    pub fn arrived(self, head: ResponseHead) -> Begun {
        Begun { upstream: self.upstream, held: self.held, head, info: self.info, sent_at: self.sent_at }
    }

    /// No answer will come of it.
    pub fn fail(self, cluster: &Cluster, interrupt: Interrupt) -> Failed {
        let info = Some(self.info);
        match self.held {
            Held::H1(_) => {
                let stale = self.reused
                    && interrupt == Interrupt::Upstream(Reset::ConnectionTermination)
                    && !self.upstream.response_began();
                let sent = self.upstream.sent_anything();
                Failed { error: interrupt.into(), stale, sent, info, version: Some(Version::Http11) }
            }
            Held::H2(lease) => {
                if interrupt.resets_upstream() {
                    cluster.stats().rq_tx_reset.inc();
                }
                if matches!(interrupt, Interrupt::Upstream(Reset::ConnectionTermination | Reset::Refused)) {
                    lease.retire();
                }
                // Refused streams were never looked at: RFC 9113, section 8.7.
                let stale = interrupt == Interrupt::Upstream(Reset::Refused);
                Failed { error: interrupt.into(), stale, sent: true, info, version: Some(Version::Http2) }
            }
        }
    }
}

pub fn tls_override(
    target: &Target,
    host: &Host,
    authority: &str,
    alpn: Option<&[Arc<str>]>,
    http2: bool,
    by_alpn: bool,
) -> TlsOverride {
    let tells = target
        .transport(&host.endpoint)
        .and_then(|(_, transport)| transport.tls.as_deref())
        .is_none_or(tls::ClientTls::offers_alpn);
    let alpn: Option<Vec<Vec<u8>>> = match alpn {
        Some(alpn) => Some(alpn.iter().map(|p| p.as_bytes().to_vec()).collect()),
        // Nothing is configured: what will be spoken is offered, as Envoy does.
        None if !tells && !by_alpn => Some(vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }]),
        None => None,
    };
    let config = &target.config;
    let sni = if config.http.auto_sni {
        Some(host_only(authority).into())
    } else if matches!(&config.transport, UpstreamTransport::Tls(tls) if tls.auto_host_sni) {
        Some(&*host.endpoint.hostname).filter(|name| !name.is_empty()).map(Into::into)
    } else {
        None
    };
    TlsOverride { sni, alpn }
}

fn host_only(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => &authority[..at],
        _ => authority,
    }
}

/// Methods that may be sent again although the first copy may have been read.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        method,
        Method::Get | Method::Head | Method::Options | Method::Trace | Method::Put | Method::Delete
    )
}

fn launch_h1(mut lease: H1Lease, request: &RequestHead, sent_at: Instant) -> Result<Flying, Failed> {
    let Some(mut client) = lease.client.take() else {
        return Err(Failed::before(Interrupt::Upstream(Reset::Remote)));
    };
    client.send_head(request);
    Ok(Flying {
        info: lease.info.clone(),
        reused: lease.reused,
        upstream: Upstream::H1(client),
        held: Held::H1(lease),
        sent_at,
        holds_body: request.request.upgrade.is_some() || request.request.is_connect(),
    })
}

async fn launch_h2(lease: H2Lease, request: &RequestHead, sent_at: Instant) -> Result<Flying, Failed> {
    let info = lease.info();
    let failed = |error: Reset, stale| Failed {
        error: Interrupt::Upstream(error).into(),
        stale,
        sent: false,
        info: Some(info.clone()),
        version: Some(Version::Http2),
    };
    let mut message = h2_request_of(request).map_err(|r| failed(r, false))?;
    message.headers_mut().remove("host");
    let end = request.body == BodyLength::None
        && !request.request.is_connect()
        && request.request.upgrade.is_none();
    let sent = match lease.send.clone().ready().await {
        Ok(mut sender) => sender.send_request(message, end),
        Err(error) => Err(error),
    };
    let (response, stream) = match sent {
        Ok(pair) => pair,
        Err(error) => {
            lease.retire();
            return Err(failed(reset_of(&error), true));
        }
    };
    Ok(Flying {
        upstream: Upstream::H2(H2ClientStream::new(response, stream, end)),
        held: Held::H2(lease),
        info,
        sent_at,
        reused: false,
        // A tunnel that is to be: its stream stays open.
        holds_body: !end && request.body == BodyLength::None,
    })
}

impl Held {
    /// Gives the connection back after an exchange that ended well.
    pub fn release(self, upstream: Upstream, response: &decide::Headers) {
        match (self, upstream) {
            (Self::H1(lease), Upstream::H1(client)) => lease.release(client, keep_alive_timeout(response)),
            // A stream that ended takes nothing with it.
            (Self::H2(_) | Self::H1(_), _) => {}
        }
    }
}

/// `Keep-Alive: timeout=5`, before the header is dropped as one of the connection's own.
fn keep_alive_timeout(headers: &decide::Headers) -> Option<Duration> {
    let text = headers.known_str(Known::KeepAlive)?;
    let seconds = text.split(',').find_map(|p| p.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds))
}
