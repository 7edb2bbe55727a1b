//! Looking names up in the table that the control plane sends.
//!
//! Beside their full names, services of the cluster's domain are known by the shorter ones that Kubernetes' search domains lead to. A name
//! that a resolver library made by appending a search domain leads by an alias to the host that was meant.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proto::istio::{NameInfo, NameTable};

use super::message::Records;

const KUBERNETES: &str = "Kubernetes";

/// Whose names are looked up: what is short is short relative to this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesConfig {
    pub namespace: String,
    /// `svc.cluster.local`: where services of the cluster live.
    pub service_domain: String,
    /// The search domains of the workload's resolver library.
    pub search: Vec<String>,
}

/// The table, indexed. Immutable; a new one replaces it.
#[derive(Debug, Default)]
pub struct Names {
    hosts: HashMap<String, Addresses>,
    search: Vec<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl Names {
    pub fn new(table: &NameTable, config: &NamesConfig) -> Self {
        let mut names = Self { hosts: HashMap::new(), search: config.search.clone() };
        for (host, info) in &table.table {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            let addresses = Addresses::of(info);
            for alternative in alternatives(&host, info, config) {
                names.hosts.entry(alternative).or_insert_with(|| addresses.clone());
            }
            // The full name is never shadowed by somebody's short one.
            names.hosts.insert(host, addresses);
        }
        names
    }

    /// Where every host is a resource of its own.
    pub fn from_resources<'a>(
        hosts: impl IntoIterator<Item = (&'a str, &'a NameInfo)>,
        config: &NamesConfig,
    ) -> Self {
        let table = hosts.into_iter().map(|(host, info)| (host.to_owned(), info.clone())).collect();
        Self::new(&NameTable { table, name_info: None }, config)
    }

    /// What is known of a name (lower case, without a dot at the end). Known without addresses is an answer too.
    pub fn look_up(&self, name: &str) -> Option<Records> {
        if let Some(found) = self.direct(name) {
            return Some(found.records(None));
        }
        self.search.iter().find_map(|domain| {
            let meant = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
            // A single label with a search domain is the short name of a service, and would be here already.
            let found = self.direct(meant).filter(|_| meant.contains('.'))?;
            Some(found.records(Some(meant.to_owned())))
        })
    }

