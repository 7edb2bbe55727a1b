//! Envoy's response flags: why an answer is not simply what the upstream said.

use std::fmt;

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $short:literal $long:literal),* $(,)?) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            /// Each flag with its short and long name, in Envoy's order.
            pub const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self::$name, $short, $long)),*];
        }
    };
}

flags! {
    /// Written before what it gave up on.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15 "URX" "UpstreamRetryLimitExceeded",
    FAILED_LOCAL_HEALTH_CHECK = 0 "LH" "FailedLocalHealthCheck",
    NO_HEALTHY_UPSTREAM = 1 "UH" "NoHealthyUpstream",
    UPSTREAM_REQUEST_TIMEOUT = 2 "UT" "UpstreamRequestTimeout",
    LOCAL_RESET = 3 "LR" "LocalReset",
    UPSTREAM_REMOTE_RESET = 4 "UR" "UpstreamRemoteReset",
    UPSTREAM_CONNECTION_FAILURE = 5 "UF" "UpstreamConnectionFailure",
    UPSTREAM_CONNECTION_TERMINATION = 6 "UC" "UpstreamConnectionTermination",
    UPSTREAM_OVERFLOW = 7 "UO" "UpstreamOverflow",
    NO_ROUTE_FOUND = 8 "NR" "NoRouteFound",
    DELAY_INJECTED = 9 "DI" "DelayInjected",
    FAULT_INJECTED = 10 "FI" "FaultInjected",
    RATE_LIMITED = 11 "RL" "RateLimited",
    UNAUTHORIZED_EXTERNAL_SERVICE = 12 "UAEX" "UnauthorizedExternalService",
    RATELIMIT_SERVICE_ERROR = 13 "RLSE" "RateLimitServiceError",
    DOWNSTREAM_CONNECTION_TERMINATION = 14 "DC" "DownstreamConnectionTermination",
    STREAM_IDLE_TIMEOUT = 16 "SI" "StreamIdleTimeout",
    INVALID_REQUEST_HEADERS = 17 "IH" "InvalidEnvoyRequestHeaders",
    DOWNSTREAM_PROTOCOL_ERROR = 18 "DPE" "DownstreamProtocolError",
    UPSTREAM_MAX_STREAM_DURATION = 19 "UMSDR" "UpstreamMaxStreamDurationReached",
    RESPONSE_FROM_CACHE = 20 "RFCF" "ResponseFromCacheFilter",
    NO_FILTER_CONFIG = 21 "NFCF" "NoFilterConfigFound",
    DURATION_TIMEOUT = 22 "DT" "DurationTimeout",
    UPSTREAM_PROTOCOL_ERROR = 23 "UPE" "UpstreamProtocolError",
    NO_CLUSTER_FOUND = 24 "NC" "NoClusterFound",
    OVERLOAD_MANAGER = 25 "OM" "OverloadManagerTerminated",
    DNS_FAILURE = 26 "DF" "DnsResolutionFailed",
    DROP_OVERLOAD = 27 "DO" "DropOverload",
    DOWNSTREAM_REMOTE_RESET = 28 "DR" "DownstreamRemoteReset",
    UNCONDITIONAL_DROP_OVERLOAD = 29 "UDO" "UnconditionalDropOverload",
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `flags` is set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    pub fn insert(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// By its short name.
    pub fn from_short(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, short, _)| *short == name).map(|(flag, _, _)| *flag)
    }

    fn write(
        self,
        f: &mut impl fmt::Write,
        name: impl Fn(&(Self, &'static str, &'static str)) -> &'static str,
    ) -> fmt::Result {
        if self.is_empty() {
            return f.write_char('-');
        }
        let mut first = true;
        for entry in Self::ALL.iter().filter(|(flag, _, _)| self.has(*flag)) {
            if !first {
                f.write_char(',')?;
            }
            first = false;
            f.write_str(name(entry))?;
        }
        Ok(())
    }

    /// `%RESPONSE_FLAGS_LONG%`.
    pub fn write_long(self, f: &mut impl fmt::Write) -> fmt::Result {
        self.write(f, |entry| entry.2)
    }
}

/// `%RESPONSE_FLAGS%`: short names by commas, `-` for none.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |entry| entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_by_their_names() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let both =
            ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED.with(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(both.to_string(), "URX,UF");
        let mut long = String::new();
        both.write_long(&mut long).unwrap();
        assert_eq!(long, "UpstreamRetryLimitExceeded,UpstreamConnectionFailure");
        for (flag, short, _) in ResponseFlags::ALL {
            assert_eq!(ResponseFlags::from_short(short), Some(*flag));
        }
    }
}
