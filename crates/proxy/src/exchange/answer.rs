//! An answer on its way back through the filters: what each does to its head, and what is to be done to its body.

use std::task::Poll;

use bytes::{Bytes, BytesMut};
use decide::{Answering, BodyFilter, Decision, Headers, Known, LONGEST_MESSAGE, Response, as_grpc_message};

use super::flow::Flow;
use super::forward::Exchange;
use super::pump::{Interrupt, Passed, RequestBody, meanwhile};
use super::timers::Timers;
use crate::wire::{BodyLength, Frame, ResponseHead, Upstream};

impl Exchange<'_, '_> {
    /// The upstream's answer, before its head is sent.
    #[expect(
        clippy::too_many_arguments,
        reason = "both sides of the exchange, each borrowed from another owner"
    )]
    pub(super) async fn filter(
        &mut self,
        decision: &Decision,
        answer: &mut ResponseHead,
        bodiless: bool,
        upstream: &mut Upstream,
        body: &mut RequestBody,
        timers: &mut Timers,
        passed: &mut Passed,
    ) -> Result<(), Interrupt> {
        let mut at = Answering::default();
        loop {
            let has_body = !bodiless && !matches!(answer.body, BodyLength::None | BodyLength::Known(0));
            let Some(filter) = decision.next_filter(&mut at, self.hcm, &mut answer.response, has_body) else {
                break;
            };
            if !matches!(filter, BodyFilter::WebMessage) {
                answer.body = BodyLength::Unknown;
                passed.flow.add(&filter, &self.connection.worker);
                continue;
            }
            let (message, trailers) =
                whole(self.down, upstream, body, timers, passed, LONGEST_MESSAGE).await?;
            as_grpc_message(&mut answer.response, &message);
            answer.body = BodyLength::Known(0);
            passed.flow = Flow::whole(Bytes::new(), trailers);
        }
        self.connection.worker.count(&at.counts);
        Ok(())
    }

    /// The same for an answer of ours, which is there; and how long it then is.
    pub(super) fn filter_own(
        &self,
        decision: &Decision,
        response: &mut Response,
        body: Bytes,
        is_head: bool,
    ) -> (Bytes, Option<BodyLength>) {
        let (mut at, mut body, mut length) = (Answering::default(), body, None);
        loop {
            let has_body = !body.is_empty() && !is_head;
            let Some(filter) = decision.next_filter(&mut at, self.hcm, response, has_body) else { break };
            if let BodyFilter::WebMessage = filter {
                as_grpc_message(response, &body);
                (body, length) = (Bytes::new(), Some(BodyLength::Known(0)));
                continue;
            }
            let mut flow = Flow::whole(body, None);
            flow.add(&filter, &self.connection.worker);
            body = flow.drain().0.into();
            length = Some(BodyLength::Unknown);
        }
        self.connection.worker.count(&at.counts);
        if length == Some(BodyLength::Unknown) {
            response.headers.remove_known(Known::ContentLength);
        }
        (body, length)
    }
}

/// The answer's body up to so many bytes, and its trailers: it is read to its end.
async fn whole(
    down: &mut crate::wire::Downstream<'_>,
    up: &mut Upstream,
    body: &mut RequestBody,
    timers: &mut Timers,
    passed: &mut Passed,
    most: usize,
) -> Result<(Bytes, Option<Headers>), Interrupt> {
    let mut all = BytesMut::new();
    let trailers = meanwhile(down, up, body, timers, |cx, up, moved| {
        loop {
            match passed.poll_frame(cx, up, moved) {
                Poll::Ready(Ok(Frame::Data(data))) => {
                    let take = data.len().min(most - all.len());
                    all.extend_from_slice(&data[..take]);
                }
                Poll::Ready(Ok(Frame::Trailers(trailers))) => return Poll::Ready(Ok(Some(trailers))),
                Poll::Ready(Ok(Frame::End)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Interrupt::from_upstream(fault))),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    Ok((all.freeze(), trailers))
}
