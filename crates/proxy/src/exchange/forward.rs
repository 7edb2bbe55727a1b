//! One request: decided, then answered by us or tried upstream until an answer stands.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use decide::{
    Decision, Followed, Forward, Hcm, InternalRedirects, JwtCounts, Known, LocalReply, NotFollowed,
    Outcome as Verdict, Plan, Request, ResponseFlags,
};
use upstream::Resource;

use super::answer::Origin;
use super::attempt::Begun;
use super::deciding::{decide, decide_after, finish_reply};
use super::failure::TryError;
use super::flow::Flow;
use super::mirror;
use super::process::Sessions;
use super::pump::{Cursor, Interrupt, Passed, RequestBody, while_wanted};
use super::record::Record;
use super::serve::HttpConnection;
use super::spans;
use super::timers::Timers;
use crate::cluster::Cluster;
use crate::net::NameError;
use crate::stats::HttpStats;
use crate::wire::{BodyLength, Downstream, Frame, RequestHead, ResponseHead};

/// Body kept for another try where no retry policy asks for more.
const KEEP: usize = 64 * 1024;

pub async fn handle(
    connection: &Rc<HttpConnection>,
    plan: &Arc<Plan>,
    hcm: &Arc<Hcm>,
    mut head: RequestHead,
    mut down: Downstream<'_>,
    close: bool,
) {
    let mut record = Record::new(connection);
    record.request_header_bytes = head.request.headers.byte_size() as u64;
    record.is_grpc = head.request.is_grpc();
    let mut exchange = Exchange::new(connection, plan, hcm, close, &mut down, &mut record);
    if connection.worker.overloaded(|overload, rng| overload.refuses_request(rng)) {
        connection.stats.rq_overload_close.inc();
        let reply = LocalReply::new(503, "envoy overloaded", "overload");
        exchange.reply(reply, None, &head).await;
        record.finish(connection, hcm, Some(&head.request), None);
        return;
    }
    let mut decision = match decide(&mut exchange, &mut head.request, head.body).await {
        Ok(decision) => decision,
        Err(interrupt) => {
            exchange.record.client_left(&interrupt);
            tracing::trace!(?interrupt, "no more is heard of the request that is decided on");
            if let Some(reply) = TryError::from(interrupt).reply(false, false) {
                exchange.reply(reply, None, &head).await;
            }
            record.finish(connection, hcm, Some(&head.request), None);
            return;
        }
    };
    let (mut received, mut asked) = (exchange.received.take(), exchange.asked);
    let mut followed = Followed::default();
    let mut sessions = exchange.sessions.take();
    loop {
        settle_length(&decision, received.as_ref(), &mut head);
        record.received(received.as_ref(), head.body == BodyLength::None);
        count(connection, &decision);
        record.flags.insert(decision.flags);
        record.trace = spans::begin(connection, hcm, &decision, &mut head.request);
        let mut exchange = Exchange::new(connection, plan, hcm, close, &mut down, &mut record);
        (exchange.received, exchange.asked) = (received.take(), asked);
        exchange.followed = std::mem::take(&mut followed);
        if let Some(sessions) = sessions.take() {
            sessions.metadata(|metadata| metadata.clone_from(&head.request.metadata));
            exchange.sessions = Some(sessions);
        }
        match &decision.outcome {
            Verdict::Reply(reply) => {
                if asked && !reply.close {
                    // There was time to read on.
                    exchange.drain(&head).await;
                }
                exchange.reply((**reply).clone(), Some(&decision), &head).await;
            }
            Verdict::Reset => {
                exchange.record.details = "reset_by_policy".into();
                exchange.down.abort();
            }
            Verdict::Forward(forward) => exchange.forward(&decision, forward, &mut head).await,
        }
        let next = exchange.next.take();
        followed = std::mem::take(&mut exchange.followed);
        if let Some(sessions) = exchange.sessions.take() {
            // What processors said of the answer is known to logs.
            head.request.metadata = sessions.metadata(|metadata| metadata.clone());
        }
        if decision.upgrade {
            connection.stats.cx_upgrades_active.dec();
        }
        for _ in 0..down.take_continues() {
            connection.stats.code(100);
            connection.stats.rq_completed.inc();
        }
        record.finish(connection, hcm, Some(&head.request), Some(&decision));
        let Some(next) = next else { return };
        (head, decision, received, asked) = (next.head, next.decision, Some(next.body), next.asked);
        sessions = next.sessions;
        followed.count += 1;
        match &down {
            Downstream::H1(_) => connection.stats.rq_http1_total.inc(),
            Downstream::H2(_) => connection.stats.rq_http2_total.inc(),
        }
        record = Record::new(connection);
        record.request_header_bytes = head.request.headers.byte_size() as u64;
        record.is_grpc = head.request.is_grpc();
    }
}

