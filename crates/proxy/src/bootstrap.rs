//! An Envoy v3 bootstrap, read into [`Settings`]. What it asks for and this proxy does not do is refused by name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Locality;
use bytes::Bytes;
use decide::{Origin, PeerMetadata};
use prost::Message;
use proto::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::DynamicResources};
use proto::pb::envoy::config::cluster::v3::Cluster;
use proto::pb::envoy::config::core::v3::{
    self as core, address::Address, config_source::ConfigSourceSpecifier,
};
use proto::{Delta, Resource, ResourceType};
use serde_json::Value;

use crate::control::{Secrets, Settings};
use crate::reach::reach;
use crate::worker::Node;

/// What is wrong with a bootstrap, and where.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct BootstrapError {
    pub field: String,
    pub reason: String,
}

pub(crate) fn wrong(field: impl Into<String>, reason: impl ToString) -> BootstrapError {
    BootstrapError { field: field.into(), reason: reason.to_string() }
}

/// What the command line adds to the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub concurrency: Option<usize>,
    pub admin_port: Option<u16>,
    pub node_id: Option<String>,
    pub stdout: Option<PathBuf>,
    pub drain_time: Option<Duration>,
    pub last_good: Option<PathBuf>,
}

/// From the bootstrap's JSON form, which ends here: it is many times as large as what is made of it.
pub fn settings(value: Value, overrides: &Overrides) -> Result<Settings, BootstrapError> {
    let message: Bootstrap = proto::json::decode(&value).map_err(|e| wrong(e.path, e.reason))?;
    drop(value);
    let message = &message;
    refuse_unsupported(message)?;
    let mut secrets = Secrets::default();
    let empty = Default::default();
    let fixed = message.static_resources.as_ref().unwrap_or(&empty);
    for (i, secret) in fixed.secrets.iter().enumerate() {
        secrets.set(secret).map_err(|e| wrong(format!("staticResources.secrets[{i}]"), e))?;
    }
    let clusters = fixed.clusters.iter().map(|c| resource(&c.name, c)).collect();
    let listeners = fixed
        .listeners
        .iter()
        .map(|l| match l.name.is_empty() {
            false => resource(&l.name, l),
            true => resource(&listener_name(l.address.as_ref()), l),
        })
        .collect();
    let delta = |resource_type, changed| Delta { resource_type, changed, removed: Vec::new() };
    let node = message.node.clone().unwrap_or_default();
    let wire_node = wire_node(&node, overrides);
    let found = match &message.dynamic_resources {
        Some(resources) => dynamic(resources, &fixed.clusters, &wire_node, &mut secrets)?,
        None => Dynamic { ads: None, sources: Vec::new() },
    };
    let home = home(message, &fixed.clusters, &node)?;
    Ok(Settings {
        node: Node { home, ..our_node(wire_node) },
        bootstrap: message.encode_to_vec().into(),
        initial: vec![delta(ResourceType::Cluster, clusters), delta(ResourceType::Listener, listeners)],
        ads: found.ads,
        sources: found.sources,
        last_good: overrides.last_good.clone(),
        secrets,
        concurrency: overrides
            .concurrency
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        admin: admin(message, overrides)?,
        readiness: None,
        prometheus: None,
        stdout: overrides.stdout.clone(),
        drain_time: overrides.drain_time.unwrap_or(Duration::from_secs(600)),
        others: None,
        overload: message.overload_manager.as_ref().map(crate::overload::compile).transpose()?,
        inherited: crate::restart::Inherited::default(),
        parent: None,
        replaceable: false,
        outside: None,
        look_up: None,
    })
}

