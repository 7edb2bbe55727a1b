//! A downstream HTTP connection: which version it speaks, its requests one after the other or side by side, its end.

use std::cell::{Cell, Ref, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use decide::{
    Codec, Connection, Direction, DownstreamTransport, FilterChain, Hcm, Known, Plan, ResponseFlags,
    Terminal, Version,
};
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::forward::handle;
use super::record::Record;
use super::timers::{Alarm, Timers};
use crate::h1::{HeadLimits, ParseError};
use crate::listen::{Arrived, admits};
use crate::net::Io;
use crate::stats::HttpStats;
use crate::wire::{
    BodyLength, Conn, Downstream, H1Server, H2ServerStream, NextRequest, ResponseHead, h2_request_head,
};
use crate::worker::Worker;

/// How long a connection that is opened during a drain may take to say its request.
const FIRST_WHILE_DRAINING: Duration = Duration::from_secs(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A downstream connection, for all of its requests.
pub struct HttpConnection {
    pub worker: Rc<Worker>,
    pub connection: Connection,
    pub listener: Arc<str>,
    pub direction: Direction,
    pub stats: Rc<HttpStats>,
    pub buffer_limit: usize,
    current: RefCell<Current>,
    /// Those of the last request, for the next.
    pub timers: Cell<Option<Box<Timers>>>,
    /// The newest configuration has no place for this connection.
    over: Notify,
}

/// What the newest configuration says of this connection.
struct Current {
    chain: Arc<FilterChain>,
    terms: Terms,
}

/// What a request meets that begins now.
#[derive(Clone)]
pub struct Terms {
    pub plan: Arc<Plan>,
    pub hcm: Arc<Hcm>,
    /// No filter chain takes such a connection any more: it ends, as Envoy's do, when what it began is answered.
    pub last: bool,
}

impl HttpConnection {
    /// The configuration for a request that begins now: a changed policy acts on open connections as well. Nothing when
    /// the connection would not be let in any more.
    pub fn current(&self) -> Option<Terms> {
        let newest = self.worker.config().plan;
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(&newest, &current.terms.plan) {
            match self.place(&newest) {
                Some((chain, hcm)) => {
                    if !Arc::ptr_eq(chain, &current.chain)
                        && !admits(&self.worker, &newest, chain, &self.connection)
                    {
                        return None;
                    }
                    current.terms.hcm = hcm.clone();
                    current.terms.last = false;
                    current.chain = chain.clone();
                }
                None => {
                    current.terms.last = true;
                    self.over.notify_one();
                }
            }
            current.terms.plan = newest;
        }
        Some(current.terms.clone())
    }

    /// The chain that has it.
    pub fn chain(&self) -> Ref<'_, FilterChain> {
        Ref::map(self.current.borrow(), |current| &*current.chain)
    }

    /// Where a plan puts such a connection: one of TLS is never taken for a plain one, nor the other way round.
    fn place<'a>(&self, plan: &'a Plan) -> Option<(&'a Arc<FilterChain>, &'a Arc<Hcm>)> {
        let chain = plan.listener(&self.listener)?.choose(&self.connection, &mut ())?;
        let is_tls = matches!(chain.transport, DownstreamTransport::Tls(_));
        match &chain.terminal {
            Terminal::Http(hcm) if is_tls == self.connection.tls.is_some() => Some((chain, hcm)),
            _ => None,
        }
    }
}

