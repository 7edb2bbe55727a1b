//! DestinationRule: how to talk to a service once the route is chosen.

use std::collections::BTreeMap;

use crate::common::{LabelSelector, PortSelector, StringMap};
use crate::duration::Duration;
use crate::message::{keyword, message};

message! {
    /// Policies for the traffic to one host.
    #[schemars(extend("required" = ["host"]))]
    pub struct DestinationRule {
        /// Name of the service; a short name is looked up in the resource's own namespace.
        pub host: String,
        /// Policy for the whole service.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named sets of the service's endpoints.
        pub subsets: Vec<Subset>,
        /// Namespaces that see this resource: `.`, `*` or names.
        pub export_to: Vec<String>,
        /// Callers to which the rule applies; all when absent.
        pub workload_selector: Option<LabelSelector>,
    }

    /// Balancing, limits, ejection and TLS.
    pub struct TrafficPolicy {
        /// Choice of the endpoint.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits on connections and requests.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Ejection of endpoints that fail.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS towards the service.
        pub tls: Option<ClientTlsSettings>,
        /// Policies of single ports; they replace those above.
        #[schemars(length(max = 4096))]
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Tunnel through a proxy.
        pub tunnel: Option<TunnelSettings>,
        /// PROXY protocol towards the service.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Bound on concurrent retries.
        pub retry_budget: Option<RetryBudget>,
    }

    /// Policy of one port.
    pub struct PortTrafficPolicy {
        /// The service's port.
        pub port: Option<PortSelector>,
        /// Choice of the endpoint.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits on connections and requests.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Ejection of endpoints that fail.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS towards the service.
        pub tls: Option<ClientTlsSettings>,
    }

    /// Tunnel through a proxy.
    #[schemars(extend("required" = ["targetHost", "targetPort"]))]
    pub struct TunnelSettings {
        /// CONNECT (when absent) or POST.
        pub protocol: String,
        /// Host to which the proxy connects.
        pub target_host: String,
        /// Port to which the proxy connects.
        pub target_port: u32,
    }

    /// PROXY protocol.
    pub struct ProxyProtocol {
        /// Its version.
        pub version: ProxyProtocolVersion,
    }

    /// Bound on concurrent retries, relative to the active requests.
    pub struct RetryBudget {
        /// Percentage of active requests that may be retries; 20 when absent.
        #[schemars(range(min = 0.0, max = 100.0))]
        pub percent: Option<f64>,
        /// Retries that are always allowed; 3 when absent.
        pub min_retry_concurrency: u32,
        /// Time over which requests are counted.
        #[schemars(extend("x-minimum-duration" = "0s"))]
        pub budget_interval: Option<Duration>,
    }

    /// A named set of the service's endpoints.
    #[schemars(extend("required" = ["name"]))]
    pub struct Subset {
        /// Name, for use in routes.
        pub name: String,
        /// Labels that the endpoints carry.
        pub labels: StringMap,
        /// Policy that replaces the service's.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// Choice of the endpoint.
    #[schemars(extend("x-oneof" = [["simple", "consistentHash"], ["warmupDurationSecs", "warmup"]]))]
    pub struct LoadBalancerSettings {
        /// An algorithm by name.
        pub simple: Option<SimpleLb>,
        /// Stick to endpoints by a hash.
        pub consistent_hash: Option<ConsistentHashLb>,
        /// Preference for near endpoints.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// Preference for the own zone.
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting>,
        /// Deprecated: write warmup.
        pub warmup_duration_secs: Option<Duration>,
        /// Gentle start of new endpoints.
        pub warmup: Option<WarmupConfiguration>,
    }

    /// Stick to endpoints by a hash of one thing of the request.
    #[schemars(extend("x-oneof" = [
        ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"],
        ["ringHash", "maglev"]
    ]))]
    pub struct ConsistentHashLb {
        /// A header.
        pub http_header_name: Option<String>,
        /// A cookie, made where it is missing.
        pub http_cookie: Option<HttpCookie>,
        /// The caller's address.
        pub use_source_ip: Option<bool>,
        /// A query parameter.
        pub http_query_parameter_name: Option<String>,
        /// Hash by a ring (the default).
        pub ring_hash: Option<RingHash>,
        /// Hash by Maglev's table.
        pub maglev: Option<MagLev>,
        /// Deprecated: write ringHash.minimumRingSize.
        pub minimum_ring_size: u64,
    }

    /// A ring of hashes.
    pub struct RingHash {
        /// Entries at least; 1024 when absent.
        pub minimum_ring_size: u64,
    }

    /// Maglev's table.
    pub struct MagLev {
        /// Entries, a prime; 65537 when absent.
        pub table_size: u64,
    }

    /// The cookie that is hashed.
    #[schemars(extend("required" = ["name"]))]
    pub struct HttpCookie {
        /// Its name.
        pub name: String,
        /// Its path.
        pub path: String,
        /// Its life; a session cookie at 0.
        #[schemars(extend("x-minimum-duration" = "0s"))]
        pub ttl: Option<Duration>,
        /// Further attributes of a cookie that is made.
        pub attributes: Vec<CookieAttribute>,
    }

    /// An attribute of a cookie.
    #[schemars(extend("required" = ["name"]))]
    pub struct CookieAttribute {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: String,
    }

    /// Gentle start of new endpoints.
    #[schemars(extend("required" = ["duration"]))]
    pub struct WarmupConfiguration {
        /// How long it lasts.
        pub duration: Option<Duration>,
        /// Share to begin with; 10 when absent.
        #[schemars(range(min = 0.0, max = 100.0))]
        pub minimum_percent: Option<f64>,
        /// Curve of the growth; 1.0 when absent.
        #[schemars(range(min = 0.0))]
        pub aggression: Option<f64>,
    }

    /// Limits on connections and requests.
    pub struct ConnectionPoolSettings {
        /// For all connections.
        pub tcp: Option<TcpSettings>,
        /// For HTTP.
        pub http: Option<HttpSettings>,
    }

    /// Limits and times for connections.
    pub struct TcpSettings {
        /// Connections to all endpoints together; no limit at 0.
        pub max_connections: i32,
        /// Time for connecting; 10 s when absent.
        pub connect_timeout: Option<Duration>,
        /// Keepalive of the socket.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// How old a connection may become.
        pub max_connection_duration: Option<Duration>,
        /// When an idle connection is closed; never at 0.
        #[schemars(extend("x-minimum-duration" = "0s"))]
        pub idle_timeout: Option<Duration>,
    }

    /// Keepalive of a socket.
    pub struct TcpKeepalive {
        /// Probes without an answer before the connection is dead.
        pub probes: u32,
        /// Idle time before the first probe.
        pub time: Option<Duration>,
        /// Time between probes.
        pub interval: Option<Duration>,
    }

    /// Limits for HTTP.
    pub struct HttpSettings {
        /// Requests that may wait for a connection; no limit at 0.
        pub http1_max_pending_requests: i32,
        /// Requests in flight, HTTP/1.1 included; no limit at 0.
        pub http2_max_requests: i32,
        /// Requests on one connection; no limit at 0.
        pub max_requests_per_connection: i32,
        /// Retries in flight; no limit at 0.
        pub max_retries: i32,
        /// When an idle connection is closed; 1 h when absent.
        pub idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2 between proxies.
        pub h2_upgrade_policy: H2UpgradePolicy,
        /// Keep the protocol of the caller.
        pub use_client_protocol: bool,
        /// Streams on one HTTP/2 connection; no limit at 0.
        pub max_concurrent_streams: i32,
        /// Pings on HTTP/2 connections.
        pub http2_keep_alive: Option<ConnectionKeepalive>,
    }

    /// Pings on HTTP/2 connections.
    pub struct ConnectionKeepalive {
        /// Time between pings.
        pub interval: Option<Duration>,
        /// Time for the answer.
        pub timeout: Option<Duration>,
    }

    /// Ejection of endpoints that fail.
    pub struct OutlierDetection {
        /// Deprecated: write consecutive5xxErrors or consecutiveGatewayErrors.
        pub consecutive_errors: i32,
        /// Count errors of the network apart from errors of the service.
        pub split_external_local_origin_errors: bool,
        /// Errors of the network in a row.
        pub consecutive_local_origin_failures: Option<u32>,
        /// Answers 502, 503 and 504 in a row; off at 0.
        pub consecutive_gateway_errors: Option<u32>,
        /// Answers 5xx in a row; 5 when absent, off at 0.
        #[serde(rename = "consecutive5xxErrors")]
        pub consecutive_5xx_errors: Option<u32>,
        /// Time between the rounds in which endpoints are judged and let back; 10 s when absent.
        pub interval: Option<Duration>,
        /// Length of an ejection, times the number of ejections; 30 s when absent.
        pub base_ejection_time: Option<Duration>,
        /// Endpoints that may be out; 10 % when absent or 0.
        pub max_ejection_percent: i32,
        /// Share of healthy endpoints below which all are used; off at 0.
        pub min_health_percent: i32,
        /// Status codes that count as errors.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// TLS towards a service.
    pub struct ClientTlsSettings {
        /// What kind of TLS.
        pub mode: ClientTlsMode,
        /// File of the client's certificate.
        pub client_certificate: String,
        /// File of the client's key.
        pub private_key: String,
        /// File of the roots that are trusted; the system's when absent.
        pub ca_certificates: String,
        /// Secret with certificate, key and roots, for gateways, and for sidecars that workloadSelector chooses.
        pub credential_name: String,
        /// Names of which the server's certificate must carry one.
        pub subject_alt_names: Vec<String>,
        /// Server name to send.
        pub sni: String,
        /// Do not verify the server's certificate.
        pub insecure_skip_verify: Option<bool>,
        /// File of revoked certificates.
        pub ca_crl: String,
    }

    /// Preference for near endpoints.
    pub struct LocalityLoadBalancerSetting {
        /// Shares per locality.
        pub distribute: Vec<LocalityDistribute>,
        /// Which region follows which.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ranked.
        pub failover_priority: Vec<String>,
        /// Whether any of it acts; so when absent.
        pub enabled: Option<bool>,
    }

    /// Shares for callers of one locality.
    pub struct LocalityDistribute {
        /// Locality of the caller: `region/zone/subzone`, `*` at the end.
        pub from: String,
        /// Localities with their shares, which add up to 100.
        pub to: BTreeMap<String, u32>,
    }

    /// Where callers of one region go when it fails.
    pub struct LocalityFailover {
        /// Region of the caller.
        pub from: String,
        /// Region that takes over.
        pub to: String,
    }

    /// Preference for the own zone.
    pub struct ZoneAwareLoadBalancerSetting {
        /// Whether it acts.
        pub enabled: Option<bool>,
        /// Which region follows which.
        pub failover: Vec<LocalityFailover>,
        /// Labels by which endpoints are ranked.
        pub failover_priority: Vec<String>,
        /// Endpoints that there must be.
        #[schemars(range(min = 1))]
        pub min_cluster_size: Option<u64>,
    }
}

