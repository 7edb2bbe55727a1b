//! Moving one request's body to the upstream and one response's body back, both at once, with bounded buffers.

use std::future::{Future, poll_fn};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use decide::{BodyFilter, Headers, Side};

use super::attempt::Plan;
use super::flow::{Fault, Flow, Reply};
use super::process::Sessions;
use super::timers::Timers;
use crate::wire::{BodyLength, Downstream, Frame, Gone, Reset, ResponseHead, Upstream};

/// Why waiting for the upstream's head ended without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interrupt {
    /// The client went away.
    DownstreamGone,
    /// The client reset the request.
    DownstreamReset,
    /// The client broke the protocol in its body.
    DownstreamBad(&'static str),
    Upstream(Reset),
    /// A filter that looks at the body answers.
    Reply(Reply),
    RequestTimeout,
    PerTryTimeout,
    PerTryIdle,
    StreamIdle,
    /// The longest that the connection manager or route allows.
    MaxDuration,
    /// The longest that the cluster allows.
    UpstreamMaxDuration,
}

impl Interrupt {
    /// Whether it is us who end the upstream's stream before its time.
    pub fn resets_upstream(&self) -> bool {
        !matches!(self, Self::Upstream(Reset::ConnectionTermination | Reset::Remote | Reset::Refused))
    }

    /// Of the request's body.
    fn from_client(fault: Fault) -> Self {
        match fault {
            Fault::Reset(Reset::Protocol(what)) => Self::DownstreamBad(what),
            Fault::Reset(Reset::Remote | Reset::Refused) => Self::DownstreamReset,
            Fault::Reset(_) => Self::DownstreamGone,
            Fault::Reply(reply) => Self::Reply(reply),
        }
    }

    /// Of the answer's.
    pub fn from_upstream(fault: Fault) -> Self {
        match fault {
            Fault::Reset(reset) => Self::Upstream(reset),
            Fault::Reply(reply) => Self::Reply(reply),
        }
    }
}

impl From<Gone> for Interrupt {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Connection => Self::DownstreamGone,
            Gone::Reset => Self::DownstreamReset,
        }
    }
}

/// The request's body as far as it was received, so that it can be sent again.
#[derive(Default)]
pub struct RequestBody {
    /// Kept for another try; emptied when there can be none.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<Headers>,
    /// As the client sent it.
    pub received: u64,
    /// What it passes before it goes upstream.
    flow: Flow,
    /// The client sent its last byte.
    pub complete: bool,
    /// When it did, where there is a body at all.
    pub completed: Option<Instant>,
    cursor: Cursor,
    replayable: bool,
    limit: usize,
    pub messages: GrpcCounter,
    tee: Option<Tee>,
}

/// What of a body one upstream has been given.
#[derive(Default)]
pub struct Cursor {
    given: usize,
    end_given: bool,
    /// What comes waits until the upstream has accepted the tunnel that it is for.
    held: bool,
}

/// Where a mirror gets its copy; one that cannot keep up is cut off.
type Tee = Vec<tokio::sync::mpsc::Sender<MirrorPiece>>;

/// A piece of body for a mirror.
#[derive(Debug, Clone)]
pub enum MirrorPiece {
    Data(Bytes),
    End(Option<Headers>),
}

/// Counts gRPC messages in a stream of length-prefixed ones.
#[derive(Debug, Default, Clone, Copy)]
pub struct GrpcCounter {
    enabled: bool,
    header: [u8; 5],
    have: usize,
    left: u64,
    pub count: u64,
}

