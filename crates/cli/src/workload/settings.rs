//! What the mesh says of a proxy that is about to start: MeshConfig's `defaultConfig`, and ProxyConfig resources over it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use api::MeshConfig;
use api::mesh::{CONFIG_MAP, CONFIG_MAP_KEY, DEFAULT_ROOT_NAMESPACE};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;

use super::Spec;
use super::objects::resources;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// As many as there are processors at 0.
    concurrency: Option<i32>,
    drain: Option<Duration>,
}

/// Gives the proxy what its arguments leave open. A mesh that cannot be asked leaves it open, too, and says so.
pub(super) async fn apply(client: &kube::Client, spec: &mut Spec) {
    match read(client, spec).await {
        Ok(settings) => settings.fill(spec),
        Err(error) => tracing::warn!("the mesh's settings of proxies are not known: {error:#}"),
    }
}

async fn read(client: &kube::Client, spec: &Spec) -> anyhow::Result<Settings> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), DEFAULT_ROOT_NAMESPACE);
    let map = maps.get_opt(CONFIG_MAP).await.context("the mesh's configuration")?;
    let text = map.and_then(|map| map.data?.remove(CONFIG_MAP_KEY)).unwrap_or_default();
    // The control plane says what is wrong with one that is not usable, and goes on without it.
    let mesh = api::parse_mesh_config(&text).map(|(mesh, _)| mesh).unwrap_or_default();
    let mut found = Vec::new();
    let mut namespaces = vec![mesh.root_namespace(), spec.namespace.as_str()];
    namespaces.dedup();
    for namespace in namespaces {
        let kind: Api<DynamicObject> = resources(client, api::Kind::ProxyConfig, namespace);
        let list = kind.list(&ListParams::default()).await.context("ProxyConfig resources")?;
        found.extend(list.items.iter().filter_map(|object| {
            let object = serde_json::to_value(object).ok()?;
            api::Object::from_json(&object).ok()
        }));
    }
    Ok(effective(&mesh, &found, &spec.namespace, &spec.labels()))
}

/// As Istio merges them: the root namespace's, the namespace's, the workload's, each over the one before. Of several at
/// one level the oldest counts.
fn effective(
    mesh: &MeshConfig,
    resources: &[api::Object],
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Settings {
    let default = mesh.default_config.as_ref();
    let root = mesh.root_namespace();
    let mut levels = [const { None }; 3];
    for object in resources {
        let Some(config) = object.get::<api::networking::ProxyConfig>() else { continue };
        let level = match &config.selector {
            None if object.namespace() == root => 0,
            None if object.namespace() == namespace => 1,
            Some(selector) if object.namespace() == namespace && selector.selects(labels) => 2,
            _ => continue,
        };
        let Some(concurrency) = config.concurrency else { continue };
        let age = (object.metadata.creation_timestamp.clone(), object.name().to_owned());
        let known: &mut Option<(_, i32)> = &mut levels[level];
        if known.as_ref().is_none_or(|(known, _)| age < *known) {
            *known = Some((age, concurrency));
        }
    }
    let nearest = levels.into_iter().rev().flatten().next().map(|(_, concurrency)| concurrency);
    Settings {
        concurrency: nearest.or_else(|| default?.concurrency),
        drain: default.and_then(|config| config.termination_drain_duration).map(|drain| drain.as_std()),
    }
}

impl Settings {
    fn fill(&self, spec: &mut Spec) {
        let threads = |number: i32| match u16::try_from(number) {
            Ok(0) | Err(_) => {
                let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                u16::try_from(all).unwrap_or(u16::MAX)
            }
            Ok(number) => number,
        };
        spec.concurrency = spec.concurrency.or_else(|| self.concurrency.map(threads));
        spec.drain = spec.drain.or(self.drain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(namespace: &str, name: &str, spec: &str) -> api::Object {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1beta1, kind: ProxyConfig, metadata: {{name: {name}, namespace: {namespace}}}, \
             spec: {spec}}}"
        );
        api::Object::from_json(&api::yaml::documents(&text).unwrap().remove(0)).unwrap()
    }

    #[test]
    fn the_nearest_settings_count_and_arguments_more() {
        let mesh = "{defaultConfig: {concurrency: 2, terminationDrainDuration: 7s}}";
        let mesh = api::parse_mesh_config(mesh).unwrap().0;
        let root = config("istio-system", "mesh", "{concurrency: 3}");
        let namespace = config("default", "all", "{concurrency: 4}");
        let own = config("default", "own", "{concurrency: 5, selector: {matchLabels: {app: reviews}}}");
        let other = config("default", "other", "{concurrency: 6, selector: {matchLabels: {app: other}}}");
        let elsewhere = config("shop", "all", "{concurrency: 7}");
        let mut spec = Spec::sidecar("reviews");
        for (resources, threads) in [
            (vec![], 2),
            (vec![root.clone(), elsewhere], 3),
            (vec![namespace.clone(), root.clone(), other], 4),
            (vec![own, namespace, root], 5),
        ] {
            let settings = effective(&mesh, &resources, "default", &spec.labels());
            assert_eq!(
                settings,
                Settings { concurrency: Some(threads), drain: Some(Duration::from_secs(7)) }
            );
            settings.fill(&mut spec);
            assert_eq!(
                (spec.concurrency.take(), spec.drain.take()),
                (u16::try_from(threads).ok(), settings.drain)
            );
        }
        spec.concurrency = Some(1);
        effective(&mesh, &[], "default", &spec.labels()).fill(&mut spec);
        assert_eq!(spec.concurrency, Some(1), "an argument is nearer");
        Settings { concurrency: Some(0), drain: None }.fill(&mut Spec::sidecar("x"));
    }
}