keyword! {
    /// Algorithms without parameters.
    pub enum SimpleLb {
        #[default]
        Unspecified,
        LeastConn,
        Random,
        Passthrough,
        RoundRobin,
        LeastRequest,
    }

    /// Whether HTTP/1.1 becomes HTTP/2.
    pub enum H2UpgradePolicy {
        #[default]
        Default,
        DoNotUpgrade,
        Upgrade,
    }

    /// What kind of TLS a client speaks.
    pub enum ClientTlsMode {
        #[default]
        Disable,
        Simple,
        Mutual,
        IstioMutual,
    }

    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        #[default]
        V1,
        V2,
    }
}

impl DestinationRule {
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| subset.name == name)
    }

    /// What holds for a port of the service, or of one of its subsets: a port's own entry replaces the policy
    /// that surrounds it, and what a subset sets replaces what the service sets.
    pub fn policy(&self, port: u32, subset: Option<&str>) -> TrafficPolicy {
        let service = self.traffic_policy.as_ref().map(|policy| policy.for_port(port)).unwrap_or_default();
        let Some(of_subset) = subset.and_then(|name| self.subset(name)?.traffic_policy.as_ref()) else {
            return service;
        };
        let whole = of_subset.has_port(port);
        of_subset.for_port(port).over(service, whole)
    }
}

