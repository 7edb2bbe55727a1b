//! `telemetry.istio.io`: what is measured, traced and logged.

use std::collections::BTreeMap;

use crate::common::{LabelSelector, PolicyTargetReference, WorkloadMode};
use crate::duration::Duration;
use crate::message::{keyword, message};

message! {
    /// What is measured, traced and logged at some workloads.
    #[schemars(extend("x-oneof" = [["selector", "targetRef", "targetRefs"]]))]
    pub struct Telemetry {
        /// The workloads; all of the namespace when absent.
        pub selector: Option<LabelSelector>,
        /// A resource to which the settings are attached instead.
        pub target_ref: Option<PolicyTargetReference>,
        /// Resources to which the settings are attached instead.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// Traces.
        pub tracing: Vec<Tracing>,
        /// Metrics.
        pub metrics: Vec<Metrics>,
        /// Access logs.
        pub access_logging: Vec<AccessLogging>,
    }

    /// Settings of tracing.
    pub struct Tracing {
        /// Which side of calls.
        pub r#match: Option<ModeSelector>,
        /// Where spans go; inherited when absent.
        pub providers: Vec<ProviderRef>,
        /// Share of requests that are traced, from 0.0 to 100.0.
        #[schemars(range(min = 0.0, max = 100.0))]
        pub random_sampling_percentage: Option<f64>,
        /// Send no spans.
        pub disable_span_reporting: Option<bool>,
        /// Tags added to spans.
        pub custom_tags: BTreeMap<String, CustomTag>,
        /// Let x-request-id carry the decision to sample; so when absent.
        pub use_request_id_for_trace_sampling: Option<bool>,
        /// Add the mesh's own tags; so when absent.
        pub enable_istio_tags: Option<bool>,
        /// Send spans, but tell upstreams nothing of the trace.
        pub disable_context_propagation: Option<bool>,
    }

    /// Which side of calls.
    pub struct ModeSelector {
        /// Both when absent.
        pub mode: WorkloadMode,
    }

    /// A tag added to spans.
    #[schemars(extend("x-oneof" = [["literal", "environment", "header", "formatter"]]))]
    pub struct CustomTag {
        /// A fixed value.
        pub literal: Option<Literal>,
        /// An environment variable of the proxy.
        pub environment: Option<Environment>,
        /// A request header.
        pub header: Option<RequestHeader>,
        /// A line of the access log's format.
        pub formatter: Option<Formatter>,
    }

    /// A fixed value.
    #[schemars(extend("required" = ["value"]))]
    pub struct Literal {
        /// The value.
        #[schemars(length(min = 1))]
        pub value: String,
    }

    /// An environment variable.
    #[schemars(extend("required" = ["name"]))]
    pub struct Environment {
        /// Its name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// The value where there is none.
        pub default_value: String,
    }

    /// A request header.
    #[schemars(extend("required" = ["name"]))]
    pub struct RequestHeader {
        /// Its name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// The value where there is none.
        pub default_value: String,
    }

    /// A line of the access log's format.
    #[schemars(extend("required" = ["value"]))]
    pub struct Formatter {
        /// The format.
        #[schemars(length(min = 1))]
        pub value: String,
    }

    /// A provider, by the name that MeshConfig gives it.
    #[schemars(extend("required" = ["name"]))]
    pub struct ProviderRef {
        /// Its name.
        #[schemars(length(min = 1))]
        pub name: String,
    }

    /// Settings of metrics.
    pub struct Metrics {
        /// Where metrics go; inherited when absent.
        pub providers: Vec<ProviderRef>,
        /// Changes to single metrics.
        pub overrides: Vec<MetricsOverrides>,
        /// How often TCP metrics are reported.
        pub reporting_interval: Option<Duration>,
    }

    /// Changes to a metric.
    pub struct MetricsOverrides {
        /// Which metric.
        pub r#match: Option<MetricSelector>,
        /// Do not measure it.
        pub disabled: Option<bool>,
        /// Changes to its labels.
        pub tag_overrides: BTreeMap<String, TagOverride>,
    }

    /// A metric, and the side of calls.
    #[schemars(extend("x-oneof" = [["metric", "customMetric"]]))]
    pub struct MetricSelector {
        /// One of the mesh's metrics.
        pub metric: Option<IstioMetric>,
        /// Any metric by its name.
        #[schemars(length(min = 1))]
        pub custom_metric: Option<String>,
        /// Both when absent.
        pub mode: WorkloadMode,
    }

    /// Change of a label.
    pub struct TagOverride {
        /// Set or remove.
        pub operation: TagOperation,
        /// Its value, an expression.
        pub value: String,
    }

    /// Settings of access logs.
    pub struct AccessLogging {
        /// Which side of calls.
        pub r#match: Option<ModeSelector>,
        /// Where lines go; inherited when absent.
        pub providers: Vec<ProviderRef>,
        /// Write no lines.
        pub disabled: Option<bool>,
        /// Which requests leave a line; all when absent.
        pub filter: Option<LogFilter>,
    }

    /// Which requests leave a line.
    pub struct LogFilter {
        /// CEL expression, such as response.code >= 400.
        pub expression: String,
    }
}

keyword! {
    /// The mesh's metrics.
    pub enum IstioMetric {
        #[default]
        AllMetrics,
        RequestCount,
        RequestDuration,
        RequestSize,
        ResponseSize,
        TcpOpenedConnections,
        TcpClosedConnections,
        TcpSentBytes,
        TcpReceivedBytes,
        GrpcRequestMessages,
        GrpcResponseMessages,
    }

    /// What is done to a label.
    pub enum TagOperation {
        #[default]
        Upsert,
        Remove,
    }
}
