//! `apply`, `get` and `delete`: the few verbs for which nobody should have to install kubectl.

mod apply;
mod delete;
mod get;
mod manifests;

pub use apply::ApplyArgs;
pub use delete::DeleteArgs;
pub use get::GetArgs;

pub(crate) use apply::execute as apply;
pub(crate) use delete::execute as delete;
pub(crate) use get::execute as get;
pub(crate) use manifests::{read as read_manifests, text};

use anyhow::{Context, bail};
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::discovery::{ApiCapabilities, Discovery, Scope};
use kube::{Api, Client};

use crate::GlobalArgs;

/// The kinds that an API server serves.
pub(crate) struct Kinds {
    client: Client,
    discovery: Discovery,
}

impl Kinds {
    pub(crate) async fn of(client: Client) -> anyhow::Result<Self> {
        let discovery =
            Discovery::new(client.clone()).run().await.context("cannot ask the API server for its kinds")?;
        Ok(Self { client, discovery })
    }

    /// By plural, kind or `plural.group`; the API's short names are those of Istio.
    pub(crate) fn named(&self, name: &str) -> anyhow::Result<(ApiResource, ApiCapabilities)> {
        let wanted = name.to_ascii_lowercase();
        let (wanted, group) = wanted.split_once('.').map_or((wanted.as_str(), None), |(n, g)| (n, Some(g)));
        let wanted = long_name(wanted);
        self.discovery
            .groups()
            .filter(|known| group.is_none_or(|group| known.name() == group))
            .flat_map(|group| group.recommended_resources())
            .find(|(resource, _)| {
                let kind = resource.kind.to_ascii_lowercase();
                resource.plural == wanted || kind == wanted
            })
            .with_context(|| {
                let groups = self.discovery.groups().flat_map(|group| group.recommended_resources());
                let mut known: Vec<String> = groups.map(|(resource, _)| resource.plural).collect();
                known.sort();
                format!("the API server has no kind {name:?}; it has {}", known.join(", "))
            })
    }

    /// By what a manifest says.
    fn resolve(&self, types: &TypeMeta) -> anyhow::Result<(ApiResource, ApiCapabilities)> {
        let gvk = GroupVersionKind::try_from(types).with_context(|| types.api_version.clone())?;
        self.discovery.resolve_gvk(&gvk).with_context(|| {
            let group = self.discovery.get(&gvk.group);
            let versions = group.into_iter().flat_map(|group| {
                let serves = |version: &&str| {
                    group.versioned_resources(version).iter().any(|(resource, _)| resource.kind == gvk.kind)
                };
                group.versions().filter(serves).map(|version| format!("{}/{version}", gvk.group))
            });
            let others: Vec<String> = versions.collect();
            let hint = if others.is_empty() { "" } else { "; write " };
            format!(
                "the API server has no {} in {}{hint}{}",
                types.kind,
                types.api_version,
                others.join(" or ")
            )
        })
    }

    pub(crate) fn api(
        &self,
        resource: &ApiResource,
        capabilities: &ApiCapabilities,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        match (&capabilities.scope, namespace) {
            (Scope::Cluster, _) | (_, None) => Api::all_with(self.client.clone(), resource),
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, resource)
            }
        }
    }
}

/// The namespace of an object of a manifest. As with kubectl, one that the object names itself is not overruled.
fn place(own: Option<&str>, global: &GlobalArgs) -> anyhow::Result<String> {
    match (own, global.namespace()) {
        (Some(own), Some(asked)) if own != asked => {
            bail!(
                "its metadata.namespace is {own:?}, not {asked:?}: leave --namespace out, or change the manifest"
            )
        }
        (own, asked) => Ok(own.or(asked).unwrap_or("default").to_owned()),
    }
}

/// What people type for a kind.
fn long_name(short: &str) -> &str {
    const CORE: &[(&str, &str)] = &[
        ("svc", "services"),
        ("ns", "namespaces"),
        ("po", "pods"),
        ("sa", "serviceaccounts"),
        ("cm", "configmaps"),
        ("no", "nodes"),
        ("deploy", "deployments"),
    ];
    let core = CORE.iter().find(|(name, _)| *name == short).map(|(_, long)| *long);
    core.or_else(|| {
        let info = api::Kind::all().map(api::Kind::info).find(|info| info.short_names.contains(&short));
        info.map(|info| info.plural)
    })
    .unwrap_or(short)
}

/// `virtualservice.networking.istio.io/reviews`, as kubectl writes it.
pub(crate) fn display(resource: &ApiResource, name: &str) -> String {
    let kind = resource.kind.to_ascii_lowercase();
    if resource.group.is_empty() {
        format!("{kind}/{name}")
    } else {
        format!("{kind}.{}/{name}", resource.group)
    }
}

/// What the server said, with its reasons one a line.
pub(crate) fn explain(error: kube::Error) -> anyhow::Error {
    let kube::Error::Api(status) = error else { return error.into() };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let lines: String = causes.map(|cause| format!("\n  {}: {}", cause.field, cause.message)).collect();
    anyhow::anyhow!("{}{lines}", status.message)
}
