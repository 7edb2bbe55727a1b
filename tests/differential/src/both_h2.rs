//! What both ends of HTTP/2 need: bodies and headers between the crate's types and plain text.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::message::{Headers, Message, bytes, text};

/// Headers that HTTP/2 does not have.
pub const OF_CONNECTIONS: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// Reads what follows the head, as far as it comes.
pub async fn read(mut body: RecvStream, message: &mut Message) {
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        message.body.extend_from_slice(&data);
    }
    if let Ok(trailers) = body.trailers().await {
        message.trailers = trailers.as_ref().map(headers).unwrap_or_default();
        message.complete = true;
    }
}

/// Sends what follows the head; who answers early need not read all.
pub fn write(stream: &mut SendStream<Bytes>, message: Message) {
    let whole = message.trailers.is_empty();
    let sent = stream.send_data(Bytes::from(message.body), whole).and_then(|()| match whole {
        true => Ok(()),
        false => stream.send_trailers(map(&message.trailers)),
    });
    drop(sent);
}

/// Without those that HTTP/2 does not have.
pub fn map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let own = OF_CONNECTIONS.iter().any(|other| name.eq_ignore_ascii_case(other));
        if let (false, Ok(name), Ok(value)) =
            (own, HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(&bytes(value)))
        {
            map.append(name, value);
        }
    }
    map
}

pub fn headers(map: &HeaderMap) -> Headers {
    map.iter().map(|(n, v)| (n.as_str().to_owned(), text(v.as_bytes()))).collect()
}
