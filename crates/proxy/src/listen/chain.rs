//! A connection in the hands of its filter chain: handshake, network filters, then HTTP or TCP.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use decide::{
    Connection, ConnectionDecision, ConnectionOutcome, DownstreamTransport, FilterChain, LogEntry,
    NetworkFilter, Plan, ResponseFlags, Terminal, decide_connection, decide_connection_with,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::accept::Arrived;
use super::exchange_tcp::ALPN;
use super::tcp_proxy::{self, Opened};
use crate::exchange::serve_http;
use crate::net::{Io, Kind};
use crate::worker::{Servers, Worker};

/// A handshake without a configured limit takes no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// What is left to do for a connection whose chain speaks HTTP.
pub type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Sees a connection through, or says how that goes on.
pub async fn serve(
    worker: &Rc<Worker>,
    mut arrived: Arrived,
    chain: Arc<FilterChain>,
    opened: Option<Opened>,
) -> Option<Serving> {
    let Some(mut io) = secure(worker, &mut arrived, &chain).await else {
        // The connection manager has seen the connection, though never a request on it.
        if let Terminal::Http(hcm) = &chain.terminal {
            let stats = worker.http_stats(&Arc::from(hcm.stat_prefix.trim_end_matches(';')));
            stats.cx_total.inc();
            stats.cx_destroy.inc();
        }
        return None;
    };
    if let Some(delay) = over_limit(worker, &chain) {
        tokio::time::sleep(delay).await;
        return None;
    }
    if too_soon(worker, &chain) {
        return None;
    }
    let decision = decide(worker, &chain, &mut arrived, &mut io).await?;
    count_rbac(worker, &chain, &decision);
    worker.count(&decision.counts);
    match decision.outcome {
        ConnectionOutcome::Http(hcm) => {
            return Some(Box::pin(serve_http(worker.clone(), arrived, chain, hcm, io)));
        }
        ConnectionOutcome::Tcp(forward) => {
            let exchanges = chain.filters.iter().any(|f| matches!(f, NetworkFilter::MetadataExchange))
                && arrived.connection.tls.as_ref().is_some_and(|t| t.alpn.as_bytes() == ALPN);
            let facts = tcp_proxy::Facts { chain: &chain.name, metadata: &decision.metadata };
            tcp_proxy::serve(worker, arrived, io, &forward, facts, exchanges, opened).await;
        }
        ConnectionOutcome::Write(bytes) => {
            let _ = io.write_all(&bytes).await;
            let _ = io.shutdown().await;
        }
        ConnectionOutcome::Echo => echo(io, arrived.first).await,
        ConnectionOutcome::Close { details } => {
            tracing::debug!(listener = %arrived.listener.name, details, "connection closed by its filter chain");
            let said = (decision.flags, decision.response_details, &*details);
            tcp_proxy::log_closed(worker, &arrived, &chain, &decision.metadata, said);
        }
        // Who had to be asked has been.
        ConnectionOutcome::Ask(_) => {}
    }
    None
}

/// How much of what a client says is kept while others are asked about it.
const AHEAD: usize = 64 * 1024;

/// Judges a connection that has come in, and asks others where that is to be; nothing when the client goes meanwhile.
async fn decide(
    worker: &Rc<Worker>,
    chain: &FilterChain,
    arrived: &mut Arrived,
    io: &mut Io,
) -> Option<ConnectionDecision> {
    let mut answers = Vec::new();
    loop {
        let plan = worker.config().plan;
        let decision = worker.with_rng(|rng| {
            let start = SystemTime::now();
            decide_connection_with(&plan, chain, &arrived.connection, start, &answers, rng, &mut ())
        });
        let ConnectionOutcome::Ask(call) = &decision.outcome else { return Some(decision) };
        let called = crate::exchange::perform(worker, call);
        answers.push(while_there(io, &mut arrived.first, called).await?);
    }
}

/// Runs something that the client waits for. What it says meanwhile is kept; that it has said all it has to say is not to
/// be gone.
async fn while_there<T>(io: &mut Io, first: &mut BytesMut, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut speaks = true;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            read = io.read_buf(first), if speaks && first.len() < AHEAD => match read {
                Ok(read) => speaks = read > 0,
                Err(_) => return None,
            },
        }
    }
}

