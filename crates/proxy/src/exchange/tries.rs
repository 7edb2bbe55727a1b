//! The tries of one request: hosts one after the other until an answer stands, or none will.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use decide::{Decision, Forward, HostRewriteLater, Known, LocalReply, Response, ResponseFlags, Retry};
use upstream::{
    Address, Endpoint, Host, LbKind, Outcome, Permit, Pick, Resource, RetryState, Verdict as RetryVerdict,
};

use super::attempt::{self, Begun, Failed, attempt, is_idempotent};
use super::failure::TryError;
use super::forward::Exchange;
use super::pump::{Interrupt, RequestBody, while_wanted};
use super::spans;
use super::timers::Timers;
use crate::cluster::Cluster;
use crate::wire::{RequestHead, Reset};

/// How often a request moves on because its pooled connection was stale.
const MAX_STALE: u32 = 3;

/// The state of the tries of one request.
#[derive(Default)]
pub(super) struct Tries {
    pub(super) retry: RetryState,
    pub(super) tried: Vec<Host>,
    stale: u32,
    pub(super) fresh: bool,
    /// Counts a retry against its breaker while it runs.
    retrying: Option<Permit>,
}

/// Whether there is another try.
pub(super) enum Again {
    /// After so long.
    After(Duration),
    /// The policy wants none.
    No,
    /// The policy wants one, and there is none left.
    Unable,
}

impl Tries {
    /// The policy wants no more of them; if there was one, it is the one that it wanted.
    pub(super) fn succeeded(&mut self, cluster: &Cluster) {
        if self.retrying.take().is_some() {
            cluster.stats().rq_retry_success.inc();
        }
    }
}

