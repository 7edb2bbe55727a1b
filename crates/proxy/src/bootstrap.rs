//! An Envoy v3 bootstrap, read into [`Settings`]. What it asks for and this proxy does not do is refused by name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::Locality;
use bytes::Bytes;
use decide::PeerMetadata;
use prost::Message;
use proto::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::DynamicResources};
use proto::pb::envoy::config::cluster::v3::Cluster;
use proto::pb::envoy::config::core::v3::{
    self as core, address::Address, api_config_source::ApiType, config_source::ConfigSourceSpecifier,
    grpc_service::TargetSpecifier,
};
use proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use proto::{Delta, Resource, ResourceType};
use serde_json::Value;

use crate::control::{Secrets, Settings};
use crate::worker::Node;

/// What is wrong with a bootstrap, and where.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct BootstrapError {
    pub field: String,
    pub reason: String,
}

fn wrong(field: impl Into<String>, reason: impl ToString) -> BootstrapError {
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
    let ads = match &message.dynamic_resources {
        Some(dynamic) => ads(dynamic, &fixed.clusters, &node, overrides, &mut secrets)?,
        None => None,
    };
    let home = home(message, &fixed.clusters, &node)?;
    Ok(Settings {
        node: Node { home, ..our_node(&node, overrides) },
        bootstrap: message.encode_to_vec().into(),
        initial: vec![delta(ResourceType::Cluster, clusters), delta(ResourceType::Listener, listeners)],
        ads,
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
    unsupported(message.overload_manager.is_some(), "overloadManager")?;
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

fn resource<M: Message>(name: &str, message: &M) -> Resource {
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

fn socket_of(address: Option<&core::Address>) -> Option<(String, u16)> {
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

fn our_node(node: &core::Node, overrides: &Overrides) -> Node {
    let id = overrides.node_id.clone().unwrap_or_else(|| node.id.clone());
    let peer = PeerMetadata::from_struct(&node.metadata.clone().unwrap_or_default(), &id);
    let service = match peer.canonical_service() {
        Some(name) if !peer.namespace.is_empty() => format!("{name}.{}", peer.namespace),
        Some(name) => name.to_owned(),
        None => node.cluster.clone(),
    };
    let hostname = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    Node { id, cluster: node.cluster.as_str().into(), peer: Arc::new(peer), service, hostname, home: None }
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

fn ads(
    dynamic: &DynamicResources,
    clusters: &[Cluster],
    node: &core::Node,
    overrides: &Overrides,
    secrets: &mut Secrets,
) -> Result<Option<xds::client::Config>, BootstrapError> {
    let mut all = Vec::new();
    for (source, resource_type, field) in [
        (&dynamic.cds_config, ResourceType::Cluster, "dynamicResources.cdsConfig"),
        (&dynamic.lds_config, ResourceType::Listener, "dynamicResources.ldsConfig"),
    ] {
        match source.as_ref().and_then(|s| s.config_source_specifier.as_ref()) {
            None if source.is_none() => {}
            Some(ConfigSourceSpecifier::Ads(_)) => all.push(resource_type),
            _ => return Err(wrong(field, "only `ads` is supported")),
        }
    }
    let Some(config) = &dynamic.ads_config else {
        return if all.is_empty() {
            Ok(None)
        } else {
            Err(wrong("dynamicResources.adsConfig", "is missing"))
        };
    };
    const FIELD: &str = "dynamicResources.adsConfig";
    let mode = match ApiType::try_from(config.api_type) {
        Ok(ApiType::Grpc) => xds::Mode::Sotw,
        Ok(ApiType::DeltaGrpc) => xds::Mode::Delta,
        _ => return Err(wrong(format!("{FIELD}.apiType"), "must be GRPC or DELTA_GRPC")),
    };
    let target = config.grpc_services.first().and_then(|s| s.target_specifier.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = target else {
        return Err(wrong(format!("{FIELD}.grpcServices"), "needs one entry with envoyGrpc"));
    };
    let cluster = clusters.iter().find(|c| c.name == grpc.cluster_name).ok_or_else(|| {
        wrong(
            format!("{FIELD}.grpcServices[0].envoyGrpc.clusterName"),
            format!("{:?} is no static cluster", grpc.cluster_name),
        )
    })?;
    let (host, port) = first_endpoint(cluster).ok_or_else(|| {
        wrong(format!("staticResources.clusters[{}].loadAssignment", cluster.name), "needs one socketAddress")
    })?;
    let tls = match &cluster.transport_socket {
        None => None,
        Some(_) => Some(client_tls(cluster, &host, secrets)?),
    };
    let mut node = node.clone();
    if let Some(id) = &overrides.node_id {
        node.id.clone_from(id);
    }
    if !node.client_features.iter().any(|f| f == "istio.extensions") {
        node.client_features.push("istio.extensions".into());
    }
    node.user_agent_name = "mizzen-proxy".into();
    Ok(Some(xds::client::Config {
        connect: xds::client::Config::connect_to(format!("{host}:{port}")),
        authority: if grpc.authority.is_empty() { format!("{host}:{port}") } else { grpc.authority.clone() },
        tls,
        token: None,
        mode,
        node,
        all,
        names: Vec::new(),
        health: None,
    }))
}

fn first_endpoint(cluster: &Cluster) -> Option<(String, u16)> {
    let group = cluster.load_assignment.as_ref()?.endpoints.first()?;
    match group.lb_endpoints.first()?.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => socket_of(endpoint.address.as_ref()),
        HostIdentifier::EndpointName(_) => None,
    }
}

type Tls = (Arc<rustls::ClientConfig>, rustls::pki_types::ServerName<'static>);

/// TLS towards the control plane, as its cluster configures it.
fn client_tls(cluster: &Cluster, host: &str, secrets: &mut Secrets) -> Result<Tls, BootstrapError> {
    let field = format!("staticResources.clusters[{}].transportSocket", cluster.name);
    let delta = Delta {
        resource_type: ResourceType::Cluster,
        changed: vec![resource(&cluster.name, cluster)],
        removed: Vec::new(),
    };
    let (plan, rejections) = decide::Plan::new().apply(&delta);
    if let Some(rejection) = rejections.first() {
        return Err(wrong(&*field, rejection));
    }
    let compiled = plan.cluster_named(&cluster.name).map(|c| c.transport.clone());
    let Some(decide::UpstreamTransport::Tls(context)) = compiled else {
        return Err(wrong(field, "is not TLS"));
    };
    let client = secrets.client(&context, context.auto_sni_san).map_err(|e| wrong(&*field, e))?;
    let name = match &context.sni {
        Some(_) => client.server_name().clone(),
        None => rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|e| wrong(&*field, e))?,
    };
    let mut config = (*client.config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((Arc::new(config), name))
}
