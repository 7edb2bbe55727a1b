//! The seam to `decide`: its machine is driven here, its asks are answered, its words for answers are used.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use decide::{
    Answer, Ask, BodyFilter, Context, Deciding, Decision, InternalRedirects, Known, LocalReply, LogEntry,
    NotFollowed, PeerMetadata, Plan, ReceivedBody, Redirected, Request, Response, RouteTable, Side, Step,
    UpstreamEntry,
};
use upstream::Host;

use super::call::perform;
use super::forward::Exchange;
use super::process::Sessions;
use super::pump::{Interrupt, RequestBody, while_wanted};
use super::timers::Timers;
use crate::wire::{BodyLength, RequestHead};

/// Drives the machine to its decision, answering what it asks. An error means that the client left meanwhile.
pub async fn decide(
    exchange: &mut Exchange<'_, '_>,
    request: &mut Request,
    length: BodyLength,
) -> Result<Box<Decision>, Interrupt> {
    let machine = Deciding::new(&exchange.connection.connection);
    drive(exchange, machine, request, length).await
}

/// The same of a request that follows a redirect; the error is why it is not followed.
pub async fn decide_after(
    exchange: &mut Exchange<'_, '_>,
    next: &mut Redirected,
    length: BodyLength,
    (redirects, before): (&InternalRedirects, &Decision),
) -> Result<Box<Decision>, Option<NotFollowed>> {
    let connection = exchange.connection;
    let mut machine = Deciding::after(&connection.connection, before);
    let cx = context(exchange, exchange.plan);
    let route = connection.worker.with_rng(|rng| machine.look_ahead(&cx, &mut next.request, rng));
    let (Some(to), Some(from)) = (route, before.matched.as_ref()) else {
        return Err(Some(NotFollowed::NoRoute));
    };
    if !redirects.accepts(&from.route().name, &to, next, &mut exchange.followed) {
        return Err(Some(NotFollowed::Predicate));
    }
    drive(exchange, machine, &mut next.request, length).await.map_err(|_| None)
}

fn context<'a>(exchange: &Exchange<'a, '_>, plan: &'a Plan) -> Context<'a> {
    let connection = exchange.connection;
    Context {
        plan,
        hcm: exchange.hcm,
        connection: &connection.connection,
        direction: connection.direction,
        node: &connection.worker.facts,
        start: exchange.record.wall,
        now: exchange.record.started,
    }
}

async fn drive(
    exchange: &mut Exchange<'_, '_>,
    mut machine: Deciding,
    request: &mut Request,
    length: BodyLength,
) -> Result<Box<Decision>, Interrupt> {
    let connection = exchange.connection;
    let worker = &connection.worker;
    machine = machine.with_body(!matches!(length, BodyLength::None | BodyLength::Known(0)));
    let mut newest: Option<Arc<Plan>> = None;
    loop {
        // What is asked is in boxes: hardly any request pays for its room.
        let cx = context(exchange, newest.as_ref().unwrap_or(exchange.plan));
        match worker.with_rng(|rng| machine.step(&cx, request, rng, &mut ())) {
            Step::Done(decision) => return Ok(decision),
            Step::Ask(Ask::Delay(delay)) => {
                connection.stats.fault_delays.inc();
                let mut timers = Timers::default();
                Box::pin(while_wanted(exchange.down, &mut timers, tokio::time::sleep(delay))).await?;
            }
            Step::Ask(Ask::Call(call)) => {
                exchange.asked = true;
                let mut timers = Timers::default();
                let called = while_wanted(exchange.down, &mut timers, perform(worker, &call));
                let called = Box::pin(called).await?;
                machine.answer(Answer::Called(called));
            }
            Step::Ask(Ask::Process(ask)) => {
                exchange.asked = true;
                let session = exchange.sessions(request).of(&ask.processing);
                session.borrow_mut().tell(Side::Request, ask.part, &ask.message);
                let said = poll_fn(|cx| session.borrow_mut().poll(cx, Side::Request));
                let mut timers = Timers::default();
                let processed = Box::pin(while_wanted(exchange.down, &mut timers, said)).await?;
                machine.answer(Answer::Processed(processed));
            }
            Step::Ask(Ask::VirtualHost { table, name }) => {
                exchange.asked = true;
                let found = Box::pin(demanded(exchange, &table, name)).await?;
                newest = found.then(|| worker.config().plan);
                machine.answer(Answer::VirtualHost(found));
            }
            Step::Ask(Ask::Replace { body, whole }) => {
                let received = exchange
                    .received
                    .get_or_insert_with(|| RequestBody::new(length, true, usize::MAX, false));
                received.replace(body, whole);
            }
            Step::Ask(Ask::Body { more_than, filters }) => {
                let sessions = (!filters.is_empty()).then(|| exchange.sessions(request));
                let body = Box::pin(received(exchange, length, more_than, &filters, sessions)).await?;
                machine.answer(Answer::Body(body));
            }
        }
    }
}

