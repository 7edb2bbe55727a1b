//! MeshConfig: the settings of the whole mesh, from the ConfigMap `istio`, key `mesh`.
//!
//! Only what is honoured has a type here. Istio's other fields are known by name and are refused or warned
//! about, as [`crate::support`] says.

use std::collections::BTreeMap;

use crate::common::StringMap;
use crate::duration::Duration;
use crate::message::{keyword, message};
use crate::networking::{
    ConnectionPoolSettings, HttpRetry, LocalityLoadBalancerSetting, OutlierDetection, TcpKeepalive,
};
use crate::telemetry::CustomTag;

/// The ConfigMap that holds the settings, in the root namespace.
pub const CONFIG_MAP: &str = "istio";
/// Its key.
pub const CONFIG_MAP_KEY: &str = "mesh";
/// Where resources hold for the whole mesh, unless MeshConfig says otherwise.
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";

message! {
    /// The settings of the whole mesh.
    pub struct MeshConfig {
        /// Time for connecting; 10 s when absent.
        pub connect_timeout: Option<Duration>,
        /// How long to wait for a client's first bytes; off at 0, which is the default.
        #[schemars(extend("x-minimum-duration" = "0s"))]
        pub protocol_detection_timeout: Option<Duration>,
        /// Keepalive of sockets.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// Trace at all; so when absent.
        pub enable_tracing: Option<bool>,
        /// File of the access log; none when empty.
        pub access_log_file: String,
        /// Format of its lines.
        pub access_log_format: String,
        /// Text or JSON.
        pub access_log_encoding: AccessLogEncoding,
        /// Settings of proxies.
        pub default_config: Option<ProxyConfig>,
        /// What happens to calls that go to no known service.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// Where connections to the workload's declared ports go.
        pub inbound_traffic_policy: Option<InboundTrafficPolicy>,
        /// Mutual TLS towards whoever understands it; so when absent.
        pub enable_auto_mtls: Option<bool>,
        /// The trust domain; cluster.local when absent.
        pub trust_domain: String,
        /// Other trust domains that count as this one.
        pub trust_domain_aliases: Vec<String>,
        /// Who sees services that do not say.
        pub default_service_export_to: Vec<String>,
        /// Who sees VirtualServices that do not say.
        pub default_virtual_service_export_to: Vec<String>,
        /// Who sees DestinationRules that do not say.
        pub default_destination_rule_export_to: Vec<String>,
        /// Namespace whose resources hold for the whole mesh; istio-system when absent.
        pub root_namespace: String,
        /// Preference for near endpoints, where a rule asks for none of its own.
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
        /// How often names are resolved again; 60 s when absent.
        pub dns_refresh_rate: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2 between proxies.
        pub h2_upgrade_policy: MeshH2UpgradePolicy,
        /// Settings for some services.
        pub service_settings: Vec<ServiceSettings>,
        /// Where traces, metrics and logs may go, by name.
        pub extension_providers: Vec<ExtensionProvider>,
        /// Which of them are used when Telemetry does not say.
        pub default_providers: Option<DefaultProviders>,
        /// Namespaces that the mesh looks at; all when absent.
        pub discovery_selectors: Vec<DiscoverySelector>,
        /// How paths are brought to one form.
        pub path_normalization: Option<PathNormalization>,
        /// Retries where no rule says otherwise.
        pub default_http_retry_policy: Option<HttpRetry>,
        /// What proxies insist on when they are called by mutual TLS of the mesh.
        #[serde(rename = "meshMTLS")]
        pub mesh_mtls: Option<TlsConfig>,
        /// The same for all other TLS: of gateways, where the server says nothing else, and towards the outside.
        pub tls_defaults: Option<TlsConfig>,
        /// Limits and ejection where no rule says otherwise.
        pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    }

    /// What happens to calls that go to no known service.
    pub struct OutboundTrafficPolicy {
        /// Let through when absent.
        pub mode: Option<OutboundMode>,
    }

    /// Where connections to the workload's declared ports go.
    pub struct InboundTrafficPolicy {
        /// To the address that was called, or to the loopback address.
        pub mode: InboundMode,
    }

    /// Settings for some services.
    pub struct ServiceSettings {
        /// The settings.
        pub settings: Option<ServiceSettingsDetail>,
        /// The services, by host, with a wildcard label in front.
        pub hosts: Vec<String>,
    }

    /// Settings of a service.
    pub struct ServiceSettingsDetail {
        /// Only endpoints of the caller's cluster.
        pub cluster_local: bool,
    }

    /// Where traces, metrics or logs may go.
    #[schemars(extend("required" = ["name"]))]
    pub struct ExtensionProvider {
        /// Its name, for use in resources.
        pub name: String,
        /// Zipkin.
        pub zipkin: Option<ZipkinProvider>,
        /// A collector of OTLP.
        pub opentelemetry: Option<OpenTelemetryProvider>,
        /// Metrics at the proxy, to be scraped.
        pub prometheus: Option<PrometheusProvider>,
        /// Lines in a file.
        pub envoy_file_access_log: Option<FileAccessLogProvider>,
        /// Access logs of HTTP to Envoy's Access Log Service over gRPC.
        pub envoy_http_als: Option<HttpAlsProvider>,
        /// Access logs of TCP to Envoy's Access Log Service over gRPC.
        pub envoy_tcp_als: Option<TcpAlsProvider>,
        /// Access logs to a collector of OTLP over gRPC.
        pub envoy_otel_als: Option<OtelAlsProvider>,
        /// An external authorizer over HTTP, for policies of action CUSTOM.
        pub envoy_ext_authz_http: Option<ExtAuthzHttpProvider>,
        /// An external authorizer over gRPC (Envoy's Authorization service), for policies of action CUSTOM.
        pub envoy_ext_authz_grpc: Option<ExtAuthzGrpcProvider>,
    }

    /// An external authorizer over HTTP: 200 lets a request pass.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct ExtAuthzHttpProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// Time for an answer; 600s when absent.
        pub timeout: Option<Duration>,
        /// Goes before the path of the request that is asked about.
        pub path_prefix: String,
        /// Requests pass that nobody could judge.
        pub fail_open: bool,
        /// Choose the route anew after the request was changed.
        pub clear_route_cache: bool,
        /// What clients are answered when nobody could judge; 403 when absent.
        pub status_on_error: String,
        /// Headers of the request that are sent along, NAME, PREFIX* or *SUFFIX; the old name of includeRequestHeadersInCheck.
        pub include_headers_in_check: Vec<String>,
        /// Headers of the request that are sent along, NAME, PREFIX* or *SUFFIX.
        pub include_request_headers_in_check: Vec<String>,
        /// Headers that are sent besides.
        pub include_additional_headers_in_check: StringMap,
        /// Whether the request's body is sent along.
        pub include_request_body_in_check: Option<ExtAuthzRequestBody>,
        /// Headers of the answer that the upstream gets of a request that passes.
        pub headers_to_upstream_on_allow: Vec<String>,
        /// Headers of the answer that the client gets of a request that does not pass; all when absent.
        pub headers_to_downstream_on_deny: Vec<String>,
        /// Headers of the answer that the client gets of a request that passes.
        pub headers_to_downstream_on_allow: Vec<String>,
    }

    /// An external authorizer over gRPC.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct ExtAuthzGrpcProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// Time for an answer; 600s when absent.
        pub timeout: Option<Duration>,
        /// Requests pass that nobody could judge.
        pub fail_open: bool,
        /// Choose the route anew after the request was changed.
        pub clear_route_cache: bool,
        /// What clients are answered when nobody could judge; 403 when absent.
        pub status_on_error: String,
        /// Whether the request's body is sent along.
        pub include_request_body_in_check: Option<ExtAuthzRequestBody>,
    }

    /// The body of a request that is asked about.
    #[schemars(extend("required" = ["maxRequestBytes"]))]
    pub struct ExtAuthzRequestBody {
        /// How much of it; longer ones are answered 413 unless parts are allowed.
        pub max_request_bytes: u32,
        /// Send as much as fits.
        pub allow_partial_message: bool,
        /// Over gRPC: as bytes instead of text.
        pub pack_as_bytes: bool,
    }

    /// Zipkin.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct ZipkinProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// How long tags may be; 256 when absent.
        pub max_tag_length: u32,
        /// Trace ids of 64 bits instead of 128.
        #[serde(rename = "enable64bitTraceId")]
        pub enable_64bit_trace_id: bool,
        /// Where spans are posted; /api/v2/spans when absent.
        pub path: String,
        /// Which headers carry the context.
        pub trace_context_option: TraceContextOption,
        /// Time for a post.
        pub timeout: Option<Duration>,
        /// Headers of a post.
        pub headers: Vec<ProviderHeader>,
    }

    /// A header that is sent to a provider.
    #[schemars(extend("x-oneof" = [["value", "envName"]]))]
    pub struct ProviderHeader {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: Option<String>,
        /// The environment variable that holds its value.
        pub env_name: Option<String>,
    }

    /// A collector of OTLP.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct OpenTelemetryProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// How long tags may be.
        pub max_tag_length: u32,
        /// Over HTTP instead of gRPC.
        pub http: Option<OtlpHttp>,
        /// Settings of gRPC.
        pub grpc: Option<OtlpGrpc>,
    }

    /// OTLP over HTTP.
    pub struct OtlpHttp {
        /// Where spans are posted.
        pub path: String,
        /// Time for a post.
        pub timeout: Option<Duration>,
        /// Headers of a post.
        pub headers: Vec<ProviderHeader>,
    }

    /// OTLP over gRPC.
    pub struct OtlpGrpc {
        /// Time for a call.
        pub timeout: Option<Duration>,
        /// Metadata of a call.
        pub initial_metadata: Vec<ProviderHeader>,
    }

    /// Metrics at the proxy, to be scraped.
    pub struct PrometheusProvider {}

    /// Lines in a file.
    pub struct FileAccessLogProvider {
        /// The file; /dev/stdout is the proxy's own output.
        pub path: String,
        /// Format of the lines.
        pub log_format: Option<LogFormat>,
        /// Leave out values that are not known.
        pub omit_empty_values: bool,
    }

    /// Envoy's Access Log Service, for HTTP.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct HttpAlsProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// What the log goes by; http_envoy_accesslog when absent.
        pub log_name: String,
        /// Headers of requests that are told besides.
        pub additional_request_headers_to_log: Vec<String>,
        /// Headers of answers that are told besides.
        pub additional_response_headers_to_log: Vec<String>,
        /// Trailers of answers that are told besides.
        pub additional_response_trailers_to_log: Vec<String>,
    }

    /// Envoy's Access Log Service, for TCP.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct TcpAlsProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// What the log goes by; tcp_envoy_accesslog when absent.
        pub log_name: String,
    }

    /// A collector of OTLP, for access logs.
    #[schemars(extend("required" = ["service", "port"]))]
    pub struct OtelAlsProvider {
        /// Its service: [namespace/]host.
        pub service: String,
        /// Port.
        pub port: u32,
        /// What the log goes by; otel_envoy_accesslog when absent.
        pub log_name: String,
        /// What records say.
        pub log_format: Option<RecordFormat>,
    }

    /// Format of records: a body, and attributes beside it.
    pub struct RecordFormat {
        /// The body: text with operators; Istio's line when absent.
        pub text: String,
        /// Attributes, whose strings hold operators.
        pub labels: Option<BTreeMap<String, serde_json::Value>>,
    }

    /// Format of access log lines.
    #[schemars(extend("x-oneof" = [["text", "labels"]]))]
    pub struct LogFormat {
        /// Text with operators.
        pub text: Option<String>,
        /// JSON whose strings hold operators.
        pub labels: Option<BTreeMap<String, serde_json::Value>>,
    }

    /// Which providers are used when Telemetry does not say.
    pub struct DefaultProviders {
        /// For traces.
        pub tracing: Vec<String>,
        /// For metrics.
        pub metrics: Vec<String>,
        /// For access logs.
        pub access_logging: Vec<String>,
    }

    /// Labels that select namespaces.
    pub struct DiscoverySelector {
        /// Labels that must be there, all of them.
        pub match_labels: StringMap,
        /// Further conditions, all of which must hold.
        pub match_expressions: Vec<DiscoveryRequirement>,
    }

    /// A condition on a label.
    pub struct DiscoveryRequirement {
        /// The label.
        pub key: String,
        /// In, NotIn, Exists or DoesNotExist.
        pub operator: String,
        /// Values, for In and NotIn.
        pub values: Vec<String>,
    }

    /// How paths are brought to one form.
    pub struct PathNormalization {
        /// How thoroughly; BASE when absent.
        pub normalization: NormalizationType,
    }

    /// Settings of TLS.
    pub struct TlsConfig {
        /// Oldest version allowed to callers.
        pub min_protocol_version: MeshTlsProtocol,
        /// Curves: X25519, P-256, P-384 or X25519MLKEM768.
        pub ecdh_curves: Vec<String>,
        /// Cipher suites of TLS 1.2, by OpenSSL's names.
        pub cipher_suites: Vec<String>,
    }

    /// Limits and ejection where no rule says otherwise.
    pub struct DefaultTrafficPolicy {
        /// Limits on connections and requests.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// Ejection of endpoints that fail.
        pub outlier_detection: Option<OutlierDetection>,
    }

    /// Settings of proxies.
    pub struct ProxyConfig {
        /// Worker threads; as many as there are processors at 0. Read when a proxy starts, by `mizzen run` and `mizzen gateway`.
        #[schemars(range(min = 0))]
        pub concurrency: Option<i32>,
        /// Time that connections get when a proxy ends. Read when it starts.
        pub termination_drain_duration: Option<Duration>,
        /// Name of the service in traces.
        pub tracing_service_name: TracingServiceName,
        /// Settings of tracing.
        pub tracing: Option<ProxyTracing>,
        /// Start the application after the proxy is ready; always so.
        pub hold_application_until_proxy_starts: Option<bool>,
        /// How many proxies in front of the gateway are trusted, and what becomes of client certificates.
        pub gateway_topology: Option<Topology>,
        /// Name of the mesh, in traces; the trust domain when absent.
        pub mesh_id: String,
        /// How captured connections reach the proxy.
        pub interception_mode: InterceptionMode,
    }

    /// Settings of tracing.
    pub struct ProxyTracing {
        /// Zipkin.
        pub zipkin: Option<ZipkinAddress>,
        /// Tags added to spans.
        pub custom_tags: BTreeMap<String, CustomTag>,
        /// How long the tag with the path may be; 256 when absent.
        pub max_path_tag_length: u32,
        /// Share of requests that are traced, from 0.0 to 100.0; 1.0 when absent.
        #[schemars(range(min = 0.0, max = 100.0))]
        pub sampling: Option<f64>,
        /// Add the mesh's own tags; so when absent.
        pub enable_istio_tags: Option<bool>,
    }

    /// Zipkin.
    pub struct ZipkinAddress {
        /// HOST:PORT.
        pub address: String,
    }

    /// What lies in front of a gateway.
    pub struct Topology {
        /// How many proxies are trusted to append to X-Forwarded-For.
        pub num_trusted_proxies: u32,
        /// What becomes of X-Forwarded-Client-Cert.
        pub forward_client_cert_details: ForwardClientCertDetails,
    }
}

