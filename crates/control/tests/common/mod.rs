//! A control plane with a small mesh, for the tests beside.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::net::TcpListener;
use std::sync::Arc;

use base::NamespacedName;
use control::{Config, ControlPlane, Debounce, Handle, Listeners};
use model::{Change, KubePort, KubeService, Object, Settings, Slice, SliceEndpoint, TargetPort};
use tokio::sync::{mpsc, watch};

const CLUSTER: &str = "Kubernetes";

/// What a test holds: dropping it ends the control plane.
pub struct Mesh {
    pub handle: Handle,
    pub changes: mpsc::Sender<Vec<Change>>,
    _synced: watch::Sender<bool>,
}

impl Mesh {
    pub async fn start(services: usize, tls: Option<(tls::ServerTls, ca::Authenticators)>) -> Self {
        let (changes, receiver) = mpsc::channel(16);
        let (synced, synced_seen) = watch::channel(false);
        let bind = || vec![TcpListener::bind("127.0.0.1:0").expect("a free port")];
        let (tls, authenticators) = tls.unzip();
        let listeners = Listeners {
            plaintext: bind(),
            tls: if tls.is_some() { bind() } else { vec![] },
            monitoring: bind(),
            ready: bind(),
            ..Listeners::default()
        };
        let handle = ControlPlane::start(Config {
            settings: Settings::default(),
            translate: Arc::new(translate::Translator::new()),
            changes: receiver,
            synced: synced_seen,
            listeners,
            tls,
            authenticators,
            authority: None,
            registrar: None,
            debounce: Debounce::default(),
            keys_refresh: control::KEYS_REFRESH,
            version: "0.1.0".into(),
            revision: "default".into(),
        })
        .expect("the control plane starts");
        let mut all = Vec::new();
        for i in 0..services {
            all.extend([service(i), endpoints(i, &["10.1.0.1", "10.1.0.2"])]);
        }
        changes.send(all).await.expect("the control plane runs");
        synced.send_replace(true);
        handle.ready().await;
        Self { handle, changes, _synced: synced }
    }

    pub async fn change(&self, change: Change) {
        self.changes.send(vec![change]).await.expect("the control plane runs");
    }

    /// Waits until every proxy has acknowledged everything.
    pub async fn settled(&self) {
        wait("every proxy to be in sync", || async { self.handle.status().is_settled().then_some(()) }).await;
    }
}

/// Asks again and again until there is an answer.
pub async fn wait<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(std::time::Instant::now() < deadline, "waited 30 s for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub fn service(i: usize) -> Change {
    let port = |number, name: &str| KubePort {
        name: name.into(),
        number,
        target: TargetPort::Number(8080),
        transport: "TCP".into(),
        app_protocol: None,
    };
    Change::upsert(
        CLUSTER,
        Object::Service(KubeService {
            name: NamespacedName::new("default", format!("s{i}")),
            created: i as i64,
            labels: Arc::default(),
            selector: [("app".to_owned(), format!("s{i}"))].into(),
            cluster_ips: vec![[10, 96, (i / 250) as u8, (i % 250 + 1) as u8].into()],
            external_addresses: vec![],
            headless: false,
            external_name: None,
            ports: vec![port(80, "http")],
            export_to: vec![],
            prefer_close: false,
            node_local: false,
            publish_not_ready: false,
        }),
    )
}

pub fn endpoints(i: usize, addresses: &[&str]) -> Change {
    let endpoint = |address: &&str| SliceEndpoint {
        addresses: vec![(*address).into()],
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        pod: None,
    };
    Change::upsert(
        CLUSTER,
        Object::Slice(Slice {
            name: NamespacedName::new("default", format!("s{i}-1")),
            service: format!("s{i}").into(),
            ports: vec![("http".into(), 8080)],
            endpoints: addresses.iter().map(endpoint).collect(),
        }),
    )
}

/// A DestinationRule that gives the service's cluster 77 connections.
pub fn rule(i: usize) -> Change {
    let spec: api::networking::DestinationRule = serde_json::from_value(serde_json::json!({
        "host": format!("s{i}"),
        "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 77}}},
    }))
    .expect("a DestinationRule");
    Change::upsert(CLUSTER, Object::DestinationRule(model::Config::new(rule_name(i), 1, spec)))
}

pub fn no_rule(i: usize) -> Change {
    Change::delete(CLUSTER, model::Kind::DestinationRule, rule_name(i))
}

fn rule_name(i: usize) -> NamespacedName {
    NamespacedName::new("default", format!("s{i}"))
}
