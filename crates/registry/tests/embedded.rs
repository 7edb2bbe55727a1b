//! The registry against the embedded API: what people apply becomes changes, through the client that reads clusters.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use model::{Action, Kind, Object};
use registry::{Event, kubernetes};
use tokio::sync::mpsc::Receiver;

async fn serve(folder: &Path, port: u16) -> apiserver::Handle {
    let mut config = apiserver::Config::new(folder);
    config.listen = SocketAddr::from(([127, 0, 0, 1], port));
    apiserver::Server::start(config).await.unwrap()
}

async fn client(server: &apiserver::Handle) -> kube::Client {
    let read = kube::config::Kubeconfig::from_yaml(&server.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

fn virtual_services(client: &kube::Client) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", "VirtualService");
    Api::namespaced_with(
        client.clone(),
        "default",
        &ApiResource::from_gvk_with_plural(&gvk, "virtualservices"),
    )
}

fn virtual_service(name: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name},
        "spec": {"hosts": [name], "http": [{"route": [{"destination": {"host": name}}]}]}
    })
}

/// The next event that the test looks for; others are passed over.
async fn next<T>(events: &mut Receiver<Event>, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let find = async {
        loop {
            let event = events.recv().await.expect("the registry goes on");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), find).await.expect("the event in time")
}

fn upserted(event: &Event, kind: Kind, name: &str) -> Option<Object> {
    let Event::Changes(changes) = event else { return None };
    changes.iter().find_map(|change| match &change.action {
        Action::Upsert(object) => {
            let reference = object.reference();
            (reference.kind == kind && &*reference.name.name == name).then(|| object.clone())
        }
        Action::Delete(_) => None,
    })
}

fn deleted(event: &Event, kind: Kind, name: &str) -> Option<()> {
    let Event::Changes(changes) = event else { return None };
    changes.iter().find_map(|change| match &change.action {
        Action::Delete(gone) => (gone.kind == kind && &*gone.name.name == name).then_some(()),
        Action::Upsert(_) => None,
    })
}

fn config() -> kubernetes::Config {
    kubernetes::Config { cluster: "Kubernetes".into(), root_namespace: "istio-system".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_becomes_a_change_and_what_is_deleted_another() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), 0).await;
    let client = client(&server).await;
    let mut events = kubernetes::watch(&client, &config());
    next(&mut events, |event| matches!(event, Event::Synced).then_some(())).await;

    let api = virtual_services(&client);
    let apply = |name: &'static str| {
        let api = api.clone();
        async move {
            api.patch(name, &PatchParams::apply("test"), &Patch::Apply(virtual_service(name))).await.unwrap()
        }
    };
    apply("reviews").await;
    let object = next(&mut events, |event| upserted(event, Kind::VirtualService, "reviews")).await;
    let Object::VirtualService(config) = object else { panic!("another kind: {object:?}") };
    assert_eq!(config.spec.hosts, ["reviews"]);
    api.delete("reviews", &Default::default()).await.unwrap();
    next(&mut events, |event| deleted(event, Kind::VirtualService, "reviews")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_while_the_api_server_was_down_is_deleted_when_it_is_back() {
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), 0).await;
    let port = server.address().port();
    let first = client(&server).await;
    for name in ["stays", "goes"] {
        let patch = Patch::Apply(virtual_service(name));
        virtual_services(&first).patch(name, &PatchParams::apply("test"), &patch).await.unwrap();
    }
    let mut events = kubernetes::watch(&first, &config());
    next(&mut events, |event| upserted(event, Kind::VirtualService, "goes")).await;
    server.shutdown().await;

    // Another server on the same store, at another port: the registry does not see what happens there.
    let elsewhere = serve(folder.path(), 0).await;
    virtual_services(&client(&elsewhere).await).delete("goes", &Default::default()).await.unwrap();
    elsewhere.shutdown().await;

    let _server = serve(folder.path(), port).await;
    next(&mut events, |event| deleted(event, Kind::VirtualService, "goes")).await;
}
