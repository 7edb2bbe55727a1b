//! A configuration server for one proxy: the service of each type by gRPC, state of the world and delta, and by REST.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::Any;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use xds::Mode;
use xds::grpc::{self, Inbound, Sender};

/// What there is, by type and name, and the how-manieth state that is.
#[derive(Debug, Clone, Default)]
struct Store {
    version: u64,
    resources: BTreeMap<ResourceType, BTreeMap<String, Any>>,
}

pub struct Management {
    pub address: SocketAddr,
    store: watch::Sender<Arc<Store>>,
    /// Ends with it, and every connection with that.
    _serving: tokio::task::JoinSet<()>,
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

impl Management {
    pub async fn start(at: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let store = watch::Sender::new(Arc::new(Store::default()));
        let shown = store.subscribe();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shown = shown.clone();
                let service = hyper::service::service_fn(move |request| {
                    let shown = shown.clone();
                    async move { Ok::<_, std::convert::Infallible>(answer(request, shown).await) }
                });
                connections.spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, store, _serving: serving })
    }

    /// These are all of their type from now on.
    pub fn set(&self, t: ResourceType, resources: &[Value]) -> anyhow::Result<()> {
        let mut all = BTreeMap::new();
        for value in resources {
            let (type_url, value) = proto::json::any_from_value(value)
                .map_err(|e| anyhow::anyhow!("{}: {}", e.path, e.reason))?;
            let any = Any { type_url, value };
            let name = xds::client::name_of(t, &any).map_err(anyhow::Error::msg)?;
            all.insert(name.to_string(), any);
        }
        self.store.send_modify(|store| {
            let mut next = (**store).clone();
            next.version += 1;
            next.resources.insert(t, all);
            *store = Arc::new(next);
        });
        Ok(())
    }
}

async fn answer(request: Request<Incoming>, store: watch::Receiver<Arc<Store>>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Some(t) = xds::rest::resource_type(&path) {
        let now = store.borrow().clone();
        return poll(t, request, &now).await;
    }
    for t in ResourceType::ALL {
        for mode in [Mode::Sotw, Mode::Delta] {
            if grpc::own_path(t, mode).as_deref() == Some(&path) {
                let (sender, body) = grpc::outbound();
                let inbound = Inbound::new(request.into_body(), 1 << 24);
                match mode {
                    Mode::Sotw => tokio::spawn(sotw(t, inbound, sender, store)),
                    Mode::Delta => tokio::spawn(delta(t, inbound, sender, store)),
                };
                return grpc::streaming(body).map(BodyExt::boxed);
            }
        }
    }
    let mut missing = Response::new(Full::default().boxed());
    *missing.status_mut() = http::StatusCode::NOT_FOUND;
    missing
}

/// Whoever follows a table is told of its virtual hosts, those apart that are called by a domain.
fn is_told_unasked(t: ResourceType, name: &str, names: &BTreeSet<String>) -> bool {
    let table = name.rsplit_once('/').filter(|(_, own)| !own.contains('.')).map(|(table, _)| table);
    t == ResourceType::VirtualHost && table.is_some_and(|table| names.contains(table))
}

fn chosen(store: &Store, t: ResourceType, names: &[String]) -> Vec<Any> {
    let all = store.resources.get(&t).into_iter().flatten();
    all.filter(|(name, _)| names.is_empty() || names.contains(name)).map(|(_, any)| any.clone()).collect()
}

