//! One request: decided, then answered by us or tried upstream until an answer stands.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use decide::{
    Decision, Forward, Hcm, HostRewriteLater, InternalRedirects, JwtCounts, Known, LocalReply,
    Outcome as Verdict, Plan, ResponseFlags, Retry,
};
use upstream::{
    Address, Endpoint, Host, LbKind, Outcome, Permit, Pick, Resource, RetryState, Verdict as RetryVerdict,
};

use super::attempt::{self, Begun, Failed, attempt, is_idempotent};
use super::coding::Encoder;
use super::deciding::{decide, finish_reply, finish_response};
use super::failure::TryError;
use super::mirror;
use super::pump::{GrpcCounter, Interrupt, Passed, RequestBody, pass_body, while_wanted};
use super::record::Record;
use super::serve::HttpConnection;
use super::spans;
use super::timers::Timers;
use crate::cluster::Cluster;
use crate::net::NameError;
use crate::stats::HttpStats;
use crate::wire::{BodyLength, Downstream, Frame, RequestHead, Reset, ResponseHead, Upstream};

/// Body kept for another try where no retry policy asks for more.
const KEEP: usize = 64 * 1024;
/// How often a request moves on because its pooled connection was stale.
const MAX_STALE: u32 = 3;

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
    let mut exchange = Exchange::new(connection, plan, hcm, close, &mut down, &mut record);
    let mut decision = match decide(&mut exchange, &mut head.request, head.body, None).await {
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
    let (mut received, mut asked, mut followed) = (exchange.received.take(), exchange.asked, 0);
    loop {
        settle_length(&decision, received.as_ref(), &mut head);
        record.bytes_received = received.as_ref().map_or(0, |body| body.received);
        count(connection, &decision);
        record.flags.insert(decision.flags);
        record.trace = spans::begin(connection, hcm, &decision, &mut head.request);
        let mut exchange = Exchange::new(connection, plan, hcm, close, &mut down, &mut record);
        (exchange.received, exchange.asked, exchange.followed) = (received.take(), asked, followed);
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
        followed += 1;
        match &down {
            Downstream::H1(_) => connection.stats.rq_http1_total.inc(),
            Downstream::H2(_) => connection.stats.rq_http2_total.inc(),
        }
        record = Record::new(connection);
        record.request_header_bytes = head.request.headers.byte_size() as u64;
    }
}

/// Of a body that was waited for the length is known now.
fn settle_length(decision: &Decision, body: Option<&RequestBody>, head: &mut RequestHead) {
    if let Some(body) = body.filter(|body| decision.buffered && body.complete && !body.has_trailers())
        && head.body == BodyLength::Unknown
    {
        head.body = BodyLength::Known(body.received);
        head.request.headers.set(Known::ContentLength, body.received.to_string());
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
struct Next {
    head: RequestHead,
    decision: Decision,
    body: RequestBody,
    asked: bool,
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
    /// How many redirects the request has followed, and the next one.
    followed: u32,
    next: Option<Box<Next>>,
}

/// The state of the tries of one request.
struct Tries {
    retry: RetryState,
    tried: Vec<Host>,
    stale: u32,
    fresh: bool,
    /// Counts a retry against its breaker while it runs.
    _retrying: Option<Permit>,
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
            followed: 0,
            next: None,
        }
    }
}

