//! Hedging: a try that takes longer than a try may goes on, and another is made beside it; the first answer that stands
//! wins, and the others are reset. At any time there is at most one try, or one to come, that no other stands in for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use decide::{Decision, Forward, LocalReply};
use tokio::time::Instant;
use upstream::{ActiveRequest, Attempt, Host, Outcome, Permit, Resource};

use super::attempt::{self, Begun, Failed, Flying, launch};
use super::failure::TryError;
use super::forward::{Exchange, charge};
use super::pump::{Cursor, Interrupt, RequestBody, poll_answer};
use super::spans;
use super::timers::{Alarm, Timers};
use super::tries::{Again, Tries, none_healthy};
use crate::cluster::Cluster;
use crate::wire::{Downstream, RequestHead, ResponseHead};

/// One of the tries that are under way.
struct Flight<'f> {
    place: Place,
    _active: ActiveRequest,
    way: Way<'f>,
    /// What it has been given of the body.
    cursor: Cursor,
    /// Its time has begun, and is over.
    timed: bool,
    slow: bool,
    per_try: Alarm,
    idle: Alarm,
    /// Another stands in for it.
    retried: bool,
    span: Option<Box<spans::Attempt>>,
}

/// A host, and whose it is.
#[derive(Clone)]
struct Place {
    host: Host,
    own: Rc<Cluster>,
}

enum Way<'f> {
    Launching(Pin<Box<dyn Future<Output = Result<Flying, Failed>> + 'f>>),
    Flying(Box<Flying>),
}

/// All tries of one request.
#[derive(Default)]
struct Air<'f> {
    flights: Vec<Flight<'f>>,
    /// Each flight but one counts as a request of its own.
    beside: Vec<Beside>,
    tries: Tries,
    /// When the next try begins, while it is waited for.
    next: Alarm,
    waiting: bool,
    /// The client has had something of an answer: there are no more tries.
    settled: bool,
}

struct Beside {
    cluster: Rc<Cluster>,
    _permit: Permit,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.cluster.stats().rq_active.dec();
    }
}

/// What happens next; a number says to which flight.
enum Event {
    Next,
    Slow(usize),
    Answer(usize, ResponseHead),
    Failed(usize, Failed),
    Lost(usize, Interrupt),
    /// To all of them.
    Over(Interrupt),
}

/// What all tries of a request have in common.
struct Trip<'e, 'f> {
    decision: &'e Decision,
    forward: &'f Forward,
    head: &'e mut RequestHead,
    of: &'e Rc<Cluster>,
}

impl<'f> Air<'f> {
    fn remove(&mut self, at: usize) -> Flight<'f> {
        let flight = self.flights.remove(at);
        self.beside.truncate(self.flights.len().saturating_sub(1));
        flight
    }

    fn has_hope(&self) -> bool {
        self.waiting || !self.flights.is_empty()
    }

    fn schedule(&mut self, after: Duration) {
        self.tries.fresh = false;
        self.waiting = true;
        self.next.set(Instant::now(), after);
    }

    /// Moves everything on until something happens.
    async fn event(
        &mut self,
        forward: &Forward,
        exchange: &mut Exchange<'_, '_>,
        body: &mut RequestBody,
        timers: &mut Timers,
    ) -> Event {
        let mut seen = body.received;
        let stats = &exchange.connection.stats;
        let down = &mut *exchange.down;
        poll_fn(|cx| {
            let mut happened = Poll::Pending;
            for (at, flight) in self.flights.iter_mut().enumerate() {
                let own = Rc::clone(&flight.place.own);
                let plan = attempt::Plan { cluster: &own, forward, stats };
                happened = flight.poll(cx, at, &plan, down, body, &mut self.settled);
                if happened.is_ready() {
                    break;
                }
            }
            if body.complete {
                timers.start();
            }
            if body.received != seen {
                seen = body.received;
                timers.progress();
                self.flights.iter_mut().for_each(|flight| flight.start_idle(forward));
            }
            if happened.is_ready() {
                return happened;
            }
            if self.waiting && self.next.poll(cx).is_ready() {
                self.waiting = false;
                return Poll::Ready(Event::Next);
            }
            if let Poll::Ready(gone) = down.poll_gone(cx) {
                return Poll::Ready(Event::Over(gone.into()));
            }
            timers.poll(cx).map(Event::Over)
        })
        .await
    }
}

