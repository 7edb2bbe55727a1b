//! Carries out what [`control::ephemeral`] orders: WorkloadEntries that end with their proxy, in the API server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::NamespacedName;
use control::Handle;
use control::ephemeral::{Action, Entry, Ephemeral, Health, Order};
use futures::StreamExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

/// Set by `mizzen run`: the entry is gone with its proxy.
const ANNOTATION: &str = "mizzen.dev/ephemeral";
/// The reason that tells our word from the owner's.
const LOST: &str = "ProxyLost";
/// Many proxies come and go at once: they are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// Proxies that poll end without a sign.
const LOOK: Duration = Duration::from_secs(10);

/// Looks after the entries for ever. Proxies are expected from now on: start it when they are answered.
pub(super) async fn look_after(client: kube::Client, control: Arc<Handle>, grace: Duration) {
    let mut presence = control.presence();
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind());
    let mut events = watcher(all, watcher::Config::default()).default_backoff().boxed();
    let mut listed = BTreeSet::new();
    let mut machine = Ephemeral::new(grace);
    loop {
        let look = if machine.is_empty() { None } else { Some(Instant::now() + LOOK) };
        let due = machine.due(Instant::now()).into_iter().chain(look).min();
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(event) => take(&mut machine, &mut listed, event),
                Err(error) => tracing::debug!(%error, "workload entries cannot be watched"),
            },
            Ok(()) = presence.changed() => {
                tokio::time::sleep(GATHER).await;
                presence.mark_unchanged();
            }
            () = sleep_until(due), if due.is_some() => {}
        }
        let connected = |name: &NamespacedName, account: &str| control.is_connected(name, account);
        for order in machine.judge(connected, Instant::now()) {
            if let Err(error) = carry_out(&client, &order).await {
                // Somebody was faster, most likely: what is there now is read and judged anew.
                tracing::debug!(entry = %order.name, action = ?order.action, %error, "not carried out");
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

fn take(machine: &mut Ephemeral, listed: &mut BTreeSet<NamespacedName>, event: Event<DynamicObject>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.insert(name_of(&object));
            observe(machine, &object);
        }
        Event::InitDone => machine.retain(listed),
        Event::Apply(object) => observe(machine, &object),
        Event::Delete(object) => machine.forget(&name_of(&object)),
    }
}

fn observe(machine: &mut Ephemeral, object: &DynamicObject) {
    let name = name_of(object);
    match read(object) {
        Some(entry) => machine.observe(name, entry, Instant::now()),
        None => machine.forget(&name),
    }
}

fn name_of(object: &DynamicObject) -> NamespacedName {
    let meta = &object.metadata;
    NamespacedName::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// None if the entry is not ours to end, or is ending already.
fn read(object: &DynamicObject) -> Option<Entry> {
    let meta = &object.metadata;
    let ephemeral = meta.annotations.as_ref()?.get(ANNOTATION).is_some_and(|value| value == "true");
    if !ephemeral || meta.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = object.data["status"]["conditions"].as_array();
    let healthy = conditions.into_iter().flatten().find(|condition| condition["type"] == "Healthy");
    let health = match healthy {
        Some(condition) if condition["status"] == "True" => Health::Ready,
        Some(condition) if condition["reason"] == LOST => Health::Lost,
        _ => Health::Unready,
    };
    Some(Entry {
        account: object.data["spec"]["serviceAccount"].as_str().unwrap_or("default").into(),
        health,
        version: meta.resource_version.clone()?,
    })
}

async fn carry_out(client: &kube::Client, order: &Order) -> kube::Result<()> {
    let NamespacedName { namespace, name } = &order.name;
    let entries: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind());
    tracing::info!(entry = %order.name, "{}", reason(order.action));
    if order.action == Action::Remove {
        let preconditions =
            Preconditions { resource_version: Some(order.version.clone()), ..Default::default() };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        return entries.delete(name, &params).await.map(drop);
    }
    let patch = Patch::Merge(status(order.action == Action::MarkReady, &order.version));
    entries.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
}

fn reason(action: Action) -> &'static str {
    match action {
        Action::MarkLost => "a workload's proxy is lost: no traffic until it is back",
        Action::MarkReady => "a workload's proxy is back",
        Action::Remove => "a workload's proxy has been away for long: its entry is removed",
    }
}

/// The version makes it a condition that nobody has written since.
fn status(ready: bool, version: &str) -> Value {
    let (status, reason, message) = if ready {
        ("True", "Ready", "its proxy is connected again")
    } else {
        ("False", LOST, "the connection of its proxy to the control plane ended")
    };
    let now = jiff::Timestamp::now();
    let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
    json!({
        "metadata": {"resourceVersion": version},
        "status": {"conditions": [{
            "type": "Healthy", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
        }]},
    })
}

fn kind() -> ApiResource {
    let info = api::Kind::WorkloadEntry.info();
    let gvk = kube::core::GroupVersionKind::gvk(info.group, info.storage, info.name);
    ApiResource::from_gvk_with_plural(&gvk, info.plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(annotations: Value, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": "a", "namespace": "default", "resourceVersion": "7", "annotations": annotations},
            "spec": {"address": "10.44.0.5", "serviceAccount": "reviews"},
            "status": {"conditions": [status]},
        }))
        .unwrap()
    }

    #[test]
    fn only_entries_of_run_are_looked_after_and_our_word_is_told_from_the_owners() {
        let ours = json!({ANNOTATION: "true"});
        let healthy =
            |status: &str, reason: &str| json!({"type": "Healthy", "status": status, "reason": reason});
        for (condition, health) in [
            (healthy("True", "Ready"), Health::Ready),
            (healthy("False", "NotReady"), Health::Unready),
            (healthy("False", LOST), Health::Lost),
            (json!({"type": "Other", "status": "True"}), Health::Unready),
        ] {
            let read = read(&entry(ours.clone(), condition)).unwrap();
            assert_eq!((read.health, &*read.account, read.version.as_str()), (health, "reviews", "7"));
        }
        assert_eq!(read(&entry(json!({}), healthy("True", "Ready"))), None);
        assert_eq!(read(&entry(json!({ANNOTATION: "false"}), healthy("True", "Ready"))), None);
    }

    #[test]
    fn what_we_write_is_read_as_what_we_meant() {
        for (ready, health) in [(true, Health::Ready), (false, Health::Lost)] {
            let condition = status(ready, "7")["status"]["conditions"][0].clone();
            assert_eq!(read(&entry(json!({ANNOTATION: "true"}), condition)).unwrap().health, health);
        }
    }
}
