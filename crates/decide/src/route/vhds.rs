//! Virtual hosts that a table does not have itself: they come by VHDS, beforehand or when a request asks for one.

use std::sync::Arc;

use ahash::AHashMap;
use proto::pb::envoy::config::route::v3 as pb;

use super::host::HostIndex;
use super::{RouteTable, VirtualHost};
use crate::origin::Origin;
use crate::refusal::{Refusal, Taken, Within};
use crate::request::Request;

/// Stands in a virtual host's resource name behind that of its table.
const OF: char = '/';

/// As in Envoy, only what can be asked for one by one.
pub(super) fn source(message: &pb::Vhds) -> Taken<Origin> {
    let source = message.config_source.as_ref();
    let source = source.ok_or_else(|| Refusal::new("is missing").under("configSource"))?;
    match Origin::compile(source).within("configSource")? {
        origin @ (Origin::Ads | Origin::Grpc { delta: true, .. }) => Ok(origin),
        _ => Err(Refusal::new("must be ads or DELTA_GRPC").under("configSource")),
    }
}

impl RouteTable {
    /// Whether the virtual host that is kept under this key is one of this table's.
    pub(crate) fn owns(&self, key: &str) -> bool {
        let Some(origin) = &self.vhds else { return false };
        let name = Origin::name_of(key);
        proto::table_of_host(name) == Some(&*self.name) && *origin.key(&name.into()) == *key
    }

    /// Its own virtual hosts and these; those whose domains are another's are left out, and named.
    pub(crate) fn with_hosts<'a>(
        &self,
        more: impl Iterator<Item = (&'a Arc<str>, &'a Arc<VirtualHost>)>,
    ) -> (Self, Vec<(Arc<str>, Refusal)>) {
        let mut table = self.clone();
        table.virtual_hosts.truncate(self.own_hosts);
        table.hosts = HostIndex::default();
        let mut owners: AHashMap<String, Arc<str>> = AHashMap::new();
        for (host, i) in table.virtual_hosts.iter().zip(0..) {
            for domain in &host.domains {
                // They were taken with the table.
                let _ = table.hosts.insert(domain, i);
                owners.insert(domain.to_ascii_lowercase(), Arc::clone(&host.name));
            }
        }
        let mut refused = Vec::new();
        for (key, host) in more {
            let lower: Vec<String> = host.domains.iter().map(|d| d.to_ascii_lowercase()).collect();
            if let Some((at, owner)) = lower.iter().zip(0..).find_map(|(d, at)| Some((at, owners.get(d)?))) {
                let reason = format!(
                    "the domain {:?} is also that of the virtual host {owner:?}; a domain may be there once",
                    host.domains[at]
                );
                refused.push((Arc::clone(key), Refusal::new(reason).under(format_args!("domains[{at}]"))));
                continue;
            }
            let index = u32::try_from(table.virtual_hosts.len()).unwrap_or(u32::MAX);
            let taken = host.domains.iter().zip(0..).try_for_each(|(domain, at)| {
                table.hosts.insert(domain, index).map_err(|r| r.under(format_args!("domains[{at}]")))
            });
            match taken {
                Ok(()) => {
                    owners.extend(lower.into_iter().map(|domain| (domain, Arc::clone(&host.name))));
                    table.virtual_hosts.push(Arc::clone(host));
                }
                // An empty one: nothing was put in that another could miss.
                Err(refusal) => refused.push((Arc::clone(key), refusal)),
            }
        }
        (table, refused)
    }

    /// The name to ask the table's source for, where no virtual host is the request's.
    pub(crate) fn wanted_host(&self, request: &Request) -> Option<Arc<str>> {
        self.vhds.as_ref()?;
        let host = request.authority.to_ascii_lowercase();
        (!host.is_empty() && self.virtual_host(request, &mut ()).is_none())
            .then(|| format!("{}{OF}{host}", self.name).into())
    }

    /// Whether the name that was asked for is a virtual host by now.
    pub fn has_host(&self, name: &str) -> bool {
        let host = name.strip_prefix(&*self.name).and_then(|rest| rest.strip_prefix(OF));
        host.is_some_and(|host| self.hosts.find(host, self.ignore_port).is_some())
    }
}
