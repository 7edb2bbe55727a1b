//! What the service says, and what is made of it.

use bytes::Bytes;
use proto::pb::envoy::service::ext_proc::v3 as pb;
use proto::pb::envoy::service::ext_proc::v3::processing_response::Response as Said;

use super::SPURIOUS;
use super::mutate::{self, Subject};
use super::{BodyMode, Mode, Part, Processing, ProcessingResponse, RouteCache, Side};
use crate::decision::LocalReply;
use crate::headers::Headers;
use crate::machine::Count;
use crate::metadata::DynamicMetadata;
use crate::request::Response;

/// What is said of a part.
#[derive(Debug)]
pub enum Judged {
    /// It goes on, with these changes.
    On(Box<Common>),
    /// The client is answered in the service's words, or in ours since these words would not do.
    Reply(Box<LocalReply>),
    /// That was no answer to what was asked: why.
    Spurious(&'static str),
}

/// What becomes of a part; the changes to headers are made where they are.
#[derive(Debug, Default)]
pub struct Common {
    headers: Option<pb::HeaderMutation>,
    /// What the body, or this piece of it, becomes.
    pub body: Option<Bytes>,
    /// The body is this and no more.
    pub replaces: bool,
    clears_route: bool,
}

impl Processing {
    /// Reads an answer to what was told of a part; counts and metadata are taken from it.
    pub fn judge(
        &mut self,
        side: Side,
        part: Part,
        said: ProcessingResponse,
        metadata: &mut DynamicMetadata,
        counts: &mut Vec<Count>,
    ) -> Judged {
        let processor = self.processor.clone();
        if part == Part::Headers
            && processor.allows_mode_override
            && let Some(mode) = &said.mode_override
            && let Ok(mode) = Mode::compile(mode)
            && (processor.allowed_overrides.is_empty()
                || processor.allowed_overrides.iter().any(|allowed| allowed.is_as(mode)))
        {
            self.mode = mode;
        }
        for (name, value) in said.dynamic_metadata.iter().flat_map(|m| &m.fields) {
            use proto::pb::google::protobuf::value::Kind;
            if let Some(Kind::StructValue(fields)) = &value.kind
                && processor.receives.iter().any(|known| **known == **name)
            {
                for (key, value) in crate::wire::json_of(fields) {
                    metadata.set(name, &key, value);
                }
            }
        }
        let common = |common: Option<pb::CommonResponse>| {
            let common = common.unwrap_or_default();
            let replaces = common.status == pb::common_response::ResponseStatus::ContinueAndReplace as i32;
            Judged::On(Box::new(Common {
                headers: common.header_mutation,
                body: common.body_mutation.and_then(changed_body),
                replaces,
                clears_route: common.clear_route_cache,
            }))
        };
        let judged = match (side, part, said.response) {
            (Side::Request, Part::Headers, Some(Said::RequestHeaders(said)))
            | (Side::Response, Part::Headers, Some(Said::ResponseHeaders(said))) => common(said.response),
            (Side::Request, Part::Body, Some(Said::RequestBody(said)))
            | (Side::Response, Part::Body, Some(Said::ResponseBody(said))) => common(said.response),
            (Side::Request, Part::Trailers, Some(Said::RequestTrailers(said)))
            | (Side::Response, Part::Trailers, Some(Said::ResponseTrailers(said))) => {
                Judged::On(Box::new(Common { headers: said.header_mutation, ..Common::default() }))
            }
            (_, _, Some(Said::ImmediateResponse(reply))) if processor.immediate_allowed => {
                Judged::Reply(Box::new(self.immediate(reply, counts)))
            }
            (_, _, Some(Said::ImmediateResponse(_))) => {
                Judged::Spurious("unhandled_immediate_response_due_to_config_disabled_it")
            }
            (_, _, None | Some(Said::StreamedImmediateResponse(_))) => Judged::Spurious("unhandled_message"),
            _ => Judged::Spurious(SPURIOUS),
        };
        match &judged {
            Judged::Spurious(_) => counts.push(self.count("spurious_msgs_received")),
            _ => counts.push(self.count("stream_msgs_received")),
        }
        if let Judged::On(common) = &judged
            && common.replaces
            && part == Part::Headers
        {
            // Nothing more of this message is asked about.
            let parts = match side {
                Side::Request => &mut self.mode.request,
                Side::Response => &mut self.mode.response,
            };
            (parts.body, parts.trailers) = (BodyMode::None, false);
        }
        judged
    }