/// Of a body that was waited for the length is known now.
fn settle_length(decision: &Decision, body: Option<&RequestBody>, head: &mut RequestHead) {
    if decision.resized && (head.body != BodyLength::None || body.is_some_and(|body| body.length() > 0)) {
        head.body = BodyLength::Unknown;
    }
    let told = head.request.headers.contains(Known::ContentLength);
    let wanted = decision.buffered || decision.resized && told;
    if let Some(body) = body.filter(|body| wanted && body.complete && !body.has_trailers())
        && head.body == BodyLength::Unknown
    {
        head.body = BodyLength::Known(body.length());
        head.request.headers.set(Known::ContentLength, body.length().to_string());
    }
}

/// What filters and the decision count.
fn count(connection: &HttpConnection, decision: &Decision) {
    let stats = &connection.stats;
    connection.worker.count(&decision.counts);
    if let (Some(status), Some(cluster)) = (decision.charged, decision.destination())
        && let Some(cluster) = connection.worker.cluster(&cluster.name)
    {
        charge(&cluster, status);
    }
    count_tokens(stats, decision.jwt);
    stats.rbac_allowed.add(u64::from(decision.rbac_allowed));
    stats.csrf_valid.add(u64::from(decision.csrf.valid));
    stats.csrf_invalid.add(u64::from(decision.csrf.invalid));
    stats.csrf_missing.add(u64::from(decision.csrf.missing));
    if decision.upgrade {
        stats.cx_upgrades_total.inc();
        stats.cx_upgrades_active.inc();
    }
}

/// A request that an answer asked for, and that is made in the client's place.
struct NextRequest {
    head: RequestHead,
    decision: Box<Decision>,
    body: RequestBody,
    asked: bool,
    sessions: Option<Sessions>,
}

fn count_tokens(stats: &HttpStats, of: JwtCounts) {
    for (counter, count) in [
        (&stats.jwt_allowed, of.allowed),
        (&stats.jwt_denied, of.denied),
        (&stats.jwt_preflights, of.preflights),
        (&stats.jwt_cache_miss, of.judged),
        (&stats.jwks_fetch_success, of.fetched),
        (&stats.jwks_fetch_failed, of.not_fetched),
    ] {
        counter.add(u64::from(count));
    }
}

/// One request with everything that answering it needs.
pub struct Exchange<'a, 'd> {
    pub connection: &'a Rc<HttpConnection>,
    pub plan: &'a Arc<Plan>,
    pub hcm: &'a Arc<Hcm>,
    pub close: bool,
    pub down: &'a mut Downstream<'d>,
    pub record: &'a mut Record,
    /// The request's body as far as deciding wanted to see it.
    pub received: Option<RequestBody>,
    /// Deciding asked somebody else.
    pub asked: bool,
    /// Of the host that the request names, where its cluster is for that.
    pub resolved: Option<SocketAddr>,
    /// Streams to external processors.
    pub sessions: Option<Sessions>,
    /// Filters have had the answer, and another takes its place.
    pub filtered: bool,
    /// The answer's head is on its way to the client.
    pub head_sent: bool,
    /// The redirects that the request has followed, and the next one.
    pub(super) followed: Followed,
    next: Option<Box<NextRequest>>,
}