fn refuse_unsupported(message: &Bootstrap) -> Result<(), BootstrapError> {
    let unsupported = |set: bool, field: &str| {
        if set { Err(wrong(field, "is not supported by this proxy")) } else { Ok(()) }
    };
    unsupported(!message.stats_sinks.is_empty(), "statsSinks")?;
    unsupported(message.hds_config.is_some(), "hdsConfig")?;
    unsupported(!message.bootstrap_extensions.is_empty(), "bootstrapExtensions")?;
    unsupported(!message.config_sources.is_empty(), "configSources")?;
    unsupported(message.xds_delegate_extension.is_some(), "xdsDelegateExtension")?;
    let Some(manager) = &message.cluster_manager else { return Ok(()) };
    unsupported(manager.outlier_detection.is_some(), "clusterManager.outlierDetection")?;
    unsupported(manager.upstream_bind_config.is_some(), "clusterManager.upstreamBindConfig")?;
    unsupported(manager.load_stats_config.is_some(), "clusterManager.loadStatsConfig")
}

/// The cluster of who else calls as we do, and where we are.
fn home(
    message: &Bootstrap,
    clusters: &[Cluster],
    node: &core::Node,
) -> Result<Option<(Arc<str>, Locality)>, BootstrapError> {
    let name = message.cluster_manager.as_ref().map_or("", |manager| &manager.local_cluster_name);
    if name.is_empty() {
        return Ok(None);
    }
    if !clusters.iter().any(|cluster| cluster.name == name) {
        let reason = format!("{name:?} must be one of staticResources.clusters");
        return Err(wrong("clusterManager.localClusterName", reason));
    }
    let place = node.locality.clone().unwrap_or_default();
    let place = Locality { region: place.region, zone: place.zone, subzone: place.sub_zone };
    Ok(Some((name.into(), place)))
}

pub(crate) fn resource<M: Message>(name: &str, message: &M) -> Resource {
    use std::hash::{BuildHasher, Hasher};
    let body = Bytes::from(message.encode_to_vec());
    let mut hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
    hasher.write(&body);
    Resource { name: name.into(), version: hasher.finish(), body }
}

fn listener_name(address: Option<&core::Address>) -> String {
    match socket_of(address) {
        Some((host, port)) => format!("{host}_{port}"),
        None => "listener".into(),
    }
}

pub(crate) fn socket_of(address: Option<&core::Address>) -> Option<(String, u16)> {
    match address?.address.as_ref()? {
        Address::SocketAddress(socket) => {
            let port = match socket.port_specifier.as_ref()? {
                core::socket_address::PortSpecifier::PortValue(port) => u16::try_from(*port).ok()?,
                core::socket_address::PortSpecifier::NamedPort(_) => return None,
            };
            Some((socket.address.clone(), port))
        }
        _ => None,
    }
}

fn our_node(node: core::Node) -> Node {
    let id = node.id.clone();
    let peer = PeerMetadata::from_struct(&node.metadata.clone().unwrap_or_default(), &id);
    let service = match peer.canonical_service() {
        Some(name) if !peer.namespace.is_empty() => format!("{name}.{}", peer.namespace),
        Some(name) => name.to_owned(),
        None => node.cluster.clone(),
    };
    let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let cluster = node.cluster.as_str().into();
    Node { id, cluster, peer: Arc::new(peer), wire: node, service, hostname, home: None }
}

fn admin(message: &Bootstrap, overrides: &Overrides) -> Result<Option<SocketAddr>, BootstrapError> {
    let configured = message.admin.as_ref().and_then(|a| a.address.as_ref());
    let mut address = match socket_of(configured) {
        Some((host, port)) => {
            let ip = host.parse().map_err(|_| {
                wrong("admin.address.socketAddress.address", format!("{host:?} is no IP address"))
            })?;
            Some(SocketAddr::new(ip, port))
        }
        None if configured.is_some() => {
            return Err(wrong("admin.address", "only socketAddress with portValue is supported"));
        }
        None => None,
    };
    if let Some(port) = overrides.admin_port {
        let ip = address.map_or(std::net::IpAddr::from([127, 0, 0, 1]), |a| a.ip());
        address = Some(SocketAddr::new(ip, port));
    }
    Ok(address)
}

