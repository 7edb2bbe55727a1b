//! Our own xDS client against our own control plane, over real sockets: both protocols, with and without TLS.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Mesh, endpoints, wait};
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use proto::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::sync::mpsc;
use xds::Mode;
use xds::client::{Config, Update, run};

fn node(namespace: &str, account: &str) -> core::Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = [("NAMESPACE".to_owned(), text(namespace)), ("SERVICE_ACCOUNT".to_owned(), text(account))];
    core::Node {
        id: format!("sidecar~10.1.0.9~client.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields: fields.into() }),
        ..Default::default()
    }
}

fn client(mode: Mode, address: String, node: core::Node) -> mpsc::Receiver<Update> {
    let (sender, updates) = mpsc::channel(4);
    let config = Config {
        connect: Config::connect_to(address).into(),
        authority: "istiod.istio-system.svc".into(),
        tls: None,
        token: None,
        mode,
        node,
        all: vec![ResourceType::Cluster, ResourceType::Listener],
        names: vec![],
        health: None,
        wanted: None,
        own: None,
        source: 0,
    };
    tokio::spawn(run(config, sender));
    updates
}

type Held = BTreeMap<(ResourceType, Arc<str>), bytes::Bytes>;

/// Applies updates until the condition holds.
async fn until(updates: &mut mpsc::Receiver<Update>, held: &mut Held, done: impl Fn(&Held) -> bool) {
    while !done(held) {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), updates.recv()).await;
        let update = next.expect("an update within 20 s").expect("the client runs");
        for delta in update.deltas {
            for resource in delta.changed {
                held.insert((delta.resource_type, resource.name), resource.body);
            }
            for name in delta.removed {
                held.remove(&(delta.resource_type, name));
            }
        }
        update.verdict.send(vec![]).expect("somebody waits for the verdict");
    }
}

const S0: &str = "outbound|80||s0.default.svc.cluster.local";

