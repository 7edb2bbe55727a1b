//! Sidecar: what the proxies of some workloads take in and reach.

use crate::common::WorkloadSelector;
use crate::message::{keyword, message};
use crate::networking::{ConnectionPoolSettings, Destination, ServerTlsSettings};

message! {
    /// What the proxies of some workloads take in and reach.
    pub struct Sidecar {
        /// The workloads; all of the namespace when absent.
        pub workload_selector: Option<WorkloadSelector>,
        /// Ports taken in, instead of those that the services say.
        pub ingress: Vec<IstioIngressListener>,
        /// What may be reached; everything when absent.
        pub egress: Vec<IstioEgressListener>,
        /// Limits on what is taken in.
        pub inbound_connection_pool: Option<ConnectionPoolSettings>,
        /// What happens to calls that go to no known service.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// A port that is taken in.
    #[schemars(extend("required" = ["port"]))]
    pub struct IstioIngressListener {
        /// The port.
        pub port: Option<SidecarPort>,
        /// Address on which to listen.
        pub bind: String,
        /// How traffic gets to the proxy.
        pub capture_mode: CaptureMode,
        /// Where the application listens: 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///path.
        pub default_endpoint: String,
        /// TLS for callers outside of the mesh.
        pub tls: Option<ServerTlsSettings>,
        /// Limits for this port.
        pub connection_pool: Option<ConnectionPoolSettings>,
    }

    /// Services that may be reached.
    #[schemars(extend("required" = ["hosts"]))]
    pub struct IstioEgressListener {
        /// The port on which they are reached, which takes nothing else then; any port when absent.
        pub port: Option<SidecarPort>,
        /// The address that is called; that of each service when absent.
        pub bind: String,
        /// How traffic gets to the proxy.
        pub capture_mode: CaptureMode,
        /// The services, as namespace/host; `.`, `*` and `~` stand for this, any and no namespace.
        pub hosts: Vec<String>,
    }

    /// A port with its protocol.
    pub struct SidecarPort {
        /// From 1 to 65535.
        pub number: u32,
        /// Protocol, as for Gateway, instead of what the service says of the port.
        pub protocol: String,
        /// Name, for people; nothing depends on it.
        pub name: String,
        /// Deprecated.
        pub target_port: u32,
    }

    /// What happens to calls that go to no known service.
    pub struct OutboundTrafficPolicy {
        /// Refused, or let through.
        pub mode: OutboundTrafficMode,
        /// A proxy through which they go.
        pub egress_proxy: Option<Destination>,
    }
}

keyword! {
    /// How traffic gets to the proxy.
    pub enum CaptureMode {
        #[default]
        Default,
        Iptables,
        None,
    }

    /// What happens to calls that go to no known service.
    pub enum OutboundTrafficMode {
        #[default]
        RegistryOnly,
        AllowAny,
    }
}

impl IstioEgressListener {
    /// The hosts as namespace and host.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hosts.iter().filter_map(|host| host.split_once('/'))
    }
}