/// What the bootstrap says of clusters and listeners that come while the proxy runs.
struct Dynamic {
    ads: Option<xds::client::Config>,
    /// Types that have a source of their own.
    sources: Vec<(ResourceType, Origin)>,
}

fn dynamic(
    dynamic: &DynamicResources,
    clusters: &[Cluster],
    node: &core::Node,
    secrets: &mut Secrets,
) -> Result<Dynamic, BootstrapError> {
    let (mut all, mut sources) = (Vec::new(), Vec::new());
    for (source, resource_type, field) in [
        (&dynamic.cds_config, ResourceType::Cluster, "dynamicResources.cdsConfig"),
        (&dynamic.lds_config, ResourceType::Listener, "dynamicResources.ldsConfig"),
    ] {
        let Some(source) = source else { continue };
        let origin = Origin::read(source).map_err(|(path, reason)| wrong(join(field, &path), reason))?;
        let is_static = |name: &Arc<str>| clusters.iter().any(|c| *c.name == **name);
        match &origin {
            Origin::Ads => {
                all.push(resource_type);
                continue;
            }
            Origin::File { path, .. } if !std::path::Path::new(&**path).exists() => {
                return Err(wrong(field, format!("{path}: there is no such file")));
            }
            Origin::File { .. } => {}
            through => {
                if let Some(name) = through.cluster().filter(|name| !is_static(name)) {
                    return Err(wrong(field, format!("{name:?} is no static cluster")));
                }
            }
        }
        sources.push((resource_type, origin));
    }
    let ads = match &dynamic.ads_config {
        Some(config) => Some(ads(config, all, clusters, node, secrets)?),
        None if all.is_empty() => None,
        None => return Err(wrong("dynamicResources.adsConfig", "is missing")),
    };
    Ok(Dynamic { ads, sources })
}

fn join(field: &str, path: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{field}.{path}") }
}

fn ads(
    config: &core::ApiConfigSource,
    all: Vec<ResourceType>,
    clusters: &[Cluster],
    node: &core::Node,
    secrets: &mut Secrets,
) -> Result<xds::client::Config, BootstrapError> {
    const FIELD: &str = "dynamicResources.adsConfig";
    let source = core::ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(config.clone())),
        ..Default::default()
    };
    let origin = Origin::read(&source).map_err(|(path, reason)| {
        wrong(join(FIELD, path.trim_start_matches("apiConfigSource").trim_start_matches('.')), reason)
    })?;
    let Origin::Grpc { cluster: name, authority, delta } = origin else {
        return Err(wrong(format!("{FIELD}.apiType"), "must be GRPC or DELTA_GRPC"));
    };
    let cluster = clusters.iter().find(|c| *c.name == *name).ok_or_else(|| {
        wrong(
            format!("{FIELD}.grpcServices[0].envoyGrpc.clusterName"),
            format!("{name:?} is no static cluster"),
        )
    })?;
    let reach = reach(cluster, b"h2", secrets)?;
    Ok(xds::client::Config {
        connect: reach.dial,
        authority: if authority.is_empty() { reach.authority } else { authority.to_string() },
        tls: reach.tls,
        token: None,
        mode: if delta { xds::Mode::Delta } else { xds::Mode::Sotw },
        node: node.clone(),
        all,
        names: Vec::new(),
        health: None,
        wanted: None,
        own: None,
        source: 0,
    })
}

/// Who we are to configuration servers.
fn wire_node(node: &core::Node, overrides: &Overrides) -> core::Node {
    let mut node = node.clone();
    if let Some(id) = &overrides.node_id {
        node.id.clone_from(id);
    }
    if !node.client_features.iter().any(|f| f == "istio.extensions") {
        node.client_features.push("istio.extensions".into());
    }
    node.user_agent_name = "mizzen-proxy".into();
    node
}
