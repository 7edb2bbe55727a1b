//! Header lists: ordered, case kept as received, with a fast way to the names that the mesh itself uses.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

macro_rules! known {
    ($($id:ident = $text:literal),* $(,)?) => {
        /// Header names (and HTTP/2 pseudo headers) that are looked up often.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known { $($id),* }

        impl Known {
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$id => $text),* }
            }

            #[allow(non_upper_case_globals)]
            fn from_lower(text: &[u8]) -> Option<Self> {
                $(const $id: &[u8] = $text.as_bytes();)*
                match text {
                    $($id => Some(Self::$id),)*
                    _ => None,
                }
            }
        }
    };
}

known! {
    PseudoMethod = ":method", PseudoPath = ":path", PseudoAuthority = ":authority", PseudoScheme = ":scheme",
    PseudoStatus = ":status", PseudoProtocol = ":protocol",
    Accept = "accept", AccessControlAllowCredentials = "access-control-allow-credentials",
    AccessControlAllowHeaders = "access-control-allow-headers",
    AccessControlAllowMethods = "access-control-allow-methods",
    AccessControlAllowOrigin = "access-control-allow-origin",
    AccessControlExposeHeaders = "access-control-expose-headers", AccessControlMaxAge = "access-control-max-age",
    AccessControlRequestHeaders = "access-control-request-headers",
    AccessControlRequestMethod = "access-control-request-method", Authorization = "authorization",
    B3 = "b3", Baggage = "baggage", CacheControl = "cache-control", Connection = "connection",
    ContentLength = "content-length", ContentType = "content-type", Cookie = "cookie", Date = "date", Etag = "etag",
    Expect = "expect", Forwarded = "forwarded", GrpcMessage = "grpc-message", GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout", Host = "host", KeepAlive = "keep-alive", Location = "location", Origin = "origin",
    ProxyConnection = "proxy-connection", Referer = "referer", RetryAfter = "retry-after", Server = "server",
    SetCookie = "set-cookie", Te = "te", Traceparent = "traceparent", Tracestate = "tracestate", Trailer = "trailer",
    TransferEncoding = "transfer-encoding", Upgrade = "upgrade", UserAgent = "user-agent", Vary = "vary", Via = "via",
    XB3Flags = "x-b3-flags", XB3ParentSpanId = "x-b3-parentspanid", XB3Sampled = "x-b3-sampled",
    XB3SpanId = "x-b3-spanid", XB3TraceId = "x-b3-traceid", XClientTraceId = "x-client-trace-id",
    XEnvoyAttemptCount = "x-envoy-attempt-count", XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyDownstreamServiceCluster = "x-envoy-downstream-service-cluster",
    XEnvoyDownstreamServiceNode = "x-envoy-downstream-service-node",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = "x-envoy-external-address", XEnvoyForceTrace = "x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = "x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = "x-envoy-immediate-health-check-fail", XEnvoyInternal = "x-envoy-internal",
    XEnvoyIpTags = "x-envoy-ip-tags", XEnvoyMaxRetries = "x-envoy-max-retries",
    XEnvoyOriginalHost = "x-envoy-original-host", XEnvoyOriginalMethod = "x-envoy-original-method",
    XEnvoyOriginalPath = "x-envoy-original-path", XEnvoyOriginalUrl = "x-envoy-original-url",
    XEnvoyOverloaded = "x-envoy-overloaded",
    XEnvoyPeerMetadata = "x-envoy-peer-metadata", XEnvoyPeerMetadataId = "x-envoy-peer-metadata-id",
    XEnvoyRatelimited = "x-envoy-ratelimited", XEnvoyRetriableHeaderNames = "x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = "x-envoy-retriable-status-codes", XEnvoyRetryGrpcOn = "x-envoy-retry-grpc-on",
    XEnvoyRetryOn = "x-envoy-retry-on", XEnvoyUpstreamAltStatName = "x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = "x-envoy-upstream-canary",
    XEnvoyUpstreamRqPerTryTimeoutMs = "x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = "x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = "x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XEnvoyUpstreamStreamDurationMs = "x-envoy-upstream-stream-duration-ms",
    XForwardedClientCert = "x-forwarded-client-cert", XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host", XForwardedPort = "x-forwarded-port", XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

/// The longest known name; longer ones need not be looked up.
const LONGEST: usize = 40;

impl Known {
    /// From a name of any case.
    pub fn find(name: &[u8]) -> Option<Self> {
        let mut lower = [0; LONGEST];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        Self::from_lower(lower)
    }
}

/// A header name as it was received; compares without regard to case.
#[derive(Clone)]
pub struct HeaderName {
    known: Option<Known>,
    text: Bytes,
}

impl HeaderName {
    pub fn new(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self { known: Known::find(&text), text }
    }

    pub fn known(&self) -> Option<Known> {
        self.known
    }

    /// As received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// As received; names that are no UTF-8 never get this far in a codec and read as empty.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    pub fn bytes(&self) -> &Bytes {
        &self.text
    }

    pub fn is_pseudo(&self) -> bool {
        self.text.first() == Some(&b':')
    }

    fn matches(&self, other: &Self) -> bool {
        match (self.known, other.known) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.text.eq_ignore_ascii_case(&other.text),
            _ => false,
        }
    }
}