/// Waits until a table's source has said whether there is such a virtual host.
async fn demanded(
    exchange: &mut Exchange<'_, '_>,
    table: &RouteTable,
    name: Arc<str>,
) -> Result<bool, Interrupt> {
    let worker = &exchange.connection.worker;
    let mut timers = Timers::default();
    let waiting = while_wanted(exchange.down, &mut timers, worker.demand(table, name));
    match exchange.hcm.timeouts.stream_idle {
        Some(limit) => tokio::time::timeout(limit, waiting).await.unwrap_or(Err(Interrupt::StreamIdle)),
        None => waiting.await,
    }
}

/// The body as far as it is wanted; it is kept for the upstream.
async fn received(
    exchange: &mut Exchange<'_, '_>,
    length: BodyLength,
    more_than: u64,
    filters: &[BodyFilter],
    sessions: Option<Sessions>,
) -> Result<Option<ReceivedBody>, Interrupt> {
    if length == BodyLength::None {
        return Ok(None);
    }
    let idle = exchange.hcm.timeouts.stream_idle;
    let more_than = match more_than {
        Ask::AS_MUCH_AS_CAN_BE => exchange.connection.buffer_limit as u64,
        more_than => more_than,
    };
    let body = exchange.received.get_or_insert_with(|| RequestBody::new(length, true, usize::MAX, false));
    for filter in filters {
        let sessions = sessions.as_ref().ok_or(Interrupt::DownstreamGone)?;
        body.filter(filter, sessions)?;
    }
    let receiving = body.receive(exchange.down, more_than);
    match idle {
        Some(limit) => {
            tokio::time::timeout(limit, receiving).await.unwrap_or(Err(Interrupt::StreamIdle))?;
        }
        None => receiving.await?,
    }
    let has_trailers = body.has_trailers();
    Ok(Some(ReceivedBody { data: body.so_far(), complete: body.complete, has_trailers }))
}

/// An answer of ours as it is written: response, body, and whether it is trailers-only.
pub fn finish_reply(
    exchange: &Exchange<'_, '_>,
    reply: &LocalReply,
    decision: Option<&Decision>,
    head: &RequestHead,
) -> (Response, Bytes, bool) {
    let connection = exchange.connection;
    let mut entry = LogEntry::new(&connection.connection, exchange.record.wall);
    entry.request = Some(&head.request);
    entry.flags = exchange.record.flags;
    entry.response_code_details = &reply.details;
    let grpc = exchange.record.is_grpc;
    let finished = connection.worker.with_rng(|rng| exchange.hcm.finish_reply(reply, &entry, grpc, rng));
    let mut response = finished.response;
    match decision {
        Some(decision) => {
            let tries = exchange.record.attempts;
            decision.respond(exchange.hcm, &connection.worker.facts, &entry, None, tries, &mut response);
        }
        None => exchange.hcm.finish_response(&mut response, "", false),
    }
    let trailers_only = response.headers.contains(Known::GrpcStatus);
    (response, finished.body, trailers_only)
}

/// The upstream's answer as the client is to see it; what the upstream said of itself comes back.
pub fn finish_response(
    exchange: &Exchange<'_, '_>,
    decision: &Decision,
    request: &Request,
    response: &mut Response,
    took: Option<Duration>,
) -> Option<Arc<PeerMetadata>> {
    let connection = exchange.connection;
    let peer = decision.take_upstream_peer(exchange.hcm, response);
    let mut entry = LogEntry::new(&connection.connection, exchange.record.wall);
    entry.request = Some(request);
    entry.response_code = response.status;
    entry.flags = exchange.record.flags;
    entry.response_code_details = "via_upstream";
    let target = exchange.record.cluster.as_ref().map(|c| c.target());
    entry.upstream = UpstreamEntry {
        cluster: target.as_ref().map_or("", |t| &*t.stat_name),
        cluster_raw: target.as_ref().map_or("", |t| &*t.name),
        host: exchange.record.host.as_ref().map(Host::address),
        host_name: exchange.record.host.as_ref().map_or("", |h| &h.endpoint.hostname),
        attempts: exchange.record.attempts,
        ..UpstreamEntry::default()
    };
    let tries = exchange.record.attempts;
    decision.respond(exchange.hcm, &connection.worker.facts, &entry, took, tries, response);
    peer
}
