//! Looking at a connection's first bytes without stalling servers that speak first.
//!
//! While the client is silent, the connection that a TCP chain would make is made ahead of time; if the server then says
//! something first, its bytes flow at once. A client that speaks after all is looked at as usual.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use decide::{ConnectionOutcome, FilterChain, ListenerFilterKind, Terminal};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::accept::{Arrived, learn};
use super::sniff::{Inspect, Sniffed, sniff};
use super::tcp_proxy::{self, Opened};
use crate::net::{Io, Kind};
use crate::stats::ListenerStats;
use crate::worker::Worker;

/// What became of detection.
pub enum Detected {
    Chain(Arc<FilterChain>),
    /// The chain's upstream connection is there already.
    ServerFirst(Arc<FilterChain>, Box<Opened>),
    NoChain,
    Close,
}

/// How long a client may be silent before the server gets a chance to speak.
const GRACE: Duration = Duration::from_millis(100);
/// The same where the server is known to speak first: long enough for a client that speaks at once.
const BRIEF: Duration = Duration::from_millis(5);
/// First bytes beyond this are no start of any protocol that is looked for.
const MAX_FIRST: usize = 64 * 1024;

enum Event {
    ClientSpoke,
    ClientEnded,
    ServerSpoke,
    Silence,
    Timeout,
}

pub async fn detect(worker: &Rc<Worker>, arrived: &mut Arrived, stats: &ListenerStats) -> Detected {
    let inspect = wanted(arrived);
    if !inspect.tls && !inspect.http {
        return chosen(arrived, None);
    }
    let remembered = worker.server_first.borrow().contains(arrived.connection.local);
    let mut patience = Some(Instant::now() + if remembered { BRIEF } else { GRACE });
    let limit = arrived.listener.filters_timeout.map(|d| Instant::now() + d);
    let mut opened: Option<(Arc<FilterChain>, Opened)> = None;
    let mut io = Io::new(std::mem::replace(&mut arrived.io, Kind::Taken));
    let outcome = loop {
        match sniff(&arrived.first, inspect) {
            Sniffed::NeedMore if arrived.first.len() < MAX_FIRST => {}
            Sniffed::Bad => break Detected::Close,
            found => {
                learn(&mut arrived.connection, &found);
                break chosen(arrived, opened.take());
            }
        }
        let server = opened.as_mut().map(|(_, opened)| opened);
        match next(&mut io, &mut arrived.first, server, patience, limit).await {
            Event::ClientSpoke => {}
            Event::ClientEnded if arrived.first.is_empty() => break Detected::Close,
            Event::ClientEnded => break chosen(arrived, opened.take()),
            Event::ServerSpoke => {
                worker.server_first.borrow_mut().insert(arrived.connection.local);
                stats.server_first.inc();
                break chosen(arrived, opened.take());
            }
            Event::Silence => {
                patience = None;
                if arrived.first.is_empty() {
                    opened = ahead(worker, arrived).await;
                }
            }
            Event::Timeout if arrived.listener.continue_on_timeout => break chosen(arrived, opened.take()),
            Event::Timeout => {
                stats.pre_cx_timeout.inc();
                break Detected::Close;
            }
        }
    };
    if opened.is_some() && remembered {
        worker.server_first.borrow_mut().remove(arrived.connection.local);
    }
    arrived.io = io.into_kind();
    outcome
}

fn wanted(arrived: &Arrived) -> Inspect {
    let to = arrived.connection.local;
    let has = |kind| arrived.listener.filters.iter().any(|f| f.kind == kind && f.is_enabled(to));
    Inspect { tls: has(ListenerFilterKind::TlsInspector), http: has(ListenerFilterKind::HttpInspector) }
}

/// The chain for what is known; a connection made ahead is used if it was made for the same chain.
fn chosen(arrived: &Arrived, opened: Option<(Arc<FilterChain>, Opened)>) -> Detected {
    let Some(chain) = arrived.listener.choose(&arrived.connection, &mut ()) else { return Detected::NoChain };
    match opened {
        Some((for_chain, opened)) if Arc::ptr_eq(&for_chain, chain) => {
            Detected::ServerFirst(for_chain, Box::new(opened))
        }
        _ => Detected::Chain(chain.clone()),
    }
}

/// Makes the upstream connection that a silent client's TCP chain would use, if policy lets it.
async fn ahead(worker: &Rc<Worker>, arrived: &Arrived) -> Option<(Arc<FilterChain>, Opened)> {
    let chain = arrived.listener.choose(&arrived.connection, &mut ())?.clone();
    if !matches!(chain.terminal, Terminal::Tcp(_)) {
        return None;
    }
    if !matches!(chain.transport, decide::DownstreamTransport::Plain) {
        return None;
    }
    let decision = super::chain::judge(worker, &worker.config().plan, &chain, &arrived.connection);
    let ConnectionOutcome::Tcp(forward) = decision.outcome else { return None };
    let opened = tcp_proxy::open(worker, &forward, &arrived.connection).await.ok()?;
    Some((chain, opened))
}

/// Whatever comes first: bytes of either side, silence, or the end of our time.
async fn next(
    client: &mut Io,
    first: &mut BytesMut,
    server: Option<&mut Opened>,
    patience: Option<Instant>,
    limit: Option<Instant>,
) -> Event {
    let mut read_client = pin!(client.read_buf(first));
    let mut read_server = pin!(async {
        match server {
            Some(opened) => opened.speaks().await,
            None => std::future::pending().await,
        }
    });
    let mut server_gone = false;
    let timer = |at: Option<Instant>| async move {
        match at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let (mut silence, mut timeout) = (pin!(timer(patience)), pin!(timer(limit)));
    poll_fn(|cx| {
        match read_client.as_mut().poll(cx) {
            Poll::Ready(Ok(n)) if n > 0 => return Poll::Ready(Event::ClientSpoke),
            Poll::Ready(_) => return Poll::Ready(Event::ClientEnded),
            Poll::Pending => {}
        }
        if !server_gone {
            match read_server.as_mut().poll(cx) {
                Poll::Ready(true) => return Poll::Ready(Event::ServerSpoke),
                Poll::Ready(false) => server_gone = true,
                Poll::Pending => {}
            }
        }
        if silence.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Silence);
        }
        timeout.as_mut().poll(cx).map(|()| Event::Timeout)
    })
    .await
}
