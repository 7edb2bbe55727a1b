//! The control plane proper: from the API server's events to what proxies are sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::registrar::KubeRegistrar;
use agent::host::{GATEWAY, Hub};
use anyhow::Context;
use ca::{Authenticators, Authority};
use cli::UpArgs;
use control::ca_service::CaService;
use control::judge::Judge;
use control::report::Reporter;
use control::{ControlPlane, Debounce, Handle, Listeners};
use futures::future::BoxFuture;
use registry::Event;
use tls::{BundleSource, ClientCertificates, ServerOptions, ServerTls, Verify};
use tokio::sync::{mpsc, watch};

use super::{Api, trust};

const XDS: u16 = 15010;
const XDS_TLS: u16 = 15012;
const MONITORING: u16 = 15014;
const READY: u16 = 8080;
/// Only on a cluster: the embedded API judges by itself.
const WEBHOOKS: u16 = 15017;
/// Objects that could not be read and are not reported about yet.
const REFUSED: usize = 256;

pub(super) fn start(
    args: &UpArgs,
    api: &Api,
    client: &kube::Client,
    authority: &Arc<Authority>,
    serving: tls::IdentitySource,
    authenticators: Authenticators,
    hub: Option<&Hub>,
) -> anyhow::Result<Handle> {
    let settings = model::Settings::default();
    let config = registry::kubernetes::Config {
        cluster: Arc::clone(&settings.home),
        root_namespace: settings.root_namespace.to_string(),
    };
    let (refusals, refused) = mpsc::channel(REFUSED);
    let events = registry::kubernetes::watch(client, &config);
    let (changes, synced) = listen_to(events, authority, refusals);
    let mut options = ServerOptions::new(serving);
    options.client_certificates = ClientCertificates::Optional(Verify::spiffe(authority.bundle(), []));
    options.alpn = vec![b"h2".to_vec()];
    let mut secure = bind(args, XDS_TLS, hub)?;
    if let Some(advertised) = args.advertise.filter(|advertised| *advertised != args.address) {
        let address = SocketAddr::new(advertised, XDS_TLS);
        let listener = std::net::TcpListener::bind(address);
        secure.push(listener.with_context(|| format!("cannot listen on {address}"))?);
    }
    let listeners = Listeners {
        plaintext: bind(args, XDS, None)?,
        tls: secure,
        monitoring: bind(args, MONITORING, None)?,
        scraped: in_hub(hub, MONITORING)?,
        ready: bind(args, READY, None)?,
        webhooks: if api.embedded.is_none() { bind(args, WEBHOOKS, None)? } else { Vec::new() },
    };
    let handle = ControlPlane::start(control::Config {
        settings,
        translate: Arc::new(translate::Translator::default()),
        changes,
        synced,
        listeners,
        tls: Some(ServerTls::new(options).context("TLS of the control plane")?),
        authority: Some(CaService::new(Arc::clone(authority), authenticators.clone())),
        authenticators: Some(authenticators),
        registrar: Some(Arc::new(KubeRegistrar(client.clone()))),
        debounce: Debounce::default(),
        keys_refresh: args.jwks_refresh,
        version: env!("CARGO_PKG_VERSION").into(),
        revision: args.revision.as_str().into(),
    });
    let handle = handle.context("the control plane")?;
    let judge = handle.judge();
    tokio::spawn(Reporter::new(client.clone(), &judge, refused).run());
    if let Some(embedded) = &api.embedded {
        embedded.advise_with(Arc::new(Advice(judge)));
    }
    Ok(handle)
}

/// What the mesh thinks of a resource, for the embedded API.
struct Advice(Judge);

impl apiserver::Advisor for Advice {
    fn advise<'a>(&'a self, object: &'a serde_json::Value) -> BoxFuture<'a, Vec<String>> {
        Box::pin(self.0.warnings(object))
    }
}

/// How an API server other than the embedded one has resources validated here.
pub(super) fn registration(
    args: &UpArgs,
    client: &kube::Client,
    authority: &Authority,
) -> control::webhook::Registration {
    control::webhook::Registration {
        client: client.clone(),
        root_namespace: super::ROOT_NAMESPACE.into(),
        revision: args.revision.clone(),
        url: format!("https://{}/validate", SocketAddr::new(args.address, WEBHOOKS)),
        bundle: authority.bundle(),
    }
}

/// Splits what the registry says: facts for the world, whether it has said everything, what it could not read.
fn listen_to(
    mut events: mpsc::Receiver<Event>,
    authority: &Authority,
    refusals: mpsc::Sender<registry::Problem>,
) -> (mpsc::Receiver<Vec<model::Change>>, watch::Receiver<bool>) {
    let (facts, changes) = mpsc::channel(64);
    let (done, synced) = watch::channel(false);
    tokio::spawn(tell_roots(authority.bundle(), facts.clone()));
    let trust = authority.policy().trust_domains.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                Event::Changes(found) => {
                    trust::follow(&trust, &found);
                    if facts.send(found).await.is_err() {
                        return;
                    }
                }
                Event::Synced => {
                    done.send_replace(true);
                }
                // The registry has said it in the log: where there are too many for their status, that is all.
                Event::Problem(problem) => drop(refusals.try_send(problem)),
            }
        }
    });
    (changes, synced)
}

/// The roots to trust are a fact like any other: proxies are told as soon as they change.
async fn tell_roots(roots: BundleSource, facts: mpsc::Sender<Vec<model::Change>>) {
    let mut changes = roots.watch();
    let home = model::Settings::default().home;
    loop {
        if let Some(bundle) = roots.current() {
            let fact = model::Object::Roots(bundle.to_pem().into());
            if facts.send(vec![model::Change::upsert(Arc::clone(&home), fact)]).await.is_err() {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A listener on the host, and one inside the hub where there is one.
fn bind(args: &UpArgs, port: u16, hub: Option<&Hub>) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let address = SocketAddr::new(args.address, port);
    let mut listeners = vec![
        std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address}; is another control plane running?"))?,
    ];
    listeners.extend(in_hub(hub, port)?);
    Ok(listeners)
}

fn in_hub(hub: Option<&Hub>, port: u16) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let listen = |hub: &Hub| hub.listen(SocketAddr::new(IpAddr::V4(GATEWAY), port));
    Ok(hub.map(listen).transpose()?.into_iter().collect())
}

/// The addresses of all proxies that are connected.
pub(super) fn proxies(handle: &Handle) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = handle
        .status()
        .proxies
        .iter()
        .filter_map(|proxy| proxy.node_id.split('~').nth(1)?.parse().ok())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}
