//! The tries of one request: hosts one after the other until an answer stands, or none will.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use decide::{Decision, Forward, HostRewriteLater, Known, LocalReply, ResponseFlags, Retry};
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
struct Tries {
    retry: RetryState,
    tried: Vec<Host>,
    stale: u32,
    fresh: bool,
    /// Counts a retry against its breaker while it runs.
    _retrying: Option<Permit>,
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
}
