//! Names: which host a short name means, who sees an exported resource, what Kubernetes takes as a name.

/// What Kubernetes services' names end with, unless the cluster says otherwise.
pub const DEFAULT_DOMAIN: &str = "cluster.local";

/// gRPC's status codes by their numbers.
pub const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The host that a resource of `namespace` means: a name without a dot is a service of that namespace, everything
/// else is complete. `reviews` in `default` is `reviews.default.svc.cluster.local`.
pub fn resolve_host(host: &str, namespace: &str) -> String {
    resolve_host_in(host, namespace, DEFAULT_DOMAIN)
}

/// See [`resolve_host`]; for clusters of another domain.
pub fn resolve_host_in(host: &str, namespace: &str, domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host == "*" || host.contains('.') || host.contains(':') {
        host
    } else {
        format!("{host}.{namespace}.svc.{domain}")
    }
}

/// The gateway that a VirtualService of `namespace` means by a name: `mesh`, or namespace and name.
pub fn resolve_gateway(gateway: &str, namespace: &str) -> Option<(String, String)> {
    if gateway == crate::networking::MESH_GATEWAY {
        return None;
    }
    let (of, name) = gateway.split_once('/').unwrap_or((namespace, gateway));
    let of = if of == "." { namespace } else { of };
    Some((of.to_string(), name.to_string()))
}

/// Whether workloads of `viewer` see a resource of `owner` that is exported so. An empty list means everyone.
pub fn visible(export_to: &[String], owner: &str, viewer: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|entry| match entry.as_str() {
            "*" => true,
            "." => owner == viewer,
            name => name == viewer,
        })
}

/// Lower-case letters, digits and hyphens, at most 63.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Labels with dots between them, at most 253 in all.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_services_of_the_own_namespace() {
        for (host, full) in [
            ("reviews", "reviews.default.svc.cluster.local"),
            ("Reviews", "reviews.default.svc.cluster.local"),
            ("reviews.other", "reviews.other"),
            ("reviews.other.svc.cluster.local", "reviews.other.svc.cluster.local"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
            ("::1", "::1"),
        ] {
            assert_eq!(resolve_host(host, "default"), full);
        }
    }

    #[test]
    fn gateways_are_of_the_own_namespace_unless_said() {
        assert_eq!(resolve_gateway("mesh", "a"), None);
        assert_eq!(resolve_gateway("gw", "a"), Some(("a".into(), "gw".into())));
        assert_eq!(resolve_gateway("./gw", "a"), Some(("a".into(), "gw".into())));
        assert_eq!(resolve_gateway("b/gw", "a"), Some(("b".into(), "gw".into())));
    }

    #[test]
    fn exports_name_who_sees() {
        let list = |entries: &[&str]| entries.iter().map(|e| (*e).to_string()).collect::<Vec<_>>();
        assert!(visible(&[], "a", "b"));
        assert!(visible(&list(&["*"]), "a", "b"));
        assert!(visible(&list(&["."]), "a", "a"));
        assert!(!visible(&list(&["."]), "a", "b"));
        assert!(visible(&list(&[".", "b"]), "a", "b"));
        assert!(!visible(&list(&["~"]), "a", "a"));
    }
}