async fn poll(t: ResourceType, request: Request<Incoming>, store: &Store) -> Response<Body> {
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let Ok(asked) = xds::rest::parse(&body) else {
        let mut bad = Response::new(Full::default().boxed());
        *bad.status_mut() = http::StatusCode::BAD_REQUEST;
        return bad;
    };
    let version_info = store.version.to_string();
    if asked.version_info == version_info {
        let mut unchanged = Response::new(Full::default().boxed());
        *unchanged.status_mut() = http::StatusCode::NOT_MODIFIED;
        return unchanged;
    }
    let resources = chosen(store, t, &asked.resource_names);
    let response =
        pb::DiscoveryResponse { version_info, resources, type_url: t.url().to_owned(), ..Default::default() };
    let text = proto::json::encode(&response).map(|v| v.to_string()).unwrap_or_default();
    let mut response = Response::new(Full::from(text).boxed());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

async fn sotw(
    t: ResourceType,
    mut inbound: Inbound<Incoming>,
    sender: Sender,
    mut store: watch::Receiver<Arc<Store>>,
) {
    let mut names: Option<Vec<String>> = None;
    let mut nonce = 0;
    loop {
        tokio::select! {
            asked = inbound.message::<pb::DiscoveryRequest>() => {
                let Ok(Some(asked)) = asked else { return };
                if names.replace(asked.resource_names.clone()) == Some(asked.resource_names) {
                    continue;
                }
            }
            changed = store.changed() => if changed.is_err() { return } else if names.is_none() { continue },
        }
        let now = store.borrow_and_update().clone();
        nonce += 1;
        let response = pb::DiscoveryResponse {
            version_info: now.version.to_string(),
            resources: chosen(&now, t, names.as_deref().unwrap_or_default()),
            type_url: t.url().to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        };
        // Envoy waits for a resource that it named until there is one.
        if response.resources.is_empty() && names.as_ref().is_some_and(|n| !n.is_empty()) {
            continue;
        }
        if sender.send(response.encode_to_vec().into(), Bytes::new()).await.is_err() {
            return;
        }
    }
}

async fn delta(
    t: ResourceType,
    mut inbound: Inbound<Incoming>,
    sender: Sender,
    mut store: watch::Receiver<Arc<Store>>,
) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let (mut all, mut asked_once) = (false, false);
    let mut sent: BTreeMap<String, Any> = BTreeMap::new();
    let mut newly_asked: Vec<String> = Vec::new();
    let mut nonce = 0;
    loop {
        tokio::select! {
            asked = inbound.message::<pb::DeltaDiscoveryRequest>() => {
                let Ok(Some(asked)) = asked else { return };
                let subscribe = asked.resource_names_subscribe;
                all |= !asked_once && subscribe.is_empty() || subscribe.iter().any(|n| n == "*");
                asked_once = true;
                for gone in &asked.resource_names_unsubscribe {
                    names.remove(gone);
                    sent.remove(gone);
                }
                newly_asked.extend(subscribe.iter().cloned());
                names.extend(subscribe);
            }
            changed = store.changed() => if changed.is_err() { return },
        }
        let now = store.borrow_and_update().clone();
        let there = now.resources.get(&t).cloned().unwrap_or_default();
        let wanted: BTreeMap<_, _> = there
            .iter()
            .filter(|(name, _)| all || names.contains(*name) || is_told_unasked(t, name, &names))
            .map(|(name, any)| (name.clone(), any.clone()))
            .collect();
        let removed: Vec<String> = sent.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        let mut changed: Vec<pb::Resource> = wanted
            .iter()
            .filter(|(name, any)| sent.get(*name) != Some(any))
            .map(|(name, any)| pb::Resource {
                name: name.clone(),
                version: now.version.to_string(),
                resource: Some(any.clone()),
                ..Default::default()
            })
            .collect();
        sent = wanted;
        if t == ResourceType::VirtualHost {
            // Who asks for one that does not exist is told so at once.
            let missing = std::mem::take(&mut newly_asked)
                .into_iter()
                .filter(|name| name.contains('/') && !there.contains_key(name));
            changed.extend(missing.map(|name| pb::Resource {
                aliases: vec![name.clone()],
                name,
                version: now.version.to_string(),
                ..Default::default()
            }));
        }
        if !asked_once || (changed.is_empty() && removed.is_empty() && nonce > 0) {
            continue;
        }
        nonce += 1;
        let response = pb::DeltaDiscoveryResponse {
            system_version_info: now.version.to_string(),
            resources: changed,
            removed_resources: removed,
            type_url: t.url().to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        };
        if sender.send(response.encode_to_vec().into(), Bytes::new()).await.is_err() {
            return;
        }
    }
}