keyword! {
    /// Encoding of access log lines.
    pub enum AccessLogEncoding {
        #[default]
        Text,
        Json,
    }

    /// What happens to calls that go to no known service.
    pub enum OutboundMode {
        RegistryOnly,
        #[default]
        AllowAny,
    }

    /// Where connections to the workload's declared ports go.
    pub enum InboundMode {
        #[default]
        Passthrough,
        Localhost,
    }

    /// Whether HTTP/1.1 becomes HTTP/2.
    pub enum MeshH2UpgradePolicy {
        #[default]
        DoNotUpgrade,
        Upgrade,
    }

    /// Which headers carry a trace's context.
    pub enum TraceContextOption {
        #[default]
        #[serde(rename = "USE_B3")]
        UseB3,
        #[serde(rename = "USE_B3_WITH_W3C_PROPAGATION")]
        UseB3WithW3cPropagation,
    }

    /// How thoroughly paths are brought to one form.
    pub enum NormalizationType {
        #[default]
        Default,
        None,
        Base,
        MergeSlashes,
        DecodeAndMergeSlashes,
    }

    /// Versions of TLS in the mesh.
    pub enum MeshTlsProtocol {
        #[default]
        TlsAuto,
        #[serde(rename = "TLSV1_2")]
        Tls12,
        #[serde(rename = "TLSV1_3")]
        Tls13,
    }

    /// Name of a service in traces.
    pub enum TracingServiceName {
        #[default]
        AppLabelAndNamespace,
        CanonicalNameOnly,
        CanonicalNameAndNamespace,
    }

    /// What becomes of X-Forwarded-Client-Cert.
    pub enum ForwardClientCertDetails {
        #[default]
        Undefined,
        Sanitize,
        ForwardOnly,
        AppendForward,
        SanitizeSet,
        AlwaysForwardOnly,
    }

    /// How captured connections reach the proxy.
    pub enum InterceptionMode {
        #[default]
        Redirect,
        Tproxy,
        None,
    }
}