impl Flight<'_> {
    fn start_idle(&mut self, forward: &Forward) {
        if let (Some(limit), Way::Flying(_)) = (idle_limit(forward), &self.way) {
            self.idle.set(Instant::now(), limit);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        at: usize,
        plan: &attempt::Plan<'_>,
        down: &mut Downstream<'_>,
        body: &mut RequestBody,
        settled: &mut bool,
    ) -> Poll<Event> {
        if let Way::Launching(launching) = &mut self.way {
            match launching.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failed)) => return Poll::Ready(Event::Failed(at, failed)),
                Poll::Ready(Ok(flying)) => self.way = Way::Flying(Box::new(flying)),
            }
            self.start_idle(plan.forward);
        }
        let Way::Flying(flying) = &mut self.way else { return Poll::Pending };
        body.turn_to(&mut self.cursor);
        let answer = poll_answer(cx, plan, down, &mut flying.upstream, body, settled);
        body.turn_to(&mut self.cursor);
        match answer {
            Poll::Ready(Ok(head)) => return Poll::Ready(Event::Answer(at, head)),
            Poll::Ready(Err(lost @ Interrupt::Upstream(_))) => return Poll::Ready(Event::Lost(at, lost)),
            Poll::Ready(Err(interrupt)) => return Poll::Ready(Event::Over(interrupt)),
            Poll::Pending => {}
        }
        if let (true, false, Some(limit)) = (body.complete, self.timed, plan.forward.per_try_timeout) {
            self.timed = true;
            self.per_try.set(Instant::now(), limit);
        }
        if !self.slow && (self.per_try.poll(cx).is_ready() || self.idle.poll(cx).is_ready()) {
            self.slow = true;
            return Poll::Ready(Event::Slow(at));
        }
        Poll::Pending
    }
}

fn idle_limit(forward: &Forward) -> Option<Duration> {
    forward.retry.as_ref().and_then(|retry| retry.policy.per_try_idle_timeout)
}

impl Exchange<'_, '_> {
    /// As [`Self::try_hosts`], where tries that take too long are hedged.
    pub(super) async fn try_hedged(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &mut RequestHead,
        of: &Rc<Cluster>,
        body: &mut RequestBody,
        timers: &mut Timers,
    ) -> Result<(Begun, Host, Rc<Cluster>), Option<Box<LocalReply>>> {
        let mut trip = Trip { decision, forward, head, of };
        let mut air = Air::default();
        self.take_off(&mut air, &mut trip, None, timers)?;
        loop {
            match air.event(forward, self, body, timers).await {
                Event::Next => {
                    let taken = self.take_off(&mut air, &mut trip, None, timers);
                    if !air.has_hope() {
                        taken?;
                    }
                }
                Event::Slow(at) => self.slow(&mut air, at, &trip, body),
                Event::Answer(at, answer) => {
                    let Some(flight) = self.judge(&mut air, at, &answer, &trip, body) else { continue };
                    let place = flight.place.clone();
                    if let Some(begun) = self.land(air, flight, answer, forward, body, timers) {
                        return Ok((begun, place.host, place.own));
                    }
                    return Err(None);
                }
                Event::Failed(at, failed) => {
                    let flight = air.remove(at);
                    self.lost(&mut air, flight, failed, &mut trip, body, timers)?;
                }
                Event::Lost(at, interrupt) => {
                    let mut flight = air.remove(at);
                    let way =
                        std::mem::replace(&mut flight.way, Way::Launching(Box::pin(std::future::pending())));
                    if let Way::Flying(flying) = way {
                        let failed = flying.fail(&flight.place.own, interrupt);
                        self.lost(&mut air, flight, failed, &mut trip, body, timers)?;
                    }
                }
                Event::Over(interrupt) => return Err(self.over(air, interrupt, &trip, body)),
            }
        }
    }

