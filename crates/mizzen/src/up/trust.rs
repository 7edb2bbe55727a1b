//! The trust domain of the mesh, out of its configuration: for the authority, while it runs.

use api::mesh::{CONFIG_MAP, CONFIG_MAP_KEY, MeshConfig};
use base::TrustDomain;
use ca::TrustDomains;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use model::{Action, Change, Kind, Object};

use super::ROOT_NAMESPACE;

/// As the configuration says now, before anybody asks for a certificate. One that is not usable says nothing, as for
/// everything else.
pub(super) async fn read(client: &kube::Client) -> kube::Result<TrustDomains> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ROOT_NAMESPACE);
    let map = maps.get_opt(CONFIG_MAP).await?;
    let text = map.and_then(|map| map.data?.remove(CONFIG_MAP_KEY)).unwrap_or_default();
    let mesh = api::parse_mesh_config(&text).map(|(mesh, _)| mesh).unwrap_or_default();
    let (own, aliases) = domains(&mesh);
    Ok(TrustDomains::new(own, aliases))
}

/// Takes what the registry says of the configuration.
pub(super) fn follow(trust: &TrustDomains, changes: &[Change]) {
    for change in changes {
        let (own, aliases) = match &change.action {
            Action::Upsert(Object::Mesh(mesh)) => domains(mesh),
            Action::Delete(at) if at.kind == Kind::Mesh => domains(&MeshConfig::default()),
            _ => continue,
        };
        trust.set(own, aliases);
    }
}

/// Both were judged when the configuration was read.
fn domains(mesh: &MeshConfig) -> (TrustDomain, Vec<TrustDomain>) {
    let own = mesh.trust_domain().parse().unwrap_or_default();
    let aliases = mesh.trust_domain_aliases.iter().filter_map(|alias| alias.parse().ok());
    (own, aliases.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_follows_the_mesh_s_configuration() {
        let trust = TrustDomains::default();
        let mesh = |text| Object::Mesh(Box::new(api::parse_mesh_config(text).unwrap().0));
        let say = |change| follow(&trust, &[change]);
        say(Change::upsert("a", mesh("{trustDomain: example.org, trustDomainAliases: [cluster.local]}")));
        assert_eq!(trust.own().as_str(), "example.org");
        assert!(trust.admits(&TrustDomain::default()));
        say(Change::upsert("a", mesh("{trustDomain: example.org}")));
        assert!(!trust.admits(&TrustDomain::default()));
        say(Change::delete("a", Kind::Mesh, base::NamespacedName::new("", "mesh")));
        assert_eq!(trust.own(), TrustDomain::default());
    }
}
