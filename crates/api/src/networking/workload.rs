//! WorkloadEntry and WorkloadGroup: workloads outside of Kubernetes.

use std::collections::BTreeMap;

use crate::common::StringMap;
use crate::message::message;

message! {
    /// One workload outside of Kubernetes, or one endpoint of a ServiceEntry.
    pub struct WorkloadEntry {
        /// IP address; with DNS resolution a host name; or unix:///path.
        #[schemars(length(max = 256))]
        pub address: String,
        /// Ports of the workload, by the name of the service's port.
        #[schemars(extend("maxProperties" = 128))]
        pub ports: BTreeMap<String, u32>,
        /// Labels.
        #[schemars(extend("maxProperties" = 256))]
        pub labels: StringMap,
        /// Network in which the address lies.
        #[schemars(length(max = 2048))]
        pub network: String,
        /// Place: region/zone/subzone.
        #[schemars(length(max = 2048))]
        pub locality: String,
        /// Share of the traffic, relative to the others; 1 when absent.
        pub weight: u32,
        /// Account whose identity the workload has.
        #[schemars(length(max = 253))]
        pub service_account: String,
    }

    /// Workloads outside of Kubernetes that are alike.
    #[schemars(extend("required" = ["template"]))]
    pub struct WorkloadGroup {
        /// Labels and annotations of the entries that are made.
        pub metadata: Option<WorkloadGroupMeta>,
        /// What the entries have in common.
        pub template: Option<WorkloadEntry>,
        /// How readiness is told.
        pub probe: Option<ReadinessProbe>,
    }

    /// Labels and annotations of the entries that are made.
    pub struct WorkloadGroupMeta {
        /// Labels.
        #[schemars(extend("maxProperties" = 256))]
        pub labels: StringMap,
        /// Annotations.
        #[schemars(extend("maxProperties" = 256))]
        pub annotations: StringMap,
    }

    /// How readiness is told.
    #[schemars(extend("x-oneof" = [["httpGet", "tcpSocket", "exec", "grpc"]]))]
    pub struct ReadinessProbe {
        /// Seconds before the first probe.
        #[schemars(range(min = 0))]
        pub initial_delay_seconds: i32,
        /// Seconds for the answer; 1 when absent.
        #[schemars(range(min = 0))]
        pub timeout_seconds: i32,
        /// Seconds between probes; 10 when absent.
        #[schemars(range(min = 0))]
        pub period_seconds: i32,
        /// Successes in a row that make ready; 1 when absent.
        #[schemars(range(min = 0))]
        pub success_threshold: i32,
        /// Failures in a row that make unready; 3 when absent.
        #[schemars(range(min = 0))]
        pub failure_threshold: i32,
        /// An HTTP request.
        pub http_get: Option<HttpHealthCheckConfig>,
        /// A connection.
        pub tcp_socket: Option<TcpHealthCheckConfig>,
        /// A command.
        pub exec: Option<ExecHealthCheckConfig>,
        /// A call of gRPC's health service.
        pub grpc: Option<GrpcHealthCheckConfig>,
    }

    /// Readiness by an HTTP request.
    #[schemars(extend("required" = ["port"]))]
    pub struct HttpHealthCheckConfig {
        /// Its path.
        pub path: String,
        /// Port.
        #[schemars(range(min = 1, max = 65535))]
        pub port: u32,
        /// Host; the workload when absent.
        pub host: String,
        /// HTTP (when absent) or HTTPS.
        #[schemars(extend("enum" = ["", "HTTP", "HTTPS"]))]
        pub scheme: String,
        /// Headers.
        pub http_headers: Vec<HttpHeader>,
    }

    /// A header.
    pub struct HttpHeader {
        /// Name.
        #[schemars(extend("pattern" = "^[-_A-Za-z0-9]+$"))]
        pub name: String,
        /// Value.
        pub value: String,
    }

    /// Readiness by a connection.
    #[schemars(extend("required" = ["port"]))]
    pub struct TcpHealthCheckConfig {
        /// Host; the workload when absent.
        pub host: String,
        /// Port.
        #[schemars(range(min = 1, max = 65535))]
        pub port: u32,
    }

    /// Readiness by a command.
    #[schemars(extend("required" = ["command"]))]
    pub struct ExecHealthCheckConfig {
        /// The command and its arguments.
        pub command: Vec<String>,
    }

    /// Readiness by gRPC's health service.
    pub struct GrpcHealthCheckConfig {
        /// Port.
        #[schemars(range(max = 65535))]
        pub port: u32,
        /// Service asked about.
        pub service: String,
    }
}

impl WorkloadEntry {
    /// The weight, with the default filled in.
    pub fn weight(&self) -> u32 {
        self.weight.max(1)
    }

    pub fn locality(&self) -> base::Locality {
        base::Locality::parse(&self.locality)
    }
}
