//! Just enough of gRPC over HTTP/2 for streams: messages in, and messages out as shared bytes without a copy per stream.
//!
//! tonic's encoder writes every message into a buffer of its own per stream; with a thousand clients and megabytes each
//! that is gigabytes. Here a message goes to HTTP/2 as the buffers it consists of.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

/// The path of the state-of-the-world stream.
pub const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// The path of the incremental stream.
pub const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// The path of the service that is for one type alone; nothing for types that have none.
pub fn own_path(t: proto::ResourceType, mode: crate::Mode) -> Option<String> {
    use proto::ResourceType as T;
    let (package, service, noun) = match t {
        T::Cluster => ("cluster", "ClusterDiscoveryService", "Clusters"),
        T::Endpoint => ("endpoint", "EndpointDiscoveryService", "Endpoints"),
        T::Listener => ("listener", "ListenerDiscoveryService", "Listeners"),
        T::Route => ("route", "RouteDiscoveryService", "Routes"),
        // By Envoy's definition there is no other than this.
        T::VirtualHost if mode == crate::Mode::Delta => {
            ("route", "VirtualHostDiscoveryService", "VirtualHosts")
        }
        T::Secret => ("secret", "SecretDiscoveryService", "Secrets"),
        _ => return None,
    };
    let verb = if mode == crate::Mode::Delta { "Delta" } else { "Stream" };
    Some(format!("/envoy.service.{package}.v3.{service}/{verb}{noun}"))
}

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Payloads below this are copied behind their head, which is cheaper than a frame of their own.
const SMALL: usize = 2048;

/// How a call ended, as gRPC says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;

    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A response that holds nothing but this status.
    pub fn into_response<B: Default>(self) -> http::Response<B> {
        let mut response = http::Response::new(B::default());
        response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
        response.headers_mut().extend(self.trailers());
        response
    }

    fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert(STATUS, HeaderValue::from(self.code));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&self.message)) {
            trailers.insert(MESSAGE, message);
        }
        trailers
    }

    /// The status in headers or trailers; `None` where there is none.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
        let message = headers.get(MESSAGE).map_or_else(String::new, |m| percent_decode(m.as_bytes()));
        Some(Self { code, message })
    }
}

/// A body whose messages come from a [`Sender`].
#[derive(Debug, Default)]
pub struct Outbound {
    frames: Option<mpsc::Receiver<Frame<Bytes>>>,
}

/// The other end of an [`Outbound`] body. It waits while the peer does not read.
#[derive(Debug, Clone)]
pub struct Sender {
    frames: mpsc::Sender<Frame<Bytes>>,
}

/// Nobody reads the stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer closed the stream")]
pub struct Closed;

/// A body and what fills it.
pub fn outbound() -> (Sender, Outbound) {
    let (frames, receiver) = mpsc::channel(4);
    (Sender { frames }, Outbound { frames: Some(receiver) })
}

/// The response that begins a stream.
pub fn streaming(body: Outbound) -> http::Response<Outbound> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// The request that begins a stream.
pub fn request(
    uri: http::Uri,
    body: Outbound,
    bearer: Option<&str>,
) -> Result<http::Request<Outbound>, http::Error> {
    let mut request = http::Request::post(uri)
        .header(http::header::CONTENT_TYPE, CONTENT_TYPE)
        .header(http::header::TE, "trailers");
    if let Some(token) = bearer {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request = request.header(http::header::AUTHORIZATION, value);
    }
    request.body(body)
}

impl Sender {
    /// Sends one message that consists of these two parts.
    pub async fn send(&self, head: Bytes, payload: Bytes) -> Result<(), Closed> {
        self.send_parts(head, &[payload]).await
    }

