//! Who the client is: Envoy's rules for `x-forwarded-for` and `x-forwarded-proto`, and what is internal.

use std::net::{IpAddr, SocketAddr};

use crate::connection::Connection;
use crate::headers::{Headers, Known};
use crate::request::Request;
use crate::route::append_list;
use crate::wire::Cidr;

#[derive(Debug, Clone, Default)]
pub(crate) struct AddressPolicy {
    /// We are the edge: the socket's peer is the client.
    pub(crate) use_remote: bool,
    pub(crate) trusted_hops: usize,
    pub(crate) skip_append: bool,
    pub(crate) append_port: bool,
    /// Clients of these addresses may send internal headers.
    pub(crate) internal: Vec<Cidr>,
}

/// What was found out of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) internal: bool,
    /// The first proxy of ours on the way of an outside request.
    pub(crate) edge: bool,
}

impl AddressPolicy {
    pub(crate) fn apply(&self, connection: &Connection, request: &mut Request) -> Client {
        let tls = connection.tls.is_some();
        let (found, single) =
            if self.use_remote { self.at_edge(connection, request) } else { self.behind(request) };
        if !(self.use_remote && self.trusted_hops == 0) && request.headers.contains(Known::XForwardedProto) {
            // A proxy before us knows better.
        } else {
            request.headers.set(Known::XForwardedProto, if tls { "https" } else { "http" });
        }
        if self.append_port && (self.trusted_hops == 0 || !request.headers.contains(Known::XForwardedPort)) {
            request.headers.set(Known::XForwardedPort, connection.local.port().to_string());
        }
        let internal = single && found.is_some_and(|a| self.internal.iter().any(|c| c.contains(a.ip())));
        let address = found.unwrap_or(connection.remote);
        Client { address, internal, edge: self.use_remote && !internal }
    }

    fn at_edge(&self, connection: &Connection, request: &mut Request) -> (Option<SocketAddr>, bool) {
        let single = !request.headers.contains(Known::XForwardedFor);
        let trusted = self.trusted_hops.checked_sub(1).and_then(|hops| from_last(&request.headers, hops));
        if !self.skip_append {
            append_list(request, Known::XForwardedFor, &connection.remote.ip().to_canonical().to_string());
        }
        (Some(trusted.unwrap_or(connection.remote)), single)
    }

    fn behind(&self, request: &Request) -> (Option<SocketAddr>, bool) {
        let single = request.headers.known(Known::XForwardedFor).is_none_or(|v| !v.contains(&b','));
        (from_last(&request.headers, self.trusted_hops), single)
    }
}

/// The address that is so many from the last of `x-forwarded-for`.
fn from_last(headers: &Headers, hops: usize) -> Option<SocketAddr> {
    let name = Known::XForwardedFor.into();
    let joined = headers.joined(&name)?;
    let text = std::str::from_utf8(&joined).ok()?;
    let entry = text.rsplit(',').nth(hops)?.trim();
    let ip: IpAddr = entry.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Method;

    fn apply(policy: &AddressPolicy, xff: Option<&str>) -> (Client, Request) {
        let connection = Connection::new("10.1.1.1:5".parse().unwrap(), "10.2.2.2:80".parse().unwrap());
        let mut request = Request::new(Method::Get, "a", "/");
        if let Some(xff) = xff {
            request.headers.append("X-Forwarded-For", xff.to_owned());
        }
        (policy.apply(&connection, &mut request), request)
    }

    #[test]
    fn the_client_is_found_as_envoy_finds_it() {
        let edge = AddressPolicy { use_remote: true, ..AddressPolicy::default() };
        let behind = AddressPolicy::default();
        let one_hop = AddressPolicy { trusted_hops: 1, ..edge.clone() };
        for (policy, xff, address, forwarded) in [
            (&edge, None, "10.1.1.1", Some("10.1.1.1")),
            (&edge, Some("1.2.3.4"), "10.1.1.1", Some("1.2.3.4,10.1.1.1")),
            (&one_hop, Some("9.9.9.9, 1.2.3.4"), "1.2.3.4", Some("9.9.9.9, 1.2.3.4,10.1.1.1")),
            (&behind, None, "10.1.1.1", None),
            (&behind, Some("9.9.9.9, 1.2.3.4"), "1.2.3.4", Some("9.9.9.9, 1.2.3.4")),
            (&behind, Some("nonsense"), "10.1.1.1", Some("nonsense")),
        ] {
            let (client, request) = apply(policy, xff);
            assert_eq!(client.address.ip().to_string(), address, "{xff:?}");
            assert_eq!(request.headers.known_str(Known::XForwardedFor), forwarded);
            assert_eq!(request.headers.known_str(Known::XForwardedProto), Some("http"));
        }
    }

    #[test]
    fn nobody_is_internal_unless_configured() {
        assert!(!apply(&AddressPolicy::default(), Some("10.0.0.1")).0.internal);
        let policy = AddressPolicy {
            internal: vec![Cidr::new("10.0.0.0".parse().unwrap(), 8)],
            ..AddressPolicy::default()
        };
        assert!(apply(&policy, Some("10.0.0.1")).0.internal);
        assert!(!apply(&policy, Some("1.1.1.1, 10.0.0.1")).0.internal, "more than one address");
        assert!(!apply(&policy, None).0.internal, "no address at all");
    }
}
