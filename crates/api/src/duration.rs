//! Durations as Istio's resources write them: Go's notation (`1h30m`, `500ms`, `1.5s`), which takes in protobuf's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A length of time, never negative; nanosecond precision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(pub std::time::Duration);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write numbers with units as in \"1.5s\", \"500ms\" or \"1h30m\"")]
pub struct ParseDurationError(String);

/// The units of Go's durations, with their length in nanoseconds; longer names come first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Duration {
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    pub fn as_std(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDurationError(text.into());
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self::default());
        }
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let (nanos, after) = component(rest).ok_or_else(error)?;
            total = total.checked_add(nanos).ok_or_else(error)?;
            rest = after;
        }
        // Go keeps a duration in a signed 64-bit integer.
        i64::try_from(total).map_err(|_| error())?;
        Ok(Self(std::time::Duration::from_nanos(total)))
    }
}

/// One `NUMBER UNIT` from the front: its nanoseconds and what follows it.
fn component(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let (name, scale) = UNITS.iter().find(|(name, _)| unit(rest) == *name)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanos = whole.checked_mul(*scale)?.checked_add(fraction_of(fraction, *scale))?;
    Some((nanos, &rest[name.len()..]))
}

/// The letters up to the next number.
fn unit(text: &str) -> &str {
    let end = text.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(text.len());
    &text[..end]
}

/// What decimal digits after the point are worth; what lies below a nanosecond is cut off.
fn fraction_of(digits: &str, scale: u64) -> u64 {
    let digits = &digits[..digits.len().min(18)];
    let value: u128 = digits.parse().unwrap_or(0);
    let power = 10_u128.pow(u32::try_from(digits.len()).unwrap_or(0));
    u64::try_from(value * u128::from(scale) / power).unwrap_or(u64::MAX)
}

/// Protobuf's notation: seconds with as many decimals as are needed.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_nanos() {
            0 => write!(f, "{}s", self.0.as_secs()),
            nanos => {
                let decimals = format!("{nanos:09}");
                write!(f, "{}.{}s", self.0.as_secs(), decimals.trim_end_matches('0'))
            }
        }
    }
}

impl TryFrom<String> for Duration {
    type Error = ParseDurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

/// The format by which [`crate::schema`] knows a duration; it becomes a CEL rule in the CRDs.
pub(crate) const FORMAT: &str = "go-duration";

/// What errors say of a value that is no duration or too short.
pub(crate) fn expectation(least: &str) -> String {
    format!("must be a duration of at least {least}, such as 1.5s, 500ms or 1h30m")
}

/// What [`Duration::from_str`] reads, as a regular expression.
pub(crate) const PATTERN: &str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

impl schemars::JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": FORMAT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_notation_is_read_and_protobuf_notation_written() {
        for (text, nanos, written) in [
            ("1.5s", 1_500_000_000, "1.5s"),
            ("1h", 3_600_000_000_000, "3600s"),
            ("500ms", 500_000_000, "0.5s"),
            ("1h30m", 5_400_000_000_000, "5400s"),
            ("1m0.5s", 60_500_000_000, "60.5s"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            (".5s", 500_000_000, "0.5s"),
            ("7us", 7_000, "0.000007s"),
            ("1µs", 1_000, "0.000001s"),
            ("0.000000001s", 1, "0.000000001s"),
        ] {
            let parsed: Duration = text.parse().unwrap();
            assert_eq!((parsed.0.as_nanos(), parsed.to_string().as_str()), (nanos, written), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "5", "s", "5 s", "5sec", "-5s", "1..5s", "1d", "s5", "1e3s", "9999999999h", ".s", "1h30"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}
