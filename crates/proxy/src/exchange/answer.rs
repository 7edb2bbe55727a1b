//! An answer on its way back through the filters: what each does to its head, and what is to be done to its body.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use decide::{
    Answering, BodyFilter, BodyMode, Common, Decision, Headers, Judged, Known, LONGEST_MESSAGE, LocalReply,
    Part, Processed, Processing, Side, Subject, as_grpc_message,
};

use super::flow::{Fault, Flow};
use super::forward::Exchange;
use super::process::Sessions;
use super::pump::{Interrupt, Passed, RequestBody, meanwhile};
use super::timers::Timers;
use crate::wire::{BodyLength, Downstream, Frame, RequestHead, ResponseHead, Upstream};

/// Where an answer comes from, and what moves on while its head waits.
pub(super) enum Origin<'x> {
    Upstream { upstream: &'x mut Upstream, body: &'x mut RequestBody, timers: &'x mut Timers },
    Own,
}

/// What was taken in of a body.
struct Gathered {
    data: Bytes,
    complete: bool,
    trailers: Option<Headers>,
}

impl Exchange<'_, '_> {
    /// The answer before its head is sent. `bodiless`: none follows, whatever the head says.
    pub(super) async fn filter(
        &mut self,
        decision: &Decision,
        head: &RequestHead,
        answer: &mut ResponseHead,
        bodiless: bool,
        origin: &mut Origin<'_>,
        passed: &mut Passed,
    ) -> Result<(), Interrupt> {
        let mut at = Answering::default();
        loop {
            let has_body = !bodiless && !matches!(answer.body, BodyLength::None | BodyLength::Known(0));
            let Some(filter) = decision.next_filter(&mut at, self.hcm, &mut answer.response, has_body) else {
                break;
            };
            let sessions = self.sessions(&head.request);
            match filter {
                BodyFilter::WebMessage => {
                    let message = Box::pin(gather(self.down, origin, passed, LONGEST_MESSAGE, true)).await?;
                    as_grpc_message(&mut answer.response, &message.data);
                    answer.body = BodyLength::Known(0);
                    passed.flow = Flow::whole(Bytes::new(), message.trailers);
                }
                BodyFilter::Process(processing) => {
                    Box::pin(self.process(*processing, &sessions, answer, has_body, origin, passed)).await?;
                }
                filter => {
                    answer.body = BodyLength::Unknown;
                    passed.flow.add(&filter, Side::Response, &sessions);
                }
            }
        }
        self.connection.worker.count(&at.counts);
        Ok(())
    }

    /// All that is left of an answer of ours.
    pub(super) async fn rest_of_own(&mut self, passed: &mut Passed) -> Result<Bytes, Interrupt> {
        gather(self.down, &mut Origin::Own, passed, usize::MAX, true).await.map(|rest| rest.data)
    }

    /// An external processor sees the answer.
    async fn process(
        &mut self,
        mut processing: Processing,
        sessions: &Sessions,
        answer: &mut ResponseHead,
        has_body: bool,
        origin: &mut Origin<'_>,
        passed: &mut Passed,
    ) -> Result<(), Interrupt> {
        let session = sessions.of(&processing);
        if session.borrow().is_over() {
            return Ok(());
        }
        if processing.parts(Side::Response).headers {
            let message = sessions.metadata(|m| processing.tell_response(&answer.response, !has_body, m));
            session.borrow_mut().tell(Side::Response, Part::Headers, &message);
            let said = self.said(&mut processing, Part::Headers, sessions, origin, passed).await?;
            let Some(common) = said else { return Ok(()) };
            self.change(&processing, &common, answer)?;
            if let Some(body) = common.body.filter(|_| common.replaces) {
                answer.response.headers.remove_known(Known::ContentLength);
                answer.body = BodyLength::Unknown;
                passed.flow = Flow::whole(body, None);
                return Ok(());
            }
            if matches!(answer.response.status, 204 | 304) && answer.body != BodyLength::None {
                // An answer that can have no body has none any more.
                answer.body = BodyLength::None;
                passed.flow = Flow::whole(Bytes::new(), None);
                return Ok(());
            }
        }
        if processing.resizes(Side::Response)
            && !matches!(answer.body, BodyLength::None | BodyLength::Known(0))
        {
            answer.response.headers.remove_known(Known::ContentLength);
            answer.body = BodyLength::Unknown;
        }
        if !has_body {
            return Ok(());
        }
        let mode = processing.parts(Side::Response).body;
        if matches!(mode, BodyMode::Buffered | BodyMode::Partial) {
            let most = self.connection.buffer_limit;
            let gathered = gather(self.down, origin, passed, most, false).await?;
            if mode == BodyMode::Buffered && !gathered.complete {
                let reply = LocalReply::new(500, "Internal Server Error", "response_payload_too_large");
                return Err(interrupted(reply));
            }
            let ends = gathered.complete && gathered.trailers.is_none();
            let message =
                sessions.metadata(|m| processing.tell_body(Side::Response, &gathered.data, ends, m));
            session.borrow_mut().tell(Side::Response, Part::Body, &message);
            let said = self.said(&mut processing, Part::Body, sessions, origin, passed).await?;
            let mut body = gathered.data;
            if let Some(common) = said {
                self.change(&processing, &common, answer)?;
                if let Some(changed) = common.body {
                    if mode == BodyMode::Buffered {
                        processing.fits(&answer.response.headers, &changed).map_err(interrupted)?;
                    }
                    body = changed;
                }
            }
            if mode == BodyMode::Buffered {
                answer.body = match answer.response.headers.contains(Known::ContentLength) {
                    true => BodyLength::Known(body.len() as u64),
                    false => BodyLength::Unknown,
                };
            }
            match gathered.complete {
                true => passed.flow = Flow::whole(body, gathered.trailers),
                false => passed.flow.put_back(body),
            }
        }
        if processing.follows(Side::Response) && !session.borrow().is_over() {
            passed.flow.add(&BodyFilter::Process(Box::new(processing)), Side::Response, sessions);
        }
        Ok(())
    }

