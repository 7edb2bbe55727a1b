//! Messages of Istio's own that travel beside Envoy's, and the older name of a TypedStruct.
//!
//! Written by hand from the definitions in `crates/proto/proto`, which also feed the JSON mapping. No logic.

pub mod ca;

use std::collections::HashMap;

use prost::Name;

/// `istio.networking.nds.v1.NameTable`: from which an agent answers DNS.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameTable {
    /// By host name, without a dot at the end.
    #[prost(map = "string, message", tag = "1")]
    pub table: HashMap<String, NameInfo>,
    /// Of the host that the resource's name says; used where each host is a resource of its own.
    #[prost(message, optional, tag = "2")]
    pub name_info: Option<NameInfo>,
}

/// What an agent answers for one host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameInfo {
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// `Kubernetes` or `External`.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// Of a Kubernetes service: its name and namespace, which its short names are made of.
    #[prost(string, tag = "3")]
    pub shortname: String,
    #[prost(string, tag = "4")]
    pub namespace: String,
    #[prost(string, repeated, tag = "5")]
    pub alt_hosts: Vec<String>,
}

/// `istio.mesh.v1alpha1.ProxyConfig`, as much of it as travels to agents: the roots that workloads trust.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProxyConfig {
    /// In PEM.
    #[prost(string, repeated, tag = "34")]
    pub ca_certificates_pem: Vec<String>,
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`: TCP peers tell each other who they are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetadataExchange {
    #[prost(string, tag = "1")]
    pub protocol: String,
    #[prost(bool, tag = "2")]
    pub enable_discovery: bool,
    #[prost(string, repeated, tag = "3")]
    pub additional_labels: Vec<String>,
}

/// `udpa.type.v1.TypedStruct`: a configuration as JSON under the name of its type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<crate::pb::google::protobuf::Struct>,
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`: which ALPN to offer upstream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AlpnFilterConfig {
    #[prost(message, repeated, tag = "1")]
    pub alpn_override: Vec<AlpnOverride>,
}

/// The ALPN to offer where the upstream speaks one protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AlpnOverride {
    #[prost(enumeration = "AlpnProtocol", tag = "1")]
    pub upstream_protocol: i32,
    #[prost(string, repeated, tag = "2")]
    pub alpn_override: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AlpnProtocol {
    Http10 = 0,
    Http11 = 1,
    Http2 = 2,
}

/// Gives a message its name in JSON and type URLs.
macro_rules! named {
    ($($message:ty => $package:literal $name:literal),* $(,)?) => {$(
        impl Name for $message {
            const PACKAGE: &'static str = $package;
            const NAME: &'static str = $name;

            fn full_name() -> String {
                concat!($package, ".", $name).to_owned()
            }

            fn type_url() -> String {
                concat!("type.googleapis.com/", $package, ".", $name).to_owned()
            }
        }
    )*};
}

named! {
    NameTable => "istio.networking.nds.v1" "NameTable",
    NameInfo => "istio.networking.nds.v1.NameTable" "NameInfo",
    ProxyConfig => "istio.mesh.v1alpha1" "ProxyConfig",
    MetadataExchange => "envoy.tcp.metadataexchange.config" "MetadataExchange",
    TypedStruct => "udpa.type.v1" "TypedStruct",
    AlpnFilterConfig => "istio.envoy.config.filter.http.alpn.v2alpha1" "FilterConfig",
    ca::CertificateRequest => "istio.v1.auth" "IstioCertificateRequest",
    ca::CertificateResponse => "istio.v1.auth" "IstioCertificateResponse",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn what_prost_writes_is_what_the_definitions_say() {
        let info = NameInfo {
            ips: vec!["10.96.0.7".into()],
            registry: "Kubernetes".into(),
            shortname: "reviews".into(),
            namespace: "default".into(),
            alt_hosts: vec![],
        };
        let table = NameTable { table: [("reviews.default".to_owned(), info)].into(), name_info: None };
        let value = serde_json::json!({"table": {"reviews.default": {
            "ips": ["10.96.0.7"], "registry": "Kubernetes", "shortname": "reviews", "namespace": "default",
        }}});
        assert_eq!(json::encode(&table).unwrap(), value);
        assert_eq!(json::decode::<NameTable>(&value).unwrap(), table);
        let alpn = serde_json::json!({"alpnOverride": [{"upstreamProtocol": "HTTP2", "alpnOverride": ["istio-h2", "h2"]}]});
        let filter: AlpnFilterConfig = json::decode(&alpn).unwrap();
        assert_eq!(filter.alpn_override[0].upstream_protocol(), AlpnProtocol::Http2);
        let request =
            serde_json::json!({"csr": "x", "validityDuration": "60", "metadata": {"CertSigner": "a"}});
        assert_eq!(json::decode::<ca::CertificateRequest>(&request).unwrap().validity_duration, 60);
        assert!(json::knows(&MetadataExchange::full_name()) && json::knows(&TypedStruct::full_name()));
    }
}
