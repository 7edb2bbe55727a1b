//! The name table: from which an agent answers DNS for the mesh's hosts.

use model::{Key, Origin};
use proto::Resource;
use proto::istio::{NameInfo, NameTable};

use crate::build::Context;
use crate::listener::outbound::address;
use crate::translator::resource;

/// The name of the one resource of the type.
pub(crate) const NAME: &str = "NameTable";

pub(crate) fn all(context: &Context<'_>) -> Vec<Resource> {
    let mut table = NameTable::default();
    for visible in context.services().iter() {
        let service = &visible.service;
        let mut ips: Vec<String> = address::of(context, service)
            .iter()
            .filter(|address| !address.contains('/'))
            .map(ToString::to_string)
            .collect();
        if service.headless {
            // A headless name resolves to what stands behind it.
            let endpoints = context.reader.read(Key::Endpoints(service.key.clone())).endpoints(&service.key);
            let addresses = endpoints.iter().flat_map(|endpoints| &endpoints.all);
            ips.extend(
                addresses
                    .filter(|endpoint| address::usable(context, &endpoint.address))
                    .map(|endpoint| endpoint.address.to_string()),
            );
            ips.sort();
            ips.dedup();
        }
        if ips.is_empty() {
            continue;
        }
        let kubernetes = service.origin == Origin::Kubernetes;
        let info = NameInfo {
            ips,
            registry: if kubernetes { "Kubernetes" } else { "External" }.into(),
            shortname: if kubernetes { service.name.to_string() } else { String::new() },
            namespace: if kubernetes { service.key.namespace.to_string() } else { String::new() },
            ..Default::default()
        };
        table.table.insert(service.key.host.to_string(), info);
    }
    vec![resource(NAME, &table)]
}
