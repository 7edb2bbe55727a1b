//! Publishes the roots to trust as ConfigMap `istio-ca-root-cert` in every namespace, as Istio does.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};

const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";

/// Publishes for ever: to new namespaces as they come, to all when the roots change.
pub(super) async fn publish(client: kube::Client, bundle: tls::BundleSource) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut found =
        watcher(namespaces, watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut changes = bundle.watch();
    let mut known: BTreeSet<String> = BTreeSet::new();
    // What could not be written is tried again.
    let mut again = tokio::time::interval(Duration::from_secs(30));
    loop {
        let targets: Vec<String> = tokio::select! {
            Some(namespace) = found.next() => match namespace {
                Ok(namespace) if namespace.metadata.deletion_timestamp.is_none() => {
                    let name = namespace.metadata.name.unwrap_or_default();
                    known.insert(name.clone());
                    vec![name]
                }
                Ok(namespace) => {
                    known.remove(&namespace.metadata.name.unwrap_or_default());
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "namespaces cannot be watched");
                    continue;
                }
            },
            Ok(()) = changes.changed() => known.iter().cloned().collect(),
            _ = again.tick() => known.iter().cloned().collect(),
        };
        let Some(current) = bundle.current() else { continue };
        let pem = current.to_pem();
        for namespace in targets {
            if let Err(error) = write(&client, &namespace, &pem).await {
                tracing::warn!(%namespace, %error, "the roots to trust could not be published");
            }
        }
    }
}

async fn write(client: &kube::Client, namespace: &str, pem: &str) -> kube::Result<()> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            labels: Some([("istio.io/config".to_owned(), "true".to_owned())].into()),
            ..Default::default()
        },
        data: Some([(KEY.to_owned(), pem.to_owned())].into()),
        ..Default::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply("mizzen-control").force();
    maps.patch(NAME, &params, &Patch::Apply(&map)).await.map(drop)
}
