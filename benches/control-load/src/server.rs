//! The control plane with a mesh made up in memory.

use std::io::BufRead as _;
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, Result};
use base::NamespacedName;
use clap::Args;
use control::{Config, ControlPlane, Debounce, Listeners};
use model::{Change, KubePort, KubeService, Object, Settings, Slice, SliceEndpoint, TargetPort};
use tokio::sync::{mpsc, watch};

use crate::keys::Served;

const CLUSTER: &str = "Kubernetes";

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
}

pub(crate) async fn run(options: &Mesh) -> Result<()> {
    let mut input = std::io::stdin().lock().lines();
    let tls = match options.tls.then(|| input.next()).flatten() {
        Some(line) => Some(serde_json::from_str::<Served>(&line?)?.server()?),
        None => None,
    };
    drop(input);
    let bind = || TcpListener::bind("127.0.0.1:0").map(|listener| vec![listener]);
    let (changes, receiver) = mpsc::channel(64);
    let (synced, synced_seen) = watch::channel(false);
    let handle = ControlPlane::start(Config {
        settings: Settings::default(),
        translate: Arc::new(translate::Translator::new()),
        changes: receiver,
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
        version: env!("CARGO_PKG_VERSION").into(),
        revision: "bench".into(),
    })?;
    let mut all = Vec::new();
    for i in 0..options.services {
        all.extend([service(i), endpoints(i, options.endpoints, 0)]);
    }
    if options.scoped > 0 {
        all.push(scope(options.scoped)?);
    }
    changes.send(all).await.context("the control plane ended")?;
    synced.send_replace(true);
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
        let change = match text.as_str() {
            "endpoint" => endpoints(0, options.endpoints, turn),
            "route" => route(turn)?,
            other => anyhow::bail!("unknown change {other:?}"),
        };
        changes.send(vec![change]).await.context("the control plane ended")?;
    }
    Ok(())
}

fn service(i: usize) -> Change {
    let octets = (i as u32 + 1).to_be_bytes();
    Change::upsert(
        CLUSTER,
        Object::Service(KubeService {
            name: NamespacedName::new("default", format!("service-{i}")),
            created: i as i64,
            labels: Arc::default(),
            selector: [("app".to_owned(), format!("service-{i}"))].into(),
            cluster_ips: vec![[10, 96 + octets[1], octets[2], octets[3]].into()],
            external_addresses: Vec::new(),
            headless: false,
            external_name: None,
            ports: vec![KubePort {
                name: "http".into(),
                number: 80,
                target: TargetPort::Number(8080),
                transport: "TCP".into(),
                app_protocol: None,
            }],
            export_to: vec![],
            prefer_close: false,
            node_local: false,
            publish_not_ready: false,
        }),
    )
}

/// The service's endpoints; another turn gives one of them another address.
fn endpoints(i: usize, count: usize, turn: usize) -> Change {
    let endpoint = |n: usize| {
        let number = (i * count + n) as u32 + if n == 0 { 0x80_0000 * (turn as u32 % 2) } else { 0 };
        let octets = number.to_be_bytes();
        SliceEndpoint {
            addresses: vec![format!("10.{}.{}.{}", octets[1], octets[2], octets[3]).into()],
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            pod: None,
        }
    };
    Change::upsert(
        CLUSTER,
        Object::Slice(Slice {
            name: NamespacedName::new("default", format!("service-{i}-1")),
            service: format!("service-{i}").into(),
            ports: vec![("http".into(), 8080)],
            endpoints: (0..count).map(endpoint).collect(),
        }),
    )
}

fn route(turn: usize) -> Result<Change> {
    let spec: api::networking::VirtualService = serde_json::from_value(serde_json::json!({
        "hosts": ["service-0"],
        "http": [{"timeout": format!("{}s", turn + 1), "route": [{"destination": {"host": "service-0"}}]}],
    }))?;
    let name = NamespacedName::new("default", "service-0");
    Ok(Change::upsert(CLUSTER, Object::VirtualService(model::Config::new(name, 1, spec))))
}

fn scope(services: usize) -> Result<Change> {
    let hosts: Vec<_> = (0..services).map(|i| format!("./service-{i}.default.svc.cluster.local")).collect();
    let spec: api::networking::Sidecar =
        serde_json::from_value(serde_json::json!({"egress": [{"hosts": hosts}]}))?;
    let name = NamespacedName::new("default", "default");
    Ok(Change::upsert(CLUSTER, Object::Sidecar(model::Config::new(name, 1, spec))))
}
