//! The servers of Gateway resources that are meant for a scope's proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::networking as net;
use base::NamespacedName;
use model::{Key, Kind, Protocol, resolve_host};

use crate::build::Context;
use crate::instance;
use crate::scope::Facet;

/// A server with the port that the proxy really opens.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) gateway: NamespacedName,
    pub(crate) server: net::Server,
    /// Behind the gateway's Service, the Service's target.
    pub(crate) port: u32,
    pub(crate) protocol: Protocol,
    /// Namespace (`*`, or a name) and host.
    pub(crate) hosts: Vec<(String, Arc<str>)>,
}

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Http,
    /// TLS ends here, HTTP inside.
    Https,
    /// TLS ends here, bytes inside.
    TlsToTcp,
    /// Bytes, by server name.
    Passthrough,
    /// Bytes to the service that the server name of the mesh's own TLS says.
    AutoPassthrough,
    Tcp,
}

impl Served {
    pub(crate) fn way(&self) -> Way {
        let mode = self.server.tls.as_ref().map(|tls| tls.mode);
        let redirect = self.server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        match (self.protocol, mode) {
            (Protocol::Https | Protocol::Tls, Some(net::ServerTlsMode::AutoPassthrough)) => {
                Way::AutoPassthrough
            }
            (Protocol::Https | Protocol::Tls, None | Some(net::ServerTlsMode::Passthrough)) => {
                Way::Passthrough
            }
            (Protocol::Https, Some(_)) => Way::Https,
            (Protocol::Tls, Some(_)) => Way::TlsToTcp,
            // TLS settings on a plaintext port are there for the redirect alone.
            (protocol, Some(mode))
                if protocol.is_http() && mode != net::ServerTlsMode::Passthrough && !redirect =>
            {
                Way::Https
            }
            (protocol, _) if protocol.is_http() => Way::Http,
            _ => Way::Tcp,
        }
    }

    /// The name of its route configuration.
    pub(crate) fn routes(&self) -> String {
        let bind = match self.server.bind.as_str() {
            "" => String::new(),
            bind => format!(".{bind}"),
        };
        match self.way() {
            Way::Http => format!("http.{}{bind}", self.port),
            _ => format!(
                "https.{}.{}.{}.{}{bind}",
                self.server.port.number, self.server.port.name, self.gateway.name, self.gateway.namespace
            ),
        }
    }

    /// The hosts on which the server and a VirtualService of that namespace agree.
    pub(crate) fn agree(&self, namespace: &str, host: &str) -> Vec<Arc<str>> {
        self.hosts
            .iter()
            .filter(|(wanted, _)| wanted == "*" || wanted == namespace)
            .filter_map(|(_, own)| narrower(own, host))
            .collect()
    }

    pub(crate) fn https_redirect(&self) -> bool {
        self.server.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }
}

/// The more specific of two hosts of which one covers the other.
fn narrower(a: &str, b: &str) -> Option<Arc<str>> {
    let covers = |wide: &str, narrow: &str| match wide.strip_prefix('*') {
        Some(suffix) => narrow.ends_with(suffix),
        None => wide == narrow,
    };
    if covers(a, b) {
        Some(b.into())
    } else if covers(b, a) {
        Some(a.into())
    } else {
        None
    }
}

/// Oldest gateway first.
pub(crate) fn all(context: &Context<'_>) -> Vec<Served> {
    let gateways = context.reader.read(Key::Kind(Kind::Gateway)).gateways();
    let labels = &context.reader.facets(Facet::Labels).labels;
    let targets: BTreeMap<u32, u32> =
        instance::all(context).iter().map(|instance| (instance.service_port, instance.port)).collect();
    let mut served = Vec::new();
    for gateway in gateways.iter() {
        let selector = &gateway.spec.selector;
        if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            continue;
        }
        let namespace = &gateway.name.namespace;
        for server in &gateway.spec.servers {
            let Some(protocol) = Protocol::named(&server.port.protocol) else { continue };
            let hosts = server.hosts().map(|(wanted, host)| {
                let wanted = if wanted == "." { namespace.to_string() } else { wanted.to_owned() };
                (wanted, resolve_host(host, namespace, context.reader.domain()))
            });
            served.push(Served {
                gateway: gateway.name.clone(),
                port: targets.get(&server.port.number).copied().unwrap_or(server.port.number),
                protocol,
                hosts: hosts.collect(),
                server: server.clone(),
            });
        }
    }
    served
}

/// Whether the proxy is a door into its network.
pub(crate) fn auto_passthrough(context: &Context<'_>) -> bool {
    all(context).iter().any(|served| served.way() == Way::AutoPassthrough)
}
