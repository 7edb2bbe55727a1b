//! What the service is told.

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use proto::pb::envoy::service::ext_proc::v3 as pb;
use proto::pb::envoy::service::ext_proc::v3::processing_request::Request as Told;

use super::{BodyMode, Processing, ProcessingRequest, Side};
use crate::headers::Headers;
use crate::metadata::DynamicMetadata;
use crate::request::{Request, Response};

impl Processing {
    pub fn tell_request(&mut self, request: &Request, ends: bool) -> ProcessingRequest {
        let pseudo = [
            (":authority", request.authority.as_str()),
            (":path", &request.path),
            (":method", request.method.as_str()),
            (":scheme", &request.scheme),
        ];
        let headers = self.headers(&pseudo, &request.headers);
        let told = pb::HttpHeaders { headers: Some(headers), end_of_stream: ends, ..Default::default() };
        self.message(Told::RequestHeaders(told), &request.metadata)
    }

    pub fn tell_response(
        &mut self,
        response: &Response,
        ends: bool,
        metadata: &DynamicMetadata,
    ) -> ProcessingRequest {
        let status = response.status.to_string();
        let headers = self.headers(&[(":status", &status)], &response.headers);
        let told = pb::HttpHeaders { headers: Some(headers), end_of_stream: ends, ..Default::default() };
        self.message(Told::ResponseHeaders(told), metadata)
    }

    pub fn tell_body(
        &mut self,
        side: Side,
        data: &Bytes,
        ends: bool,
        metadata: &DynamicMetadata,
    ) -> ProcessingRequest {
        let body = pb::HttpBody { body: data.to_vec(), end_of_stream: ends, ..Default::default() };
        let told = match side {
            Side::Request => Told::RequestBody(body),
            Side::Response => Told::ResponseBody(body),
        };
        self.message(told, metadata)
    }

    pub fn tell_trailers(
        &mut self,
        side: Side,
        trailers: &Headers,
        metadata: &DynamicMetadata,
    ) -> ProcessingRequest {
        let trailers = pb::HttpTrailers { trailers: Some(self.headers(&[], trailers)) };
        let told = match side {
            Side::Request => Told::RequestTrailers(trailers),
            Side::Response => Told::ResponseTrailers(trailers),
        };
        self.message(told, metadata)
    }

    fn headers(&self, pseudo: &[(&str, &str)], headers: &Headers) -> core::HeaderMap {
        let processor = &self.processor;
        let told = |name: &str| {
            let any =
                |list: &[crate::matching::StringMatcher]| list.iter().any(|m| m.matches(name.as_bytes()));
            !any(&processor.disallowed) && (processor.allowed.is_empty() || any(&processor.allowed))
        };
        let value =
            |key: String, value: Vec<u8>| core::HeaderValue { key, raw_value: value, ..Default::default() };
        let own = headers.iter().map(|(name, v)| (name.as_str().to_ascii_lowercase(), v.to_vec()));
        let pseudo = pseudo
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        let all = pseudo.chain(own).filter(|(name, _)| told(name)).map(|(name, v)| value(name, v));
        core::HeaderMap { headers: all.collect() }
    }

    fn message(&mut self, told: Told, metadata: &DynamicMetadata) -> ProcessingRequest {
        let forwarded =
            self.processor.forwards.iter().filter_map(|name| {
                Some((name.to_string(), crate::ext_authz::struct_of(metadata.filter(name)?)))
            });
        let context = core::Metadata { filter_metadata: forwarded.collect(), ..Default::default() };
        let first = !std::mem::replace(&mut self.begun, true);
        let config = || pb::ProtocolConfiguration {
            request_body_mode: send_mode(self.parts(Side::Request).body) as i32,
            response_body_mode: send_mode(self.parts(Side::Response).body) as i32,
            ..Default::default()
        };
        ProcessingRequest {
            request: Some(told),
            metadata_context: Some(context),
            protocol_config: first.then(config),
            ..Default::default()
        }
    }
}

fn send_mode(mode: BodyMode) -> BodySendMode {
    match mode {
        BodyMode::None => BodySendMode::None,
        BodyMode::Buffered => BodySendMode::Buffered,
        BodyMode::Partial => BodySendMode::BufferedPartial,
        BodyMode::Streamed => BodySendMode::Streamed,
    }
}
