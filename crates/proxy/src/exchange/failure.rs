//! How each way to fail looks from outside: Envoy's status, body, details and flags, for which people search.

use decide::{LocalReply, ResponseFlags};
use upstream::{Attempt, Outcome};

use super::pump::Interrupt;
use crate::cluster::{AcquireError, DialError};
use crate::wire::Reset;

/// Why one try came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryError {
    Acquire(AcquireError),
    Interrupt(Interrupt),
}

impl From<Interrupt> for TryError {
    fn from(interrupt: Interrupt) -> Self {
        Self::Interrupt(interrupt)
    }
}

impl TryError {
    /// What the retry policy is asked about; nothing where another try is out of the question.
    pub fn attempt(&self, sent: bool) -> Option<Attempt> {
        match self {
            Self::Acquire(AcquireError::Dial(
                DialError::Timeout | DialError::Connect(_) | DialError::Tls(_),
            )) => Some(Attempt::ConnectFailure),
            Self::Acquire(_) => None,
            Self::Interrupt(Interrupt::Upstream(Reset::Refused)) => {
                Some(Attempt::Reset { refused: true, sent })
            }
            Self::Interrupt(Interrupt::Upstream(_)) => Some(Attempt::Reset { refused: false, sent }),
            Self::Interrupt(Interrupt::PerTryTimeout | Interrupt::PerTryIdle) => Some(Attempt::PerTryTimeout),
            Self::Interrupt(_) => None,
        }
    }

    /// What outlier detection is told of the host.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Acquire(AcquireError::Dial(DialError::Timeout)) => Some(Outcome::Timeout),
            Self::Acquire(AcquireError::Dial(_)) => Some(Outcome::ConnectFailed),
            Self::Interrupt(Interrupt::Upstream(_)) => Some(Outcome::Reset),
            Self::Interrupt(Interrupt::PerTryTimeout | Interrupt::PerTryIdle | Interrupt::RequestTimeout) => {
                Some(Outcome::Timeout)
            }
            Self::Acquire(_) | Self::Interrupt(_) => None,
        }
    }

    /// Why there is no connection.
    pub fn transport_failure(&self) -> String {
        match self {
            Self::Acquire(AcquireError::Dial(error @ (DialError::Connect(_) | DialError::Tls(_)))) => {
                error.to_string()
            }
            _ => String::new(),
        }
    }

    /// The answer that the client gets; nothing when the client is gone.
    pub fn reply(&self, retried: bool, request_complete: bool) -> Option<LocalReply> {
        use ResponseFlags as F;
        let reset = |status: u16, flag, reason: &str, failure: Option<String>| {
            Some(before_headers(status, flag, reason, failure, retried))
        };
        match self {
            Self::Acquire(AcquireError::Overflow) => {
                reset(503, F::UPSTREAM_OVERFLOW, "overflow", None).map(|mut r| {
                    r.headers.set(decide::Known::XEnvoyOverloaded, "true");
                    r
                })
            }
            Self::Acquire(AcquireError::NoTransport) => {
                reset(503, F::UPSTREAM_CONNECTION_FAILURE, "local connection failure", None)
            }
            Self::Acquire(AcquireError::Dial(DialError::Timeout)) => {
                reset(503, F::UPSTREAM_CONNECTION_FAILURE, "connection timeout", None)
            }
            Self::Acquire(AcquireError::Dial(error)) => reset(
                503,
                F::UPSTREAM_CONNECTION_FAILURE,
                "remote connection failure",
                Some(error.to_string()),
            ),
            Self::Interrupt(Interrupt::Upstream(r)) => match r {
                Reset::ConnectionTermination => {
                    reset(503, F::UPSTREAM_CONNECTION_TERMINATION, "connection termination", None)
                }
                Reset::Remote => reset(503, F::UPSTREAM_REMOTE_RESET, "remote reset", None),
                Reset::Refused => reset(503, F::UPSTREAM_REMOTE_RESET, "remote refused stream reset", None),
                Reset::Protocol(_) => reset(502, F::UPSTREAM_PROTOCOL_ERROR, "protocol error", None),
            },
            Self::Interrupt(Interrupt::RequestTimeout) => Some(
                LocalReply::new(504, "upstream request timeout", "response_timeout")
                    .with_flags(F::UPSTREAM_REQUEST_TIMEOUT),
            ),
            Self::Interrupt(Interrupt::PerTryTimeout) => Some(
                LocalReply::new(504, "upstream request timeout", "upstream_per_try_timeout")
                    .with_flags(F::UPSTREAM_REQUEST_TIMEOUT),
            ),
            Self::Interrupt(Interrupt::PerTryIdle) => Some(
                LocalReply::new(504, "upstream request timeout", "upstream_per_try_idle_timeout")
                    .with_flags(F::UPSTREAM_REQUEST_TIMEOUT),
            ),
            Self::Interrupt(Interrupt::StreamIdle) => Some(
                LocalReply::new(
                    if request_complete { 504 } else { 408 },
                    "stream timeout",
                    "stream_idle_timeout",
                )
                .with_flags(F::STREAM_IDLE_TIMEOUT),
            ),
            Self::Interrupt(Interrupt::MaxDuration) => {
                let status = if request_complete { 504 } else { 408 };
                let reply = LocalReply::new(status, "downstream duration timeout", "max_duration_timeout");
                // gRPC's DEADLINE_EXCEEDED.
                Some(LocalReply { grpc_status: Some(4), ..reply })
            }
            Self::Interrupt(Interrupt::UpstreamMaxDuration) => Some(
                LocalReply::new(
                    504,
                    "upstream max stream duration reached",
                    "upstream_max_stream_duration_reached",
                )
                .with_flags(F::UPSTREAM_MAX_STREAM_DURATION),
            ),
            Self::Interrupt(Interrupt::DownstreamBad(_)) => Some(
                LocalReply::new(400, "Bad Request", "http1.codec_error")
                    .with_flags(F::DOWNSTREAM_PROTOCOL_ERROR),
            ),
            Self::Interrupt(Interrupt::Reply(reply)) => Some(LocalReply::clone(&reply.0)),
            Self::Interrupt(Interrupt::DownstreamGone | Interrupt::DownstreamReset) => None,
        }
    }
}