impl TrafficPolicy {
    fn port(&self, port: u32) -> Option<&PortTrafficPolicy> {
        self.port_level_settings.iter().find(|entry| entry.port.as_ref().is_some_and(|p| p.number == port))
    }

    fn has_port(&self, port: u32) -> bool {
        self.port(port).is_some()
    }

    /// The policy of one port: its own entry, which inherits nothing, else the whole.
    pub fn for_port(&self, port: u32) -> TrafficPolicy {
        match self.port(port).cloned() {
            Some(own) => TrafficPolicy {
                load_balancer: own.load_balancer,
                connection_pool: own.connection_pool,
                outlier_detection: own.outlier_detection,
                tls: own.tls,
                ..TrafficPolicy::default()
            },
            None => TrafficPolicy { port_level_settings: Vec::new(), ..self.clone() },
        }
    }

    /// This policy where it says something, `below` elsewhere; `whole` if what is unsaid is a default, too.
    fn over(self, below: TrafficPolicy, whole: bool) -> TrafficPolicy {
        let mut merged = TrafficPolicy {
            tunnel: self.tunnel.or(below.tunnel),
            proxy_protocol: self.proxy_protocol.or(below.proxy_protocol),
            retry_budget: self.retry_budget.or(below.retry_budget),
            load_balancer: self.load_balancer,
            connection_pool: self.connection_pool,
            outlier_detection: self.outlier_detection,
            tls: self.tls,
            port_level_settings: Vec::new(),
        };
        if !whole {
            merged.load_balancer = merged.load_balancer.or(below.load_balancer);
            merged.connection_pool = merged.connection_pool.or(below.connection_pool);
            merged.outlier_detection = merged.outlier_detection.or(below.outlier_detection);
            merged.tls = merged.tls.or(below.tls);
        }
        merged
    }
}

impl OutlierDetection {
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
    pub const DEFAULT_BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
    pub const DEFAULT_MAX_EJECTION_PERCENT: u32 = 10;
    pub const DEFAULT_CONSECUTIVE_5XX: u32 = 5;

    /// Percentage of endpoints that may be out, with the default filled in.
    pub fn max_ejection_percent(&self) -> u32 {
        match u32::try_from(self.max_ejection_percent) {
            Ok(0) | Err(_) => Self::DEFAULT_MAX_EJECTION_PERCENT,
            Ok(percent) => percent,
        }
    }
}

impl ConsistentHashLb {
    /// Least size of the ring, with old spelling and default.
    pub fn minimum_ring_size(&self) -> u64 {
        let new = self.ring_hash.as_ref().map_or(0, |ring| ring.minimum_ring_size);
        [new, self.minimum_ring_size].into_iter().find(|size| *size > 0).unwrap_or(1024)
    }
}
