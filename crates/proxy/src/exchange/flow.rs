//! The filters that a body passes on its way, piece by piece, one after the other: what the last one has ready goes on, and only
//! when it has nothing is more asked of the one before.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use decide::{BodyFilter, Headers, LocalReply, Side};

use super::coding::{Decoder, Encoder};
use super::grpc_web::{FromText, ToWeb};
use super::passing::Passing;
use super::process::Sessions;
use crate::wire::{Frame, Reset};

/// Why a body does not come any further.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Where it comes from.
    Reset(Reset),
    /// A filter answers in its place.
    Reply(Reply),
}

/// An answer of ours that a filter gives while the body passes.
#[derive(Debug, Clone)]
pub struct Reply(pub Rc<LocalReply>);

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Reply {}

impl From<Reset> for Fault {
    fn from(reset: Reset) -> Self {
        Self::Reset(reset)
    }
}

impl From<LocalReply> for Fault {
    fn from(reply: LocalReply) -> Self {
        Self::Reply(Reply(Rc::new(LocalReply { of_filter: true, ..reply })))
    }
}

/// What one filter does.
enum Work {
    Encode(Option<Encoder>),
    Decode(Box<Decoder>),
    FromText(FromText),
    ToWeb(ToWeb),
    Passing(Box<Passing>),
    /// What was taken in and put back goes first.
    Front,
    /// The rest of it is nobody's.
    Drop,
    /// Nothing more is asked for: all of it is there.
    Whole,
}

struct Stage {
    work: Work,
    /// Ready to go on.
    out: VecDeque<Frame>,
}

/// The stages of one direction; none in most cases.
#[derive(Default)]
pub struct Flow {
    stages: Vec<Stage>,
}

impl Stage {
    /// Nothing for what needs more than pieces.
    fn new(filter: &BodyFilter, side: Side, sessions: &Sessions) -> Option<Self> {
        let work = match filter {
            BodyFilter::Encode(coding) => Work::Encode(Some(Encoder::new(*coding))),
            BodyFilter::Decode(decode) => Work::Decode(Box::new(Decoder::new(decode, sessions.worker()))),
            BodyFilter::WebText => Work::FromText(FromText::default()),
            BodyFilter::Web { text } => Work::ToWeb(ToWeb::new(*text)),
            BodyFilter::Process(processing) => {
                Work::Passing(Box::new(Passing::new(processing, side, sessions)))
            }
            BodyFilter::WebMessage => return None,
        };
        Some(Self { work, out: VecDeque::new() })
    }

    fn feed(&mut self, frame: Frame) -> Result<(), Fault> {
        let out = &mut self.out;
        match &mut self.work {
            Work::Encode(encoder) => match frame {
                Frame::Data(data) => push(out, encoder.as_mut().map(|e| e.encode(&data)).unwrap_or(data)),
                end => {
                    push(out, encoder.take().map(Encoder::finish).unwrap_or_default());
                    out.push_back(end);
                }
            },
            Work::Decode(decoder) => match frame {
                Frame::Data(data) => push(out, decoder.decode(&data)),
                Frame::Trailers(mut trailers) => {
                    decoder.report(&mut trailers);
                    out.push_back(Frame::Trailers(trailers));
                }
                Frame::End => {
                    let mut trailers = Headers::new();
                    decoder.report(&mut trailers);
                    out.push_back(Frame::Trailers(trailers));
                }
            },
            Work::FromText(from) => match frame {
                Frame::Data(data) => push(out, from.decode(&data)?),
                Frame::End => {
                    from.finish()?;
                    out.push_back(Frame::End);
                }
                trailers @ Frame::Trailers(_) => out.push_back(trailers),
            },
            Work::ToWeb(to) => match frame {
                Frame::Data(data) => push(out, to.message(data)),
                Frame::Trailers(trailers) => {
                    push(out, to.trailers(&trailers));
                    out.push_back(Frame::End);
                }
                Frame::End => {
                    push(out, to.rest());
                    out.push_back(Frame::End);
                }
            },
            Work::Front => out.push_back(frame),
            Work::Drop if matches!(frame, Frame::Data(_)) => {}
            Work::Drop => out.push_back(frame),
            Work::Passing(_) | Work::Whole => {}
        }
        Ok(())
    }
}

fn push(out: &mut VecDeque<Frame>, data: Bytes) {
    if !data.is_empty() {
        out.push_back(Frame::Data(data));
    }
}

impl Flow {
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// One more filter, behind the others.
    pub fn add(&mut self, filter: &BodyFilter, side: Side, sessions: &Sessions) {
        self.stages.extend(Stage::new(filter, side, sessions));
    }

    /// A piece that was taken in goes first, then what comes.
    pub fn put_back(&mut self, data: Bytes) {
        let mut out = VecDeque::new();
        push(&mut out, data);
        self.stages.push(Stage { work: Work::Front, out });
    }

    /// What was taken in goes first; whether it ended is said by its last frame.
    pub fn put_back_all(&mut self, frames: Vec<Frame>) {
        self.stages.push(Stage { work: Work::Front, out: frames.into() });
    }

    /// What comes is dropped, but for its end.
    pub fn drop_rest(&mut self) {
        self.stages.push(Stage { work: Work::Drop, out: VecDeque::new() });
    }

    /// A body that is there as far as it passed all filters.
    pub fn whole(data: Bytes, trailers: Option<Headers>) -> Self {
        let mut out = VecDeque::new();
        push(&mut out, data);
        out.push_back(trailers.map_or(Frame::End, Frame::Trailers));
        Self { stages: vec![Stage { work: Work::Whole, out }] }
    }

    /// The next piece. `source` is where the body comes from.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn FnMut(&mut Context<'_>) -> Poll<Result<Frame, Reset>>,
    ) -> Poll<Result<Frame, Fault>> {
        pull(&mut self.stages, cx, source)
    }

    /// What comes of pieces that were taken in before the last filter was known. Whether the body ended is known then.
    pub fn pass_through_last(&mut self, frames: Vec<Frame>) -> Result<Vec<Frame>, Fault> {
        let Some(last) = self.stages.last_mut() else { return Ok(frames) };
        frames.into_iter().try_for_each(|frame| last.feed(frame))?;
        Ok(last.out.drain(..).collect())
    }
}

fn pull(
    stages: &mut [Stage],
    cx: &mut Context<'_>,
    source: &mut dyn FnMut(&mut Context<'_>) -> Poll<Result<Frame, Reset>>,
) -> Poll<Result<Frame, Fault>> {
    let Some((last, before)) = stages.split_last_mut() else {
        return source(cx).map_err(Fault::from);
    };
    loop {
        if let Some(frame) = last.out.pop_front() {
            return Poll::Ready(Ok(frame));
        }
        match &mut last.work {
            Work::Whole => return Poll::Pending,
            Work::Passing(passing) => {
                ready!(passing.poll(cx, &mut |cx| pull(before, cx, source), &mut last.out))?;
                continue;
            }
            _ => {}
        }
        let frame = ready!(pull(before, cx, source))?;
        last.feed(frame)?;
    }
}
