//! What belongs to one hop and what travels on: connection headers, upgrades, framing.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{HeaderName, Headers, Known};
use crate::h1::{RawHead, put_header};

/// The headers that go on: without those of this connection, which are written anew on the next.
pub fn end_to_end<L>(raw: &RawHead<L>, drop_host: bool) -> Headers {
    let nominated: Vec<Bytes> = raw
        .iter()
        .filter(|(n, _)| n == "connection")
        .flat_map(|(_, v)| tokens(&v))
        .filter(|t| !matches!(&t[..], b"close" | b"keep-alive" | b"upgrade" | b"te" | b"trailers"))
        .filter(|t| !is_protected(t))
        .collect();
    let mut headers = Headers::with_capacity(raw.headers.len() + 8);
    for (name, value) in raw.iter() {
        let stays = !is_hop_by_hop(&name) && !(drop_host && name == "host") && !nominated.contains(&name);
        if name == "te" {
            // Of what it may list, only this goes on.
            if stays && tokens(&value).iter().any(|t| t == "trailers") {
                headers.append(HeaderName::new(name), Bytes::from_static(b"trailers"));
            }
        } else if stays {
            headers.append(HeaderName::new(name), value);
        }
    }
    headers
}

/// Trailers as headers, without those that a reader who merges them would frame or route the message by (RFC 9110, 6.5.1).
pub fn trailers(pairs: Vec<(Bytes, Bytes)>) -> Headers {
    let travels = |name: &[u8]| {
        !is_hop_by_hop(name) && !matches!(name, b"content-length" | b"host" | b"te" | b"trailer")
    };
    pairs
        .into_iter()
        .filter(|(name, _)| travels(name))
        .map(|(name, value)| (HeaderName::new(name), value))
        .collect()
}

fn tokens(value: &[u8]) -> Vec<Bytes> {
    value
        .split(|b| *b == b',')
        .map(|t| Bytes::from(t.trim_ascii().to_ascii_lowercase()))
        .filter(|t| !t.is_empty())
        .collect()
}

/// Headers that a client may not have removed by naming them in `Connection`.
fn is_protected(name: &[u8]) -> bool {
    name.starts_with(b"x-forwarded-")
        || name.starts_with(b"x-envoy-")
        || matches!(name, b"host" | b"content-length" | b"authorization" | b"cookie" | b"forwarded")
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"http2-settings"
            | b"keep-alive"
            | b"proxy-connection"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

/// Writes all headers but the length, which the framing states.
pub fn put_headers(out: &mut BytesMut, headers: &Headers) {
    for (name, value) in headers.iter() {
        if name.known() != Some(Known::ContentLength) {
            put_header(out, name.as_bytes(), value);
        }
    }
}

pub fn put_upgrade(out: &mut BytesMut, protocol: &[u8]) {
    out.put_slice(b"connection: upgrade\r\nupgrade: ");
    out.put_slice(protocol);
    out.put_slice(b"\r\n");
}
