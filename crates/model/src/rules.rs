//! Which DestinationRules speak for a service, as seen from a caller's namespace.
//!
//! The caller's own namespace is asked first, then the service's, then the root namespace; the first that has a rule
//! visible to the caller wins. Within a namespace the most specific host wins, and rules for the same host are merged
//! by their readers, oldest first.

use std::sync::Arc;

use ahash::AHashMap;
use api::networking::DestinationRule;

use crate::config::{Config, Configs};
use crate::service::ServiceKey;
use crate::{Visibility, resolve_host};

#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    by_namespace: AHashMap<Arc<str>, NamespaceRules>,
}

#[derive(Debug, Default)]
struct NamespaceRules {
    exact: AHashMap<Arc<str>, Vec<Rule>>,
    /// By suffix with its leading dot (empty for `*`), longest first.
    wildcard: Vec<(Arc<str>, Vec<Rule>)>,
}

#[derive(Debug)]
struct Rule {
    visibility: Visibility,
    config: Arc<Config<DestinationRule>>,
}

impl RuleIndex {
    pub(crate) fn new(configs: &Configs<DestinationRule>, domain: &str, default_export: &[String]) -> Self {
        let mut index = Self::default();
        for config in configs.iter() {
            let namespace = &config.name.namespace;
            let rule = Rule {
                visibility: Visibility::parse(&config.spec.export_to, namespace, default_export),
                config: Arc::clone(config),
            };
            let rules = index.by_namespace.entry(Arc::clone(namespace)).or_default();
            let host = resolve_host(&config.spec.host, namespace, domain);
            match host.strip_prefix('*') {
                Some(suffix) => match rules.wildcard.iter_mut().find(|(known, _)| **known == *suffix) {
                    Some((_, list)) => list.push(rule),
                    None => rules.wildcard.push((suffix.into(), vec![rule])),
                },
                None => rules.exact.entry(host).or_default().push(rule),
            }
        }
        for rules in index.by_namespace.values_mut() {
            rules.wildcard.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        }
        index
    }

    /// The rules that speak, oldest first; none when no namespace has one.
    pub(crate) fn lookup(
        &self,
        client: &str,
        service: &ServiceKey,
        root: &str,
    ) -> Vec<&Arc<Config<DestinationRule>>> {
        let mut asked: [&str; 3] = [client, &service.namespace, root];
        if client == root {
            // Rules of the root namespace are the mesh's defaults: for callers there they come last as well.
            asked[0] = &service.namespace;
        }
        asked
            .into_iter()
            .map(|namespace| self.in_namespace(namespace, client, &service.host))
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    fn in_namespace(&self, namespace: &str, client: &str, host: &str) -> Vec<&Arc<Config<DestinationRule>>> {
        let Some(rules) = self.by_namespace.get(namespace) else { return Vec::new() };
        let lists = rules.exact.get(host).into_iter().chain(
            rules.wildcard.iter().filter(|(suffix, _)| host.ends_with(&**suffix)).map(|(_, list)| list),
        );
        for list in lists {
            let visible = |rule: &&Rule| namespace == client || rule.visibility.admits(client);
            let seen: Vec<_> = list.iter().filter(visible).map(|rule| &rule.config).collect();
            if !seen.is_empty() {
                return seen;
            }
        }
        Vec::new()
    }
}
