//! The stream to an external processor: one for each filter and request, opened when the first part is told, closed when the
//! request ends. What is told waits for its answer, for each direction by itself; the filter's timer runs meanwhile.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use decide::{
    DynamicMetadata, GrpcTarget, Known, LocalReply, Method, Part, Processed, Processing, ProcessingRequest,
    ProcessingResponse, Request, SPURIOUS, Side, grpc_of_http,
};
use prost::Message as _;
use tokio::time::Instant;
use upstream::{Outcome, Permit, Pick, Priority, Resource};

use super::attempt::tls_override;
use super::timers::Alarm;
use crate::cluster::{Cluster, H2Lease, Lease, Want};
use crate::trace::grpc_frame;
use crate::wire::{BodyLength, Frame, H2ClientStream, RequestHead, Upstream, h2_request_of};
use crate::worker::Worker;

const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// How long a service may take to end its side.
const FAREWELL: Duration = Duration::from_secs(1);
/// A longer message than that is no answer.
const LONGEST_MESSAGE: usize = 8 << 20;

/// The streams of one request, and what their services say of it.
#[derive(Clone)]
pub struct Sessions(Rc<All>);

struct All {
    worker: Rc<Worker>,
    open: RefCell<Vec<(usize, Rc<RefCell<Session>>)>>,
    metadata: RefCell<DynamicMetadata>,
}

impl Sessions {
    pub fn new(worker: &Rc<Worker>, metadata: &DynamicMetadata) -> Self {
        Self(Rc::new(All {
            worker: worker.clone(),
            open: RefCell::default(),
            metadata: RefCell::new(metadata.clone()),
        }))
    }

    pub fn of(&self, processing: &Processing) -> Rc<RefCell<Session>> {
        let mut open = self.0.open.borrow_mut();
        if let Some((_, session)) = open.iter().find(|(which, _)| *which == processing.which) {
            return session.clone();
        }
        let session = Rc::new(RefCell::new(Session::new(&self.0.worker, processing)));
        open.push((processing.which, session.clone()));
        session
    }