    /// Sends one message that consists of all of these.
    pub async fn send_parts(&self, head: Bytes, parts: &[Bytes]) -> Result<(), Closed> {
        let payload: usize = parts.iter().map(Bytes::len).sum();
        let Ok(length) = u32::try_from(head.len() + payload) else { return Err(Closed) };
        let small = payload < SMALL;
        let mut first = BytesMut::with_capacity(5 + head.len() + if small { payload } else { 0 });
        first.put_u8(0);
        first.put_u32(length);
        first.put_slice(&head);
        if small {
            parts.iter().for_each(|part| first.put_slice(part));
        }
        self.frames.send(Frame::data(first.freeze())).await.map_err(|_| Closed)?;
        for part in parts.iter().filter(|_| !small) {
            self.frames.send(Frame::data(part.clone())).await.map_err(|_| Closed)?;
        }
        Ok(())
    }

    /// Ends the stream of a server with a status.
    pub async fn finish(self, status: Status) {
        // Whoever has gone does not need the status.
        let _ = self.frames.send(Frame::trailers(status.trailers())).await;
    }

    /// Completes when the peer has gone.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.frames {
            None => Poll::Ready(None),
            Some(frames) => frames.poll_recv(context).map(|frame| frame.map(Ok)),
        }
    }
}

/// Reads the messages of a body.
#[derive(Debug)]
pub struct Inbound<B> {
    body: B,
    buffer: BytesMut,
    max: usize,
    trailers: Option<HeaderMap>,
}

impl<B> Inbound<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// Messages longer than `max` are refused.
    pub fn new(body: B, max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), max, trailers: None }
    }

    /// The next message, or `None` at the end of the stream. Safe to drop and call again.
    pub async fn message<M: prost::Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.bytes().await? else { return Ok(None) };
        let decoded = M::decode(bytes);
        decoded
            .map(Some)
            .map_err(|e| Status::new(Status::INVALID_ARGUMENT, format!("unreadable message: {e}")))
    }

    /// The status that ended the stream of a client.
    pub fn status(&self) -> Option<Status> {
        self.trailers.as_ref().and_then(Status::from_headers)
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => {
                    return Err(Status::new(Status::UNAVAILABLE, format!("the stream broke: {e}")));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        if self.buffer[0] != 0 {
            return Err(Status::new(Status::UNIMPLEMENTED, "compressed messages are not supported"));
        }
        let length = (&self.buffer[1..5]).get_u32() as usize;
        if length > self.max {
            let reason = format!("a message of {length} bytes is longer than the {} allowed", self.max);
            return Err(Status::new(Status::RESOURCE_EXHAUSTED, reason));
        }
        if self.buffer.len() < 5 + length {
            self.buffer.reserve(5 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // A large message must not keep its space for the life of the stream.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(byte as char),
        }
    }
    out
}

fn percent_decode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use prost::Message as _;
    use proto::pb::google::rpc;

    use super::*;

    #[tokio::test]
    async fn messages_come_out_as_they_went_in() {
        let message = |len: usize| rpc::Status { code: 5, message: "é%".repeat(len), details: vec![] };
        let (sender, body) = outbound();
        let task = tokio::spawn(async move {
            for len in [0, 10, 100_000] {
                let bytes = Bytes::from(message(len).encode_to_vec());
                let half = bytes.len() / 2;
                sender.send(bytes.slice(..half), bytes.slice(half..)).await.unwrap();
            }
            sender.finish(Status::new(Status::UNAVAILABLE, "é%\n")).await;
        });
        let mut inbound = Inbound::new(body, 1 << 20);
        for len in [0, 10, 100_000] {
            assert_eq!(inbound.message::<rpc::Status>().await, Ok(Some(message(len))));
        }
        assert_eq!(inbound.message::<rpc::Status>().await, Ok(None));
        assert_eq!(inbound.status(), Some(Status::new(Status::UNAVAILABLE, "é%\n")));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn garbage_is_refused_with_a_reason() {
        for (bytes, code) in [
            (&[1, 0, 0, 0, 0][..], Status::UNIMPLEMENTED),
            (&[0, 255, 255, 255, 255][..], Status::RESOURCE_EXHAUSTED),
            (&[0, 0, 0, 0, 2, 255, 255][..], Status::INVALID_ARGUMENT),
        ] {
            let frames =
                futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(bytes)))]);
            let mut inbound = Inbound::new(StreamBody::new(frames), 1 << 20);
            assert_eq!(inbound.message::<rpc::Status>().await.unwrap_err().code, code);
        }
    }
}