impl<'a, 'd> Exchange<'a, 'd> {
    fn new(
        connection: &'a Rc<HttpConnection>,
        plan: &'a Arc<Plan>,
        hcm: &'a Arc<Hcm>,
        close: bool,
        down: &'a mut Downstream<'d>,
        record: &'a mut Record,
    ) -> Self {
        Self {
            connection,
            plan,
            hcm,
            close,
            down,
            record,
            received: None,
            asked: false,
            resolved: None,
            sessions: None,
            filtered: false,
            head_sent: false,
            followed: Followed::default(),
            next: None,
        }
    }
}

impl Exchange<'_, '_> {
    /// What filters of bodies share.
    pub fn sessions(&mut self, request: &Request) -> Sessions {
        let worker = &self.connection.worker;
        self.sessions.get_or_insert_with(|| Sessions::new(worker, &request.metadata)).clone()
    }

    /// Answers by ourselves.
    pub async fn reply(&mut self, reply: LocalReply, decision: Option<&Decision>, head: &RequestHead) {
        self.record.flags.insert(reply.flags);
        self.record.details = reply.details.clone();
        if reply.direct && &*reply.details == "direct_response" {
            self.connection.stats.rq_direct_response.inc();
        }
        if reply.flags.has(ResponseFlags::FAULT_INJECTED) {
            self.connection.stats.fault_aborts.inc();
        }
        if reply.flags.has(ResponseFlags::NO_CLUSTER_FOUND) {
            self.connection.stats.no_cluster.inc();
        }
        if reply.details.starts_with("rbac_access_denied") {
            self.connection.stats.rbac_denied.inc();
        }
        let (mut response, mut body, trailers_only) = finish_reply(self, &reply, decision, head);
        self.record.local_body = String::from_utf8_lossy(&body).into_owned();
        let is_head = head.request.method == decide::Method::Head;
        let mut filtered = None;
        if let Some(decision) = decision.filter(|decision| !self.filtered && decision.filters_answers()) {
            let length =
                if body.is_empty() { BodyLength::None } else { BodyLength::Known(body.len() as u64) };
            let mut answer = ResponseHead { response, body: length, upgrade: None };
            let mut passed = Passed { flow: Flow::whole(body, None), ..Passed::default() };
            let way = self.filter(decision, head, &mut answer, is_head, &mut Origin::Own, &mut passed).await;
            let rest = match way {
                Ok(()) => self.rest_of_own(&mut passed).await,
                Err(interrupt) => Err(interrupt),
            };
            match rest {
                Ok(rest) => (response, body) = (answer.response, rest),
                Err(Interrupt::Reply(reply)) => {
                    // Filters have had their say.
                    self.filtered = true;
                    return Box::pin(self.reply(LocalReply::clone(&reply.0), Some(decision), head)).await;
                }
                Err(interrupt) => {
                    self.record.client_left(&interrupt);
                    return self.down.abort();
                }
            }
            filtered = (answer.body != length).then_some(answer.body);
        }
        if let Some(decision) = decision {
            decision.finish(self.hcm, &mut response);
        }
        response.headers.set(Known::Date, crate::clock::http_date());
        if reply.flags.has(ResponseFlags::NO_ROUTE_FOUND) {
            self.connection.stats.no_route.inc();
        }
        let told = response.headers.known_str(Known::ContentLength).and_then(|n| n.parse().ok());
        let length = match (told, response.status) {
            _ if trailers_only => BodyLength::None,
            (_, 204 | 304) => BodyLength::None,
            _ if filtered.is_some() => filtered.unwrap_or(BodyLength::Unknown),
            // That of the body that a HEAD does not get.
            (Some(n), _) => BodyLength::Known(n),
            (None, _) => BodyLength::Known(0),
        };
        let mut message = ResponseHead { response, body: length, upgrade: None };
        if length == BodyLength::None {
            message.response.headers.remove_known(Known::ContentLength);
        }
        self.record.code = message.response.status;
        // What the client still sends of its request is not read: an HTTP/1 connection cannot go on. As in Envoy, it does
        // not after a bad request either.
        let close = self.close
            || self.connection.worker.is_draining(self.connection.direction)
            || !self.down.body_is_done()
            || reply.close
            || (reply.status == 400 && !reply.direct)
            || head.request.upgrade.is_some()
            || head.request.is_connect();
        if self.down.send_head(&message, None, close).is_err() {
            return;
        }
        if !is_head && !body.is_empty() {
            self.record.bytes_sent = body.len() as u64;
            self.down.send_data(body);
        }
        self.down.send_end(None);
        let _ = poll_fn(|cx| self.down.poll_flush(cx)).await;
        self.record.response_headers = Some(message.response.headers);
    }

