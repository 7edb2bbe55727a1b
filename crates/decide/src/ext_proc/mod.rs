//! External processing (`envoy.filters.http.ext_proc`): somebody else sees a request and its answer part by part, and says what
//! becomes of each. Here is what is told, and what is made of what is said; the stream that carries it is the proxy's.

mod compile;
mod mutate;
mod said;
mod tell;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub use proto::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};

use crate::ask::GrpcTarget;
use crate::decision::LocalReply;
use crate::machine::{Count, CountScope};
use crate::matching::StringMatcher;

pub(crate) use compile::PerRoute;
pub(crate) use mutate::Rules;
pub use mutate::Subject;
pub use said::{Common, Judged, side_of};

/// The filter's configuration, with what the route says for it.
#[derive(Debug, Clone)]
pub struct Processor {
    pub target: GrpcTarget,
    pub failure_allows: bool,
    pub message_timeout: Duration,
    /// The longest that the service may ask for; zero: it may not.
    pub max_message_timeout: Duration,
    pub status_on_error: u16,
    pub stats: Arc<Stats>,
    mode: Mode,
    allows_mode_override: bool,
    /// Empty: all are allowed.
    allowed_overrides: Vec<Mode>,
    immediate_allowed: bool,
    route_cache: RouteCache,
    rules: Rules,
    /// Headers that the service is told of; empty: all.
    allowed: Vec<StringMatcher>,
    disallowed: Vec<StringMatcher>,
    forwards: Vec<Box<str>>,
    receives: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteCache {
    AsSaid,
    Clear,
    Retain,
}

/// Which parts the service sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) request: Parts,
    pub(crate) response: Parts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub headers: bool,
    pub body: BodyMode,
    pub trailers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMode {
    None,
    /// Whole, or it is too large.
    Buffered,
    /// As much of it as can be held.
    Partial,
    /// Piece by piece.
    Streamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Headers,
    Body,
    Trailers,
}

/// Names of the counters, below `http.PREFIX.`.
#[derive(Debug)]
pub struct Stats {
    prefix: String,
}

/// What one filter has to do with one request.
#[derive(Debug, Clone)]
pub struct Processing {
    /// Which of the request's streams: by the order of filters.
    pub which: usize,
    pub processor: Arc<Processor>,
    /// Whose counters they are.
    owner: Arc<str>,
    mode: Mode,
    /// The service has said what it is to be asked with.
    begun: bool,
}

/// What comes of asking.
#[derive(Debug, Clone)]
pub enum Processed {
    Said(Box<ProcessingResponse>),
    /// Nothing more is asked: the service ended, or failed and may.
    Over,
    Failed(Box<LocalReply>),
}

/// Said of one part in answer to another.
pub const SPURIOUS: &str = "spurious_message";

/// What the driver is to ask, as part of deciding.
#[derive(Debug, Clone)]
pub struct ProcessAsk {
    pub processing: Processing,
    pub part: Part,
    pub message: ProcessingRequest,
}

impl Processing {
    pub(crate) fn new(which: usize, processor: Arc<Processor>, owner: &Arc<str>) -> Self {
        let mode = processor.mode;
        Self { which, processor, owner: Arc::clone(owner), mode, begun: false }
    }

    pub fn parts(&self, side: Side) -> Parts {
        match side {
            Side::Request => self.mode.request,
            Side::Response => self.mode.response,
        }
    }

    /// Whether the length that a message tells may be another afterwards.
    pub fn resizes(&self, side: Side) -> bool {
        let parts = self.parts(side);
        matches!(parts.body, BodyMode::Streamed | BodyMode::Partial)
            || parts.body == BodyMode::Buffered && !parts.headers
    }

    /// The body passes piece by piece, or its trailers are looked at.
    pub fn follows(&self, side: Side) -> bool {
        let parts = self.parts(side);
        parts.body == BodyMode::Streamed || parts.trailers
    }

    /// A counter of the filter's.
    pub fn count(&self, stat: &str) -> Count {
        let stat = Arc::from(format!("{}{stat}", self.processor.stats.prefix));
        Count { scope: CountScope::Http, owner: Arc::clone(&self.owner), stat }
    }

    /// After an answer to what was not asked: the reply to give, where the service may not fail.
    pub fn spurious(&self, why: &'static str, counts: &mut Vec<Count>) -> Option<LocalReply> {
        if self.processor.failure_allows {
            counts.push(self.count("failure_mode_allowed"));
            return None;
        }
        let status = self.processor.status_on_error;
        Some(self.failure(status, why.to_owned()))
    }

    /// What a client gets when the service fails.
    pub fn failure(&self, status: u16, details: String) -> LocalReply {
        let mut reply = LocalReply::new(status, "", "");
        reply.details = details.into();
        reply
    }
}

impl Stats {
    fn new(prefix: &str) -> Self {
        let prefix = match prefix {
            "" => "ext_proc.".to_owned(),
            prefix => format!("ext_proc.{}.", prefix.trim_end_matches('.')),
        };
        Self { prefix }
    }
}
