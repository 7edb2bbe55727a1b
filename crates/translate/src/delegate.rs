//! VirtualServices that hand parts of their routes to others.

use api::networking as net;
use base::NamespacedName;
use model::{Config, Configs, resolve_host};

/// A resource and its delegates as one.
pub(crate) struct Merged {
    pub(crate) spec: net::VirtualService,
    /// Changes with each of them.
    pub(crate) revision: u64,
    /// Whether there is something in one of them that no proxy would take.
    pub(crate) faulty: bool,
}

/// The resource with the routes of its delegates in the place of the references to them. A delegate that does not
/// exist contributes nothing: there is nothing to route to. Delegates do not delegate.
pub(crate) fn merged(
    config: &Config<net::VirtualService>,
    all: &Configs<net::VirtualService>,
    domain: &str,
) -> Merged {
    let mut spec = config.spec.clone();
    let mut revision = config.revision;
    let mut faulty = !config.faults().is_empty();
    if spec.http.iter().all(|route| route.delegate.is_none()) {
        return Merged { spec, revision, faulty };
    }
    let mut http = Vec::new();
    for route in &spec.http {
        let Some(reference) = &route.delegate else {
            http.push(route.clone());
            continue;
        };
        let namespace = match reference.namespace.as_str() {
            "" => &config.name.namespace,
            named => named,
        };
        let delegate = all.get(&NamespacedName::new(namespace, reference.name.as_str()));
        revision =
            (revision ^ delegate.map_or(0, |delegate| delegate.revision)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        faulty |= delegate.is_some_and(|delegate| !delegate.faults().is_empty());
        let children = delegate.into_iter().flat_map(|delegate| &delegate.spec.http);
        http.extend(children.filter_map(|child| merge(route, child, namespace, domain)));
    }
    spec.http = http;
    Merged { spec, revision, faulty }
}

/// A delegate's route under the conditions of the route that delegates; `None` when both cannot hold.
fn merge(
    root: &net::HttpRoute,
    child: &net::HttpRoute,
    namespace: &str,
    domain: &str,
) -> Option<net::HttpRoute> {
    let mut merged = child.clone();
    let whole = |to: &mut net::Destination| {
        to.host = resolve_host(&to.host, namespace, domain).to_string();
    };
    merged.route.iter_mut().for_each(|to| whole(&mut to.destination));
    merged.mirror.iter_mut().for_each(whole);
    merged.mirrors.iter_mut().for_each(|mirror| whole(&mut mirror.destination));
    merged.r#match = match (root.r#match.as_slice(), child.r#match.as_slice()) {
        ([], own) => own.to_vec(),
        (above, []) => above.to_vec(),
        (above, own) => {
            let pairs = above.iter().flat_map(|a| own.iter().filter_map(move |b| both(a, b)));
            let pairs: Vec<_> = pairs.collect();
            if pairs.is_empty() {
                return None;
            }
            pairs
        }
    };
    if merged.name.is_empty() {
        merged.name.clone_from(&root.name);
    }
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    Some(merged)
}

fn both(a: &net::HttpMatchRequest, b: &net::HttpMatchRequest) -> Option<net::HttpMatchRequest> {
    let mut merged = b.clone();
    merged.uri = match (&a.uri, &b.uri) {
        (Some(a), Some(b)) => Some(narrower(a, b)?),
        (a, b) => b.clone().or_else(|| a.clone()),
    };
    for (from, to) in [
        (&a.scheme, &mut merged.scheme),
        (&a.method, &mut merged.method),
        (&a.authority, &mut merged.authority),
    ] {
        match (from, &to) {
            (Some(from), Some(own)) if from != own => return None,
            (Some(from), _) => *to = Some(from.clone()),
            (None, _) => {}
        }
    }
    for (from, to) in [
        (&a.headers, &mut merged.headers),
        (&a.query_params, &mut merged.query_params),
        (&a.without_headers, &mut merged.without_headers),
    ] {
        for (name, value) in from {
            if to.insert(name.clone(), value.clone()).is_some_and(|own| own != *value) {
                return None;
            }
        }
    }
    merged.source_labels.extend(a.source_labels.clone());
    if merged.port == 0 {
        merged.port = a.port;
    }
    if merged.gateways.is_empty() {
        merged.gateways.clone_from(&a.gateways);
    }
    if merged.source_namespace.is_empty() {
        merged.source_namespace.clone_from(&a.source_namespace);
    }
    Some(merged)
}

/// The delegate's path where it lies within the root's.
fn narrower(root: &api::StringMatch, own: &api::StringMatch) -> Option<api::StringMatch> {
    use api::StringMatchKind::{Exact, Prefix, Present, Regex};
    let within = match (root.kind(), own.kind()) {
        (Present, _) => true,
        (Prefix(root), Prefix(own) | Exact(own)) => own.starts_with(root),
        (Exact(root), Exact(own)) => root == own,
        (Regex(root), Regex(own)) => root == own,
        _ => false,
    };
    within.then(|| own.clone())
}