/// Envoy's sentence for what ended before the upstream's headers.
fn before_headers(
    status: u16,
    flag: ResponseFlags,
    reason: &str,
    failure: Option<String>,
    retried: bool,
) -> LocalReply {
    let again = if retried { "retried and the latest reset reason" } else { "reset reason" };
    // Why the transport failed stands in the log, not in what clients get.
    let body = format!("upstream connect error or disconnect/reset before headers. {again}: {reason}");
    let mut inner = reason.replace(' ', "_");
    if let Some(failure) = failure {
        inner.push('|');
        inner.push_str(&failure.replace(' ', "_"));
    }
    let mut reply = LocalReply::new(status, body, "").with_flags(flag);
    reply.details = format!("upstream_reset_before_response_started{{{inner}}}").into();
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_that_people_search_for() {
        let refused = TryError::Acquire(AcquireError::Dial(DialError::Connect(
            "delayed connect error: Connection refused".into(),
        )));
        let reply = refused.reply(false, true).unwrap();
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!((reply.status, reply.flags.to_string()), (503, "UF".to_owned()));
        let reply =
            TryError::Interrupt(Interrupt::Upstream(Reset::ConnectionTermination)).reply(true, true).unwrap();
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection termination"
        );
        let timeout = TryError::Interrupt(Interrupt::RequestTimeout).reply(false, true).unwrap();
        assert_eq!(
            (timeout.status, timeout.flags.to_string(), &timeout.body[..]),
            (504, "UT".into(), &b"upstream request timeout"[..])
        );
    }
}