pub async fn serve_http(
    worker: Rc<Worker>,
    arrived: Arrived,
    chain: Arc<FilterChain>,
    hcm: Arc<Hcm>,
    mut io: Io,
) {
    let stats = worker.http_stats(&Arc::from(hcm.stat_prefix.trim_end_matches(';')));
    stats.cx_total.inc();
    stats.cx_active.inc();
    if io.is_tls() {
        stats.cx_ssl_total.inc();
    }
    let plan = worker.config().plan;
    let connection = Rc::new(HttpConnection {
        worker,
        listener: arrived.listener.name.clone(),
        direction: arrived.listener.direction,
        stats: stats.clone(),
        buffer_limit: arrived.listener.per_connection_buffer_limit as usize,
        connection: arrived.connection,
        current: RefCell::new(Current { chain, terms: Terms { plan, hcm: hcm.clone(), last: false } }),
        timers: Cell::new(None),
        over: Notify::new(),
    });
    let mut first = arrived.first;
    let http2 = match (hcm.codec, io.alpn()) {
        (Codec::Http1, _) => false,
        (Codec::Http2, _) | (Codec::Auto, Some(b"h2")) => true,
        (Codec::Auto, Some(_)) => false,
        (Codec::Auto, None) => match first_bytes(&mut io, &mut first, hcm.timeouts.idle).await {
            First::Http2 => true,
            First::Http1 => false,
            nothing => {
                if nothing == First::Silence {
                    stats.cx_idle_timeout.inc();
                }
                stats.cx_active.dec();
                stats.cx_destroy.inc();
                return;
            }
        },
    };
    if http2 {
        stats.cx_http2_total.inc();
        io.put_back(first.freeze());
        Box::pin(serve_h2(&connection, &hcm, io)).await;
    } else {
        stats.cx_http1_total.inc();
        serve_h1(&connection, &hcm, io, first).await;
    }
    stats.cx_active.dec();
    stats.cx_destroy.inc();
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Http1,
    Http2,
    /// The client left without a word.
    Nothing,
    /// It said nothing for too long.
    Silence,
}

/// Reads until the first bytes are, or are not, HTTP/2's preface.
async fn first_bytes(io: &mut Io, first: &mut BytesMut, idle: Option<Duration>) -> First {
    loop {
        if !PREFACE.starts_with(&first[..first.len().min(PREFACE.len())]) {
            return First::Http1;
        }
        if first.len() >= PREFACE.len() {
            return First::Http2;
        }
        let limit = idle.unwrap_or(Duration::from_secs(3600));
        match tokio::time::timeout(limit, io.read_buf(first)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) if first.is_empty() => return First::Nothing,
            // What there is of it is HTTP/1's to judge.
            Ok(_) => return First::Http1,
            Err(_) => return First::Silence,
        }
    }
}

/// Runs `work` for at most the given time, if any.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

async fn serve_h1(connection: &Rc<HttpConnection>, hcm: &Hcm, io: Io, first: BytesMut) {
    let limits = HeadLimits { bytes: hcm.limits.max_header_bytes, headers: hcm.limits.max_headers };
    let secure = io.is_tls();
    let mut conn = Conn::new(io);
    *conn.buffer() = first;
    let mut server = H1Server::new(conn, limits, secure, hcm.http1.accept_http10);
    let worker = &connection.worker;
    let mut requests = 0u32;
    let mut idle = Alarm::default();
    let mut deadline = hcm.timeouts.max_connection.map(|d| Box::pin(tokio::time::sleep(d)));
    loop {
        if !idle_wait(connection, hcm, &mut server, &mut idle, requests == 0).await {
            return;
        }
        let next = match within(hcm.timeouts.request_headers, server.next()).await {
            Some(next) => next,
            None => {
                connection.stats.rq_header_timeout.inc();
                connection.stats.rq_http1_total.inc();
                let mut record = unread(connection);
                record.details = "request_header_timeout".into();
                let late = "request header timeout";
                Box::pin(answer(connection, hcm, &mut server, record, 408, late)).await;
                return;
            }
        };
        requests += 1;
        if matches!(next, NextRequest::Request(_) | NextRequest::Bad(_) | NextRequest::Broken) {
            connection.stats.rq_http1_total.inc();
        }
        match next {
            NextRequest::Request(head) => {
                let expired = match &mut deadline {
                    Some(sleep) => poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_ready())).await,
                    None => false,
                };
                let spent = hcm.limits.max_requests_per_connection.is_some_and(|max| requests >= max);
                let draining = worker.is_draining(connection.direction);
                let Some(terms) = connection.current() else { return };
                if draining || terms.last {
                    connection.stats.cx_drain_close.inc();
                }
                let mut close = draining || spent || expired || terms.last;
                if worker.overloaded(|overload, rng| overload.ends_connection(rng)) {
                    connection.stats.cx_overload_disable_keepalive.inc();
                    close = true;
                }
                let down = Downstream::H1(&mut server);
                // What a request needs is many times what a connection needs between requests.
                Box::pin(handle(connection, &terms.plan, &terms.hcm, head, down, close)).await;
            }
            NextRequest::Closed => return,
            NextRequest::Broken => {
                let mut record = unread(connection);
                record.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                record.details = "downstream_remote_disconnect".into();
                record.finish(connection, hcm, None, None);
                return;
            }
            NextRequest::Bad(error) => {
                Box::pin(refuse(connection, hcm, &mut server, error)).await;
                return;
            }
        }
        if !server.reusable() {
            Box::pin(close(&mut server, hcm.timeouts.delayed_close)).await;
            return;
        }
    }
}