fn addresses(held: &Held) -> usize {
    let Some(body) = held.get(&(ResourceType::Endpoint, S0.into())) else { return 0 };
    let assignment = ClusterLoadAssignment::decode(body.clone()).expect("endpoints can be read");
    assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_protocols_follow_the_world() {
    let mesh = Mesh::start(3, None).await;
    let address = mesh.handle.addresses().plaintext[0].to_string();
    for mode in [Mode::Sotw, Mode::Delta] {
        mesh.change(endpoints(0, &["10.1.0.1", "10.1.0.2"])).await;
        let mut updates = client(mode, address.clone(), node("default", "default"));
        let mut held = Held::new();
        until(&mut updates, &mut held, |held| {
            let has = |of, name: &str| held.contains_key(&(of, name.into()));
            has(ResourceType::Cluster, S0) && has(ResourceType::Route, "80") && addresses(held) == 2
        })
        .await;
        mesh.change(endpoints(0, &["10.1.0.1", "10.1.0.2", "10.1.0.3"])).await;
        until(&mut updates, &mut held, |held| addresses(held) == 3).await;
        let gone = model::Change::delete(
            "Kubernetes",
            model::Kind::Service,
            base::NamespacedName::new("default", "s2"),
        );
        mesh.change(gone).await;
        let s2 = (ResourceType::Cluster, Arc::from("outbound|80||s2.default.svc.cluster.local"));
        until(&mut updates, &mut held, |held| !held.contains_key(&s2)).await;
        // The last verdict is on its way: whoever waits for it sees the proxy settle.
        let drain = async {
            while let Some(update) = updates.recv().await {
                let _ = update.verdict.send(vec![]);
            }
        };
        tokio::select! {
            () = mesh.settled() => {}
            () = drain => {}
        }
        mesh.change(common::service(2)).await;
    }
}

/// As a proxy does that comes back: more requests at once than a stream's buffer holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_begin_with_requests_for_every_type() {
    let mesh = Mesh::start(1, None).await;
    let (sender, mut updates) = mpsc::channel(4);
    let names = ResourceType::ALL.map(|of| (of, Arc::from(S0)));
    tokio::spawn(run(
        Config {
            connect: Config::connect_to(mesh.handle.addresses().plaintext[0].to_string()).into(),
            authority: "istiod.istio-system.svc".into(),
            tls: None,
            token: None,
            mode: Mode::Delta,
            node: node("default", "default"),
            all: vec![ResourceType::Cluster],
            names: names.into(),
            health: None,
            wanted: None,
            own: None,
            source: 0,
        },
        sender,
    ));
    until(&mut updates, &mut Held::new(), |held| addresses(held) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_seen_with_its_reason_and_never_counts_as_applied() {
    let mesh = Mesh::start(1, None).await;
    let address = mesh.handle.addresses().plaintext[0].to_string();
    let mut updates = client(Mode::Delta, address, node("default", "default"));
    tokio::spawn(async move {
        while let Some(update) = updates.recv().await {
            let refuse = |delta: &proto::Delta| delta.resource_type == ResourceType::Listener;
            let rejected =
                update.deltas.iter().filter(|delta| refuse(delta)).flat_map(|delta| &delta.changed);
            let rejections = rejected.map(|resource| proto::Rejection {
                resource_type: ResourceType::Listener,
                name: Arc::clone(&resource.name),
                field: "filterChains[0]".into(),
                reason: "not today".into(),
            });
            let rejections = rejections.collect();
            let _ = update.verdict.send(rejections);
        }
    });
    let nack = wait("a NACK", || async {
        let status = mesh.handle.status();
        let of = status.proxies.first()?.types.iter().find(|t| t.type_url == ResourceType::Listener.url())?;
        (of.state == "NACK").then(|| of.nack.clone()).flatten()
    })
    .await;
    assert!(nack.contains("filterChains[0]: not today"), "{nack}");
    assert!(!mesh.handle.status().is_settled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitoring_answers_what_dashboards_and_tools_ask() {
    let mesh = Mesh::start(2, None).await;
    let monitoring = mesh.handle.addresses().monitoring[0];
    let mut updates =
        client(Mode::Delta, mesh.handle.addresses().plaintext[0].to_string(), node("default", "default"));
    until(&mut updates, &mut Held::new(), |held| addresses(held) == 2).await;
    let metrics = get(monitoring, "/metrics").await;
    for line in [
        "istio_build{component=\"pilot\"",
        "pilot_services 2",
        "pilot_xds_pushes{type=\"cds\"}",
        "pilot_total_xds_rejects 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let dump = get(monitoring, "/debug/config_dump?proxyID=client.default").await;
    assert!(dump.contains(S0) && dump.contains("ClustersConfigDump"));
    assert!(get(monitoring, "/debug/syncz").await.contains("client.default"));
    assert!(get(monitoring, "/debug/endpointz").await.contains("10.1.0.2"));
    assert!(get(mesh.handle.addresses().ready[0], "/ready").await.starts_with("HTTP/1.1 200"));
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the port answers");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer is read");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A control plane with TLS, and how to reach it as a workload with a certificate.
async fn secured(folder: &std::path::Path, id: &str) -> (Mesh, Arc<rustls::ClientConfig>) {
    tls::install_provider();
    let life = ca::RootLife::for_leaves(std::time::Duration::from_secs(3600));
    let seal = tls::seal::SealKey::from_bytes(&[1; 32]).expect("a key");
    let root =
        ca::OwnRoot::load_or_create(folder, seal, "cluster.local", &life, std::time::SystemTime::now());
    let clock = Arc::new(base::SystemClock);
    let authority = ca::Authority::with_own_root(ca::Policy::default(), clock, root.expect("a root"), life)
        .expect("an authority");
    let serving =
        authority.issue_server(vec!["istiod.istio-system.svc".into()], vec![]).await.expect("a certificate");
    let mut options = tls::ServerOptions::new(tls::IdentitySource::new(serving));
    options.client_certificates =
        tls::ClientCertificates::Optional(tls::Verify::spiffe(authority.bundle(), []));
    options.alpn = vec![b"h2".to_vec()];
    let authenticators = ca::Authenticators {
        trust_domains: ca::TrustDomains::default(),
        join: Arc::new(ca::JoinTokens::default()),
        reviewer: None,
    };
    let server = tls::ServerTls::new(options).expect("a TLS server");
    let mesh = Mesh::start(1, Some((server, authenticators))).await;
    // The workload's certificate, as the authority makes it for a join token.
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).expect("a request").pem().expect("in PEM");
    let request = ca::CertificateRequest::from_pem(&csr).expect("a request");
    let caller = ca::Caller { id: id.parse().expect("an id"), method: ca::Method::JoinToken };
    let issued = authority.issue(&request, &caller, std::time::Duration::ZERO).await.expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    for root in authority.bundle().current().expect("a bundle").certificates() {
        roots.add(root).expect("a root");
    }
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut client = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(issued.chain, key)
        .expect("a TLS client");
    client.alpn_protocols = vec![b"h2".to_vec()];
    (mesh, Arc::new(client))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_a_node_is_who_its_certificate_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mesh, tls) = secured(folder.path(), "spiffe://cluster.local/ns/default/sa/reviews").await;
    let name = rustls::pki_types::ServerName::try_from("istiod.istio-system.svc").expect("a name");
    let (sender, mut updates) = mpsc::channel(4);
    let config = Config {
        connect: Config::connect_to(mesh.handle.addresses().tls[0].to_string()).into(),
        authority: "istiod.istio-system.svc".into(),
        tls: Some((tls, name)),
        token: None,
        mode: Mode::Delta,
        node: node("default", "reviews"),
        all: vec![ResourceType::Cluster, ResourceType::Listener],
        names: vec![],
        health: None,
        wanted: None,
        own: None,
        source: 0,
    };
    tokio::spawn(run(config, sender));
    until(&mut updates, &mut Held::new(), |held| addresses(held) == 2).await;
    let identity = mesh.handle.status().proxies[0].identity.clone();
    assert_eq!(identity.as_deref(), Some("spiffe://cluster.local/ns/default/sa/reviews"));
}