impl Exchange<'_, '_> {
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
        let has_body = !body.is_empty() && head.request.method != decide::Method::Head;
        let coding = decision.and_then(|decision| decision.encode(&mut response, has_body));
        self.record.local_body = String::from_utf8_lossy(&body).into_owned();
        if let Some(coding) = coding {
            body = Encoder::whole(coding, &body);
        }
        if reply.flags.has(ResponseFlags::NO_ROUTE_FOUND) {
            self.connection.stats.no_route.inc();
        }
        let told = response.headers.known_str(Known::ContentLength).and_then(|n| n.parse().ok());
        let length = match (told, response.status) {
            _ if trailers_only => BodyLength::None,
            (_, 204 | 304) => BodyLength::None,
            _ if coding.is_some() => BodyLength::Unknown,
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
        if head.request.method != decide::Method::Head && !body.is_empty() {
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
        self.record.bytes_received = body.received;
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
                    self.broken(cluster, &interrupt).await;
                }
                self.record.bytes_received = body.received;
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
        match self.redirected(redirects, decision, head, &begun, body).await {
            Some(next) => {
                self.record.code = begun.head.response.status;
                self.record.is_followed = true;
                cluster.stats().redirects_succeeded.inc();
                self.record.details = "internal_redirect".into();
                self.next = Some(next);
                None
            }
            None => {
                cluster.stats().redirects_failed.inc();
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
    ) -> Option<Box<Next>> {
        if !body.complete || !body.can_replay() || head.request.upgrade.is_some() || head.request.is_connect()
        {
            return None;
        }
        let secure = self.connection.connection.tls.is_some();
        let answer = &begun.head.response;
        let (mut request, with_body) = redirects.follow(&head.request, answer, self.followed, secure)?;
        let length = if with_body { head.body } else { BodyLength::None };
        if with_body {
            body.rewind();
            self.received = Some(std::mem::take(body));
        }
        let decided = decide(self, &mut request, length, Some(before)).await;
        let own = self.received.take();
        match decided {
            Ok(decision) if decision.matched.is_some() => {
                let grpc = request.is_grpc();
                let body = own.unwrap_or_else(|| RequestBody::new(BodyLength::None, true, 0, grpc));
                let head = RequestHead { request, body: length };
                Some(Box::new(Next { head, decision, body, asked: self.asked }))
            }
            _ => {
                if let (true, Some(own)) = (with_body, own) {
                    *body = own;
                }
                None
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

    /// Tries until an answer stands. The error is the reply to give, or nothing when the client is gone.
    async fn try_hosts(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &mut RequestHead,
        cluster: &Rc<Cluster>,
        body: &mut RequestBody,
        timers: &mut Timers,
    ) -> Result<(Begun, Host, Rc<Cluster>), Option<Box<LocalReply>>> {
        let mut tries =
            Tries { retry: RetryState::new(), tried: Vec::new(), stale: 0, fresh: false, _retrying: None };
        let of = cluster;
        let mut same: Option<(Host, Rc<Cluster>)> = None;
        loop {
            let chosen = same.take().or_else(|| self.choose(forward, of, &tries.tried));
            let Some((host, own)) = chosen else {
                cluster.stats().cx_none_healthy.inc();
                self.record.attempts = tries.retry.retries() + 1;
                let reply = LocalReply::new(503, "no healthy upstream", "no_healthy_upstream")
                    .with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return Err(Some(Box::new(reply)));
            };
            let cluster = &own;
            self.record.attempts = tries.retry.retries() + 1;
            self.record.host = Some(host.clone());
            self.prepare(decision, forward, head, &host);
            if let Some(trace) = &mut self.record.trace {
                trace.begin_try(&self.connection.worker, self.hcm, &mut head.request.headers);
            }
            let active = host.start_request();
            let plan = attempt::Plan { cluster, forward, stats: &self.connection.stats };
            let result = attempt(&plan, &host, head, tries.fresh, self.down, body, timers).await;
            drop(active);
            match result {
                Ok(begun) => {
                    timers.settle_try();
                    let status = begun.head.response.status;
                    self.observe(cluster, &host, Outcome::Status(status), status);
                    if begun.head.response.headers.contains(Known::XEnvoyImmediateHealthCheckFail) {
                        cluster.state().fail_check(&cluster.endpoints(), &host);
                    }
                    if let Some(retry) = forward.retry.as_deref()
                        && body.can_replay()
                        && status != 101
                        && self.again_after(forward, retry, of, &begun, &mut tries, timers).await?
                    {
                        self.end_try(cluster, &host, Some(status));
                        if !begun.upstream.is_over() {
                            cluster.stats().rq_tx_reset.inc();
                        }
                        body.rewind();
                        tries.tried.push(host);
                        continue;
                    }
                    if tries.retry.retries() > 0 && status < 500 {
                        cluster.stats().rq_retry_success.inc();
                    }
                    self.record.info = Some(begun.info.clone());
                    self.record.upstream_protocol = Some(begun.upstream.version());
                    return Ok((begun, host, own));
                }
                Err(failed) => {
                    timers.end_try();
                    if let Some(info) = &failed.info {
                        self.record.info = Some(info.clone());
                    }
                    self.record.upstream_protocol = failed.version;
                    self.end_try(cluster, &host, None);
                    if self.replay(&failed, head, body, &mut tries, cluster) {
                        same = Some((host, own));
                        continue;
                    }
                    self.after_failure(forward, (of, cluster), &host, failed, body, &mut tries, timers)
                        .await?;
                    tries.tried.push(host);
                }
            }
        }
    }

    /// Whether a request on a stale connection, which nobody read, goes again on a fresh one.
    fn replay(
        &self,
        failed: &Failed,
        head: &RequestHead,
        body: &mut RequestBody,
        tries: &mut Tries,
        cluster: &Cluster,
    ) -> bool {
        let refused = failed.error == TryError::Interrupt(Interrupt::Upstream(crate::wire::Reset::Refused));
        let safe = refused || !failed.sent || is_idempotent(&head.request.method);
        if !failed.stale || !safe || !body.can_replay() || tries.stale >= MAX_STALE {
            return false;
        }
        tries.stale += 1;
        tries.fresh = true;
        body.rewind();
        cluster.stats().stale_replayed.inc();
        true
    }

    /// After a failed try: goes on, or ends with the reply to give.
    #[expect(clippy::too_many_arguments, reason = "what a try consists of, each borrowed from another owner")]
    async fn after_failure(
        &mut self,
        forward: &Forward,
        (of, cluster): (&Rc<Cluster>, &Rc<Cluster>),
        host: &Host,
        failed: Failed,
        body: &mut RequestBody,
        tries: &mut Tries,
        timers: &mut Timers,
    ) -> Result<(), Option<Box<LocalReply>>> {
        let Failed { error, sent, .. } = failed;
        if let Some(outcome) = error.outcome() {
            let worker = &self.connection.worker;
            worker.with_rng(|rng| cluster.record(host, outcome, rng));
        }
        self.count_failure(cluster, &error);
        self.record.transport_failure = error.transport_failure();
        if let (Some(retry), Some(attempt)) = (forward.retry.as_deref(), error.attempt(sent))
            && body.can_replay()
            && self.again(forward, retry, of, (attempt, None), tries, timers).await?
        {
            body.rewind();
            return Ok(());
        }
        if let TryError::Interrupt(interrupt) = &error {
            self.record.client_left(interrupt);
        }
        let reply = error.reply(tries.retry.retries() > 0, body.complete);
        Err(reply.map(|mut reply| {
            if reply.flags.has(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) && forward.timeout_status != 504 {
                reply.status = forward.timeout_status;
                reply.body = bytes::Bytes::new();
            }
            reply.flags.insert(self.record.flags);
            Box::new(reply)
        }))
    }

    /// The same of an answer that has begun.
    async fn again_after(
        &mut self,
        forward: &Forward,
        retry: &Retry,
        cluster: &Rc<Cluster>,
        begun: &Begun,
        tries: &mut Tries,
        timers: &mut Timers,
    ) -> Result<bool, Option<Box<LocalReply>>> {
        let response = &begun.head.response;
        let told = retry.told_wait(response, SystemTime::now());
        let wait =
            told.and_then(|told| self.connection.worker.with_rng(|rng| retry.policy.wait_as_told(told, rng)));
        self.again(forward, retry, cluster, (retry.attempt_of(response), wait), tries, timers).await
    }

    /// Asks the policy and the breakers for another try, and waits the back-off, or as long as the upstream said.
    async fn again(
        &mut self,
        forward: &Forward,
        retry: &Retry,
        cluster: &Rc<Cluster>,
        (attempt, told): (upstream::Attempt, Option<Duration>),
        tries: &mut Tries,
        timers: &mut Timers,
    ) -> Result<bool, Option<Box<LocalReply>>> {
        let verdict =
            self.connection.worker.with_rng(|rng| tries.retry.consider(&retry.policy, attempt, rng));
        let wait = match verdict {
            RetryVerdict::No => return Ok(false),
            RetryVerdict::Exhausted => {
                cluster.stats().rq_retry_limit_exceeded.inc();
                self.record.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                return Ok(false);
            }
            RetryVerdict::Retry(wait) => told.unwrap_or(wait),
        };
        timers.end_try();
        tries._retrying = None;
        let Some(permit) = cluster.state().breakers.acquire(Resource::Retry, forward.priority) else {
            cluster.stats().rq_retry_overflow.inc();
            self.record.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return Ok(false);
        };
        tries._retrying = Some(permit);
        cluster.stats().rq_retry.inc();
        tries.fresh = false;
        match while_wanted(self.down, timers, tokio::time::sleep(wait)).await {
            Ok(()) => Ok(true),
            Err(interrupt) => {
                self.record.client_left(&interrupt);
                let error = TryError::from(interrupt);
                self.count_failure(cluster, &error);
                Err(error.reply(true, true).map(Box::new))
            }
        }
    }

    /// A host, and whose it is: an aggregate of clusters has none of its own.
    fn choose(&self, forward: &Forward, of: &Rc<Cluster>, tried: &[Host]) -> Option<(Host, Rc<Cluster>)> {
        let (cluster, place) = of.stands_for(&self.connection.worker)?;
        if cluster.target().names.is_some() {
            return Some((Host::detached(Endpoint::new(Address::Socket(self.resolved?))), cluster));
        }
        let set = cluster.endpoints();
        if cluster.target().original_destination || set.policy().kind == LbKind::OriginalDestination {
            let connection = &self.connection.connection;
            let restored: Option<SocketAddr> = connection.local_restored.then_some(connection.local);
            let to = forward.original_destination.or(restored)?;
            return Some((Host::detached(Endpoint::new(Address::Socket(to))), cluster));
        }
        let policy = forward.retry.as_deref().map(|r| &r.policy);
        let avoid: &[Host] = if policy.is_some_and(|p| p.avoid_previous_hosts) { tried } else { &[] };
        let attempts = if avoid.is_empty() { 1 } else { policy.map_or(1, |p| p.host_attempts) };
        let worker = &self.connection.worker;
        let host = worker.with_rng(|rng| {
            cluster.pick(
                &Pick {
                    hash: forward.hash,
                    avoid,
                    attempts,
                    subset: Some(&forward.subset),
                    place,
                    ..Pick::default()
                },
                rng,
            )
        });
        host.map(|host| (host, cluster))
    }

    /// What differs from try to try in the head.
    fn prepare(&self, decision: &Decision, forward: &Forward, head: &mut RequestHead, host: &Host) {
        if forward.attempt_count {
            head.request.headers.set(Known::XEnvoyAttemptCount, self.record.attempts.to_string());
        }
        if forward.host_rewrite == HostRewriteLater::Auto
            && !host.endpoint.hostname.is_empty()
            && let Some(action) = decision.action()
            && head.request.authority != *host.endpoint.hostname
        {
            action.set_host(&mut head.request, host.endpoint.hostname.to_string());
        }
    }

    /// The span of a try whose answer does not stand.
    fn end_try(&mut self, cluster: &Cluster, host: &Host, status: Option<u16>) {
        let (flags, retries) = (self.record.flags, self.record.attempts.saturating_sub(1));
        if let Some(trace) = &mut self.record.trace {
            let tried = spans::Tried { target: &cluster.target(), host, status, flags, retries };
            trace.end_try(&self.connection.worker, self.hcm, &tried);
        }
    }

    fn observe(&self, cluster: &Rc<Cluster>, host: &Host, outcome: Outcome, status: u16) {
        let _ = status;
        self.connection.worker.with_rng(|rng| cluster.record(host, outcome, rng));
    }

    fn count_failure(&self, cluster: &Cluster, error: &TryError) {
        let stats = cluster.stats();
        match error {
            TryError::Interrupt(Interrupt::RequestTimeout) => stats.rq_timeout.inc(),
            TryError::Interrupt(Interrupt::PerTryTimeout) => stats.rq_per_try_timeout.inc(),
            TryError::Interrupt(Interrupt::PerTryIdle) => stats.rq_per_try_idle_timeout.inc(),
            TryError::Interrupt(Interrupt::StreamIdle) => self.connection.stats.rq_idle_timeout.inc(),
            TryError::Interrupt(Interrupt::MaxDuration) => self.connection.stats.rq_max_duration.inc(),
            TryError::Interrupt(Interrupt::Upstream(Reset::Remote | Reset::Refused)) => {
                stats.rq_rx_reset.inc()
            }
            TryError::Interrupt(_) | TryError::Acquire(_) => {}
        }
    }

    /// Passes the answer on.
    #[allow(clippy::too_many_arguments)]
    async fn pass(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &RequestHead,
        (of, cluster): (&Rc<Cluster>, &Rc<Cluster>),
        begun: Begun,
        host: &Host,
        body: &mut RequestBody,
        timers: &mut Timers,
        grpc: bool,
    ) -> Result<(), Interrupt> {
        let _active = host.start_request();
        let Begun { mut upstream, held, head: mut answer, info: _, sent_at } = begun;
        body.forget();
        let took: Duration = sent_at.elapsed();
        cluster.stats().observe(took.as_secs_f64() * 1000.0);
        let started = self.record.started;
        self.record.sent_at = Some(sent_at.duration_since(started));
        self.record.first_byte = Some(started.elapsed());
        // HTTP/2 accepts with a 2xx, and HTTP/1 accepts CONNECT so; an upgrade it accepts by 101 alone.
        let by_success = head.request.is_connect() || matches!(upstream, Upstream::H2(_));
        let accepted = answer.response.status == 101
            || head.request.upgrade.is_some() && by_success && answer.response.status / 100 == 2
            || head.request.is_connect() && answer.response.status / 100 == 2;
        let tunnel = forward.upgrade && accepted;
        if tunnel && head.request.upgrade.is_some() {
            // What HTTP/2 says by 200.
            answer.response.status = 101;
        }
        let keep = answer.response.headers.clone();
        charge(of, answer.response.status);
        // How long an upstream took is known where it had the whole request.
        let told = (body.complete && !forward.upgrade).then_some(took);
        self.record.upstream_peer =
            finish_response(self, decision, &head.request, &mut answer.response, told);
        self.record.details = "via_upstream".into();
        let wanted = head.request.upgrade.as_deref().unwrap_or_default().as_bytes();
        let upgrade = tunnel.then(|| answer.upgrade.take().map_or_else(|| wanted.to_vec(), |u| u.to_vec()));
        self.settle_tunnel(head, &mut answer, tunnel);
        let has_body = !matches!(answer.body, BodyLength::None | BodyLength::Known(0))
            && head.request.method != decide::Method::Head
            && !tunnel;
        let coding = decision.encode(&mut answer.response, has_body);
        if coding.is_some() {
            answer.body = BodyLength::Unknown;
        }
        self.record.code = answer.response.status;
        let upgrade_header = upgrade.as_deref().filter(|u| !u.is_empty() && answer.response.status == 101);
        let close = self.close
            || self.connection.worker.is_draining(self.connection.direction)
            || (!body.complete && !tunnel)
            || (forward.upgrade && !tunnel);
        self.down.send_head(&answer, upgrade_header, close).map_err(|_| Interrupt::DownstreamGone)?;
        self.record.response_headers = Some(answer.response.headers);
        if tunnel {
            timers.disarm();
            self.down.become_tunnel();
            upstream.become_tunnel();
            body.reopen();
        }
        let encoder = coding.map(Encoder::new);
        let mut passed = Passed { messages: GrpcCounter::enabled(grpc), encoder, ..Passed::default() };
        let result = pass_body(self.down, &mut upstream, body, timers, tunnel, &mut passed).await;
        self.record.bytes_sent = passed.bytes;
        self.record.upstream_wire = upstream.wire_bytes();
        self.record.response_messages = passed.messages.count;
        self.record.response_trailers = passed.trailers;
        self.record.last_byte = Some(started.elapsed());
        result?;
        if passed.left && matches!(self.down, Downstream::H1(_)) {
            self.record.client_left(&Interrupt::DownstreamGone);
        }
        if forward.upgrade && !tunnel && matches!(upstream, Upstream::H2(_)) {
            cluster.stats().rq_tx_reset.inc();
        }
        held.release(upstream, &keep);
        Ok(())
    }

    /// An upgrade between versions: HTTP/1 says 101 where HTTP/2 says 200.
    fn settle_tunnel(&self, head: &RequestHead, answer: &mut ResponseHead, tunnel: bool) {
        if !tunnel {
            return;
        }
        answer.body = BodyLength::Unknown;
        answer.response.headers.remove_known(Known::ContentLength);
        let upgrade = head.request.upgrade.is_some();
        match self.down {
            Downstream::H1(_) if upgrade => {
                answer.response.status = 101;
                answer.body = BodyLength::None;
            }
            Downstream::H1(_) => answer.body = BodyLength::None,
            Downstream::H2(_) => answer.response.status = 200,
        }
    }

    /// The answer broke off after its head was sent: the client must be able to tell.
    async fn broken(&mut self, cluster: &Cluster, interrupt: &Interrupt) {
        use ResponseFlags as F;
        let (flag, details) = match interrupt {
            Interrupt::DownstreamGone => {
                (F::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            }
            Interrupt::DownstreamReset => (F::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
            Interrupt::DownstreamBad(_) => (F::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error"),
            Interrupt::Upstream(crate::wire::Reset::Protocol(_)) => {
                (F::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_after_response_started{protocol_error}")
            }
            Interrupt::Upstream(crate::wire::Reset::ConnectionTermination) => (
                F::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_after_response_started{connection_termination}",
            ),
            Interrupt::Upstream(_) => {
                (F::UPSTREAM_REMOTE_RESET, "upstream_reset_after_response_started{remote_reset}")
            }
            Interrupt::RequestTimeout | Interrupt::PerTryTimeout => {
                (F::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
            }
            Interrupt::PerTryIdle => (F::UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_idle_timeout"),
            Interrupt::StreamIdle => (F::STREAM_IDLE_TIMEOUT, "stream_idle_timeout"),
            Interrupt::MaxDuration => (F::DURATION_TIMEOUT, "max_duration_timeout"),
            Interrupt::UpstreamMaxDuration => {
                (F::UPSTREAM_MAX_STREAM_DURATION, "upstream_max_stream_duration_reached")
            }
        };
        self.record.flags.insert(flag);
        self.record.details = details.into();
        match interrupt {
            Interrupt::DownstreamGone | Interrupt::DownstreamReset => {
                cluster.stats().rq_cancelled.inc();
                self.connection.stats.rq_rx_reset.inc();
            }
            Interrupt::Upstream(Reset::Remote | Reset::Refused) => cluster.stats().rq_rx_reset.inc(),
            Interrupt::RequestTimeout => cluster.stats().rq_timeout.inc(),
            Interrupt::StreamIdle => self.connection.stats.rq_idle_timeout.inc(),
            Interrupt::MaxDuration => self.connection.stats.rq_max_duration.inc(),
            _ => {}
        }
        if self.record.upstream_protocol == Some(decide::Version::Http2) && interrupt.resets_upstream() {
            cluster.stats().rq_tx_reset.inc();
        }
        if matches!(self.down, Downstream::H2(_)) {
            // A reset would overtake what the client is to get of the answer.
            let _ = poll_fn(|cx| Poll::Ready(self.down.poll_flush(cx).is_ready())).await;
            tokio::task::yield_now().await;
        }
        self.down.abort();
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
    !matches!(
        &*reply.details,
        "stream_idle_timeout"
            | "max_duration_timeout"
            | "upstream_max_stream_duration_reached"
            | "http1.codec_error"
    )
}

/// Counts the status that a request to a cluster ended with, whoever said it.
fn charge(cluster: &Cluster, status: u16) {
    cluster.stats().code(status);
    cluster.stats().rq_completed.inc();
}