impl MeshConfig {
    pub fn root_namespace(&self) -> &str {
        if self.root_namespace.is_empty() { DEFAULT_ROOT_NAMESPACE } else { &self.root_namespace }
    }

    pub fn trust_domain(&self) -> &str {
        if self.trust_domain.is_empty() { "cluster.local" } else { &self.trust_domain }
    }

    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(10))
    }

    /// The name of the mesh in traces, with the default filled in.
    pub fn mesh_id(&self) -> &str {
        let named = self.default_config.as_ref().map_or("", |config| &config.mesh_id);
        if named.is_empty() { self.trust_domain() } else { named }
    }

    /// Whether connections to the workload's ports go to its loopback address.
    pub fn inbound_to_localhost(&self) -> bool {
        self.inbound_traffic_policy.as_ref().is_some_and(|policy| policy.mode == InboundMode::Localhost)
    }

    /// Whether a service is reached in the caller's own cluster only. The most specific host decides.
    pub fn is_cluster_local(&self, host: &str) -> bool {
        let hosts = self.service_settings.iter().flat_map(|setting| {
            let local = setting.settings.as_ref().is_some_and(|settings| settings.cluster_local);
            setting.hosts.iter().map(move |host| (host, local))
        });
        let meant = hosts.filter(|(pattern, _)| match pattern.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => pattern.eq_ignore_ascii_case(host),
        });
        meant.max_by_key(|(pattern, _)| pattern.len()).is_some_and(|(_, local)| local)
    }

    pub fn auto_mtls(&self) -> bool {
        self.enable_auto_mtls.unwrap_or(true)
    }

    /// What happens to calls that go to no known service, with the default filled in.
    pub fn outbound_mode(&self) -> OutboundMode {
        self.outbound_traffic_policy.as_ref().and_then(|policy| policy.mode).unwrap_or_default()
    }

    pub fn provider(&self, name: &str) -> Option<&ExtensionProvider> {
        self.extension_providers.iter().find(|provider| provider.name == name)
    }

    /// Share of requests that are traced in percent, with the default filled in.
    pub fn sampling(&self) -> f64 {
        let tracing = self.default_config.as_ref().and_then(|config| config.tracing.as_ref());
        tracing.and_then(|tracing| tracing.sampling).unwrap_or(1.0)
    }

    /// Whether the mesh looks at a namespace with these labels.
    pub fn discovers(&self, namespace_labels: &StringMap) -> bool {
        self.discovery_selectors.is_empty()
            || self.discovery_selectors.iter().any(|selector| selector.selects(namespace_labels))
    }
}

impl ZipkinAddress {
    /// The address in parts; `NAME.NAMESPACE` stands for a service of the cluster with that domain.
    pub fn host_and_port(&self, domain: &str) -> Option<(String, u32)> {
        let (service, port) = self.address.rsplit_once(':')?;
        let short = service.matches('.').count() == 1;
        let host = if short { format!("{service}.svc.{domain}") } else { service.to_owned() };
        Some((host, port.parse().ok()?))
    }
}

impl DiscoverySelector {
    pub fn selects(&self, labels: &StringMap) -> bool {
        crate::labels::contains(labels, &self.match_labels)
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl DiscoveryRequirement {
    fn holds(&self, labels: &StringMap) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}