    pub fn metadata<T>(&self, with: impl FnOnce(&mut DynamicMetadata) -> T) -> T {
        with(&mut self.0.metadata.borrow_mut())
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.0.worker
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Open, u32>>>>;

enum State {
    /// Nothing was told.
    New,
    Opening(Opening),
    Open(Box<Open>),
    Over,
}

struct Open {
    upstream: Upstream,
    cluster: Rc<Cluster>,
    /// The answer's head has come.
    begun: bool,
    _lease: H2Lease,
    _in_flight: Permit,
}

/// One direction of the request.
#[derive(Default)]
struct Way {
    told: VecDeque<Part>,
    said: VecDeque<ProcessingResponse>,
    timer: Alarm,
    /// The service has asked for more time.
    extended: bool,
}

pub struct Session {
    worker: Rc<Worker>,
    processing: Processing,
    state: State,
    /// What is told before the stream is open.
    waiting: Vec<Bytes>,
    read: BytesMut,
    ways: [Way; 2],
    /// What the client gets, until somebody gives it.
    failure: Option<LocalReply>,
}

/// How a stream ends.
enum End {
    Closed,
    Failed(u32),
    Timeout,
    /// It says what is no answer.
    Spurious,
}

fn index(side: Side) -> usize {
    match side {
        Side::Request => 0,
        Side::Response => 1,
    }
}

impl Session {
    fn new(worker: &Rc<Worker>, processing: &Processing) -> Self {
        Self {
            worker: worker.clone(),
            processing: processing.clone(),
            state: State::New,
            waiting: Vec::new(),
            read: BytesMut::new(),
            ways: [Way::default(), Way::default()],
            failure: None,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn count(&self, stat: &str) {
        self.worker.count(&[self.processing.count(stat)]);
    }

    /// Tells of a part: its answer is to be waited for.
    pub fn tell(&mut self, side: Side, part: Part, message: &ProcessingRequest) {
        if self.is_over() {
            return;
        }
        if let State::New = self.state {
            let (worker, target) = (self.worker.clone(), self.processing.processor.target.clone());
            self.state = State::Opening(Box::pin(open(worker, target)));
            self.count("streams_started");
        }
        self.count("stream_msgs_sent");
        let frame = grpc_frame(&message.encode_to_vec());
        match &mut self.state {
            State::Open(open) => open.upstream.send_data(frame),
            _ => self.waiting.push(frame),
        }
        let way = &mut self.ways[index(side)];
        way.told.push_back(part);
        way.extended = false;
        way.timer.set(Instant::now(), self.processing.processor.message_timeout);
    }

    /// The answer to what was told first, or that there will be none.
    pub fn poll(&mut self, cx: &mut Context<'_>, side: Side) -> Poll<Processed> {
        loop {
            let timeout = self.processing.processor.message_timeout;
            let way = &mut self.ways[index(side)];
            if let Some(said) = way.said.pop_front() {
                way.told.pop_front();
                match way.told.is_empty() {
                    true => way.timer.clear(),
                    false => way.timer.set(Instant::now(), timeout),
                }
                return Poll::Ready(Processed::Said(Box::new(said)));
            }
            if self.is_over() {
                let failure = self.failure.take();
                return Poll::Ready(
                    failure.map_or(Processed::Over, |reply| Processed::Failed(Box::new(reply))),
                );
            }
            match self.drive(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(end)) => {
                    self.end(end);
                    continue;
                }
                Poll::Pending => {}
            }
            if self.ways[index(side)].timer.poll(cx).is_ready() {
                self.end(End::Timeout);
                continue;
            }
            return Poll::Pending;
        }
    }

    /// Ends the stream, since nothing more is to be told.
    pub fn close(&mut self) {
        if !matches!(self.state, State::New | State::Over) {
            self.count("streams_closed");
        }
        self.leave();
    }

    /// The same of one that is not counted so. The service hears of the end, for which a moment is taken.
    fn leave(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Over);
        self.ways = [Way::default(), Way::default()];
        if let State::Open(mut open) = state {
            open.upstream.send_end(None);
            tokio::task::spawn_local(async move {
                let end = poll_fn(|cx| {
                    let _ = open.upstream.poll_flush(cx);
                    match open.upstream.poll_body(cx) {
                        Poll::Ready(Ok(Frame::Data(_))) => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                        Poll::Ready(_) => Poll::Ready(()),
                        Poll::Pending => Poll::Pending,
                    }
                });
                let _ = tokio::time::timeout(FAREWELL, end).await;
            });
        }
    }

    fn end(&mut self, end: End) {
        let processor = self.processing.processor.clone();
        let status = processor.status_on_error;
        let failure = |status, details: String| Some(self.processing.failure(status, details));
        let (stat, failure) = match end {
            End::Closed => (None, None),
            End::Failed(code) => {
                (Some("streams_failed"), failure(status, format!("ext_proc_error_gRPC_error_{code}")))
            }
            End::Timeout => (
                Some("message_timeouts"),
                failure(504, "ext_proc_error_per-message_timeout_exceeded".to_owned()),
            ),
            End::Spurious => {
                let mut counts = vec![self.processing.count("spurious_msgs_received")];
                let reply = self.processing.spurious(SPURIOUS, &mut counts);
                self.worker.count(&counts);
                self.close();
                self.failure = reply;
                return;
            }
        };
        match stat {
            // One that failed is not one that was closed, unless that is as well.
            Some("streams_failed") if !processor.failure_allows => self.leave(),
            _ => self.close(),
        }
        if let Some(stat) = stat {
            self.count(stat);
            if processor.failure_allows {
                self.count("failure_mode_allowed");
                return;
            }
        }
        self.failure = failure;
    }

    /// Sends what waits and reads what comes; ready when there is something new.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            let open = match &mut self.state {
                State::New | State::Over => return Poll::Pending,
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(code)) => return Poll::Ready(Err(End::Failed(code))),
                    Poll::Ready(Ok(mut open)) => {
                        self.waiting.drain(..).for_each(|frame| open.upstream.send_data(frame));
                        self.state = State::Open(Box::new(open));
                        continue;
                    }
                },
                State::Open(open) => open,
            };
            // What cannot be sent is told by what cannot be read.
            let _ = open.upstream.poll_flush(cx);
            if !open.begun {
                match open.upstream.poll_head(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Failed(UNAVAILABLE))),
                    Poll::Ready(Ok(head)) if head.response.status < 200 => continue,
                    Poll::Ready(Ok(head)) => {
                        open.begun = true;
                        open.cluster.stats().code(head.response.status);
                        open.cluster.stats().rq_completed.inc();
                        if head.response.status != 200 {
                            return Poll::Ready(Err(End::Failed(grpc_of_http(head.response.status))));
                        }
                        if let Some(code) = head.response.grpc_status() {
                            return Poll::Ready(Err(ended(code)));
                        }
                    }
                }
            }
            match open.upstream.poll_body(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Frame::Data(data))) => {
                    self.read.extend_from_slice(&data);
                    match self.messages() {
                        Ok(false) => continue,
                        Ok(true) => return Poll::Ready(Ok(())),
                        Err(end) => return Poll::Ready(Err(end)),
                    }
                }
                Poll::Ready(Ok(Frame::Trailers(trailers))) => {
                    let code = trailers.known_str(Known::GrpcStatus).and_then(|s| s.parse().ok());
                    return Poll::Ready(Err(ended(code.unwrap_or(UNKNOWN))));
                }
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(Err(End::Failed(UNKNOWN))),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Failed(INTERNAL))),
            }
        }
    }

    /// Takes whole messages out of what was read; whether there was one to wait for.
    fn messages(&mut self) -> Result<bool, End> {
        let mut any = false;
        while let Some(head) = self.read.get(..5) {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if head[0] != 0 || length > LONGEST_MESSAGE {
                return Err(End::Failed(INTERNAL));
            }
            if self.read.len() < 5 + length {
                break;
            }
            self.read.advance(5);
            let message = self.read.split_to(length);
            let said = ProcessingResponse::decode(message).map_err(|_| End::Failed(INTERNAL))?;
            any |= self.take(said)?;
        }
        Ok(any)
    }

    fn take(&mut self, said: ProcessingResponse) -> Result<bool, End> {
        if let Some(more) = &said.override_message_timeout {
            let more = Duration::new(
                u64::try_from(more.seconds).unwrap_or_default(),
                u32::try_from(more.nanos).unwrap_or_default().min(999_999_999),
            );
            let most = self.processing.processor.max_message_timeout;
            let fits = more >= Duration::from_millis(1) && more <= most;
            let way = self.ways.iter_mut().find(|way| !way.told.is_empty() && !way.extended);
            match way.filter(|_| fits) {
                Some(way) => {
                    way.extended = true;
                    way.timer.set(Instant::now(), more);
                    self.count("override_message_timeout_received");
                }
                None => self.count("override_message_timeout_ignored"),
            }
            return Ok(false);
        }
        let waits = |side| !self.ways[index(side)].told.is_empty();
        let side = match decide::side_of(&said) {
            Some(side) => Some(side).filter(|side| waits(*side)),
            None => [Side::Request, Side::Response].into_iter().find(|side| waits(*side)),
        };
        let way = &mut self.ways[index(side.ok_or(End::Spurious)?)];
        if way.said.len() >= way.told.len() {
            return Err(End::Spurious);
        }
        way.said.push_back(said);
        Ok(true)
    }
}