    /// Takes in what is there of the request already: its connection need not end for that.
    async fn drain(&mut self, head: &RequestHead) {
        if head.request.headers.contains(Known::Expect) || head.request.upgrade.is_some() {
            return;
        }
        let mut left = KEEP as u64;
        poll_fn(|cx| {
            while left > 0 && !self.down.body_is_done() {
                match self.down.poll_body(cx) {
                    Poll::Ready(Ok(Frame::Data(data))) => {
                        self.record.bytes_received += data.len() as u64;
                        left = left.saturating_sub(data.len() as u64);
                    }
                    Poll::Ready(Ok(Frame::Trailers(_) | Frame::End) | Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    async fn forward(&mut self, decision: &Decision, forward: &Forward, head: &mut RequestHead) {
        let worker = self.connection.worker.clone();
        let Some(cluster) = worker.cluster(&forward.cluster.name) else {
            let reply =
                LocalReply::new(503, "", "cluster_not_found").with_flags(ResponseFlags::NO_CLUSTER_FOUND);
            return self.reply(reply, Some(decision), head).await;
        };
        self.record.cluster = Some(cluster.clone());
        match self.look_up(forward, head, &cluster).await {
            Ok(resolved) => self.resolved = resolved,
            Err(Some(reply)) => {
                let mut reply = *reply;
                if forward.dynamic.is_none() {
                    // As a cluster says it that has no host.
                    charge(&cluster, reply.status);
                    self.record.attempts = 1;
                    reply.body = "no healthy upstream".into();
                    reply.flags = ResponseFlags::NO_HEALTHY_UPSTREAM;
                }
                return self.reply(reply, Some(decision), head).await;
            }
            Err(None) => return self.down.abort(),
        }
        let first = cluster.stands_for(&worker).map_or_else(|| cluster.clone(), |(first, _)| first);
        let dropped = first.endpoints().drop_per_million();
        if dropped > 0 && worker.draw(1_000_000) < u64::from(dropped) {
            let reply = LocalReply::new(503, "drop overload", "drop_overload")
                .with_flags(ResponseFlags::DROP_OVERLOAD);
            charge(&cluster, reply.status);
            return self.reply(reply, Some(decision), head).await;
        }
        let Some(_in_flight) = first.state().breakers.acquire(Resource::Request, forward.priority) else {
            self.record.attempts = 1;
            if first.state().breakers.acquire(Resource::Pending, forward.priority).is_none() {
                cluster.stats().pending_overflow.inc();
            }
            let overflow = TryError::Acquire(crate::cluster::AcquireError::Overflow);
            if let Some(reply) = overflow.reply(false, true) {
                charge(&cluster, reply.status);
                self.reply(reply, Some(decision), head).await;
            }
            return;
        };
        cluster.stats().rq_active.inc();
        self.send(decision, forward, head, &cluster).await;
        cluster.stats().rq_active.dec();
    }

    /// The address of the host that the request names, where its cluster is for that.
    async fn look_up(
        &mut self,
        forward: &Forward,
        head: &RequestHead,
        cluster: &Cluster,
    ) -> Result<Option<SocketAddr>, Option<Box<LocalReply>>> {
        let target = cluster.target();
        let Some(names) = &target.names else { return Ok(None) };
        // Without the filter it is the cluster that looks up.
        let authority = forward.dynamic.as_deref().unwrap_or(&head.request.authority);
        let secure = target.transports.last().is_some_and(|transport| transport.tls.is_some());
        let (host, port) = host_and_port(authority, if secure { 443 } else { 80 });
        match while_wanted(self.down, &mut Timers::default(), names.resolve(host)).await {
            Ok(Ok(address)) => Ok(Some(SocketAddr::new(address, port))),
            Ok(Err(error)) => Err(Some(Box::new(unresolved(&error)))),
            Err(interrupt) => {
                self.record.client_left(&interrupt);
                Err(None)
            }
        }
    }

    async fn send(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &mut RequestHead,
        cluster: &Rc<Cluster>,
    ) {
        self.settle_expectation(head);
        let grpc = head.request.is_grpc();
        let redirects = decision.action().is_some_and(|action| action.redirects.is_some());
        let limit = if forward.retry.is_some() || redirects { self.connection.buffer_limit } else { KEEP };
        let replayable = head.request.upgrade.is_none();
        let mut body = match self.received.take() {
            Some(body) => body.goes_on(replayable, limit, grpc),
            None => RequestBody::new(head.body, replayable, limit, grpc),
        };
        if head.body != BodyLength::None {
            for filter in &decision.body_filters {
                let sessions = self.sessions(&head.request);
                if let Err(interrupt) = body.filter(filter, &sessions) {
                    if let Some(reply) = TryError::from(interrupt).reply(false, body.complete) {
                        self.reply(reply, Some(decision), head).await;
                    }
                    return;
                }
            }
        }
        body.mirror_to(mirror::start(&self.connection.worker, forward, head));
        let mut timers = self.connection.timers.take().unwrap_or_default();
        timers.begin(
            forward.timeout,
            forward.idle_timeout,
            forward.max_stream_duration,
            cluster.target().config.http.max_stream_duration,
        );
        if body.complete {
            timers.start();
        }
        let result = self.try_hosts(decision, forward, head, cluster, &mut body, &mut timers).await;
        self.record.received(Some(&body), false);
        match result {
            Ok((begun, host, own)) => {
                let Some(begun) = self.follow(decision, head, cluster, begun, &mut body).await else {
                    return;
                };
                let passed = self
                    .pass(
                        decision,
                        forward,
                        head,
                        (cluster, &own),
                        begun,
                        &host,
                        &mut body,
                        &mut timers,
                        grpc,
                    )
                    .await;
                if let Err(interrupt) = passed {
                    Box::pin(self.broken(decision, cluster, &interrupt, head)).await;
                }
                self.record.received(Some(&body), false);
            }
            Err(None) => {
                cluster.stats().rq_cancelled.inc();
                self.connection.stats.rq_rx_reset.inc();
                self.down.abort();
            }
            Err(Some(reply)) => {
                if is_of_the_router(&reply) {
                    charge(cluster, reply.status);
                }
                let at_once = reply.flags.has(ResponseFlags::NO_HEALTHY_UPSTREAM)
                    || reply.flags.has(ResponseFlags::UPSTREAM_OVERFLOW);
                if !at_once {
                    // There was time to read on, as Envoy does.
                    self.drain(head).await;
                }
                self.reply(*reply, Some(decision), head).await;
            }
        }
        self.record.request_messages = body.messages.count;
        self.connection.timers.set(Some(timers));
    }

    /// Follows a redirect where the route says so: what comes back is the answer to pass on, or nothing.
    async fn follow(
        &mut self,
        decision: &Decision,
        head: &RequestHead,
        cluster: &Cluster,
        begun: Begun,
        body: &mut RequestBody,
    ) -> Option<Begun> {
        let redirects = decision.action().and_then(|action| action.redirects.as_deref());
        let Some(redirects) = redirects.filter(|r| r.concerns(&begun.head.response)) else {
            return Some(begun);
        };
        match Box::pin(self.redirected(redirects, decision, head, &begun, body)).await {
            Ok(next) => {
                self.record.code = begun.head.response.status;
                self.record.is_followed = true;
                cluster.stats().redirects_succeeded.inc();
                self.record.details = "internal_redirect".into();
                self.next = Some(next);
                None
            }
            Err(why) => {
                cluster.stats().redirects_failed.inc();
                let stats = &self.connection.stats;
                match why {
                    None => {}
                    Some(NotFollowed::BadLocation) => stats.redirect_bad_location.inc(),
                    Some(NotFollowed::UnsafeScheme) => stats.redirect_unsafe_scheme.inc(),
                    Some(NotFollowed::TooMany) => stats.redirect_too_many.inc(),
                    Some(NotFollowed::NoRoute) => stats.redirect_no_route.inc(),
                    Some(NotFollowed::Predicate) => stats.redirect_predicate.inc(),
                }
                Some(begun)
            }
        }
    }

    async fn redirected(
        &mut self,
        redirects: &InternalRedirects,
        before: &Decision,
        head: &RequestHead,
        begun: &Begun,
        body: &mut RequestBody,
    ) -> Result<Box<NextRequest>, Option<NotFollowed>> {
        if !body.complete || !body.can_replay() || head.request.upgrade.is_some() || head.request.is_connect()
        {
            return Err(None);
        }
        let secure = self.connection.connection.tls.is_some();
        let answer = &begun.head.response;
        let mut next = redirects.follow(&head.request, answer, &self.followed, secure)?;
        let length = if next.with_body { head.body } else { BodyLength::None };
        // Where the upstream is that answered: it goes on from there if this comes to nothing.
        let mut given = Cursor::default();
        if next.with_body {
            body.turn_to(&mut given);
            self.received = Some(std::mem::take(body));
        }
        // Filters begin anew with the request that follows.
        let before_it = self.sessions.take();
        let decided = decide_after(self, &mut next, length, (redirects, before)).await;
        let own = self.received.take();
        let sessions = std::mem::replace(&mut self.sessions, before_it);
        match decided {
            Ok(decision) => {
                let grpc = next.request.is_grpc();
                let body = own.unwrap_or_else(|| RequestBody::new(BodyLength::None, true, 0, grpc));
                let head = RequestHead { request: next.request, body: length };
                Ok(Box::new(NextRequest { head, decision, body, asked: self.asked, sessions }))
            }
            Err(why) => {
                if let (true, Some(own)) = (next.with_body, own) {
                    *body = own;
                    body.turn_to(&mut given);
                }
                Err(why)
            }
        }
    }

    /// `Expect: 100-continue` goes on to the upstream where configured, and is answered here elsewhere.
    fn settle_expectation(&mut self, head: &mut RequestHead) {
        if !head.request.headers.contains(Known::Expect) {
            return;
        }
        match self.down {
            // The client was told already.
            _ if self.received.is_some() => _ = head.request.headers.remove_known(Known::Expect),
            Downstream::H1(server) if self.hcm.proxy_100_continue => server.forward_continue(),
            Downstream::H2(_) if self.hcm.proxy_100_continue => {}
            _ => _ = head.request.headers.remove_known(Known::Expect),
        }
    }
}

/// Of an authority, with the port that stands for itself.
fn host_and_port(authority: &str, default: u16) -> (&str, u16) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, port.parse().unwrap_or(default)),
        _ => (authority, default),
    }
}

/// What a client gets whose host has no address.
fn unresolved(error: &NameError) -> LocalReply {
    match error {
        NameError::Full => LocalReply::new(503, "DNS cache overflow", "dns_cache_overflow"),
        NameError::Overflow => LocalReply::new(
            503,
            "Dynamic forward proxy pending request overflow",
            "dynamic_forward_proxy_pending_request_overflow",
        ),
        NameError::Failed(reason) => {
            let mut reply = LocalReply::new(503, "DNS resolution failure", "");
            reply.details = format!("dns_resolution_failure{{{}}}", reason.replace(' ', "_")).into();
            reply.with_flags(ResponseFlags::DNS_FAILURE)
        }
    }
}

/// Whether an answer of ours is the router's, who counts it for the cluster; the connection manager's are its own.
fn is_of_the_router(reply: &LocalReply) -> bool {
    !reply.of_filter
        && !matches!(
            &*reply.details,
            "stream_idle_timeout"
                | "max_duration_timeout"
                | "upstream_max_stream_duration_reached"
                | "http1.codec_error"
        )
}

/// Counts the status that a request to a cluster ended with, whoever said it.
pub(super) fn charge(cluster: &Cluster, status: u16) {
    cluster.stats().code(status);
    cluster.stats().rq_completed.inc();
}
