//! Between HTTP/2's header maps and our heads; what may not stand in HTTP/1 is refused here (CVE-2023-27491).

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request,
};

use super::h1_server::{has_port, is_authority};
use super::message::{
    BodyLength, HeaderName as Name, Headers, Known, RequestHead, Reset, Response as Head, ResponseHead,
};
use super::message::{Method as OurMethod, Request as OurRequest, Version as OurVersion};

pub fn request_head(parts: &request::Parts, ended: bool, secure: bool) -> Result<RequestHead, Reset> {
    let connect = parts.method == Method::CONNECT;
    let mut headers = headers_of(&parts.headers)?;
    let host = headers.known_str(Known::Host).map(str::to_owned);
    headers.remove_known(Known::Host);
    let authority = parts.uri.authority().map(|a| a.as_str().to_owned()).or(host).unwrap_or_default();
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let path = match parts.uri.path_and_query() {
        Some(p) => p.as_str().to_owned(),
        None if connect => String::new(),
        None => return Err(Reset::Protocol(":path is missing")),
    };
    let tunnel = connect && protocol.is_none();
    if !is_authority(authority.as_bytes()) || (tunnel && !has_port(authority.as_bytes())) {
        return Err(Reset::Protocol(":authority"));
    }
    let body = body_length(&headers, ended)?;
    join_cookies(&mut headers);
    let method = if protocol.is_some() { OurMethod::Get } else { OurMethod::new(parts.method.as_str()) };
    let mut request = OurRequest::new(method, authority, path);
    request.scheme = match parts.uri.scheme_str() {
        Some("https") => "https".into(),
        Some("http") => "http".into(),
        Some(_) => return Err(Reset::Protocol(":scheme")),
        None if secure => "https".into(),
        None => "http".into(),
    };
    request.version = OurVersion::Http2;
    request.headers = headers;
    request.upgrade = protocol.map(|p| p.as_str().into());
    Ok(RequestHead { request, body })
}

pub fn response_head(response: &Response<h2::RecvStream>) -> Result<ResponseHead, Reset> {
    let headers = headers_of(response.headers())?;
    let ended = response.body().is_end_stream();
    let body = body_length(&headers, ended)?;
    let response = Head { status: response.status().as_u16(), headers };
    Ok(ResponseHead { response, body, upgrade: None })
}

/// Our headers; connection-specific fields make a message malformed (RFC 9113, section 8.2.2).
pub fn headers_of(map: &HeaderMap) -> Result<Headers, Reset> {
    let mut headers = Headers::with_capacity(map.len() + 8);
    // All values lie in one piece of memory.
    let mut values = BytesMut::with_capacity(map.values().map(HeaderValue::len).sum());
    for (name, value) in map {
        if matches!(
            name.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
        ) || (name == "te" && value != "trailers")
        {
            return Err(Reset::Protocol("connection-specific header"));
        }
        let name = match Known::find(name.as_str().as_bytes()) {
            Some(known) => Name::from(known),
            None => Name::from(name.as_str()),
        };
        values.extend_from_slice(value.as_bytes().trim_ascii());
        headers.append(name, values.split().freeze());
    }
    Ok(headers)
}

fn body_length(headers: &Headers, ended: bool) -> Result<BodyLength, Reset> {
    let name = Name::from(Known::ContentLength);
    let mut lengths = headers.get_all(&name);
    let declared = match (lengths.next(), lengths.next()) {
        (_, Some(_)) => return Err(Reset::Protocol("content-length")),
        (Some(text), None) if text.iter().all(u8::is_ascii_digit) => {
            let n = std::str::from_utf8(text).ok().and_then(|t| t.parse::<u64>().ok());
            Some(n.ok_or(Reset::Protocol("content-length"))?)
        }
        (Some(_), None) => return Err(Reset::Protocol("content-length")),
        (None, None) => None,
    };
    Ok(match (ended, declared) {
        (true, Some(n)) => BodyLength::Known(n),
        (true, None) => BodyLength::None,
        (false, Some(n)) => BodyLength::Known(n),
        (false, None) => BodyLength::Unknown,
    })
}

/// RFC 9113, section 8.2.3: cookie crumbs become one header again.
fn join_cookies(headers: &mut Headers) {
    let name = Name::from(Known::Cookie);
    if headers.get_all(&name).count() > 1 {
        let crumbs: Vec<Bytes> = headers.get_all(&name).cloned().collect();
        headers.set(name, crumbs.join(&b"; "[..]));
    }
}

/// The names that are known, so that they are read once; pseudo headers are none.
static KNOWN: LazyLock<Vec<Option<HeaderName>>> = LazyLock::new(|| {
    Known::ALL.iter().map(|known| HeaderName::from_bytes(known.as_str().as_bytes()).ok()).collect()
});

pub fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let name = match name.known() {
            Some(known) => KNOWN[known as usize].clone(),
            None => HeaderName::from_bytes(name.as_bytes()).ok(),
        };
        let value = HeaderValue::from_maybe_shared(value.clone());
        if let (Some(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}

pub fn request_of(head: &RequestHead) -> Result<Request<()>, Reset> {
    let ours = &head.request;
    let mut request = Request::new(());
    let mut uri = http::uri::Parts::default();
    uri.authority = http::uri::Authority::try_from(ours.authority.as_str()).ok();
    if !ours.is_connect() || ours.upgrade.is_some() {
        let scheme: &[u8] = if ours.scheme == "https" { b"https" } else { b"http" };
        uri.scheme = http::uri::Scheme::try_from(scheme).ok();
        let path = http::uri::PathAndQuery::try_from(ours.path.as_str());
        uri.path_and_query = Some(path.map_err(|_| Reset::Protocol("path cannot be sent as HTTP/2"))?);
    }
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Reset::Protocol("request target"))?;
    *request.method_mut() = match &ours.upgrade {
        Some(_) => Method::CONNECT,
        None => Method::from_bytes(ours.method.as_str().as_bytes()).map_err(|_| Reset::Protocol("method"))?,
    };
    if let Some(upgrade) = &ours.upgrade {
        request.extensions_mut().insert(h2::ext::Protocol::from(&**upgrade));
    }
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = header_map(&ours.headers);
    Ok(request)
}

pub fn response_of(head: &ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.response.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = header_map(&head.response.headers);
    response
}
