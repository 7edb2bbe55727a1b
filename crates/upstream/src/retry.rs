//! May a request be tried again: Envoy's retry conditions, counted per request.

use std::time::Duration;

use base::Random;

use crate::Backoff;

/// Conditions for another try, by Envoy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($name:ident = $bit:literal $text:literal),* $(,)?) => {
        impl RetryOn {
            $(pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$name)),*];
        }
    };
}

conditions! {
    FIVE_XX = 0 "5xx",
    GATEWAY_ERROR = 1 "gateway-error",
    RESET = 2 "reset",
    RESET_BEFORE_REQUEST = 3 "reset-before-request",
    CONNECT_FAILURE = 4 "connect-failure",
    RETRIABLE_4XX = 5 "retriable-4xx",
    REFUSED_STREAM = 6 "refused-stream",
    RETRIABLE_STATUS_CODES = 7 "retriable-status-codes",
    RETRIABLE_HEADERS = 8 "retriable-headers",
    ENVOY_RATELIMITED = 9 "envoy-ratelimited",
    GRPC_CANCELLED = 10 "cancelled",
    GRPC_DEADLINE_EXCEEDED = 11 "deadline-exceeded",
    GRPC_INTERNAL = 12 "internal",
    GRPC_RESOURCE_EXHAUSTED = 13 "resource-exhausted",
    GRPC_UNAVAILABLE = 14 "unavailable",
    HTTP3_POST_CONNECT_FAILURE = 15 "http3-post-connect-failure",
}

impl RetryOn {
    pub const NONE: Self = Self(0);

    /// From Envoy's comma-separated list; the names that are not known come back as the error.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let mut on = Self::NONE;
        let mut unknown = Vec::new();
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match Self::NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, condition)) => on = on.with(*condition),
                None => unknown.push(word.to_owned()),
            }
        }
        (on, unknown)
    }

    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, any_of: Self) -> bool {
        self.0 & any_of.0 != 0
    }

    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().filter(move |(_, c)| self.has(*c)).map(|(name, _)| *name)
    }
}

/// The retry rules of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Tries after the first.
    pub retries: u32,
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub status_codes: Vec<u16>,
    pub backoff: Backoff,
    /// The predicate `previous_hosts`: other hosts first.
    pub avoid_previous_hosts: bool,
    /// How often to choose anew before a host that was tried is taken again.
    pub host_attempts: u32,
    /// Headers by which the upstream says how long to wait (`retry-after`, `x-ratelimit-reset`), in lower case.
    pub reset_headers: Vec<(String, ResetFormat)>,
    /// What is told beyond this is not heeded.
    pub reset_max_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            on: RetryOn::NONE,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            status_codes: Vec::new(),
            backoff: Backoff::default(),
            avoid_previous_hosts: false,
            host_attempts: 1,
            reset_headers: Vec::new(),
            reset_max_interval: Duration::from_secs(300),
        }
    }
}

/// How one try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Response headers arrived.
    Response {
        status: u16,
        /// From `grpc-status` in headers (trailers-only) of a gRPC response.
        grpc_status: Option<u32>,
        /// Whether the upstream set `x-envoy-ratelimited`.
        rate_limited: bool,
        /// Whether one of the policy's retriable headers matched.
        retriable_header: bool,
    },
    /// No connection could be made: nothing was sent.
    ConnectFailure,
    /// The connection was lost or the stream reset before a response began.
    Reset {
        /// HTTP/2 REFUSED_STREAM, or a GOAWAY that excludes the stream: the upstream did not process it.
        refused: bool,
        /// Whether request headers had been written to the connection.
        sent: bool,
    },
    PerTryTimeout,
    /// It takes longer than a try may, and goes on: another is made beside it, whatever the conditions.
    Slow,
}

/// What to do after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wait, then try again, with a permit of `Resource::Retry`.
    Retry(Duration),
    /// The answer stands.
    No,
    /// It would be retried, but all tries are spent: flag `URX`.
    Exhausted,
}

/// Counts the tries of one request.
#[derive(Debug, Clone)]
pub struct RetryState {
    used: u32,
}

impl Default for RetryState {
    fn default() -> Self {
        Self::new()
    }
}

impl RetryState {
    pub fn new() -> Self {
        Self { used: 0 }
    }

    /// Retries so far.
    pub fn retries(&self) -> u32 {
        self.used
    }

    /// Judges a try that ended. `Retry` counts as used: ask once for each try.
    pub fn consider<R: Random + ?Sized>(
        &mut self,
        policy: &RetryPolicy,
        attempt: Attempt,
        rng: &mut R,
    ) -> Verdict {
        if !policy.wants(attempt) {
            return Verdict::No;
        }
        if self.used >= policy.retries {
            return Verdict::Exhausted;
        }
        self.used += 1;
        Verdict::Retry(policy.backoff.delay(self.used, rng))
    }
}

impl RetryPolicy {
    /// The wait before the next try where the upstream named one: that, and up to half as much again.
    pub fn wait_as_told<R: Random + ?Sized>(&self, told: Duration, rng: &mut R) -> Option<Duration> {
        if told <= Duration::from_millis(1) || told > self.reset_max_interval {
            return None;
        }
        let half = u64::try_from(told.as_micros() / 2).unwrap_or(u64::MAX);
        Some(told + Duration::from_micros(rng.below(half)))
    }

