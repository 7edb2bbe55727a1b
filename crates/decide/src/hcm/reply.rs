//! Answers of the proxy's own: mapped by rules, shaped for gRPC, finished with headers.

use base::Random;
use bytes::Bytes;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::{Hcm, ServerHeader};
use crate::access_log::{BodyFormat, LogFilter};
use crate::decision::LocalReply;
use crate::headers::{Headers, Known};
use crate::log::{LogEntry, grpc_of_http};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::{Method, Response};
use crate::route::Mutations;
use crate::wire::{DataSource, number};

/// `localReplyConfig`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyMap {
    mappers: Vec<Mapper>,
    body: Option<BodyFormat>,
}

#[derive(Debug, Clone)]
struct Mapper {
    filter: LogFilter,
    status: Option<u16>,
    body: Option<Bytes>,
    format: Option<BodyFormat>,
    headers: Mutations,
}

/// A response that is ready to be written.
#[derive(Debug, Clone)]
pub struct FinishedReply {
    pub response: Response,
    /// Empty for HEAD and gRPC.
    pub body: Bytes,
}

impl ReplyMap {
    pub(super) fn compile(config: &Option<pb::LocalReplyConfig>) -> Taken<Self> {
        let Some(config) = config else { return Ok(Self::default()) };
        Ok(Self {
            mappers: each(&config.mappers, "mappers", Mapper::compile)?,
            body: config.body_format.as_ref().map(BodyFormat::compile).transpose().within("bodyFormat")?,
        })
    }
}

impl Mapper {
    fn compile(m: &pb::ResponseMapper) -> Taken<Self> {
        let filter = m.filter.as_ref().ok_or_else(|| Refusal::new("is missing").under("filter"))?;
        let status = number(&m.status_code)
            .map(|s| u16::try_from(s).ok().filter(|s| (200..600).contains(s)))
            .map(|s| s.ok_or_else(|| Refusal::new("must be from 200 to 599").under("statusCode")))
            .transpose()?;
        Ok(Self {
            filter: LogFilter::compile(filter).within("filter")?,
            status,
            body: m.body.as_ref().map(|b| DataSource::inline(b).within("body")).transpose()?,
            format: m
                .body_format_override
                .as_ref()
                .map(BodyFormat::compile)
                .transpose()
                .within("bodyFormatOverride")?,
            headers: Mutations::compile(&m.headers_to_add, &[], ("headersToAdd", ""))?,
        })
    }
}

impl Hcm {
    /// Turns an answer of ours into a response. `entry` describes the request and what befell it: mappers look at it,
    /// and formats write it. `grpc` says whether the client speaks gRPC, whatever filters made of its request.
    pub fn finish_reply<R: Random + ?Sized>(
        &self,
        reply: &LocalReply,
        entry: &LogEntry<'_>,
        grpc: bool,
        rng: &mut R,
    ) -> FinishedReply {
        let mut status = reply.status;
        let mut headers = reply.headers.clone();
        let mut body = reply.body.clone();
        let mut format = self.replies.body.as_ref();
        let mut content_type = None;
        if format.is_some() || !self.replies.mappers.is_empty() {
            let seen = LogEntry {
                response_code: status,
                response_code_details: &reply.details,
                flags: reply.flags.with(entry.flags),
                ..entry.clone()
            };
            if let Some(mapper) = self.replies.mappers.iter().find(|m| m.filter.accepts(&seen, rng)) {
                status = mapper.status.unwrap_or(status);
                body = mapper.body.clone().unwrap_or(body);
                format = mapper.format.as_ref().or(format);
                mapper.headers.apply_simply(&mut headers, &seen);
            }
            if let Some(format) = format {
                let text = String::from_utf8_lossy(&body).into_owned();
                let seen = LogEntry { response_code: status, local_reply_body: &text, ..seen };
                body = format.render(&seen).into();
                content_type = Some(format.content_type.to_string());
            }
        }
        if grpc {
            // What is JSON ends with a line feed, which is not of the message.
            let json = format.is_some_and(BodyFormat::is_json);
            let text = body.strip_suffix(b"\n").filter(|_| json).unwrap_or(&body);
            return grpc_reply(status, reply.grpc_status, text, headers);
        }
        let mut response = Response { status, headers };
        let bodiless = entry.request.is_some_and(|r| r.method == Method::Head);
        if !body.is_empty() {
            if !response.headers.contains(Known::ContentType) {
                response
                    .headers
                    .set(Known::ContentType, content_type.unwrap_or_else(|| "text/plain".to_owned()));
            }
            response.headers.set(Known::ContentLength, body.len().to_string());
        } else if !reply.direct {
            response.headers.remove_known(Known::ContentType);
            response.headers.remove_known(Known::ContentLength);
        }
        FinishedReply { response, body: if bodiless { Bytes::new() } else { body } }
    }

    /// What every response gets, the upstream's and our own: `server`, and no hop-by-hop headers.
    pub fn finish_response(&self, response: &mut Response, request_id: &str, upgrade: bool) {
        response.headers.retain(|name, _| match name.known() {
            Some(Known::Connection | Known::Upgrade) => upgrade,
            Some(Known::KeepAlive | Known::ProxyConnection | Known::TransferEncoding) => false,
            _ => true,
        });
        match self.server_header {
            ServerHeader::Overwrite => response.headers.set(Known::Server, self.server_name.clone()),
            ServerHeader::AppendIfAbsent if !response.headers.contains(Known::Server) => {
                response.headers.append(Known::Server, self.server_name.clone());
            }
            ServerHeader::AppendIfAbsent | ServerHeader::PassThrough => {}
        }
        if self.request_id.always_in_response && !request_id.is_empty() {
            response.headers.set(Known::XRequestId, request_id.to_owned());
        }
        if !self.via.is_empty() {
            let via = match response.headers.joined(&Known::Via.into()) {
                Some(before) => Bytes::from([&before, &b", "[..], &self.via].concat()),
                None => self.via.clone(),
            };
            response.headers.set(Known::Via, via);
        }
    }
}

/// Trailers-only, with the body as the message.
fn grpc_reply(status: u16, grpc: Option<u32>, body: &[u8], mut headers: Headers) -> FinishedReply {
    headers.remove_known(Known::ContentLength);
    headers.set(Known::ContentType, "application/grpc");
    // An answer without a status of gRPC's own says nothing that gRPC could call a success.
    let status = if status == 200 { 2 } else { grpc_of_http(status) };
    headers.set(Known::GrpcStatus, grpc.unwrap_or(status).to_string());
    if !body.is_empty() {
        headers.set(Known::GrpcMessage, percent_encode(body));
    }
    FinishedReply { response: Response { status: 200, headers }, body: Bytes::new() }
}

/// gRPC over HTTP/2, "Percent-Encoded"; the tilde is written so too, as Envoy does.
pub(crate) fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            0x20..=0x24 | 0x26..=0x7d => out.push(char::from(*byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