    /// The name itself, else the most specific wildcard above it.
    fn direct(&self, name: &str) -> Option<&Addresses> {
        if let Some(found) = self.hosts.get(name) {
            return Some(found);
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.hosts.get(&format!("*.{parent}")) {
                return Some(found);
            }
            rest = parent;
        }
        None
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl Addresses {
    fn of(info: &NameInfo) -> Self {
        let mut found = Self::default();
        for ip in &info.ips {
            match ip.parse() {
                Ok(IpAddr::V4(ip)) => found.v4.push(ip),
                Ok(IpAddr::V6(ip)) => found.v6.push(ip),
                Err(_) => tracing::debug!(ip, "the name table has something that is no address"),
            }
        }
        found
    }

    fn records(&self, alias: Option<String>) -> Records {
        Records { alias, v4: self.v4.clone(), v6: self.v6.clone() }
    }
}

/// `reviews.default.svc.cluster.local` is also `reviews.default.svc.cluster`, `reviews.default.svc`, `reviews.default` and, in its own
/// namespace, `reviews`.
fn alternatives(host: &str, info: &NameInfo, config: &NamesConfig) -> Vec<String> {
    let lower =
        |names: &[String]| names.iter().map(|n| n.trim_end_matches('.').to_ascii_lowercase()).collect();
    let mut all: Vec<String> = lower(&info.alt_hosts);
    let in_domain = host.strip_suffix(config.service_domain.as_str()).is_some_and(|h| h.ends_with('.'));
    if info.registry != KUBERNETES || !in_domain || info.shortname.is_empty() {
        return all;
    }
    let base = format!("{}.{}", info.shortname, info.namespace).to_ascii_lowercase();
    if info.namespace == config.namespace {
        all.push(info.shortname.to_ascii_lowercase());
    }
    let mut partial = base.clone();
    all.push(base);
    for part in config.service_domain.split('.') {
        partial = format!("{partial}.{part}");
        all.push(partial.clone());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NamesConfig {
        NamesConfig {
            namespace: "default".into(),
            service_domain: "svc.cluster.local".into(),
            search: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    fn service(name: &str, namespace: &str, ips: &[&str]) -> (String, NameInfo) {
        let info = NameInfo {
            ips: ips.iter().map(|i| (*i).to_owned()).collect(),
            registry: KUBERNETES.into(),
            shortname: name.into(),
            namespace: namespace.into(),
            alt_hosts: vec![],
        };
        (format!("{name}.{namespace}.svc.cluster.local"), info)
    }

    fn external(host: &str, ips: &[&str]) -> (String, NameInfo) {
        let ips = ips.iter().map(|i| (*i).to_owned()).collect();
        (host.to_owned(), NameInfo { ips, registry: "External".into(), ..NameInfo::default() })
    }

    fn names() -> Names {
        let table = NameTable {
            table: [
                service("reviews", "default", &["10.96.0.1"]),
                service("ratings", "other", &["10.96.0.2", "fd00::2"]),
                external("api.example.com", &["240.240.0.1"]),
                external("*.wild.com", &["240.240.0.2"]),
                external("*.deep.wild.com", &["240.240.0.3"]),
                external("empty.example.com", &[]),
            ]
            .into_iter()
            .collect(),
            name_info: None,
        };
        Names::new(&table, &config())
    }

    #[test]
    fn services_have_the_names_that_kubernetes_gives_them() {
        let names = names();
        let first = |name: &str| names.look_up(name).and_then(|r| r.v4.first().map(ToString::to_string));
        for name in [
            "reviews",
            "reviews.default",
            "reviews.default.svc",
            "reviews.default.svc.cluster",
            "reviews.default.svc.cluster.local",
        ] {
            assert_eq!(first(name).as_deref(), Some("10.96.0.1"), "{name}");
            assert_eq!(names.look_up(name).unwrap().alias, None);
        }
        assert_eq!(first("ratings.other").as_deref(), Some("10.96.0.2"));
        for unknown in [
            "ratings",
            "ratings.default",
            "details",
            "xreviews.default",
            "",
            "com",
            "default.svc.cluster.local",
        ] {
            assert_eq!(names.look_up(unknown), None, "{unknown}");
        }
        assert_eq!(names.look_up("ratings.other").unwrap().v6.len(), 1);
    }

    #[test]
    fn a_search_domain_that_was_appended_leads_back_to_the_host() {
        let names = names();
        let found = names.look_up("api.example.com.default.svc.cluster.local").unwrap();
        assert_eq!(found.alias.as_deref(), Some("api.example.com"));
        assert_eq!(found.v4, [Ipv4Addr::new(240, 240, 0, 1)]);
        let wild = names.look_up("a.wild.com.svc.cluster.local").unwrap();
        assert_eq!(wild.alias.as_deref(), Some("a.wild.com"));
        assert_eq!(
            names.look_up("reviews.svc.cluster.local"),
            None,
            "a label alone is no host of the outside"
        );
    }

    #[test]
    fn the_most_specific_wildcard_answers_and_emptiness_is_known() {
        let names = names();
        let last = |name: &str| names.look_up(name).map(|r| r.v4.first().map_or(0, |a| a.octets()[3]));
        assert_eq!(last("a.wild.com"), Some(2));
        assert_eq!(last("a.b.wild.com"), Some(2));
        assert_eq!(last("a.deep.wild.com"), Some(3));
        assert_eq!(last("wild.com"), None);
        assert_eq!(last("empty.example.com"), Some(0));
    }
}