const UNKNOWN: u32 = 2;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

fn ended(code: u32) -> End {
    if code == 0 { End::Closed } else { End::Failed(code) }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens a stream; the error is gRPC's status.
async fn open(worker: Rc<Worker>, target: GrpcTarget) -> Result<Open, u32> {
    let unavailable = |cluster: &Cluster| {
        cluster.stats().code(503);
        cluster.stats().rq_completed.inc();
        UNAVAILABLE
    };
    let cluster = worker.cluster(&target.cluster).ok_or(UNAVAILABLE)?;
    let Some(in_flight) = cluster.state().breakers.acquire(Resource::Request, Priority::Default) else {
        cluster.stats().pending_overflow.inc();
        return Err(unavailable(&cluster));
    };
    let Some((cluster, place)) = cluster.stands_for(&worker) else { return Err(unavailable(&cluster)) };
    let pick = Pick { place, ..Pick::default() };
    let Some(host) = worker.with_rng(|rng| cluster.pick(&pick, rng)) else {
        cluster.stats().cx_none_healthy.inc();
        return Err(unavailable(&cluster));
    };
    let mut request = Request::new(Method::Post, &*target.authority, METHOD);
    request.scheme = "http".into();
    request.headers.append(Known::Te, "trailers");
    if let Some(timeout) = target.timeout {
        request.headers.append("grpc-timeout", format!("{}m", timeout.as_millis()));
    }
    request.headers.append(Known::ContentType, "application/grpc");
    for (name, value) in &target.metadata {
        request.headers.append(name.clone(), value.clone());
    }
    request.headers.set(Known::XEnvoyInternal, "true");
    let tls = tls_override(&cluster.target(), &host, &target.authority, None, true, false);
    let want = Want {
        host: &host,
        http2: true,
        by_alpn: false,
        tls,
        priority: Priority::Default,
        fresh: false,
        careful: true,
    };
    let failed = |_| {
        worker.with_rng(|rng| cluster.record(&host, Outcome::ConnectFailed, rng));
        unavailable(&cluster)
    };
    let lease = cluster.acquire(&want).await.map_err(failed)?;
    cluster.stats().rq_total.inc();
    let Lease::H2(lease) = lease else { return Err(unavailable(&cluster)) };
    let head = RequestHead { request, body: BodyLength::Unknown };
    let mut message = h2_request_of(&head).map_err(|_| INTERNAL)?;
    message.headers_mut().remove("host");
    let mut sender = lease.send.clone().ready().await.map_err(|_| unavailable(&cluster))?;
    let (response, stream) = sender.send_request(message, false).map_err(|_| unavailable(&cluster))?;
    let upstream = Upstream::H2(H2ClientStream::new(response, stream, false));
    Ok(Open { upstream, cluster, begun: false, _lease: lease, _in_flight: in_flight })
}