/// Waits for the next request; false when the connection is to end.
async fn idle_wait(
    connection: &HttpConnection,
    hcm: &Hcm,
    server: &mut H1Server,
    idle: &mut Alarm,
    is_new: bool,
) -> bool {
    let worker = &connection.worker;
    if worker.cuts_idle(connection.direction) && server.conn().buffer().is_empty() {
        // Who connects to one that leaves has not heard of that yet: its request is answered, and it is told so by that.
        return is_new && within(Some(FIRST_WHILE_DRAINING), server.wait()).await == Some(true);
    }
    let mut drain = pin!(worker.drain(connection.direction).notified());
    if let Some(limit) = hcm.timeouts.idle {
        idle.set(Instant::now(), limit);
    }
    let mut wait = pin!(server.wait());
    poll_fn(|cx| {
        if let Poll::Ready(came) = wait.as_mut().poll(cx) {
            return Poll::Ready(came);
        }
        if idle.poll(cx).is_ready() {
            connection.stats.cx_idle_timeout.inc();
            return Poll::Ready(false);
        }
        while drain.as_mut().poll(cx).is_ready() {
            if worker.cuts_idle(connection.direction) {
                return Poll::Ready(false);
            }
            // A gentle drain: the next request is answered, and says so.
            drain.set(worker.drain(connection.direction).notified());
        }
        Poll::Pending
    })
    .await
}

/// Of a request that has begun, of which no more is known.
fn unread(connection: &HttpConnection) -> Record {
    let mut record = Record::new(connection);
    record.protocol = Some(Version::Http11);
    record
}

/// Answers what is no request, and ends the connection.
async fn refuse(connection: &HttpConnection, hcm: &Hcm, server: &mut H1Server, error: ParseError) {
    connection.stats.cx_protocol_error.inc();
    let mut record = unread(connection);
    record.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
    record.details = error.to_string().into();
    answer(connection, hcm, server, record, error.status(), error.body()).await;
}

/// The last answer of a connection.
async fn answer(
    connection: &HttpConnection,
    hcm: &Hcm,
    server: &mut H1Server,
    mut record: Record,
    status: u16,
    body: &'static str,
) {
    record.code = status;
    let mut head = ResponseHead::new(status);
    head.body = BodyLength::Known(body.len() as u64);
    head.response.headers.set(Known::ContentType, "text/plain");
    head.response.headers.set(Known::Date, crate::clock::http_date());
    hcm.finish_response(&mut head.response, "", false);
    server.send_head(&head, None, true);
    server.send_data(body.into());
    server.send_end(None);
    record.bytes_sent = body.len() as u64;
    let _ = poll_fn(|cx| server.poll_flush(cx)).await;
    record.finish(connection, hcm, None, None);
    close(server, hcm.timeouts.delayed_close).await;
}

