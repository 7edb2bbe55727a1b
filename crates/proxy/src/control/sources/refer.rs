//! What a compiled cluster or listener refers to, and which source has it.

use std::sync::Arc;

use decide::{
    CertificateSource, Cluster, Discovery, DownstreamTransport, Hcm, Listener, Origin, RouteSource,
    RouteTable, SecretRef, Terminal, TlsCommon, UpstreamTransport,
};
use proto::ResourceType;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) origin: Origin,
    pub(super) resource_type: ResourceType,
    pub(super) name: Arc<str>,
}

pub(super) fn of_cluster(cluster: &Cluster) -> Vec<Reference> {
    let mut found = Vec::new();
    if let Discovery::Eds { service_name, origin } = &cluster.discovery {
        found.push(Reference {
            origin: origin.clone(),
            resource_type: ResourceType::Endpoint,
            name: Origin::name_of(service_name).into(),
        });
    }
    for transport in cluster.transport_matches.iter().map(|m| &m.transport).chain([&cluster.transport]) {
        if let UpstreamTransport::Tls(context) = transport {
            of_tls(&context.common, &mut found);
        }
    }
    found
}

pub(super) fn of_listener(listener: &Listener) -> Vec<Reference> {
    let mut found = Vec::new();
    for chain in listener.all_chains() {
        if let DownstreamTransport::Tls(context) = &chain.transport {
            of_tls(&context.common, &mut found);
        }
        if let Terminal::Http(hcm) = &chain.terminal
            && let RouteSource::Rds { name, origin, .. } = &hcm.routes
        {
            found.push(Reference {
                origin: origin.clone(),
                resource_type: ResourceType::Route,
                name: Origin::name_of(name).into(),
            });
        }
    }
    found
}

pub(super) fn of_table(table: &RouteTable) -> Vec<Reference> {
    let of = |origin: &Origin| Reference {
        origin: origin.clone(),
        resource_type: ResourceType::VirtualHost,
        name: table.name.clone(),
    };
    table.vhds.iter().map(of).collect()
}

fn of_tls(common: &TlsCommon, found: &mut Vec<Reference>) {
    let mut add = |secret: &SecretRef| {
        if let Some(origin) = &secret.source {
            let (origin, name) = (origin.clone(), secret.name.clone());
            found.push(Reference { origin, resource_type: ResourceType::Secret, name });
        }
    };
    for certificate in &common.certificates {
        if let CertificateSource::Secret(secret) = certificate {
            add(secret);
        }
    }
    if let Some(secret) = common.validation.as_ref().and_then(|v| v.secret.as_ref()) {
        add(secret);
    }
}

/// The prefixes of the counters of connection managers whose routes are kept under such a key.
pub(super) fn prefixes_of(listener: &Listener, is: &dyn Fn(&str) -> bool) -> Vec<Arc<str>> {
    let of = |hcm: &Arc<Hcm>| match &hcm.routes {
        RouteSource::Rds { name, .. } if is(name) => Some(hcm.stat_prefix.trim_end_matches(';').into()),
        _ => None,
    };
    let chains = listener.all_chains();
    chains
        .filter_map(|chain| if let Terminal::Http(hcm) = &chain.terminal { of(hcm) } else { None })
        .collect()
}