/// What the network filters say now.
pub fn judge(
    worker: &Worker,
    plan: &Plan,
    chain: &FilterChain,
    connection: &Connection,
) -> ConnectionDecision {
    worker.with_rng(|rng| decide_connection(plan, chain, connection, SystemTime::now(), rng, &mut ()))
}

/// Whether the network filters let the connection in.
pub fn admits(worker: &Worker, plan: &Plan, chain: &FilterChain, connection: &Connection) -> bool {
    !matches!(judge(worker, plan, chain, connection).outcome, ConnectionOutcome::Close { .. })
}

fn count_rbac(worker: &Worker, chain: &FilterChain, decision: &ConnectionDecision) {
    for filter in &chain.filters {
        let NetworkFilter::Rbac(rbac) = filter else { continue };
        let stats = worker.tcp_stats(&rbac.stat_prefix);
        match &decision.outcome {
            ConnectionOutcome::Close { details } if details.starts_with("rbac") => stats.rbac_denied.inc(),
            _ => stats.rbac_allowed.inc(),
        }
    }
}

/// How long to keep a connection that is one too many before it is closed.
fn over_limit(worker: &Worker, chain: &FilterChain) -> Option<Duration> {
    chain.filters.iter().find_map(|filter| match filter {
        NetworkFilter::ConnectionLimit { max, delay } if worker.stats.connections.get() as u64 > *max => {
            Some(delay.unwrap_or(Duration::ZERO))
        }
        _ => None,
    })
}

/// Whether more connections come than may.
fn too_soon(worker: &Worker, chain: &FilterChain) -> bool {
    chain.filters.iter().any(|filter| match filter {
        NetworkFilter::RateLimit(limit) if !limit.admits(std::time::Instant::now()) => {
            let owner = Arc::clone(&limit.owner);
            let stat = Arc::from("rate_limited");
            worker.count(&[decide::Count { scope: decide::CountScope::Connections, owner, stat }]);
            true
        }
        _ => false,
    })
}

/// Does the handshake where the chain has TLS. Bytes that were read ahead come first.
async fn secure(worker: &Rc<Worker>, arrived: &mut Arrived, chain: &FilterChain) -> Option<Io> {
    let kind = std::mem::replace(&mut arrived.io, Kind::Taken);
    let servers = arrived.servers.take();
    let DownstreamTransport::Tls(context) = &chain.transport else { return Some(Io::new(kind)) };
    let stats = worker.listener_stats(&arrived.listener.stat_prefix);
    let of_context = |servers: Servers| servers.get(&(Arc::as_ptr(context) as usize)).cloned();
    let Some(server) = servers.and_then(of_context) else {
        stats.ssl_connection_error.inc();
        return None;
    };
    if context.require_sni && arrived.connection.server_name.is_empty() {
        stats.ssl_connection_error.inc();
        return None;
    }
    let raw = Io::with_prefix(kind, std::mem::take(&mut arrived.first).freeze()).reads_ahead();
    let accepted =
        tokio::time::timeout(chain.transport_timeout.unwrap_or(HANDSHAKE), server.accept(raw)).await;
    match accepted {
        Ok(Ok(stream)) => {
            stats.ssl_handshake.inc();
            let io = Io::new(Kind::Server(Box::new(stream)));
            arrived.connection.tls = io.tls_info(server.identity().as_deref());
            Some(io)
        }
        Ok(Err(error)) => {
            stats.ssl_connection_error.inc();
            tracing::debug!(%error, listener = %arrived.listener.name, remote = %arrived.connection.remote, "handshake failed");
            None
        }
        Err(_) => {
            stats.ssl_connection_error.inc();
            None
        }
    }
}

async fn echo(mut io: Io, first: BytesMut) {
    let mut buffer = first;
    loop {
        if io.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
        buffer.reserve(16 * 1024);
        match io.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
    let _ = io.shutdown().await;
}

/// A connection that no chain took leaves a line where the listener has a log: Envoy's flag is `NR`.
pub fn log_unmatched(worker: &Worker, arrived: &Arrived) {
    if arrived.listener.access_log.is_empty() {
        return;
    }
    let mut entry = LogEntry::new(&arrived.connection, SystemTime::now());
    entry.flags = ResponseFlags::NO_ROUTE_FOUND;
    entry.response_code_details = "filter_chain_not_found";
    entry.listener = &arrived.listener.name;
    entry.hostname = &worker.node.hostname;
    worker.write_log(&arrived.listener.access_log, &entry);
}
