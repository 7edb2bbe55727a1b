//! Certificate requests, DNS, traffic capture (a pure rule program, rendered to nftables or iptables), hosts made of namespaces.

pub mod authority;
pub mod bootstrap;
pub mod capture;
pub mod certificates;
pub mod dns;
pub mod egress;
pub mod host;
pub mod netlink;
pub mod relay;
pub mod sds;
pub mod sidecar;
pub mod status;