/// Ends our side and waits a little for the client's, so that a reset does not overtake our last bytes.
async fn close(server: &mut H1Server, wait: Option<Duration>) {
    if poll_fn(|cx| server.conn().poll_shutdown(cx)).await.is_err() {
        return;
    }
    let linger = async {
        loop {
            server.conn().buffer().clear();
            match poll_fn(|cx| server.conn().poll_fill(cx)).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(wait.unwrap_or(Duration::from_secs(1)), linger).await;
}

/// Concurrent streams where the configuration does not say: Envoy's default is 2³¹−1, which bounds nothing.
const MAX_STREAMS: u32 = 1024;

async fn serve_h2(connection: &Rc<HttpConnection>, hcm: &Hcm, io: Io) {
    let secure = io.is_tls();
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(hcm.http2.max_concurrent_streams.map_or(MAX_STREAMS, |n| n.min(1 << 16)))
        .initial_window_size(hcm.http2.initial_stream_window.unwrap_or(1 << 20).min(16 << 20))
        .initial_connection_window_size(hcm.http2.initial_connection_window.unwrap_or(4 << 20).min(64 << 20))
        .max_header_list_size(hcm.limits.max_header_bytes as u32)
        .max_send_buffer_size(256 * 1024);
    if hcm.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    let handshake = within(Some(Duration::from_secs(15)), builder.handshake::<_, bytes::Bytes>(io)).await;
    let Some(Ok(mut h2)) = handshake else {
        connection.stats.cx_protocol_error.inc();
        return;
    };
    let worker = connection.worker.clone();
    let mut idle = hcm.timeouts.idle.map(|d| (d, Box::pin(tokio::time::sleep(d))));
    let mut draining = worker.is_draining(connection.direction);
    if draining {
        h2.graceful_shutdown();
    }
    let live = Rc::new(std::cell::Cell::new(0usize));
    loop {
        let mut drain = pin!(worker.drain(connection.direction).notified());
        let mut over = pin!(connection.over.notified());
        let event = poll_fn(|cx| {
            if let Poll::Ready(accepted) = h2.poll_accept(cx) {
                return Poll::Ready(Event::Stream(accepted));
            }
            if !draining && (drain.as_mut().poll(cx).is_ready() || over.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Event::Drain);
            }
            match &mut idle {
                Some((_, sleep)) => sleep.as_mut().poll(cx).map(|()| Event::Idle),
                None => Poll::Pending,
            }
        })
        .await;
        if let Some((length, sleep)) = &mut idle {
            sleep.as_mut().reset(tokio::time::Instant::now() + *length);
        }
        match event {
            Event::Stream(Some(Ok((request, respond)))) => {
                connection.stats.rq_http2_total.inc();
                if !draining && worker.overloaded(|overload, rng| overload.ends_connection(rng)) {
                    connection.stats.cx_overload_disable_keepalive.inc();
                    draining = true;
                    h2.graceful_shutdown();
                }
                let (connection, live) = (connection.clone(), live.clone());
                live.set(live.get() + 1);
                // A task is copied whole whenever its state changes; a box is not.
                tokio::task::spawn_local(Box::pin(async move {
                    serve_stream(&connection, request, respond, secure).await;
                    live.set(live.get() - 1);
                }));
            }
            Event::Stream(Some(Err(error))) => {
                tracing::debug!(%error, "HTTP/2 connection ended");
                if error.is_library() {
                    connection.stats.cx_protocol_error.inc();
                }
                return;
            }
            Event::Stream(None) => return,
            Event::Drain => {
                draining = true;
                connection.stats.cx_drain_close.inc();
                h2.graceful_shutdown();
            }
            Event::Idle if live.get() == 0 => {
                connection.stats.cx_idle_timeout.inc();
                h2.graceful_shutdown();
                idle = None;
            }
            Event::Idle => {}
        }
    }
}

type Accepted = (http::Request<h2::RecvStream>, h2::server::SendResponse<bytes::Bytes>);

#[expect(clippy::large_enum_variant, reason = "matched where it is made, never stored")]
enum Event {
    Stream(Option<Result<Accepted, h2::Error>>),
    Drain,
    Idle,
}

async fn serve_stream(
    connection: &Rc<HttpConnection>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
    secure: bool,
) {
    let (parts, body) = request.into_parts();
    let Some(terms) = connection.current() else {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return;
    };
    if parts.headers.len() > terms.hcm.limits.max_headers {
        refuse_stream(connection, respond, ParseError::TooManyHeaders);
        return;
    }
    let head = match h2_request_head(&parts, body.is_end_stream(), secure) {
        Ok(head) => head,
        Err(_) => {
            connection.stats.rq_rx_reset.inc();
            respond.send_reset(h2::Reason::PROTOCOL_ERROR);
            return;
        }
    };
    let down = Downstream::H2(H2ServerStream::new(body, respond));
    handle(connection, &terms.plan, &terms.hcm, head, down, false).await;
}

/// Answers what is no request, as on HTTP/1; the connection's other streams go on.
fn refuse_stream(
    connection: &HttpConnection,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
    error: ParseError,
) {
    connection.stats.cx_protocol_error.inc();
    let mut response = http::Response::new(());
    *response.status_mut() =
        http::StatusCode::from_u16(error.status()).unwrap_or(http::StatusCode::BAD_REQUEST);
    let _ = respond.send_response(response, true);
}