    /// Begins a try, where another was or on a host that is chosen now.
    fn take_off<'f>(
        &mut self,
        air: &mut Air<'f>,
        trip: &mut Trip<'_, 'f>,
        same: Option<Place>,
        timers: &Timers,
    ) -> Result<(), Option<Box<LocalReply>>> {
        let forward = trip.forward;
        self.record.attempts = air.tries.retry.retries() + 1;
        let chosen = || self.choose(forward, trip.of, &air.tries.tried);
        let Some(place) = same.or_else(|| chosen().map(|(host, own)| Place { host, own })) else {
            return Err(Some(none_healthy(trip.of)));
        };
        if !air.flights.is_empty() {
            let breakers = &place.own.state().breakers;
            let Some(permit) = breakers.acquire(Resource::Request, forward.priority) else {
                if breakers.acquire(Resource::Pending, forward.priority).is_none() {
                    place.own.stats().pending_overflow.inc();
                }
                air.tries.succeeded(trip.of);
                charge(trip.of, 503);
                return Ok(());
            };
            place.own.stats().rq_active.inc();
            air.beside.push(Beside { cluster: Rc::clone(&place.own), _permit: permit });
        }
        self.record.host = Some(place.host.clone());
        self.prepare(trip.decision, forward, trip.head, &place.host, timers.left());
        let mut span = None;
        if let Some(trace) = &mut self.record.trace {
            trace.begin_try(&self.connection.worker, self.hcm, &mut trip.head.request.headers);
            trace.turn_to(&mut span);
        }
        air.tries.tried.push(place.host.clone());
        let (to, request, fresh) = (place.clone(), trip.head.clone(), air.tries.fresh);
        let stats = Rc::clone(&self.connection.stats);
        let launching = Box::pin(async move {
            let plan = attempt::Plan { cluster: &to.own, forward, stats: &stats };
            launch(&plan, &to.host, &request, fresh).await
        });
        air.flights.push(Flight {
            _active: place.host.start_request(),
            place,
            way: Way::Launching(launching),
            cursor: Cursor::default(),
            timed: false,
            slow: false,
            per_try: Alarm::default(),
            idle: Alarm::default(),
            retried: false,
            span,
        });
        Ok(())
    }

    /// A try takes too long: another is made beside it, if one is left.
    fn slow(&mut self, air: &mut Air<'_>, at: usize, trip: &Trip<'_, '_>, body: &RequestBody) {
        let Some(flight) = air.flights.get_mut(at) else { return };
        self.observe(&flight.place.own, &flight.place.host, Outcome::Timeout);
        // One that is still being received goes to one host at a time.
        if let Some(retry) = trip.forward.retry.as_deref()
            && body.complete
            && body.can_replay()
            && !air.settled
            && !flight.retried
            && let Again::After(wait) =
                self.ask_again(trip.forward, retry, trip.of, Attempt::Slow, &mut air.tries)
        {
            flight.retried = true;
            air.schedule(wait);
        }
    }

    /// Whether an answer stands: then its flight comes back, and otherwise it is over.
    fn judge<'f>(
        &mut self,
        air: &mut Air<'f>,
        at: usize,
        answer: &ResponseHead,
        trip: &Trip<'_, '_>,
        body: &RequestBody,
    ) -> Option<Flight<'f>> {
        let flight = air.remove(at);
        let response = &answer.response;
        if let Way::Flying(flying) = &flight.way {
            flight.place.own.observe_latency(&flight.place.host, flying.sent_at.elapsed());
        }
        self.heed(&flight.place.own, &flight.place.host, response);
        let retry = trip.forward.retry.as_deref().filter(|_| body.can_replay() && !air.settled);
        let Some(retry) = retry else { return Some(flight) };
        let attempt = retry.attempt_of(response);
        let unable = if flight.retried {
            retry.policy.wants(attempt)
        } else {
            match self.ask_again(trip.forward, retry, trip.of, attempt, &mut air.tries) {
                Again::After(wait) => {
                    air.schedule(self.told_wait(retry, response).unwrap_or(wait));
                    self.leave(flight, Some(response.status));
                    return None;
                }
                Again::No => false,
                Again::Unable => true,
            }
        };
        if unable && air.has_hope() {
            self.leave(flight, Some(response.status));
            return None;
        }
        Some(flight)
    }

    /// The answer of a try stands: all others are reset.
    fn land(
        &mut self,
        air: Air<'_>,
        mut flight: Flight<'_>,
        answer: ResponseHead,
        forward: &Forward,
        body: &mut RequestBody,
        timers: &mut Timers,
    ) -> Option<Begun> {
        for other in air.flights {
            self.leave(other, None);
        }
        let Way::Flying(flying) = flight.way else { return None };
        let begun = flying.arrived(answer);
        body.turn_to(&mut flight.cursor);
        timers.start_try(None, idle_limit(forward));
        if let Some(trace) = &mut self.record.trace {
            trace.turn_to(&mut flight.span);
        }
        self.record.host = Some(flight.place.host);
        self.record.info = Some(begun.info.clone());
        self.record.upstream_protocol = Some(begun.upstream.version());
        Some(begun)
    }

    /// Nobody waits for a try any more: its stream ends before its time.
    fn leave(&mut self, mut flight: Flight<'_>, status: Option<u16>) {
        let Place { host, own } = &flight.place;
        if let Some(trace) = &mut self.record.trace {
            trace.turn_to(&mut flight.span);
        }
        self.end_try(own, host, status);
        if let Way::Flying(flying) = &flight.way
            && !flying.upstream.is_over()
        {
            own.stats().rq_tx_reset.inc();
        }
    }

    /// A try came to nothing: it is made anew, or the others are waited for, or that is the end.
    fn lost<'f>(
        &mut self,
        air: &mut Air<'f>,
        mut flight: Flight<'f>,
        failed: Failed,
        trip: &mut Trip<'_, 'f>,
        body: &mut RequestBody,
        timers: &Timers,
    ) -> Result<(), Option<Box<LocalReply>>> {
        let Place { host, own } = &flight.place;
        if let Some(info) = &failed.info {
            self.record.info = Some(info.clone());
        }
        self.record.upstream_protocol = failed.version;
        if let Some(trace) = &mut self.record.trace {
            trace.turn_to(&mut flight.span);
        }
        self.end_try(own, host, None);
        // What was waited for in vain was no stale connection's fault.
        if !flight.slow && self.replay(&failed, trip.head, body, &mut air.tries, own) {
            return self.take_off(air, trip, Some(flight.place), timers);
        }
        let Failed { error, sent, .. } = failed;
        if let Some(outcome) = error.outcome() {
            self.observe(own, host, outcome);
        }
        self.count_failure(own, &error);
        self.record.transport_failure = error.transport_failure();
        if let (Some(retry), Some(attempt)) = (trip.forward.retry.as_deref(), error.attempt(sent))
            && body.can_replay()
            && !air.settled
            && !flight.retried
            && let Again::After(wait) = self.ask_again(trip.forward, retry, trip.of, attempt, &mut air.tries)
        {
            air.schedule(wait);
            return Ok(());
        }
        let reply = self.reply_to(trip.forward, &error, &air.tries, body);
        if !air.has_hope() {
            return Err(reply);
        }
        if let Some(reply) = reply {
            charge(trip.of, reply.status);
        }
        Ok(())
    }

    /// All tries end without an answer.
    fn over(
        &mut self,
        air: Air<'_>,
        interrupt: Interrupt,
        trip: &Trip<'_, '_>,
        body: &RequestBody,
    ) -> Option<Box<LocalReply>> {
        let timeout = interrupt == Interrupt::RequestTimeout;
        let error = TryError::from(interrupt);
        let reply = self.reply_to(trip.forward, &error, &air.tries, body);
        self.count_failure(trip.of, &error);
        for (i, flight) in air.flights.into_iter().enumerate() {
            let Place { host, own } = &flight.place;
            if timeout && !flight.slow {
                self.observe(own, host, Outcome::Timeout);
            }
            if timeout && i > 0 {
                // Each of them counts.
                own.stats().rq_timeout.inc();
                reply.iter().for_each(|reply| charge(trip.of, reply.status));
            }
            self.leave(flight, None);
        }
        reply
    }
}
