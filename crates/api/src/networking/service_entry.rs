//! ServiceEntry: services that no registry knows.

use crate::common::WorkloadSelector;
use crate::message::{keyword, message};
use crate::networking::WorkloadEntry;

message! {
    /// A service that no registry knows, inside or outside of the mesh.
    #[schemars(extend("required" = ["hosts"], "x-oneof" = [["workloadSelector", "endpoints"]]))]
    pub struct ServiceEntry {
        /// Host names, with a wildcard label in front where nothing needs resolving.
        #[schemars(length(min = 1, max = 256))]
        pub hosts: Vec<String>,
        /// Virtual addresses or networks.
        #[schemars(length(max = 256))]
        pub addresses: Vec<String>,
        /// Ports of the service.
        #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
        pub ports: Vec<ServicePort>,
        /// Whether it is part of the mesh.
        pub location: Location,
        /// How its endpoints are found.
        pub resolution: Resolution,
        /// Endpoints.
        #[schemars(length(max = 4096))]
        pub endpoints: Vec<WorkloadEntry>,
        /// Pods and WorkloadEntries that are its endpoints.
        pub workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see this resource: `.`, `*` or names.
        pub export_to: Vec<String>,
        /// Names of which the endpoints' certificates must carry one.
        pub subject_alt_names: Vec<String>,
    }

    /// A port of a service.
    #[schemars(extend("required" = ["number", "name"]))]
    pub struct ServicePort {
        /// From 1 to 65535.
        #[schemars(range(min = 1, max = 65535))]
        pub number: u32,
        /// HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, MYSQL or REDIS.
        #[schemars(length(max = 256))]
        pub protocol: String,
        /// Name, unique in the resource.
        #[schemars(length(max = 256))]
        pub name: String,
        /// Port of the endpoints; the same when absent.
        #[schemars(range(max = 65535))]
        pub target_port: u32,
    }
}

keyword! {
    /// Whether a service is part of the mesh.
    pub enum Location {
        #[default]
        MeshExternal,
        MeshInternal,
    }

    /// How endpoints are found.
    pub enum Resolution {
        #[default]
        None,
        Static,
        Dns,
        DnsRoundRobin,
        DynamicDns,
    }
}