impl GrpcCounter {
    pub fn enabled(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    pub fn feed(&mut self, mut data: &[u8]) {
        while self.enabled && !data.is_empty() {
            if self.left > 0 {
                let n = (data.len() as u64).min(self.left);
                self.left -= n;
                data = &data[n as usize..];
                continue;
            }
            self.header[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == 5 {
                self.have = 0;
                self.count += 1;
                self.left = u64::from(u32::from_be_bytes([
                    self.header[1],
                    self.header[2],
                    self.header[3],
                    self.header[4],
                ]));
            }
        }
    }
}

impl RequestBody {
    /// `replayable` keeps what is received up to `limit`, for retries.
    pub fn new(length: BodyLength, replayable: bool, limit: usize, grpc: bool) -> Self {
        Self {
            complete: length == BodyLength::None,
            replayable,
            limit,
            messages: GrpcCounter::enabled(grpc),
            ..Self::default()
        }
    }

    /// Receives until the body is whole or more than so much of it is there: before an upstream is known.
    pub async fn receive(&mut self, down: &mut Downstream<'_>, more_than: u64) -> Result<(), Interrupt> {
        poll_fn(|cx| {
            while !self.complete && self.length() <= more_than {
                match self.poll_frame(cx, down) {
                    Poll::Pending => {
                        // Where the client was told to go on, it has to hear of it.
                        let _ = down.poll_flush(cx);
                        return Poll::Pending;
                    }
                    Poll::Ready(frame) => {
                        if let Some(interrupt) = self.take(frame) {
                            return Poll::Ready(Err(interrupt));
                        }
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// What was received becomes this. Where it is `whole`, what else comes is dropped.
    pub fn replace(&mut self, body: Bytes, whole: bool) {
        self.kept_bytes = body.len();
        self.kept = if body.is_empty() { Vec::new() } else { vec![body] };
        if whole {
            self.flow.drop_rest();
        }
    }

    /// Of what has passed the filters.
    pub fn length(&self) -> u64 {
        self.kept_bytes as u64
    }

    /// One more filter: it sees what was received as well.
    pub fn filter(&mut self, filter: &BodyFilter, sessions: &Sessions) -> Result<(), Interrupt> {
        let waits = matches!(filter, BodyFilter::Process(_));
        if !waits {
            self.flow.add(filter, Side::Request, sessions);
        }
        let mut frames: Vec<Frame> = self.kept.drain(..).map(Frame::Data).collect();
        if self.complete {
            frames.push(self.trailers.take().map_or(Frame::End, Frame::Trailers));
        }
        self.kept_bytes = 0;
        if waits {
            self.flow.put_back_all(frames);
            self.flow.add(filter, Side::Request, sessions);
            self.complete = false;
            self.messages = GrpcCounter::enabled(self.messages.enabled);
            return Ok(());
        }
        let frames = self.flow.pass_through_last(frames).map_err(Interrupt::from_client)?;
        for frame in frames {
            match frame {
                Frame::Data(data) => {
                    self.kept_bytes += data.len();
                    self.kept.push(data);
                }
                Frame::Trailers(trailers) => self.trailers = Some(trailers),
                Frame::End => {}
            }
        }
        Ok(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>, down: &mut Downstream<'_>) -> Poll<Result<Frame, Fault>> {
        let Self { flow, received, .. } = self;
        flow.poll_frame(cx, &mut |cx| {
            let frame = down.poll_body(cx);
            if let Poll::Ready(Ok(Frame::Data(data))) = &frame {
                *received += data.len() as u64;
            }
            frame
        })
    }

    /// What is kept of the body so far.
    pub fn so_far(&self) -> Bytes {
        match &self.kept[..] {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        }
    }

    /// What was received before goes on to the upstream: as [`Self::new`] would have kept it.
    pub fn goes_on(mut self, replayable: bool, limit: usize, grpc: bool) -> Self {
        self.messages = GrpcCounter::enabled(grpc);
        self.kept.iter().for_each(|data| self.messages.feed(data));
        (self.replayable, self.limit) = (replayable, limit);
        if self.kept_bytes > limit {
            self.forget();
        }
        self
    }

    pub fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    pub fn mirror_to(&mut self, tee: Tee) {
        if !tee.is_empty() {
            for data in &self.kept {
                tee.iter().for_each(|t| _ = t.try_send(MirrorPiece::Data(data.clone())));
            }
            if self.complete {
                tee.iter().for_each(|t| _ = t.try_send(MirrorPiece::End(self.trailers.clone())));
            } else {
                self.tee = Some(tee);
            }
        }
    }

    /// Whether another upstream can be given all that was received.
    pub fn can_replay(&self) -> bool {
        self.replayable || self.cursor.given == 0 && self.kept.is_empty() && self.kept_bytes == 0
    }

    /// A new try begins: everything is to be given again.
    pub fn rewind(&mut self) {
        self.cursor = Cursor::default();
    }

    /// Goes on with another upstream, from where that one is; what comes back in `cursor` is where this one was.
    pub fn turn_to(&mut self, cursor: &mut Cursor) {
        std::mem::swap(&mut self.cursor, cursor);
    }

    /// Bytes for a tunnel that an HTTP/1 upstream has not accepted would be a request to it.
    pub fn hold(&mut self) {
        self.cursor.held = true;
    }

    /// The connection became a tunnel: its bytes follow, whatever the request's body was.
    pub fn reopen(&mut self) {
        self.cursor.held = false;
        self.complete = false;
        self.cursor.end_given = false;
    }

    /// No more tries: nothing need be kept.
    pub fn forget(&mut self) {
        if self.replayable {
            self.replayable = false;
            let unsent = self.kept.split_off(self.cursor.given.min(self.kept.len()));
            self.kept = unsent;
            self.cursor.given = 0;
        }
    }

    fn keep(&mut self, data: Bytes) {
        self.messages.feed(&data);
        if let Some(tee) = &mut self.tee {
            tee.retain(|t| t.try_send(MirrorPiece::Data(data.clone())).is_ok());
        }
        self.kept_bytes += data.len();
        self.kept.push(data);
        if self.kept_bytes > self.limit {
            self.forget();
        }
    }

    fn finish(&mut self, trailers: Option<Headers>) {
        self.complete = true;
        self.completed = Some(Instant::now());
        self.trailers = trailers;
        for tee in self.tee.take().into_iter().flatten() {
            let _ = tee.try_send(MirrorPiece::End(self.trailers.clone()));
        }
    }

    /// Moves what can be moved; `Ready` only for a fault.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut Downstream<'_>,
        up: &mut Upstream,
    ) -> Poll<Interrupt> {
        if self.cursor.held {
            return Poll::Pending;
        }
        loop {
            match up.poll_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(reset)) => return Poll::Ready(Interrupt::Upstream(reset)),
                Poll::Ready(Ok(())) => {}
            }
            if let Some(piece) = self.kept.get_mut(self.cursor.given) {
                if self.replayable {
                    up.send_data(piece.clone());
                    self.cursor.given += 1;
                } else {
                    up.send_data(std::mem::take(piece));
                    self.cursor.given += 1;
                    if self.cursor.given == self.kept.len() {
                        self.kept.clear();
                        self.cursor.given = 0;
                    }
                }
                continue;
            }
            if self.complete {
                if !self.cursor.end_given {
                    self.cursor.end_given = true;
                    up.send_end(self.trailers.as_ref());
                }
                return Poll::Pending;
            }
            match self.poll_frame(cx, down) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => {
                    if let Some(interrupt) = self.take(frame) {
                        return Poll::Ready(interrupt);
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: Result<Frame, Fault>) -> Option<Interrupt> {
        match frame {
            Ok(Frame::Data(data)) => self.keep(data),
            Ok(Frame::Trailers(trailers)) => self.finish(Some(trailers)),
            Ok(Frame::End) => self.finish(None),
            Err(fault) => return Some(Interrupt::from_client(fault)),
        }
        None
    }
}

/// Runs something that needs neither side, such as connecting, for as long as the client is there and time is left.
pub async fn while_wanted<T>(
    down: &mut Downstream<'_>,
    timers: &mut Timers,
    work: impl Future<Output = T>,
) -> Result<T, Interrupt> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Poll::Ready(gone) = down.poll_gone(cx) {
            return Poll::Ready(Err(gone.into()));
        }
        timers.poll(cx).map(Err)
    })
    .await
}

/// Sends the request on and looks for the response's head. Interim responses pass through; `interim` tells of them.
pub fn poll_answer(
    cx: &mut Context<'_>,
    plan: &Plan<'_>,
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    body: &mut RequestBody,
    interim: &mut bool,
) -> Poll<Result<ResponseHead, Interrupt>> {
    let fault = body.poll_move(cx, down, up);
    // An upstream that answers early and closes breaks our sending, but its answer counts.
    let flushed = up.poll_flush(cx);
    loop {
        match up.poll_head(cx) {
            Poll::Ready(Ok(head)) if head.response.status < 200 && head.response.status != 101 => {
                plan.count_interim(&head);
                down.send_informational(&head);
                let _ = down.poll_flush(cx);
                *interim = true;
            }
            Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
            Poll::Ready(Err(reset)) => return Poll::Ready(Err(Interrupt::Upstream(reset))),
            Poll::Pending => break,
        }
    }
    if let Poll::Ready(interrupt) = fault {
        return Poll::Ready(Err(interrupt));
    }
    match flushed {
        Poll::Ready(Err(reset)) => Poll::Ready(Err(Interrupt::Upstream(reset))),
        _ => Poll::Pending,
    }
}

/// Sends the request and waits for the response's head.
pub async fn await_head(
    plan: &Plan<'_>,
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    body: &mut RequestBody,
    timers: &mut Timers,
) -> Result<ResponseHead, Interrupt> {
    let mut seen = body.received;
    poll_fn(|cx| {
        let answer = poll_answer(cx, plan, down, up, body, &mut false);
        if body.complete {
            timers.start();
        }
        if body.received != seen {
            seen = body.received;
            timers.progress();
        }
        if answer.is_ready() {
            return answer;
        }
        if let Poll::Ready(gone) = down.poll_gone(cx) {
            return Poll::Ready(Err(gone.into()));
        }
        timers.poll(cx).map(Err)
    })
    .await
}

/// What came of passing a response on.
#[derive(Default)]
pub struct Passed {
    pub bytes: u64,
    pub trailers: Option<Headers>,
    pub messages: GrpcCounter,
    /// Of a tunnel: the client ended it while the upstream had not.
    pub left: bool,
    /// What the body passes on its way.
    pub flow: Flow,
}

impl Passed {
    /// The next piece for the client; what the upstream sent is noted as it comes.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        mut up: Option<&mut Upstream>,
        moved: &mut bool,
    ) -> Poll<Result<Frame, Fault>> {
        let Self { flow, messages, trailers, .. } = self;
        let filtered = !flow.is_empty();
        flow.poll_frame(cx, &mut |cx| {
            let Some(up) = up.as_deref_mut() else { return Poll::Pending };
            let frame = up.poll_body(cx);
            match &frame {
                Poll::Ready(Ok(Frame::Data(data))) => {
                    *moved = true;
                    messages.feed(data);
                }
                Poll::Ready(Ok(Frame::Trailers(said))) if filtered => *trailers = Some(said.clone()),
                _ => {}
            }
            frame
        })
    }
}

/// Lets the request's body move on while an answer's head waits for something.
pub async fn meanwhile<T>(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    body: &mut RequestBody,
    timers: &mut Timers,
    mut work: impl FnMut(&mut Context<'_>, &mut Upstream, &mut bool) -> Poll<Result<T, Interrupt>>,
) -> Result<T, Interrupt> {
    let mut request_fault = false;
    let mut seen = body.received;
    poll_fn(|cx| {
        if !request_fault {
            match body.poll_move(cx, down, up) {
                // What the upstream does not read may not matter for its answer.
                Poll::Ready(Interrupt::Upstream(_)) => request_fault = true,
                Poll::Ready(interrupt) => return Poll::Ready(Err(interrupt)),
                Poll::Pending => {}
            }
            request_fault |= matches!(up.poll_flush(cx), Poll::Ready(Err(_)));
        }
        let mut moved = body.received != seen;
        seen = body.received;
        if let Poll::Ready(done) = work(cx, up, &mut moved) {
            return Poll::Ready(done);
        }
        if moved {
            timers.progress();
        }
        if let Poll::Ready(gone) = down.poll_gone(cx) {
            return Poll::Ready(Err(gone.into()));
        }
        timers.poll(cx).map(Err)
    })
    .await
}

/// Passes the response's body on while the rest of the request still flows. The response's head is written already.
pub async fn pass_body(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    body: &mut RequestBody,
    timers: &mut Timers,
    tunnel: bool,
    passed: &mut Passed,
) -> Result<(), Interrupt> {
    let mut ended = false;
    let mut request_fault = false;
    let mut seen = body.received;
    poll_fn(|cx| {
        if !request_fault && !(ended && !tunnel) {
            match body.poll_move(cx, down, up) {
                // The response may go on although the rest of the request is not wanted.
                Poll::Ready(Interrupt::Upstream(_)) => request_fault = true,
                Poll::Ready(interrupt) => return Poll::Ready(Err(interrupt)),
                Poll::Pending => {}
            }
            if matches!(up.poll_flush(cx), Poll::Ready(Err(_))) {
                request_fault = true;
            }
        }
        let mut moved = body.received != seen;
        seen = body.received;
        passed.left |= tunnel && body.complete && !ended;
        while !ended {
            match down.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Interrupt::DownstreamGone)),
                Poll::Pending => break,
            }
            match passed.poll_frame(cx, Some(up), &mut moved) {
                Poll::Ready(Ok(Frame::Data(data))) => {
                    passed.bytes += data.len() as u64;
                    down.send_data(data);
                }
                Poll::Ready(Ok(Frame::Trailers(trailers))) => {
                    down.send_end(Some(&trailers));
                    passed.trailers.get_or_insert(trailers);
                    ended = true;
                }
                Poll::Ready(Ok(Frame::End)) => {
                    down.send_end(None);
                    ended = true;
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Interrupt::from_upstream(fault))),
                Poll::Pending => break,
            }
        }
        if moved {
            timers.progress();
        }
        match down.poll_flush(cx) {
            Poll::Ready(Ok(())) if ended && (!tunnel || body.cursor.end_given || request_fault) => {
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Interrupt::DownstreamGone)),
            Poll::Pending => {}
        }
        if !tunnel && let Poll::Ready(gone) = down.poll_gone(cx) {
            return Poll::Ready(Err(gone.into()));
        }
        timers.poll(cx).map(Err)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_counted_however_they_are_cut() {
        let mut wire = Vec::new();
        for n in [0usize, 1, 300, 70_000] {
            wire.push(0);
            wire.extend_from_slice(&(n as u32).to_be_bytes());
            wire.extend(std::iter::repeat_n(b'x', n));
        }
        for size in [1, 3, 7, 1000, wire.len()] {
            let mut counter = GrpcCounter::enabled(true);
            wire.chunks(size).for_each(|c| counter.feed(c));
            assert_eq!(counter.count, 4, "pieces of {size}");
        }
    }
}
