//! One line for every policy that came, changed or went, under the tracing target `audit`.

use std::sync::Arc;

use base::NamespacedName;
use model::{Configs, Diff, Kind, Snapshot};

/// What differs between two states of the world, told policy by policy.
pub(crate) fn policies(before: &Snapshot, after: &Snapshot, diff: &Diff) {
    for kind in &diff.kinds {
        match kind {
            Kind::AuthorizationPolicy => {
                tell("AuthorizationPolicy", before.authorization_policies(), after.authorization_policies());
            }
            Kind::PeerAuthentication => {
                tell("PeerAuthentication", before.peer_authentications(), after.peer_authentications());
            }
            Kind::RequestAuthentication => {
                tell(
                    "RequestAuthentication",
                    before.request_authentications(),
                    after.request_authentications(),
                );
            }
            _ => {}
        }
    }
}

fn tell<T>(kind: &str, before: &Arc<Configs<T>>, after: &Arc<Configs<T>>) {
    for (name, what) in changes(before, after) {
        tracing::info!(target: "audit", event = "policy.changed", kind, %name, what);
    }
}

fn changes<T>(before: &Configs<T>, after: &Configs<T>) -> Vec<(NamespacedName, &'static str)> {
    let there = after.iter().filter_map(|new| match before.get(&new.name) {
        None => Some((new.name.clone(), "added")),
        Some(old) if old.revision != new.revision => Some((new.name.clone(), "changed")),
        Some(_) => None,
    });
    let gone = before.iter().filter(|old| after.get(&old.name).is_none());
    there.chain(gone.map(|old| (old.name.clone(), "removed"))).collect()
}

#[cfg(test)]
mod tests {
    use api::security::AuthorizationPolicy;
    use model::{Change, Config, Object, Settings, World};

    use super::*;

    #[test]
    fn policies_that_came_changed_and_went_are_told() {
        let mut world = World::new(Settings::default());
        let mut put = |name: &str, action: &str| {
            let spec: AuthorizationPolicy =
                serde_json::from_value(serde_json::json!({"action": action})).unwrap();
            let policy = Config::new(NamespacedName::new("default", name), 0, spec);
            world.apply(vec![Change::upsert("home", Object::AuthorizationPolicy(policy))])
        };
        let empty = put("a", "ALLOW");
        let one = put("b", "ALLOW");
        let same = put("b", "ALLOW");
        let changed = put("b", "DENY");
        let told = |before: &Snapshot, after: &Snapshot| {
            changes(before.authorization_policies(), after.authorization_policies())
                .into_iter()
                .map(|(name, what)| format!("{name} {what}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&empty, &one), ["default/b added"]);
        assert!(told(&one, &same).is_empty());
        assert_eq!(told(&one, &changed), ["default/b changed"]);
        assert_eq!(told(&one, &empty), ["default/b removed"]);
    }
}