    fn change(
        &self,
        processing: &Processing,
        common: &Common,
        answer: &mut ResponseHead,
    ) -> Result<(), Interrupt> {
        let mut counts = Vec::new();
        let subject = Subject::Response(&mut answer.response);
        let changed = processing.change(Side::Response, common, subject, &mut counts);
        self.connection.worker.count(&counts);
        changed.map_err(interrupted)
    }

    /// Waits for what the processor says; nothing where it says nothing more.
    async fn said(
        &mut self,
        processing: &mut Processing,
        part: Part,
        sessions: &Sessions,
        origin: &mut Origin<'_>,
        passed: &mut Passed,
    ) -> Result<Option<Common>, Interrupt> {
        let session = sessions.of(processing);
        let processed = wait(self.down, origin, passed, |cx, _, _, _| {
            session.borrow_mut().poll(cx, Side::Response).map(Ok)
        })
        .await?;
        let said = match processed {
            Processed::Said(said) => said,
            Processed::Over => return Ok(None),
            Processed::Failed(reply) => return Err(interrupted(*reply)),
        };
        let mut counts = Vec::new();
        let judged = sessions.metadata(|m| processing.judge(Side::Response, part, *said, m, &mut counts));
        let said = match judged {
            Judged::On(common) => Ok(Some(*common)),
            Judged::Reply(reply) => {
                session.borrow_mut().close();
                Err(interrupted(*reply))
            }
            Judged::Spurious(why) => {
                session.borrow_mut().close();
                processing.spurious(why, &mut counts).map_or(Ok(None), |reply| Err(interrupted(reply)))
            }
        };
        self.connection.worker.count(&counts);
        said
    }
}

fn interrupted(reply: LocalReply) -> Interrupt {
    Interrupt::from_upstream(Fault::from(reply))
}

/// Waits for work on an answer whose head is not sent, while all else moves on.
async fn wait<T>(
    down: &mut Downstream<'_>,
    origin: &mut Origin<'_>,
    passed: &mut Passed,
    mut work: impl FnMut(
        &mut Context<'_>,
        &mut Passed,
        Option<&mut Upstream>,
        &mut bool,
    ) -> Poll<Result<T, Interrupt>>,
) -> Result<T, Interrupt> {
    match origin {
        Origin::Upstream { upstream, body, timers } => {
            meanwhile(down, upstream, body, timers, |cx, up, moved| work(cx, passed, Some(up), moved)).await
        }
        Origin::Own => {
            poll_fn(|cx| {
                if let Poll::Ready(done) = work(cx, passed, None, &mut false) {
                    return Poll::Ready(done);
                }
                down.poll_gone(cx).map(|gone| Err(gone.into()))
            })
            .await
        }
    }
}

/// The body as far as it is wanted: to its end where more is dropped, else until there is more than `most` of it.
async fn gather(
    down: &mut Downstream<'_>,
    origin: &mut Origin<'_>,
    passed: &mut Passed,
    most: usize,
    drops: bool,
) -> Result<Gathered, Interrupt> {
    let mut all = BytesMut::new();
    let end = wait(down, origin, passed, |cx, passed, mut up, moved| {
        loop {
            if !drops && all.len() > most {
                return Poll::Ready(Ok(None));
            }
            match passed.poll_frame(cx, up.as_deref_mut(), moved) {
                Poll::Ready(Ok(Frame::Data(data))) => {
                    let take = if drops { data.len().min(most - all.len()) } else { data.len() };
                    all.extend_from_slice(&data[..take]);
                }
                Poll::Ready(Ok(Frame::Trailers(trailers))) => return Poll::Ready(Ok(Some(Some(trailers)))),
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(Ok(Some(None))),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Interrupt::from_upstream(fault))),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    Ok(Gathered { data: all.freeze(), complete: end.is_some(), trailers: end.flatten() })
}
