//! A body that an external processor sees piece by piece, and its trailers: what is told goes on when its answer has come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use decide::{BodyMode, Headers, Judged, Part, Processed, Processing, Side, Subject};

use super::flow::Fault;
use super::process::{Session, Sessions};
use crate::wire::Frame;

/// Bytes that may wait for their answers.
const IN_FLIGHT: usize = 64 * 1024;

pub struct Passing {
    processing: Processing,
    side: Side,
    session: Rc<RefCell<Session>>,
    sessions: Sessions,
    /// Told, in order; the last may be the end of the body.
    told: VecDeque<(Bytes, bool)>,
    in_flight: usize,
    trailers: Option<Headers>,
    trailers_told: bool,
    /// The source has nothing more.
    ended: bool,
    /// Of what is told as the last piece already.
    end_told: bool,
    done: bool,
}

type Source<'a> = &'a mut dyn FnMut(&mut Context<'_>) -> Poll<Result<Frame, Fault>>;

impl Passing {
    pub fn new(processing: &Processing, side: Side, sessions: &Sessions) -> Self {
        Self {
            processing: processing.clone(),
            side,
            session: sessions.of(processing),
            sessions: sessions.clone(),
            told: VecDeque::new(),
            in_flight: 0,
            trailers: None,
            trailers_told: false,
            ended: false,
            end_told: false,
            done: false,
        }
    }

    /// Puts what may go on into `out`; ready when there is something.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: Source<'_>,
        out: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.done {
                return Poll::Pending;
            }
            let over = self.session.borrow().is_over() && self.told.is_empty() && !self.trailers_told;
            let waits = !self.told.is_empty() || self.trailers_told;
            if waits {
                let processed = self.session.borrow_mut().poll(cx, self.side);
                if let Poll::Ready(processed) = processed {
                    self.take(processed, out)?;
                    if !out.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
            }
            if self.ended && !waits {
                self.finish(over, out);
                if !out.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.ended || self.in_flight >= IN_FLIGHT {
                return Poll::Pending;
            }
            let frame = match source(cx) {
                Poll::Ready(frame) => frame?,
                Poll::Pending => return Poll::Pending,
            };
            match frame {
                Frame::Data(data) if over || self.processing.parts(self.side).body != BodyMode::Streamed => {
                    out.push_back(Frame::Data(data));
                    return Poll::Ready(Ok(()));
                }
                Frame::Data(data) => {
                    // An end that is there already is told with the last piece.
                    let ends = match source(cx) {
                        Poll::Ready(Ok(Frame::End)) => true,
                        Poll::Ready(Ok(Frame::Data(more))) => {
                            self.tell(data, false);
                            self.tell(more, false);
                            continue;
                        }
                        Poll::Ready(Ok(Frame::Trailers(trailers))) => {
                            self.tell(data, false);
                            (self.trailers, self.ended) = (Some(trailers), true);
                            continue;
                        }
                        Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                        Poll::Pending => false,
                    };
                    self.tell(data, ends);
                    (self.ended, self.end_told) = (ends, ends);
                }
                Frame::Trailers(trailers) => (self.trailers, self.ended) = (Some(trailers), true),
                Frame::End => {
                    self.ended = true;
                    if !over && self.processing.parts(self.side).body == BodyMode::Streamed {
                        self.tell(Bytes::new(), true);
                        self.end_told = true;
                    }
                }
            }
        }
    }

    fn tell(&mut self, data: Bytes, ends: bool) {
        let message = self.sessions.metadata(|m| self.processing.tell_body(self.side, &data, ends, m));
        self.in_flight += data.len();
        self.told.push_back((data, ends));
        self.session.borrow_mut().tell(self.side, Part::Body, &message);
    }

    /// All pieces have gone on: the trailers, or the end.
    fn finish(&mut self, over: bool, out: &mut VecDeque<Frame>) {
        let Some(trailers) = self.trailers.take() else {
            self.done = true;
            out.push_back(Frame::End);
            return;
        };
        if over || !self.processing.parts(self.side).trailers {
            self.done = true;
            out.push_back(Frame::Trailers(trailers));
            return;
        }
        let message = self.sessions.metadata(|m| self.processing.tell_trailers(self.side, &trailers, m));
        self.session.borrow_mut().tell(self.side, Part::Trailers, &message);
        self.trailers = Some(trailers);
        self.trailers_told = true;
    }

    fn take(&mut self, processed: Processed, out: &mut VecDeque<Frame>) -> Result<(), Fault> {
        let part = if self.told.is_empty() { Part::Trailers } else { Part::Body };
        let said = match processed {
            Processed::Said(said) => said,
            Processed::Failed(reply) => return Err((*reply).into()),
            Processed::Over => {
                self.release(out);
                return Ok(());
            }
        };
        let mut counts = Vec::new();
        let judged =
            self.sessions.metadata(|m| self.processing.judge(self.side, part, *said, m, &mut counts));
        let result = match judged {
            Judged::Reply(reply) => {
                self.session.borrow_mut().close();
                Err((*reply).into())
            }
            Judged::Spurious(why) => {
                self.session.borrow_mut().close();
                match self.processing.spurious(why, &mut counts) {
                    Some(reply) => Err(reply.into()),
                    None => {
                        self.release(out);
                        Ok(())
                    }
                }
            }
            Judged::On(common) if part == Part::Body => {
                if let Some((data, _)) = self.told.pop_front() {
                    self.in_flight -= data.len();
                    let data = common.body.unwrap_or(data);
                    if !data.is_empty() {
                        out.push_back(Frame::Data(data));
                    }
                }
                Ok(())
            }
            Judged::On(common) => {
                let mut trailers = self.trailers.take().unwrap_or_default();
                let subject = Subject::Trailers(&mut trailers);
                let changed = self.processing.change(self.side, &common, subject, &mut counts);
                (self.done, self.trailers_told) = (true, false);
                out.push_back(Frame::Trailers(trailers));
                changed.map_err(Into::into)
            }
        };
        self.sessions.worker().count(&counts);
        result
    }

    /// Nothing more is waited for.
    fn release(&mut self, out: &mut VecDeque<Frame>) {
        for (data, _) in self.told.drain(..).filter(|(data, _)| !data.is_empty()) {
            out.push_back(Frame::Data(data));
        }
        (self.in_flight, self.trailers_told) = (0, false);
    }
}
