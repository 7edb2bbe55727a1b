//! The external processing filter while a request is decided on: its head, and its body where that is seen at once. What is
//! seen piece by piece, and the answer, are the proxy's.

use base::Random;
use bytes::Bytes;

use super::{Context, Deciding, Passed};
use crate::ask::{Answer, Ask};
use crate::decision::LocalReply;
use crate::explain::{Note, Recorder};
use crate::ext_proc::{
    BodyMode, Common, Judged, Part, ProcessAsk, Processed, Processing, Processor, Side, Subject,
};
use crate::filters::{BodyFilter, BodyPass, Override};
use crate::headers::Known;
use crate::request::Request;

/// How far a filter is with a request.
#[derive(Debug)]
pub(super) struct Processes {
    processing: Processing,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The head was told.
    Headers,
    /// The body is waited for.
    Body,
    /// It was told.
    BodyTold,
    /// It is what the service made of it.
    Replaced,
}

impl Deciding {
    pub(super) fn ext_proc<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        base: &std::sync::Arc<Processor>,
        filter: &str,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let Some(Processes { processing, step }) = self.processes.take() else {
            let own: Vec<_> = self.state.overrides_of(filter).filter_map(Override::processing).collect();
            let Some(processor) = base.with(own.into_iter().rev()) else { return Passed::Next };
            let which = self.state.processors;
            self.state.processors += 1;
            let mut processing = Processing::new(which, processor, &cx.hcm.stat_prefix);
            recorder.note(|| Note::new("external processing", &*base.target.cluster, "is asked"));
            if !processing.parts(Side::Request).headers {
                return self.after_headers(processing, request);
            }
            let message = processing.tell_request(request, !self.has_body);
            return self.tell(processing, Part::Headers, message, Step::Headers);
        };
        self.goes_on(cx, processing, step, request, rng, recorder).unwrap_or_else(|passed| passed)
    }

    /// With what was answered; the error is how the filter ends before its time.
    fn goes_on<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        mut processing: Processing,
        step: Step,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Result<Passed, Passed> {
        Ok(match (step, self.answer.take()) {
            (Step::Headers, Some(Answer::Processed(processed))) => {
                let common = self.said(&mut processing, Part::Headers, processed, request)?;
                self.changed(cx, &processing, &common, request, rng, recorder)?;
                match common.body {
                    Some(body) if common.replaces => {
                        request.headers.remove_known(Known::ContentLength);
                        self.state.resized = true;
                        self.replace(processing, body, true)
                    }
                    _ => self.after_headers(processing, request),
                }
            }
            (Step::Body, Some(Answer::Body(Some(body)))) => {
                if processing.parts(Side::Request).body == BodyMode::Buffered && !body.complete {
                    let reply = LocalReply::new(413, "Payload Too Large", "request_payload_too_large");
                    return Err(Passed::Reply(Box::new(LocalReply { close: true, ..reply })));
                }
                self.state.resized = true;
                let ends = body.complete && !body.has_trailers;
                let message = processing.tell_body(Side::Request, &body.data, ends, &request.metadata);
                self.tell(processing, Part::Body, message, Step::BodyTold)
            }
            (Step::BodyTold, Some(Answer::Processed(processed))) => {
                let common = self.said(&mut processing, Part::Body, processed, request)?;
                self.changed(cx, &processing, &common, request, rng, recorder)?;
                let Some(body) = common.body else { return Ok(self.over(processing)) };
                if processing.parts(Side::Request).body == BodyMode::Buffered
                    && let Err(reply) = processing.fits(&request.headers, &body)
                {
                    return Err(Passed::Reply(Box::new(reply)));
                }
                self.replace(processing, body, false)
            }
            // There is no body after all, or it is as it shall be.
            _ => self.over(processing),
        })
    }

    fn tell(
        &mut self,
        processing: Processing,
        part: Part,
        message: crate::ext_proc::ProcessingRequest,
        step: Step,
    ) -> Passed {
        let ask = ProcessAsk { processing: processing.clone(), part, message };
        self.processes = Some(Processes { processing, step });
        Passed::Ask(Ask::Process(Box::new(ask)))
    }

    fn replace(&mut self, processing: Processing, body: Bytes, whole: bool) -> Passed {
        self.processes = Some(Processes { processing, step: Step::Replaced });
        Passed::Ask(Ask::Replace { body, whole })
    }

    /// What the service says; the filter is over where it says nothing more.
    fn said(
        &mut self,
        processing: &mut Processing,
        part: Part,
        processed: Processed,
        request: &mut Request,
    ) -> Result<Common, Passed> {
        let said = match processed {
            Processed::Said(said) => said,
            Processed::Over => return Err(Passed::Next),
            Processed::Failed(reply) => return Err(Passed::Reply(reply)),
        };
        let counts = &mut self.state.counts;
        match processing.judge(Side::Request, part, *said, &mut request.metadata, counts) {
            Judged::On(common) => Ok(*common),
            Judged::Reply(reply) => Err(Passed::Reply(reply)),
            Judged::Spurious(why) => Err(match processing.spurious(why, counts) {
                Some(reply) => Passed::Reply(Box::new(reply)),
                None => Passed::Next,
            }),
        }
    }

    fn changed<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        processing: &Processing,
        common: &Common,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Result<(), Passed> {
        let counts = &mut self.state.counts;
        if let Err(reply) = processing.change(Side::Request, common, Subject::Request(request), counts) {
            return Err(Passed::Reply(Box::new(reply)));
        }
        if processing.clears_route(common, counts) {
            match self.state.choose_again(cx, request, rng, recorder) {
                Passed::Next => {}
                other => return Err(other),
            }
        }
        Ok(())
    }

    fn after_headers(&mut self, processing: Processing, request: &mut Request) -> Passed {
        let parts = processing.parts(Side::Request);
        if self.has_body && processing.resizes(Side::Request) {
            request.headers.remove_known(Known::ContentLength);
            self.state.resized = true;
        }
        let waits = matches!(parts.body, BodyMode::Buffered | BodyMode::Partial);
        if waits && self.has_body && request.upgrade.is_none() && !request.is_connect() {
            self.processes = Some(Processes { processing, step: Step::Body });
            return self.ask_body(Ask::AS_MUCH_AS_CAN_BE);
        }
        self.over(processing)
    }

    /// The rest is for the body on its way, and for the answer.
    fn over(&mut self, processing: Processing) -> Passed {
        if self.has_body && processing.follows(Side::Request) {
            self.state.body_filters.push(BodyFilter::Process(Box::new(processing.clone())));
        }
        self.state.bodies.passes.push(BodyPass::Process(Box::new(processing)));
        Passed::Next
    }
}

impl Override {
    fn processing(&self) -> Option<&crate::ext_proc::PerRoute> {
        match self {
            Self::ExtProc(own) => Some(own),
            _ => None,
        }
    }
}
