//! gRPC-Web: requests of browsers become gRPC, and its answers what browsers can read. Envoy's conditions.

use super::body::BodyFilter;
use crate::headers::Known;
use crate::request::{Request, Response, is_grpc_type};

/// A request that is gRPC-Web.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcWeb {
    /// Its answer is wanted in base64.
    text: bool,
}

const TEXT: [&[u8]; 2] = [b"application/grpc-web-text", b"application/grpc-web-text+proto"];
const BINARY: [&[u8]; 2] = [b"application/grpc-web", b"application/grpc-web+proto"];

/// The longest message that is made of an answer that is no gRPC.
pub const LONGEST_MESSAGE: usize = 16 * 1024;

impl GrpcWeb {
    /// Makes a request gRPC, where it is gRPC-Web; and whether its body is base64.
    pub(crate) fn take(request: &mut Request) -> Option<(Self, bool)> {
        let content_type = request.headers.known(Known::ContentType)?;
        let is_text = TEXT.contains(&&content_type[..]);
        if !is_text && !BINARY.contains(&&content_type[..]) {
            return None;
        }
        let headers = &mut request.headers;
        let text = headers.known(Known::Accept).is_some_and(|accept| TEXT.contains(&&accept[..]));
        headers.remove_known(Known::ContentLength);
        headers.set(Known::ContentType, "application/grpc");
        headers.set(Known::Te, "trailers");
        if headers.get_str("grpc-accept-encoding").is_none() {
            headers.append("grpc-accept-encoding", "identity");
        }
        Some((Self { text }, is_text))
    }

    pub(super) fn answer(self, response: &mut Response, has_body: bool) -> Option<BodyFilter> {
        let content_type = response.headers.known(Known::ContentType);
        let is_ok = response.status == 200;
        let is_grpc = match has_body {
            true => is_ok && content_type.is_some_and(|t| is_grpc_type(t)),
            false => response.headers.contains(Known::GrpcStatus),
        };
        let is_web = is_ok
            && content_type.is_some_and(|t| {
                let bare = t.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
                BINARY.iter().any(|known| bare.eq_ignore_ascii_case(known))
            });
        response.headers.remove_known(Known::ContentLength);
        let written: &'static [u8] = if self.text { TEXT[1] } else { BINARY[1] };
        response.headers.set(Known::ContentType, written);
        match has_body {
            false => None,
            true if is_grpc || is_web => Some(BodyFilter::Web { text: self.text }),
            true => Some(BodyFilter::WebMessage),
        }
    }
}

/// What an answer that is no gRPC says in gRPC's words.
pub fn as_grpc_message(response: &mut Response, body: &[u8]) {
    // A success that is no gRPC's is none of gRPC's.
    let status = if response.status == 200 { 2 } else { crate::log::grpc_of_http(response.status) };
    let headers = &mut response.headers;
    headers.set(Known::GrpcMessage, crate::hcm::percent_encode(body));
    headers.set(Known::GrpcStatus, status.to_string());
    headers.set(Known::ContentLength, "0");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Method;

    #[test]
    fn requests_of_four_types_become_grpc() {
        for (content_type, accept, expected) in [
            ("application/grpc-web", "", Some((false, false))),
            ("application/grpc-web+proto", "application/grpc-web-text", Some((true, false))),
            ("application/grpc-web-text", "application/grpc-web-text+proto", Some((true, true))),
            ("application/grpc-web-text+proto", "*/*", Some((false, true))),
            ("application/grpc-web+json", "", None),
            ("application/grpc-web; charset=utf-8", "", None),
            ("Application/grpc-web", "", None),
            ("application/grpc", "", None),
        ] {
            let mut request = Request::new(Method::Post, "a", "/s/m")
                .with_header("content-type", content_type)
                .with_header("content-length", "5")
                .with_header("accept", accept);
            let taken = GrpcWeb::take(&mut request).map(|(web, is_text)| (web.text, is_text));
            assert_eq!(taken, expected, "{content_type}");
            assert_eq!(request.is_grpc(), expected.is_some() || content_type == "application/grpc");
            assert_eq!(request.headers.contains(Known::ContentLength), expected.is_none());
        }
    }

    #[test]
    fn answers_are_told_apart_by_status_and_type() {
        for (status, content_type, has_body, expected) in [
            (200, "application/grpc", true, "Some(Web { text: false })"),
            (200, "application/grpc+proto", true, "Some(Web { text: false })"),
            (200, "Application/grpc-web ;x=y", true, "Some(Web { text: false })"),
            (503, "application/grpc", true, "Some(WebMessage)"),
            (200, "text/html", true, "Some(WebMessage)"),
            (200, "application/grpc-web-text", true, "Some(WebMessage)"),
            (404, "text/html", false, "None"),
        ] {
            let mut response = Response::new(status);
            response.headers.set(Known::ContentType, content_type);
            let filter = GrpcWeb { text: false }.answer(&mut response, has_body);
            assert_eq!(format!("{filter:?}"), expected, "{status} {content_type}");
            assert_eq!(response.headers.known_str(Known::ContentType), Some("application/grpc-web+proto"));
        }
    }
}
