//! Envoy's format strings: compiled once, rendered over a [`LogEntry`].
//!
//! Used by access logs, by header values and by local reply bodies. What is written is read by `syntax`.

mod json;
mod operator;
mod value;

use std::fmt::Write;

use crate::log::LogEntry;
use crate::refusal::{Refusal, Taken};
use operator::Operator;

pub use json::JsonFormat;
pub(crate) use value::Rendered;

/// What Envoy writes when nothing is configured.
pub const DEFAULT_ENVOY: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What Istio configures by default.
pub const DEFAULT_ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// A compiled format string.
#[derive(Debug, Clone)]
pub struct Format {
    pieces: Vec<Piece>,
    /// Written where a value is missing.
    absent: &'static str,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(Box<str>),
    Value { operator: Operator, limit: Option<usize> },
}

impl From<syntax::format::Piece> for Piece {
    fn from(written: syntax::format::Piece) -> Self {
        match written {
            syntax::format::Piece::Literal(text) => Self::Literal(text.into()),
            syntax::format::Piece::Value { operator, limit } => {
                Self::Value { operator: operator.into(), limit }
            }
        }
    }
}

impl Format {
    /// Fails with the reason, and names the operator.
    pub fn new(text: &str) -> Result<Self, String> {
        Self::compile(text, false).map_err(|r| r.reason)
    }

    pub(crate) fn compile(text: &str, omit_empty: bool) -> Taken<Self> {
        let pieces = syntax::format::parse(text).map_err(Refusal::new)?;
        let pieces = pieces.into_iter().map(Piece::from).collect();
        Ok(Self { pieces, absent: if omit_empty { "" } else { "-" } })
    }

    /// The text when there is no operator in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    pub fn render(&self, entry: &LogEntry<'_>, out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Value { operator, limit } => self.render_value(operator.value(entry), *limit, out),
            }
        }
    }

    /// For header values: nothing when an operator that stands alone has no value.
    pub fn render_header(&self, entry: &LogEntry<'_>) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Value { operator, limit } => match operator.value(entry) {
                    Rendered::Missing if self.pieces.len() == 1 => {}
                    value => self.render_value(value, *limit, &mut out),
                },
            }
        }
        out
    }

    fn render_value(&self, value: Rendered<'_>, limit: Option<usize>, out: &mut String) {
        let start = out.len();
        match value {
            Rendered::Missing => out.push_str(self.absent),
            // A String takes whatever is written.
            Rendered::Text(text) => out.push_str(&text),
            Rendered::Number(n) => _ = write!(out, "{n}"),
            Rendered::Json(value) => _ = write!(out, "{value}"),
            Rendered::Address(address) => _ = write!(out, "{address}"),
            Rendered::Flags(flags) => _ = write!(out, "{flags}"),
        }
        if let Some(limit) = limit {
            let mut end = (start + limit).min(out.len());
            while !out.is_char_boundary(end) {
                end -= 1;
            }
            out.truncate(end);
        }
    }
}

#[cfg(test)]
mod tests;
