//! The control plane with a mesh made up: told to it as a registry tells it, or written to the embedded API, from where
//! it comes the whole way.

use std::io::BufRead as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use control::{Config, ControlPlane, Debounce, Listeners};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use model::{Change, Settings};
use registry::Event;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::keys::Served;

/// Writes that are under way at once while the mesh is made.
const WRITERS: usize = 64;

#[derive(Debug, Clone, Args)]
pub(crate) struct Mesh {
    #[arg(long, default_value_t = 1000)]
    pub(crate) services: usize,
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    /// A Sidecar resource lets everybody see this many services only; 0 is no such resource
    #[arg(long, default_value_t = 0)]
    pub(crate) scoped: usize,
    /// Over TLS, with a client certificate on every connection
    #[arg(long)]
    pub(crate) tls: bool,
    /// Through the embedded API, which runs in the same process, with its store on disk
    #[arg(long)]
    pub(crate) embedded: bool,
}

pub(crate) async fn run(options: &Mesh) -> Result<()> {
    let mut input = std::io::stdin().lock().lines();
    let tls = match options.tls.then(|| input.next()).flatten() {
        Some(line) => Some(serde_json::from_str::<Served>(&line?)?.server()?),
        None => None,
    };
    drop(input);
    let bind = || TcpListener::bind("127.0.0.1:0").map(|listener| vec![listener]);
    let (facts, changes) = mpsc::channel(64);
    let (synced, synced_seen) = watch::channel(false);
    let source = Source::open(options, facts, synced).await?;
    let handle = ControlPlane::start(Config {
        settings: Settings::default(),
        translate: Arc::new(translate::Translator::new()),
        changes,
        synced: synced_seen,
        listeners: Listeners {
            plaintext: bind()?,
            tls: if options.tls { bind()? } else { Vec::new() },
            ..Listeners::default()
        },
        tls,
        authenticators: None,
        authority: None,
        registrar: None,
        debounce: Debounce::default(),
        keys_refresh: control::KEYS_REFRESH,
        version: env!("CARGO_PKG_VERSION").into(),
        revision: "bench".into(),
    })?;
    handle.ready().await;
    let addresses = handle.addresses();
    println!("{}", addresses.tls.first().unwrap_or(&addresses.plaintext[0]));
    // Standard input is read on a thread of its own: it blocks.
    let (lines, mut line) = mpsc::channel::<String>(1);
    std::thread::spawn(move || {
        for text in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(text).is_err() {
                return;
            }
        }
    });
    let mut turn = 0;
    while let Some(text) = line.recv().await {
        turn += 1;
        source
            .write(match text.as_str() {
                "endpoint" => endpoints(0, options.endpoints, turn),
                "route" => route(turn),
                other => anyhow::bail!("unknown change {other:?}"),
            })
            .await?;
    }
    Ok(())
}

/// Where the control plane hears of the mesh.
enum Source {
    Registry(mpsc::Sender<Vec<Change>>),
    Embedded { client: kube::Client, _server: Box<apiserver::Handle>, _folder: TempDir },
}

impl Source {
    /// With the whole mesh in it; the control plane is told when it has heard everything.
    async fn open(
        options: &Mesh,
        facts: mpsc::Sender<Vec<Change>>,
        synced: watch::Sender<bool>,
    ) -> Result<Self> {
        let mesh = (0..options.services)
            .flat_map(|i| [service(i), endpoints(i, options.endpoints, 0)])
            .chain((options.scoped > 0).then(|| scope(options.scoped)));
        if !options.embedded {
            facts.send(mesh.map(|object| fact(&object)).collect::<Result<_>>()?).await?;
            synced.send_replace(true);
            return Ok(Self::Registry(facts));
        }
        let folder = tempfile::tempdir()?;
        let mut config = apiserver::Config::new(folder.path().join("data"));
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = apiserver::Server::start(config).await?;
        let kubeconfig = kube::config::Kubeconfig::read_from(server.kubeconfig_path())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        let client = kube::Client::try_from(config)?;
        let source = Self::Embedded { client: client.clone(), _server: Box::new(server), _folder: folder };
        futures::stream::iter(mesh)
            .map(|object| source.write(object))
            .buffer_unordered(WRITERS)
            .try_collect::<()>()
            .await?;
        let settings = Settings::default();
        let config = registry::kubernetes::Config {
            cluster: settings.home,
            root_namespace: settings.root_namespace.to_string(),
        };
        let mut events = registry::kubernetes::watch(&client, &config);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Changes(changes) => {
                        if facts.send(changes).await.is_err() {
                            return;
                        }
                    }
                    Event::Synced => drop(synced.send_replace(true)),
                    Event::Problem(problem) => eprintln!("{problem}"),
                }
            }
        });
        Ok(source)
    }

    async fn write(&self, object: Value) -> Result<()> {
        match self {
            Self::Registry(facts) => {
                facts.send(vec![fact(&object)?]).await.context("the control plane ended")
            }
            Self::Embedded { client, .. } => {
                let object: DynamicObject = serde_json::from_value(object)?;
                let types = object.types.clone().unwrap_or_default();
                let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
                let name = object.metadata.name.clone().unwrap_or_default();
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
                api.patch(&name, &PatchParams::apply("bench").force(), &Patch::Apply(&object)).await?;
                Ok(())
            }
        }
    }
}

/// What a registry makes of an object.
fn fact(object: &Value) -> Result<Change> {
    let object = registry::manifest::object(object).map_err(|reasons| anyhow::anyhow!(reasons.join("; ")))?;
    Ok(Change::upsert(Settings::default().home, object.context("the mesh does not read it")?))
}

fn object(version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
    });
    if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
        object.extend(rest);
    }
    object
}

fn service(i: usize) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]);
    let octets = (i as u32 + 256).to_be_bytes();
    let address = format!("10.{}.{}.{}", 96 + octets[1], octets[2], octets[3]);
    object("v1", "Service", &format!("service-{i}"), json!({"spec": {"clusterIP": address, "ports": ports}}))
}

/// The service's endpoints; another turn gives one of them another address.
fn endpoints(i: usize, count: usize, turn: usize) -> Value {
    let address = |n: usize| {
        let number = (i * count + n) as u32 + if n == 0 { 0x80_0000 * (turn as u32 % 2) } else { 0 };
        let octets = number.to_be_bytes();
        format!("10.{}.{}.{}", octets[1], octets[2], octets[3])
    };
    let endpoint = |n| json!({"addresses": [address(n)], "conditions": {"ready": true}});
    let mut slice = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        &format!("service-{i}-1"),
        json!({
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": (0..count).map(endpoint).collect::<Vec<_>>(),
        }),
    );
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": format!("service-{i}")});
    slice
}

fn route(turn: usize) -> Value {
    let spec = json!({
        "hosts": ["service-0"],
        "http": [{"timeout": format!("{}s", turn + 1), "route": [{"destination": {"host": "service-0"}}]}],
    });
    object("networking.istio.io/v1", "VirtualService", "service-0", json!({ "spec": spec }))
}

fn scope(services: usize) -> Value {
    let hosts: Vec<_> = (0..services).map(|i| format!("./service-{i}.default.svc.cluster.local")).collect();
    object("networking.istio.io/v1", "Sidecar", "default", json!({"spec": {"egress": [{"hosts": hosts}]}}))
}
