//! What a service port speaks, as declared by `appProtocol`, the port's name or its number.

/// The protocol of a service port. [`Protocol::Detect`] means that nothing was declared and the proxy looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Http2,
    HttpProxy,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    MySql,
    Udp,
    Detect,
}

/// How a listener or a filter chain treats a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Handling {
    Http,
    Tcp,
    Detect,
}

/// Ports whose servers speak first or that are known to be TCP: never sniffed when nothing is declared.
const WELL_KNOWN_TCP: [u32; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// By the name that people write in a port's name, in `appProtocol` or in `protocol`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "http_proxy" => Self::HttpProxy,
            "grpc" => Self::Grpc,
            "grpc-web" | "grpcweb" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// As Kubernetes services declare it: `transport` is `TCP`, `UDP` or `SCTP`.
    pub fn declared(port_name: &str, app_protocol: Option<&str>, number: u32, transport: &str) -> Self {
        if transport.eq_ignore_ascii_case("UDP") {
            return Self::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(other) => {
                if let Some(known) = Self::named(other) {
                    return known;
                }
            }
            None => {}
        }
        if app_protocol.is_none()
            && let Some(known) = by_port_name(port_name)
        {
            return known;
        }
        if WELL_KNOWN_TCP.contains(&number) { Self::Tcp } else { Self::Detect }
    }

    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// TLS that the application speaks itself; routed by SNI.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    pub const fn handling(self) -> Handling {
        match self {
            Self::Detect => Handling::Detect,
            _ if self.is_http() => Handling::Http,
            _ => Handling::Tcp,
        }
    }
}

/// `http-foo` is `http`; `grpc-web-foo` is `grpc-web`.
fn by_port_name(name: &str) -> Option<Protocol> {
    let lower = name.to_ascii_lowercase();
    if lower == "grpc-web" || lower.starts_with("grpc-web-") {
        return Some(Protocol::GrpcWeb);
    }
    Protocol::named(lower.split('-').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_declared_in_istio_s_order() {
        let cases = [
            (("http", None, 9080, "TCP"), Protocol::Http),
            (("http-web", None, 1, "TCP"), Protocol::Http),
            (("grpc-web-x", None, 1, "TCP"), Protocol::GrpcWeb),
            (("grpc", None, 1, "TCP"), Protocol::Grpc),
            (("tcp", Some("http"), 1, "TCP"), Protocol::Http),
            (("http", Some("kubernetes.io/h2c"), 1, "TCP"), Protocol::Http2),
            (("", None, 3306, "TCP"), Protocol::Tcp),
            (("", None, 8080, "TCP"), Protocol::Detect),
            (("main", None, 8080, "TCP"), Protocol::Detect),
            (("http", None, 53, "UDP"), Protocol::Udp),
            (("mysql", None, 1, "TCP"), Protocol::MySql),
        ];
        for ((name, app, number, transport), expected) in cases {
            assert_eq!(Protocol::declared(name, app, number, transport), expected, "{name} {app:?}");
        }
    }
}