impl From<Known> for HeaderName {
    fn from(known: Known) -> Self {
        Self { known: Some(known), text: Bytes::from_static(known.as_str().as_bytes()) }
    }
}

impl From<&str> for HeaderName {
    fn from(text: &str) -> Self {
        Self::new(text.to_owned())
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other)
    }
}

impl Eq for HeaderName {}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

/// A list of headers in the order received. `Host` and pseudo headers live in [`crate::Request`], not here.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<(HeaderName, Bytes)>,
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_capacity(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity) }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = &(HeaderName, Bytes)> {
        self.entries.iter()
    }

    /// Names and values together: about what the list takes on the wire.
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|(n, v)| n.text.len() + v.len()).sum()
    }

    /// The first value of a name.
    pub fn get(&self, name: &HeaderName) -> Option<&Bytes> {
        self.entries.iter().find(|(n, _)| n.matches(name)).map(|(_, v)| v)
    }

    /// The first value of a known name.
    pub fn known(&self, name: Known) -> Option<&Bytes> {
        self.entries.iter().find(|(n, _)| n.known == Some(name)).map(|(_, v)| v)
    }

    /// The first value of a known name, when it is UTF-8.
    pub fn known_str(&self, name: Known) -> Option<&str> {
        self.known(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// The first value of a name written as text; for what is not on the request path.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        let name = name.as_bytes();
        let value = self.entries.iter().find(|(n, _)| n.text.eq_ignore_ascii_case(name)).map(|(_, v)| v)?;
        std::str::from_utf8(value).ok()
    }

    pub fn get_all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a Bytes> {
        self.entries.iter().filter(move |(n, _)| n.matches(name)).map(|(_, v)| v)
    }

    /// All values of a name, joined by commas as Envoy's matchers see them.
    pub fn joined<'a>(&'a self, name: &'a HeaderName) -> Option<Cow<'a, [u8]>> {
        let mut values = self.get_all(name);
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut all = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            all.push(b',');
            all.extend_from_slice(value);
        }
        Some(Cow::Owned(all))
    }

    pub fn contains(&self, name: Known) -> bool {
        self.known(name).is_some()
    }

    /// Adds a header after the others.
    pub fn append(&mut self, name: impl Into<HeaderName>, value: impl Into<Bytes>) {
        self.entries.push((name.into(), value.into()));
    }

    /// Replaces all headers of a name by one, in the first one's place.
    pub fn set(&mut self, name: impl Into<HeaderName>, value: impl Into<Bytes>) {
        let (name, value) = (name.into(), value.into());
        match self.entries.iter().position(|(n, _)| n.matches(&name)) {
            Some(at) => {
                let mut index = 0;
                self.entries.retain(|(n, _)| {
                    index += 1;
                    index <= at + 1 || !n.matches(&name)
                });
                self.entries[at].1 = value;
            }
            None => self.entries.push((name, value)),
        }
    }

    /// Whether there was such a header.
    pub fn remove(&mut self, name: &HeaderName) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(n, _)| !n.matches(name));
        self.entries.len() != before
    }

    pub fn remove_known(&mut self, name: Known) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(n, _)| n.known != Some(name));
        self.entries.len() != before
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &Bytes) -> bool) {
        self.entries.retain(|(n, v)| keep(n, v));
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, Bytes);
    type IntoIter = std::vec::IntoIter<(HeaderName, Bytes)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<N: Into<HeaderName>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|(n, v)| (n.into(), v.into())).collect() }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(n, v)| (n, String::from_utf8_lossy(v)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case_and_keep_it() {
        for known in Known::ALL {
            assert!(known.as_str().len() <= LONGEST, "{known:?}");
            assert_eq!(Known::find(known.as_str().to_uppercase().as_bytes()), Some(*known));
        }
        let headers: Headers = [("X-Request-ID", "1"), ("X-Custom", "2")].into_iter().collect();
        assert_eq!(headers.known_str(Known::XRequestId), Some("1"));
        assert_eq!(headers.get(&"x-CUSTOM".into()).unwrap(), "2");
        assert_eq!(headers.iter().next().unwrap().0.as_str(), "X-Request-ID");
    }

    #[test]
    fn set_replaces_all_in_the_first_ones_place() {
        let mut headers: Headers = [("a", "1"), ("b", "2"), ("A", "3"), ("c", "4")].into_iter().collect();
        assert_eq!(headers.joined(&"a".into()).unwrap().as_ref(), b"1,3");
        headers.set("a", "5");
        let all: Vec<_> =
            headers.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect();
        assert_eq!(all, ["a=5", "b=2", "c=4"]);
        assert!(headers.remove(&"B".into()) && !headers.remove(&"b".into()));
    }
}
