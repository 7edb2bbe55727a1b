//! Certificate requests, DNS, traffic capture (a pure rule program, rendered to nftables or iptables), hosts made of namespaces.

pub mod capture;
pub mod egress;
pub mod host;
pub mod netlink;