    fn immediate(&self, said: pb::ImmediateResponse, counts: &mut Vec<Count>) -> LocalReply {
        let code = said.status.map_or(200, |status| status.code);
        let status = u16::try_from(code).ok().filter(|code| (200..1000).contains(code)).unwrap_or(200);
        let mut reply = LocalReply::new(status, said.body, "");
        reply.details = said.details.split_whitespace().collect::<Vec<_>>().join("_").into();
        reply.grpc_status = said.grpc_status.map(|s| s.status);
        if let Some(headers) = &said.headers {
            let mut response = Response { status, headers: Headers::new() };
            let subject = Subject::Response(&mut response);
            let mut rejected = 0;
            // What may not be done to headers is left undone.
            let _ = mutate::apply(&self.processor.rules, headers, subject, false, &mut rejected);
            reply.headers = response.headers;
            self.count_rejected(rejected, counts);
        }
        reply
    }

    fn count_rejected(&self, rejected: u32, counts: &mut Vec<Count>) {
        for _ in 0..rejected {
            counts.push(self.count("rejected_header_mutations"));
        }
    }

    /// Makes the changes to headers or trailers. The error is the answer to give instead.
    pub fn change(
        &self,
        side: Side,
        common: &Common,
        subject: Subject<'_>,
        counts: &mut Vec<Count>,
    ) -> Result<(), LocalReply> {
        let Some(mutation) = &common.headers else { return Ok(()) };
        // A length that is told must be that of what follows.
        let length = self.parts(side).body == BodyMode::Buffered && !self.resizes(side);
        let mut rejected = 0;
        let changed = mutate::apply(&self.processor.rules, mutation, subject, length, &mut rejected);
        self.count_rejected(rejected, counts);
        changed.map_err(|fault| self.failure(500, fault.to_owned()))
    }

    /// Whether the request's route is to be chosen anew.
    pub(crate) fn clears_route(&self, common: &Common, counts: &mut Vec<Count>) -> bool {
        if common.headers.is_none() {
            if common.clears_route {
                counts.push(self.count("clear_route_cache_ignored"));
            }
            return false;
        }
        match self.processor.route_cache {
            RouteCache::AsSaid => common.clears_route,
            RouteCache::Clear => true,
            RouteCache::Retain => {
                if common.clears_route {
                    counts.push(self.count("clear_route_cache_disabled"));
                }
                false
            }
        }
    }

    /// Whether a changed body is as long as its header says.
    pub fn fits(&self, headers: &Headers, body: &Bytes) -> Result<(), LocalReply> {
        let told: Option<u64> =
            headers.known_str(crate::headers::Known::ContentLength).and_then(|n| n.parse().ok());
        match told {
            Some(told) if body.len() as u64 != told => {
                let fault = "mismatch_between_content_length_and_the_length_of_the_mutated_body";
                Err(self.failure(500, fault.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Of which direction an answer is, where it is of one.
pub fn side_of(said: &ProcessingResponse) -> Option<Side> {
    match said.response.as_ref()? {
        Said::RequestHeaders(_) | Said::RequestBody(_) | Said::RequestTrailers(_) => Some(Side::Request),
        Said::ResponseHeaders(_) | Said::ResponseBody(_) | Said::ResponseTrailers(_) => Some(Side::Response),
        Said::ImmediateResponse(_) | Said::StreamedImmediateResponse(_) => None,
    }
}

fn changed_body(mutation: pb::BodyMutation) -> Option<Bytes> {
    use pb::body_mutation::Mutation;
    match mutation.mutation? {
        Mutation::Body(body) => Some(body.into()),
        Mutation::ClearBody(true) => Some(Bytes::new()),
        Mutation::ClearBody(false) | Mutation::StreamedResponse(_) => None,
    }
}