    /// Whether the conditions ask for another try, tries left or not.
    pub fn wants(&self, attempt: Attempt) -> bool {
        match attempt {
            Attempt::Response { status, grpc_status, rate_limited, retriable_header } => {
                self.wants_response(status, grpc_status, rate_limited, retriable_header)
            }
            Attempt::ConnectFailure => self.on.has(
                RetryOn::CONNECT_FAILURE
                    .with(RetryOn::FIVE_XX)
                    .with(RetryOn::GATEWAY_ERROR)
                    .with(RetryOn::RESET)
                    .with(RetryOn::RESET_BEFORE_REQUEST),
            ),
            Attempt::Reset { refused, sent } => self.wants_reset(refused, sent),
            Attempt::PerTryTimeout => {
                self.on.has(RetryOn::FIVE_XX.with(RetryOn::GATEWAY_ERROR).with(RetryOn::RESET))
            }
            Attempt::Slow => true,
        }
    }

    fn wants_response(
        &self,
        status: u16,
        grpc_status: Option<u32>,
        rate_limited: bool,
        retriable_header: bool,
    ) -> bool {
        if rate_limited {
            return self.on.has(RetryOn::ENVOY_RATELIMITED);
        }
        (self.on.has(RetryOn::FIVE_XX) && (500..600).contains(&status))
            || (self.on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&status))
            || (self.on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (self.on.has(RetryOn::RETRIABLE_STATUS_CODES) && self.status_codes.contains(&status))
            || (self.on.has(RetryOn::RETRIABLE_HEADERS) && retriable_header)
            || grpc_status.is_some_and(|code| self.on.has(grpc_condition(code)))
    }

    fn wants_reset(&self, refused: bool, sent: bool) -> bool {
        if self.on.has(RetryOn::FIVE_XX.with(RetryOn::GATEWAY_ERROR).with(RetryOn::RESET)) {
            return true;
        }
        (refused && self.on.has(RetryOn::REFUSED_STREAM))
            || (!sent && self.on.has(RetryOn::RESET_BEFORE_REQUEST))
    }
}

fn grpc_condition(code: u32) -> RetryOn {
    match code {
        1 => RetryOn::GRPC_CANCELLED,
        4 => RetryOn::GRPC_DEADLINE_EXCEEDED,
        8 => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        13 => RetryOn::GRPC_INTERNAL,
        14 => RetryOn::GRPC_UNAVAILABLE,
        _ => RetryOn::NONE,
    }
}

#[cfg(test)]
mod tests {
    use base::SeededRandom;

    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        let (on, unknown) = RetryOn::parse(on);
        assert!(unknown.is_empty());
        RetryPolicy { on, retries: 2, ..RetryPolicy::default() }
    }

    fn status(status: u16) -> Attempt {
        Attempt::Response { status, grpc_status: None, rate_limited: false, retriable_header: false }
    }

    #[test]
    fn istios_default_retries_what_was_not_read_and_no_plain_503() {
        let default = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
        assert!(default.wants(Attempt::ConnectFailure));
        assert!(default.wants(Attempt::Reset { refused: true, sent: true }));
        assert!(!default.wants(Attempt::Reset { refused: false, sent: true }));
        assert!(!default.wants(status(503)));
        assert!(!default.wants(Attempt::PerTryTimeout));
        assert!(default.wants(Attempt::Response {
            status: 200,
            grpc_status: Some(14),
            rate_limited: false,
            retriable_header: false
        }));
    }

    #[test]
    fn each_condition_retries_what_it_says() {
        let reset = Attempt::Reset { refused: false, sent: true };
        for (on, attempt, expected) in [
            ("5xx", status(500), true),
            ("5xx", status(404), false),
            ("5xx", reset, true),
            ("gateway-error", status(500), false),
            ("gateway-error", status(502), true),
            ("retriable-4xx", status(409), true),
            ("retriable-4xx", status(404), false),
            ("reset", reset, true),
            ("reset-before-request", reset, false),
            ("reset-before-request", Attempt::Reset { refused: false, sent: false }, true),
            ("connect-failure", reset, false),
            ("", status(503), false),
        ] {
            assert_eq!(policy(on).wants(attempt), expected, "{on} {attempt:?}");
        }
        let codes = RetryPolicy { status_codes: vec![429], ..policy("retriable-status-codes") };
        assert!(codes.wants(status(429)) && !codes.wants(status(503)));
    }

    #[test]
    fn a_wait_that_was_told_is_kept_and_jittered_unless_it_is_too_long() {
        let mut rng = SeededRandom::new(1);
        let policy = RetryPolicy { reset_max_interval: Duration::from_secs(5), ..policy("5xx") };
        for _ in 0..100 {
            let wait = policy.wait_as_told(Duration::from_secs(2), &mut rng).unwrap();
            assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&wait), "{wait:?}");
        }
        assert_eq!(policy.wait_as_told(Duration::from_secs(6), &mut rng), None);
        assert_eq!(policy.wait_as_told(Duration::ZERO, &mut rng), None);
    }

    #[test]
    fn tries_are_counted_and_unknown_conditions_are_named() {
        let (mut state, mut rng, policy) = (RetryState::new(), SeededRandom::new(1), policy("5xx"));
        assert!(matches!(state.consider(&policy, status(503), &mut rng), Verdict::Retry(_)));
        assert!(matches!(state.consider(&policy, status(503), &mut rng), Verdict::Retry(_)));
        assert_eq!(state.consider(&policy, status(503), &mut rng), Verdict::Exhausted);
        assert_eq!(state.consider(&policy, status(200), &mut rng), Verdict::No);
        assert_eq!(RetryOn::parse("5xx, nonsense").1, ["nonsense"]);
    }
}