impl Exchange<'_, '_> {
    /// Tries until an answer stands. The error is the reply to give, or nothing when the client is gone.
    pub(super) async fn try_hosts(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &mut RequestHead,
        cluster: &Rc<Cluster>,
        body: &mut RequestBody,
        timers: &mut Timers,
    ) -> Result<(Begun, Host, Rc<Cluster>), Option<Box<LocalReply>>> {
        if forward.hedge {
            return Box::pin(self.try_hedged(decision, forward, head, cluster, body, timers)).await;
        }
        let mut tries = Tries::default();
        let of = cluster;
        let mut same: Option<(Host, Rc<Cluster>)> = None;
        loop {
            let chosen = same.take().or_else(|| self.choose(forward, of, &tries.tried));
            let Some((host, own)) = chosen else {
                self.record.attempts = tries.retry.retries() + 1;
                return Err(Some(none_healthy(cluster)));
            };
            let cluster = &own;
            self.record.attempts = tries.retry.retries() + 1;
            self.record.host = Some(host.clone());
            self.prepare(decision, forward, head, &host, timers.left());
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
                    cluster.observe_latency(&host, begun.sent_at.elapsed());
                    self.heed(cluster, &host, &begun.head.response);
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
    pub(super) fn replay(
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
            self.observe(cluster, host, outcome);
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
        Err(self.reply_to(forward, &error, tries, body))
    }

    /// What the client gets where no try is left, or nothing when it is gone.
    pub(super) fn reply_to(
        &mut self,
        forward: &Forward,
        error: &TryError,
        tries: &Tries,
        body: &RequestBody,
    ) -> Option<Box<LocalReply>> {
        if let TryError::Interrupt(interrupt) = error {
            self.record.client_left(interrupt);
        }
        let mut reply = error.reply(tries.retry.retries() > 0, body.complete)?;
        if reply.flags.has(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) && forward.timeout_status != 504 {
            reply.status = forward.timeout_status;
            reply.body = bytes::Bytes::new();
        }
        reply.flags.insert(self.record.flags);
        Some(Box::new(reply))
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
        let wait = self.told_wait(retry, &begun.head.response);
        let attempt = retry.attempt_of(&begun.head.response);
        self.again(forward, retry, cluster, (attempt, wait), tries, timers).await
    }

    /// How long the upstream says to wait, with jitter.
    pub(super) fn told_wait(&self, retry: &Retry, response: &Response) -> Option<Duration> {
        let told = retry.told_wait(response, SystemTime::now())?;
        self.connection.worker.with_rng(|rng| retry.policy.wait_as_told(told, rng))
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
        let Again::After(wait) = self.ask_again(forward, retry, cluster, attempt, tries) else {
            return Ok(false);
        };
        timers.end_try();
        tries.fresh = false;
        match while_wanted(self.down, timers, tokio::time::sleep(told.unwrap_or(wait))).await {
            Ok(()) => Ok(true),
            Err(interrupt) => {
                self.record.client_left(&interrupt);
                let error = TryError::from(interrupt);
                self.count_failure(cluster, &error);
                Err(error.reply(true, true).map(Box::new))
            }
        }
    }

    /// Asks the policy and the breakers for another try.
    pub(super) fn ask_again(
        &mut self,
        forward: &Forward,
        retry: &Retry,
        cluster: &Cluster,
        attempt: upstream::Attempt,
        tries: &mut Tries,
    ) -> Again {
        let before = tries.retrying.take();
        let verdict =
            self.connection.worker.with_rng(|rng| tries.retry.consider(&retry.policy, attempt, rng));
        let wait = match verdict {
            RetryVerdict::No => {
                tries.retrying = before;
                tries.succeeded(cluster);
                return Again::No;
            }
            RetryVerdict::Exhausted => {
                // The last of them may still succeed.
                tries.retrying = before;
                cluster.stats().rq_retry_limit_exceeded.inc();
                self.record.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                return Again::Unable;
            }
            RetryVerdict::Retry(wait) => wait,
        };
        drop(before);
        let Some(permit) = cluster.state().breakers.acquire(Resource::Retry, forward.priority) else {
            cluster.stats().rq_retry_overflow.inc();
            self.record.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return Again::Unable;
        };
        tries.retrying = Some(permit);
        cluster.stats().rq_retry.inc();
        Again::After(wait)
    }

    /// A host, and whose it is: an aggregate of clusters has none of its own.
    pub(super) fn choose(
        &self,
        forward: &Forward,
        of: &Rc<Cluster>,
        tried: &[Host],
    ) -> Option<(Host, Rc<Cluster>)> {
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
    pub(super) fn prepare(
        &self,
        decision: &Decision,
        forward: &Forward,
        head: &mut RequestHead,
        host: &Host,
        left: Option<Duration>,
    ) {
        if self.record.attempts > 1
            && let (Some(expected), Some(left)) = (&forward.expected, left)
        {
            expected.at_most(left).announce(&mut head.request);
        }
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
    pub(super) fn end_try(&mut self, cluster: &Cluster, host: &Host, status: Option<u16>) {
        let (flags, retries) = (self.record.flags, self.record.attempts.saturating_sub(1));
        if let Some(trace) = &mut self.record.trace {
            let tried = spans::Tried { target: &cluster.target(), host, status, flags, retries };
            trace.end_try(&self.connection.worker, self.hcm, &tried);
        }
    }

    /// What an answer says of the host's health.
    pub(super) fn heed(&self, cluster: &Rc<Cluster>, host: &Host, response: &Response) {
        self.observe(cluster, host, Outcome::Status(response.status));
        if response.headers.contains(Known::XEnvoyImmediateHealthCheckFail) {
            cluster.state().fail_check(&cluster.endpoints(), host);
        }
    }

    pub(super) fn observe(&self, cluster: &Rc<Cluster>, host: &Host, outcome: Outcome) {
        self.connection.worker.with_rng(|rng| cluster.record(host, outcome, rng));
    }

    pub(super) fn count_failure(&self, cluster: &Cluster, error: &TryError) {
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
}

/// What the client gets where no host can be used.
pub(super) fn none_healthy(cluster: &Cluster) -> Box<LocalReply> {
    cluster.stats().cx_none_healthy.inc();
    let reply = LocalReply::new(503, "no healthy upstream", "no_healthy_upstream");
    Box::new(reply.with_flags(ResponseFlags::NO_HEALTHY_UPSTREAM))
}
