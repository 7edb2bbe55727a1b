//! Gateway: ports that a proxy at the mesh's edge opens.

use crate::common::StringMap;
use crate::message::{keyword, message};

message! {
    /// Ports that gateway proxies open, and for which hosts.
    pub struct Gateway {
        /// The ports.
        pub servers: Vec<Server>,
        /// Labels of the gateway proxies; all gateways when empty.
        pub selector: StringMap,
    }

    /// A port and its hosts.
    #[schemars(extend("required" = ["port", "hosts"]))]
    pub struct Server {
        /// The port.
        pub port: Port,
        /// Address on which to listen; all when absent.
        pub bind: String,
        /// Hosts served here, as [namespace/]host; the namespace says whose VirtualServices may bind.
        pub hosts: Vec<String>,
        /// TLS, or a redirect to it.
        pub tls: Option<ServerTlsSettings>,
        /// Not used.
        pub default_endpoint: String,
        /// Name, for logs and for people.
        pub name: String,
    }

    /// A port with its protocol.
    #[schemars(extend("required" = ["number", "protocol", "name"]))]
    pub struct Port {
        /// From 1 to 65535.
        pub number: u32,
        /// HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, MYSQL or REDIS.
        pub protocol: String,
        /// Name, unique in the resource for HTTPS.
        pub name: String,
        /// Deprecated.
        pub target_port: u32,
    }

    /// TLS of a server.
    #[schemars(extend("x-oneof" = [
        ["credentialName", "credentialNames"], ["credentialNames", "tlsCertificates"],
        ["credentialName", "tlsCertificates"]
    ]))]
    pub struct ServerTlsSettings {
        /// Redirect HTTP to HTTPS.
        pub https_redirect: bool,
        /// What kind of TLS.
        pub mode: ServerTlsMode,
        /// File of the certificate.
        pub server_certificate: String,
        /// File of the key.
        pub private_key: String,
        /// File of the roots that clients' certificates come from.
        pub ca_certificates: String,
        /// File of revoked certificates.
        pub ca_crl: String,
        /// Secret with certificate and key.
        pub credential_name: String,
        /// Secrets with certificates and keys of different kinds.
        #[schemars(length(max = 2))]
        pub credential_names: Vec<String>,
        /// Secret or ConfigMap with the roots that clients' certificates come from.
        pub ca_cert_credential_name: String,
        /// Files of several certificates.
        #[schemars(length(max = 2))]
        pub tls_certificates: Vec<TlsCertificate>,
        /// Names of which a client's certificate must carry one.
        pub subject_alt_names: Vec<String>,
        /// Hashes of public keys that clients may have.
        pub verify_certificate_spki: Vec<String>,
        /// Hashes of certificates that clients may have.
        pub verify_certificate_hash: Vec<String>,
        /// Oldest version allowed.
        pub min_protocol_version: TlsProtocol,
        /// Newest version allowed.
        pub max_protocol_version: TlsProtocol,
        /// Cipher suites, by OpenSSL's names.
        pub cipher_suites: Vec<String>,
        /// Do not verify clients' certificates.
        pub insecure_skip_verify: Option<bool>,
    }

    /// Files of one certificate.
    pub struct TlsCertificate {
        /// File of the certificate.
        pub server_certificate: String,
        /// File of the key.
        pub private_key: String,
        /// File of the roots.
        pub ca_certificates: String,
    }
}

keyword! {
    /// What kind of TLS a server speaks.
    pub enum ServerTlsMode {
        #[default]
        Passthrough,
        Simple,
        Mutual,
        AutoPassthrough,
        IstioMutual,
        OptionalMutual,
    }

    /// Versions of TLS.
    pub enum TlsProtocol {
        #[default]
        TlsAuto,
        #[serde(rename = "TLSV1_0")]
        Tls10,
        #[serde(rename = "TLSV1_1")]
        Tls11,
        #[serde(rename = "TLSV1_2")]
        Tls12,
        #[serde(rename = "TLSV1_3")]
        Tls13,
    }
}

impl Server {
    /// The hosts, with the namespaces whose VirtualServices may bind: `*` or `.` or a name.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.hosts.iter().map(|host| host.split_once('/').unwrap_or(("*", host)))
    }
}
