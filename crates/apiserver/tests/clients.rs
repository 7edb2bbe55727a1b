//! kube-rs against ours: watchers, reflectors, tokens; and what nobody may do.

mod support;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use serde_json::json;
use std::time::Duration;
use support::{client, ours, send};

fn map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), ..Default::default() };
    ConfigMap { metadata, data: Some([("k".to_owned(), "v".to_owned())].into()), ..Default::default() }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_both_kinds_see_every_change() {
    let ours = ours().await;
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let maps: Api<ConfigMap> = Api::namespaced(ours.client(), "default");
        maps.create(&PostParams::default(), &map("first")).await.unwrap();
        let stream = watcher(maps.clone(), config).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        let first = soon(stream.try_next()).await.unwrap().unwrap();
        assert_eq!(first.metadata.name.as_deref(), Some("first"));
        maps.create(&PostParams::default(), &map("second")).await.unwrap();
        let second = soon(stream.try_next()).await.unwrap().unwrap();
        assert_eq!(second.metadata.name.as_deref(), Some("second"));
        for name in ["first", "second"] {
            maps.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflector_of_dynamic_objects_keeps_up() {
    let ours = ours().await;
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "WorkloadEntry");
    let resource = ApiResource::from_gvk_with_plural(&kind, "workloadentries");
    let entries: Api<DynamicObject> = Api::namespaced_with(ours.client(), "default", &resource);
    let writer = reflector::store::Writer::new(resource.clone());
    let reader = writer.as_reader();
    let stream = reflector(writer, watcher(entries.clone(), watcher::Config::default()));
    let task = tokio::spawn(stream.for_each(|_| async {}));
    for index in 0..50 {
        let mut entry = DynamicObject::new(&format!("w{index}"), &resource);
        entry.data = json!({ "spec": { "address": format!("10.44.0.{index}"), "labels": { "app": "x" } } });
        entries.create(&PostParams::default(), &entry).await.unwrap();
    }
    soon(async {
        while reader.len() < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    entries.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    soon(async {
        while !reader.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_prove_an_account_and_nothing_more() {
    let ours = ours().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(ours.client(), "default");
    let metadata = ObjectMeta { name: Some("reviews".into()), ..Default::default() };
    accounts
        .create(&PostParams::default(), &ServiceAccount { metadata, ..Default::default() })
        .await
        .unwrap();
    let spec = TokenRequestSpec {
        audiences: Some(vec!["istio-ca".into()]),
        expiration_seconds: Some(3600),
        ..Default::default()
    };
    let request = TokenRequest { spec: Some(spec), ..Default::default() };
    let made = accounts.create_token_request("reviews", &PostParams::default(), &request).await.unwrap();
    let token = made.status.unwrap().token.unwrap();

    let review = |token: &str, audience: &str| {
        let spec = TokenReviewSpec { token: token.into(), audiences: Some(vec![audience.into()]) };
        let reviews: Api<TokenReview> = Api::all(ours.client());
        async move {
            reviews
                .create(&PostParams::default(), &TokenReview { spec, ..Default::default() })
                .await
                .unwrap()
                .status
                .unwrap()
        }
    };
    let status = review(&token, "istio-ca").await;
    assert_eq!(status.authenticated, Some(true));
    assert_eq!(status.user.unwrap().username.unwrap(), "system:serviceaccount:default:reviews");
    assert_ne!(review(&token, "other").await.authenticated, Some(true));
    let mut forged = token.clone().into_bytes();
    let place = forged.len() - 10;
    forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
    assert_ne!(review(std::str::from_utf8(&forged).unwrap(), "istio-ca").await.authenticated, Some(true));

    // Meant for the CA, it opens no door here; meant for here, it still reads nothing.
    let stranger = client(&ours.handle.url(), &token);
    assert_eq!(send(&stranger, "GET", "/api/v1/secrets", "", vec![]).await.code, 401);
    let own = accounts
        .create_token_request("reviews", &PostParams::default(), &TokenRequest::default())
        .await
        .unwrap();
    let own = client(&ours.handle.url(), &own.status.unwrap().token.unwrap());
    let answer = send(&own, "GET", "/api/v1/namespaces/default/secrets", "", vec![]).await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.body["message"],
        "secrets is forbidden: User \"system:serviceaccount:default:reviews\" cannot list resource \"secrets\" in API \
         group \"\" in the namespace \"default\""
    );
    // The token dies with its account.
    accounts.delete("reviews", &DeleteParams::default()).await.unwrap();
    assert_ne!(review(&token, "istio-ca").await.authenticated, Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_and_nonsense_are_refused() {
    let ours = ours().await;
    let code = |token: &str| {
        let client = client(&ours.handle.url(), token);
        async move { send(&client, "GET", "/api/v1/namespaces", "", vec![]).await.code }
    };
    assert_eq!(code("").await, 401);
    assert_eq!(code("wrong").await, 401);
    assert_eq!(code("a.b.c").await, 401);
    let admin = ours.client();
    let path = "/api/v1/namespaces/default/configmaps";
    let deep = "[".repeat(100_000);
    assert_eq!(send(&admin, "POST", path, "application/json", deep.clone().into()).await.code, 400);
    assert_eq!(send(&admin, "POST", path, "application/yaml", deep.into()).await.code, 400);
    assert_eq!(send(&admin, "POST", path, "application/json", b"\xff\xfe".to_vec()).await.code, 400);
    let up = "/api/v1/namespaces/default/configmaps/..%2F..%2Fsecrets%2Fx";
    assert_eq!(send(&admin, "GET", up, "", vec![]).await.code, 404);
    // Garbage in the place of a handshake leaves the server well.
    use tokio::io::AsyncWriteExt;
    let mut raw = tokio::net::TcpStream::connect(ours.handle.address()).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(send(&admin, "GET", path, "", vec![]).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything_and_keeps_secrets_sealed() {
    let ours = ours().await;
    let secrets: Api<Secret> = Api::namespaced(ours.client(), "default");
    let metadata = ObjectMeta { name: Some("s".into()), ..Default::default() };
    let string_data = Some([("k".to_owned(), "a-very-secret-value".to_owned())].into());
    secrets
        .create(&PostParams::default(), &Secret { metadata, string_data, ..Default::default() })
        .await
        .unwrap();
    let token = ours.handle.admin_token().to_owned();
    let support::Ours { handle, folder } = ours;
    handle.shutdown().await;
    let bytes = std::fs::read(folder.path().join("store.redb")).unwrap();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode("a-very-secret-value");
    for hidden in [encoded.as_bytes(), token.as_bytes()] {
        assert!(!bytes.windows(hidden.len()).any(|window| window == hidden), "a secret is in the file");
    }
    let mut config = apiserver::Config::new(folder.path());
    config.listen = ([127, 0, 0, 1], 0).into();
    let handle = apiserver::Server::start(config).await.unwrap();
    assert_eq!(handle.admin_token(), token);
    let secrets: Api<Secret> = Api::namespaced(client(&handle.url(), &token), "default");
    let found = secrets.get("s").await.unwrap();
    assert_eq!(found.data.unwrap()["k"].0, b"a-very-secret-value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_take_their_dependents_along() {
    let ours = ours().await;
    let maps: Api<ConfigMap> = Api::namespaced(ours.client(), "default");
    let owner = maps.create(&PostParams::default(), &map("owner")).await.unwrap();
    let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid,
        "blockOwnerDeletion": true });
    let owned = |name: &str| {
        let mut owned = map(name);
        owned.metadata.owner_references = Some(vec![serde_json::from_value(reference.clone()).unwrap()]);
        owned
    };
    maps.create(&PostParams::default(), &owned("one")).await.unwrap();
    maps.create(&PostParams::default(), &owned("two")).await.unwrap();
    maps.delete("owner", &DeleteParams::foreground()).await.unwrap();
    soon(async {
        while !maps.list(&ListParams::default()).await.unwrap().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_unique_and_return() {
    let ours = ours().await;
    let services: Api<Service> = Api::namespaced(ours.client(), "default");
    let apply = |name: String| {
        let services = services.clone();
        async move {
            let body = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "ports": [{ "port": 80 }] } });
            let made =
                services.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&body)).await.unwrap();
            made.spec.unwrap().cluster_ip.unwrap()
        }
    };
    let mut addresses = futures::future::join_all((0..40).map(|i| apply(format!("s{i}")))).await;
    let taken = addresses[0].clone();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 40);
    let wanted = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "wants" },
        "spec": { "clusterIP": taken, "ports": [{ "port": 80 }] } });
    let params = PatchParams::apply("test");
    let refused = services.patch("wants", &params, &Patch::Apply(&wanted)).await.unwrap_err();
    assert!(refused.to_string().contains("already allocated"), "{refused}");
    services.delete("s0", &DeleteParams::default()).await.unwrap();
    services.patch("wants", &params, &Patch::Apply(&wanted)).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(ours.client());
    let names = namespaces.list(&ListParams::default()).await.unwrap().items;
    assert!(names.iter().any(|n| n.metadata.name.as_deref() == Some("istio-system")));
}
