//! Copies of requests for other clusters: sent, and forgotten.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use decide::Forward;
use tokio::sync::mpsc;
use upstream::{Pick, Place, Priority};

use super::pump::MirrorPiece;
use crate::cluster::{Cluster, HttpProtocol, Lease, TlsOverride, Want};
use crate::wire::{BodyLength, Frame, H2ClientStream, RequestHead, Upstream, h2_request_of};
use crate::worker::Worker;

/// Pieces of body that may wait for a mirror; one that is slower gets no more.
const QUEUE: usize = 16;
/// Mirrored requests of one worker at once.
const MAX: usize = 512;
/// A mirror without an answer is given up.
const WITHIN: Duration = Duration::from_secs(15);

thread_local! {
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

struct Running;

impl Running {
    fn begin() -> Option<Self> {
        RUNNING.with(|n| (n.get() < MAX).then(|| n.set(n.get() + 1))).map(|()| Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with(|n| n.set(n.get() - 1));
    }
}

/// Starts the mirrors of a request; what comes back is where they get its body.
pub fn start(worker: &Rc<Worker>, forward: &Forward, head: &RequestHead) -> Vec<mpsc::Sender<MirrorPiece>> {
    let mut all = Vec::new();
    for mirror in &forward.mirrors {
        let Some(cluster) = worker.cluster(&mirror.cluster.name) else { continue };
        let Some((cluster, place)) = cluster.stands_for(worker) else { continue };
        let Some(running) = Running::begin() else {
            worker.stats.mirror_dropped.inc();
            continue;
        };
        let (sender, pieces) = mpsc::channel(QUEUE);
        let mut copy = head.clone();
        copy.request.authority.clone_from(&mirror.authority);
        copy.request.upgrade = None;
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(WITHIN, send(&worker, (&cluster, place), &copy, pieces)).await;
            drop(running);
        });
        if head.body != BodyLength::None {
            all.push(sender);
        }
    }
    all
}

async fn send(
    worker: &Worker,
    (cluster, place): (&Rc<Cluster>, Option<Place>),
    head: &RequestHead,
    mut pieces: mpsc::Receiver<MirrorPiece>,
) -> Option<()> {
    let host = worker.with_rng(|rng| cluster.pick(&Pick { place, ..Pick::default() }, rng))?;
    let http2 = cluster.target().protocol == HttpProtocol::Http2;
    let want = Want {
        host: &host,
        http2,
        by_alpn: false,
        tls: TlsOverride::default(),
        priority: Priority::Default,
        fresh: false,
        careful: false,
    };
    cluster.stats().rq_total.inc();
    let lease = cluster.acquire(&want).await.ok()?;
    let end = head.body == BodyLength::None;
    // A stream counts as long as its lease is held.
    let (mut upstream, mut h1, _h2) = match lease {
        Lease::H1(mut lease) => {
            let mut client = lease.client.take()?;
            client.send_head(head);
            (Upstream::H1(client), Some(lease), None)
        }
        Lease::H2(lease) => {
            let mut sender = lease.send.clone().ready().await.ok()?;
            let (response, stream) = sender.send_request(h2_request_of(head).ok()?, end).ok()?;
            (Upstream::H2(H2ClientStream::new(response, stream, end)), None, Some(lease))
        }
    };
    if end {
        upstream.send_end(None);
    } else {
        loop {
            match pieces.recv().await {
                Some(MirrorPiece::Data(data)) => upstream.send_data(data),
                Some(MirrorPiece::End(trailers)) => {
                    upstream.send_end(trailers.as_ref());
                    break;
                }
                // The original was cut off, or was too fast for us.
                None => return None,
            }
            poll_fn(|cx| upstream.poll_ready(cx)).await.ok()?;
        }
    }
    let answer = loop {
        let head = poll_fn(|cx| {
            let _ = upstream.poll_flush(cx);
            upstream.poll_head(cx)
        })
        .await
        .ok()?;
        if head.response.status >= 200 {
            break head;
        }
    };
    cluster.stats().code(answer.response.status);
    poll_fn(|cx| {
        loop {
            match upstream.poll_body(cx) {
                Poll::Ready(Ok(Frame::Data(_))) => {}
                Poll::Ready(Ok(_)) => return Poll::Ready(Some(())),
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    if let (Some(lease), Upstream::H1(client)) = (h1.take(), upstream) {
        lease.release(client, None);
    }
    Some(())
}
