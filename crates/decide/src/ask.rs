//! What the machine asks its driver for while it decides, and what it is answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::ext_proc::{ProcessAsk, Processed};
use crate::filters::BodyFilter;
use crate::headers::{HeaderName, Headers, Known};
use crate::request::{Method, Request, Response};
use crate::route::RouteTable;

/// What the driver is asked for before it steps again. All but a delay are answered by [`crate::Deciding::answer`].
#[derive(Debug, Clone)]
pub enum Ask {
    /// Wait so long (fault injection).
    Delay(Duration),
    /// Ask somebody else, by a request through a cluster.
    Call(Box<Call>),
    /// Receive the request's body until it is whole, or until more than `more_than` bytes of it are there, and keep it
    /// for the upstream. All of it passes these filters first.
    Body { more_than: u64, filters: Vec<BodyFilter> },
    /// Tell an external processor of a part, and wait for its word.
    Process(Box<ProcessAsk>),
    /// Ask the table's source for a virtual host, and decide by the newest plan from then on.
    VirtualHost { table: Arc<RouteTable>, name: Arc<str> },
    /// What was received of the body becomes this. Where it is `whole`, what else comes of it is dropped.
    Replace { body: Bytes, whole: bool },
}

impl Ask {
    /// For a body that is to be held as far as the driver holds bodies.
    pub const AS_MUCH_AS_CAN_BE: u64 = u64::MAX;
}

/// A request of the proxy's own, and how long its answer may take.
#[derive(Debug, Clone)]
pub struct Call {
    pub cluster: Arc<str>,
    /// Head as it goes out.
    pub request: Request,
    pub body: Bytes,
    /// It has no body at all, not an empty one.
    pub bodiless: bool,
    /// gRPC is HTTP/2 whatever the cluster says.
    pub grpc: bool,
    pub timeout: Option<Duration>,
    /// An answer with a longer body is a failure.
    pub max_body: usize,
}

/// What came of an [`Ask`].
#[derive(Debug, Clone)]
pub enum Answer {
    Called(Result<Answered, CallFault>),
    /// What is there of the body; nothing when the request has none.
    Body(Option<ReceivedBody>),
    Processed(Processed),
    /// Whether the virtual host is there now.
    VirtualHost(bool),
}

/// The whole answer to a [`Call`].
#[derive(Debug, Clone)]
pub struct Answered {
    pub response: Response,
    pub body: Bytes,
    pub trailers: Option<Headers>,
    /// How long it took.
    pub took: Duration,
}

/// A body as far as it was received.
#[derive(Debug, Clone)]
pub struct ReceivedBody {
    pub data: Bytes,
    pub complete: bool,
    pub has_trailers: bool,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFault {
    /// Nobody was asked, since this is an explanation only.
    Explaining,
    NoCluster,
    Timeout,
    /// No host, no connection, or one that broke.
    Failed(String),
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explaining => f.write_str("nobody was asked"),
            Self::NoCluster => f.write_str("there is no such cluster"),
            Self::Timeout => f.write_str("it does not answer in time"),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// `grpc-status` and `grpc-message` of a call that failed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcFault {
    pub code: u32,
    pub message: String,
}

/// The longest answer that a filter waits for.
const MAX_BODY: usize = 1 << 20;

/// Where a gRPC service is: `grpcService` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcTarget {
    pub cluster: Arc<str>,
    pub authority: Arc<str>,
    pub metadata: Vec<(HeaderName, Bytes)>,
    pub timeout: Option<Duration>,
}

impl Call {
    pub fn http(cluster: Arc<str>, request: Request, body: Bytes, timeout: Option<Duration>) -> Self {
        Self { cluster, request, body, bodiless: false, grpc: false, timeout, max_body: MAX_BODY }
    }

    /// One without a body.
    pub fn get(cluster: Arc<str>, request: Request, timeout: Option<Duration>) -> Self {
        Self { bodiless: true, ..Self::http(cluster, request, Bytes::new(), timeout) }
    }

    /// A unary call; `method` is `/package.Service/Method`.
    pub fn grpc(to: &GrpcTarget, method: &'static str, message: &impl Message) -> Self {
        let mut request = Request::new(Method::Post, &*to.authority, method);
        request.scheme = "http".into();
        request.headers.append(Known::Te, "trailers");
        if let Some(timeout) = to.timeout {
            request.headers.append("grpc-timeout", format!("{}m", timeout.as_millis()));
        }
        request.headers.append(Known::ContentType, "application/grpc");
        for (name, value) in &to.metadata {
            request.headers.append(name.clone(), value.clone());
        }
        let length = message.encoded_len();
        let mut body = BytesMut::with_capacity(length + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        body.put_slice(&message.encode_to_vec());
        Self {
            cluster: Arc::clone(&to.cluster),
            request,
            body: body.freeze(),
            bodiless: false,
            grpc: true,
            timeout: to.timeout,
            max_body: MAX_BODY,
        }
    }
}

impl Answered {
    /// The one message of a unary call.
    pub fn grpc_message<M: Message + Default>(&self) -> Result<M, GrpcFault> {
        let fault = |code, message: &str| GrpcFault { code, message: message.to_owned() };
        if self.response.status != 200 {
            let code = crate::log::grpc_of_http(self.response.status);
            return Err(fault(code, &format!("HTTP status {}", self.response.status)));
        }
        let told = self
            .trailers
            .as_ref()
            .filter(|t| t.contains(Known::GrpcStatus))
            .unwrap_or(&self.response.headers);
        match told.known_str(Known::GrpcStatus).map(str::parse::<u32>) {
            Some(Ok(0)) => {}
            Some(Ok(code)) => {
                return Err(fault(code, told.known_str(Known::GrpcMessage).unwrap_or_default()));
            }
            _ => return Err(fault(2, "no grpc-status")),
        }
        let message = self
            .body
            .split_at_checked(5)
            .filter(|(head, rest)| head[0] == 0 && head[1..] == (rest.len() as u32).to_be_bytes())
            .map(|(_, message)| message)
            .ok_or_else(|| fault(13, "not one message"))?;
        M::decode(message).map_err(|error| fault(13, &error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &'static [u8], trailers: &[(&str, &str)]) -> Answered {
        Answered {
            response: Response::new(status),
            body: Bytes::from_static(body),
            trailers: Some(trailers.iter().map(|(n, v)| (*n, v.to_string())).collect()),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn only_one_whole_message_with_a_good_status_is_an_answer() {
        let good = [("grpc-status", "0")];
        for (what, answer, expected) in [
            ("good", answered(200, b"\0\0\0\0\x02\x0a\0", &good), Ok("".to_owned())),
            ("text", answered(200, b"\0\0\0\0\x03\x0a\x01x", &good), Ok("x".to_owned())),
            ("status", answered(200, b"", &[("grpc-status", "7"), ("grpc-message", "no")]), Err(7)),
            ("no status", answered(200, b"\0\0\0\0\0", &[]), Err(2)),
            ("HTTP error", answered(503, b"", &good), Err(14)),
            ("short", answered(200, b"\0\0\0\0\x05\x0a", &good), Err(13)),
            ("two", answered(200, b"\0\0\0\0\0\0\0\0\0\0", &good), Err(13)),
            ("compressed", answered(200, b"\x01\0\0\0\0", &good), Err(13)),
            ("nothing", answered(200, b"", &good), Err(13)),
        ] {
            let message = answer.grpc_message::<String>();
            assert_eq!(message.map_err(|fault| fault.code), expected, "{what}");
        }
    }
}
