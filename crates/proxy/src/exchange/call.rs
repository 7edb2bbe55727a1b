//! Requests of the proxy's own, through clusters as any other: what the deciding machine asks for, and spans.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use decide::{Answered, Call, CallFault, Headers, Known};
use upstream::{Host, Outcome, Pick, Priority, Resource};

use super::attempt::tls_override;
use crate::cluster::{Cluster, HttpProtocol, Lease, Want};
use crate::wire::{BodyLength, Frame, H2ClientStream, RequestHead, Reset, Upstream, h2_request_of};
use crate::worker::Worker;

/// Nothing waits for ever, whatever is configured.
const LONGEST: Duration = Duration::from_secs(600);

/// Sends the call and waits for its whole answer. Dropping the future ends the call.
pub async fn perform(worker: &Worker, call: &Call) -> Result<Answered, CallFault> {
    let cluster = worker.cluster(&call.cluster).ok_or(CallFault::NoCluster)?;
    let stats = cluster.stats();
    let Some(_in_flight) = cluster.state().breakers.acquire(Resource::Request, Priority::Default) else {
        stats.pending_overflow.inc();
        return Err(refused(&cluster, "too many requests are under way"));
    };
    let Some((cluster, place)) = cluster.stands_for(worker) else {
        return Err(refused(&cluster, "no healthy host"));
    };
    let pick = Pick { place, ..Pick::default() };
    let Some(host) = worker.with_rng(|rng| cluster.pick(&pick, rng)) else {
        cluster.stats().cx_none_healthy.inc();
        return Err(refused(&cluster, "no healthy host"));
    };
    let under_way = UnderWay::begin(&cluster);
    let limit = call.timeout.filter(|limit| !limit.is_zero()).unwrap_or(LONGEST).min(LONGEST);
    let begun = std::time::Instant::now();
    let came = tokio::time::timeout(limit, on_connection(&cluster, &host, call)).await;
    under_way.end();
    let record = |outcome| worker.with_rng(|rng| cluster.record(&host, outcome, rng));
    match came {
        Ok(Ok(mut answered)) => {
            let took = begun.elapsed();
            answered.took = took;
            answered.response.headers.set(Known::XEnvoyUpstreamServiceTime, took.as_millis().to_string());
            let status = answered.response.status;
            record(Outcome::Status(status));
            stats.code(status);
            stats.rq_completed.inc();
            Ok(answered)
        }
        Ok(Err(reason)) => {
            record(Outcome::Reset);
            Err(refused(&cluster, &reason))
        }
        Err(_) => {
            record(Outcome::Timeout);
            stats.rq_timeout.inc();
            stats.code(504);
            stats.rq_completed.inc();
            Err(CallFault::Timeout)
        }
    }
}

/// Counted as the router counts a request that it answers itself.
fn refused(cluster: &Cluster, reason: &str) -> CallFault {
    cluster.stats().code(503);
    cluster.stats().rq_completed.inc();
    CallFault::Failed(reason.to_owned())
}

/// Counts a call while it runs, and one that nobody waited for.
struct UnderWay<'a> {
    cluster: &'a Rc<Cluster>,
    ended: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(cluster: &'a Rc<Cluster>) -> Self {
        cluster.stats().rq_active.inc();
        Self { cluster, ended: false }
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.cluster.stats().rq_active.dec();
        if !self.ended {
            self.cluster.stats().rq_cancelled.inc();
        }
    }
}

fn lost(reset: Reset) -> String {
    format!("{reset:?}")
}

async fn on_connection(cluster: &Rc<Cluster>, host: &Host, call: &Call) -> Result<Answered, String> {
    let protocol = cluster.target().protocol;
    let http2 = call.grpc || protocol == HttpProtocol::Http2;
    let by_alpn = !http2 && protocol == HttpProtocol::Alpn;
    let tls = tls_override(&cluster.target(), host, &call.request.authority, None, http2, by_alpn);
    let want = Want { host, http2, by_alpn, tls, priority: Priority::Default, fresh: false, careful: true };
    let mut request = call.request.clone();
    request.headers.set(Known::XEnvoyInternal, "true");
    if let Some(limit) = call.timeout {
        request.headers.set(Known::XEnvoyExpectedRqTimeoutMs, limit.as_millis().to_string());
    }
    let body = if call.bodiless { BodyLength::None } else { BodyLength::Known(call.body.len() as u64) };
    let head = RequestHead { request, body };
    let active = host.start_request();
    let lease = cluster.acquire(&want).await.map_err(|error| error.to_string())?;
    cluster.stats().rq_total.inc();
    let (mut upstream, h1, _h2) = match lease {
        Lease::H1(mut lease) => {
            let mut client = lease.client.take().ok_or("its connection is gone")?;
            client.send_head(&head);
            client.send_data(call.body.clone());
            (Upstream::H1(client), Some(lease), None)
        }
        Lease::H2(lease) => {
            let mut sender = lease.send.clone().ready().await.map_err(|error| error.to_string())?;
            let mut request = h2_request_of(&head).map_err(lost)?;
            request.headers_mut().remove("host");
            let end = call.body.is_empty();
            let (response, stream) = sender.send_request(request, end).map_err(|error| error.to_string())?;
            let mut stream = H2ClientStream::new(response, stream, end);
            if !end {
                stream.send_data(call.body.clone());
            }
            (Upstream::H2(stream), None, Some(lease))
        }
    };
    upstream.send_end(None);
    let answer = loop {
        let answer = poll_fn(|cx| {
            let _ = upstream.poll_flush(cx);
            upstream.poll_head(cx)
        })
        .await
        .map_err(lost)?;
        if answer.response.status >= 200 {
            break answer;
        }
    };
    let (body, trailers) = rest(&mut upstream, call.max_body).await?;
    drop(active);
    if let (Some(lease), Upstream::H1(client)) = (h1, upstream) {
        lease.release(client, None);
    }
    Ok(Answered { response: answer.response, body, trailers, took: Duration::ZERO })
}

/// Reads an answer to its end: its body and trailers.
async fn rest(upstream: &mut Upstream, max: usize) -> Result<(Bytes, Option<Headers>), String> {
    let mut body = BytesMut::new();
    let trailers = poll_fn(|cx| {
        loop {
            let _ = upstream.poll_flush(cx);
            match upstream.poll_body(cx) {
                Poll::Ready(Ok(Frame::Data(data))) if body.len() + data.len() > max => {
                    return Poll::Ready(Err("its answer is too long".to_owned()));
                }
                Poll::Ready(Ok(Frame::Data(data))) => body.extend_from_slice(&data),
                Poll::Ready(Ok(Frame::Trailers(trailers))) => return Poll::Ready(Ok(Some(trailers))),
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(reset)) => return Poll::Ready(Err(lost(reset))),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    Ok((body.freeze(), trailers))
}
