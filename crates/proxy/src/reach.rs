//! How configuration servers are reached: through static clusters, whose endpoints and TLS are used without the request path's
//! pools.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::pb::envoy::config::cluster::v3::Cluster;
use proto::pb::envoy::config::core::v3::{self as core, address::Address};
use proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use proto::{Delta, ResourceType};
use tokio::net::TcpStream;
use xds::client::{Dial, Tls};

use crate::bootstrap::{BootstrapError, resource, wrong};
use crate::control::Secrets;

/// A server behind a static cluster.
pub struct Reach {
    pub dial: Dial,
    pub authority: String,
    pub tls: Option<Tls>,
}

enum Place {
    Socket(String, u16),
    Pipe(PathBuf),
}

/// `alpn` is what is spoken to it.
pub fn reach(cluster: &Cluster, alpn: &[u8], secrets: &mut Secrets) -> Result<Reach, BootstrapError> {
    let places: Vec<Place> = cluster
        .load_assignment
        .iter()
        .flat_map(|a| &a.endpoints)
        .flat_map(|group| &group.lb_endpoints)
        .filter_map(|endpoint| match endpoint.host_identifier.as_ref()? {
            HostIdentifier::Endpoint(endpoint) => place(endpoint.address.as_ref()),
            HostIdentifier::EndpointName(_) => None,
        })
        .collect();
    let field = || format!("staticResources.clusters[{}].loadAssignment", cluster.name);
    let (dial, host, authority) = match &places[..] {
        [] => return Err(wrong(field(), "needs an endpoint with socketAddress or pipe")),
        [Place::Pipe(path)] => (Dial::Unix(path.clone()), "localhost".to_owned(), "localhost".to_owned()),
        all => {
            let sockets: Option<Vec<String>> = all.iter().map(Place::text).collect();
            let sockets = sockets.ok_or_else(|| wrong(field(), "mixes pipes with other endpoints"))?;
            let Place::Socket(host, port) = &all[0] else { return Err(wrong(field(), "mixes endpoints")) };
            (Dial::Tcp(one_of(sockets)), host.clone(), format!("{host}:{port}"))
        }
    };
    let tls = match &cluster.transport_socket {
        None => None,
        Some(_) => Some(client_tls(cluster, &host, alpn, secrets)?),
    };
    Ok(Reach { dial, authority, tls })
}

impl Place {
    fn text(&self) -> Option<String> {
        match self {
            Self::Socket(host, port) if host.contains(':') => Some(format!("[{host}]:{port}")),
            Self::Socket(host, port) => Some(format!("{host}:{port}")),
            Self::Pipe(_) => None,
        }
    }
}

fn place(address: Option<&core::Address>) -> Option<Place> {
    match address?.address.as_ref()? {
        Address::Pipe(pipe) => Some(Place::Pipe(pipe.path.clone().into())),
        _ => crate::bootstrap::socket_of(address).map(|(host, port)| Place::Socket(host, port)),
    }
}

/// Starts with the one that answered last, and goes on to the others when it does not.
fn one_of(sockets: Vec<String>) -> xds::client::Connect {
    let sockets: Arc<[String]> = sockets.into();
    let last = Arc::new(AtomicUsize::new(0));
    Arc::new(move || {
        let (sockets, last) = (sockets.clone(), last.clone());
        Box::pin(async move {
            let first = last.load(Ordering::Relaxed);
            let mut failed = io::Error::other("no endpoint");
            for i in (0..sockets.len()).map(|i| (first + i) % sockets.len()) {
                match TcpStream::connect(&*sockets[i]).await {
                    Ok(stream) => {
                        last.store(i, Ordering::Relaxed);
                        stream.set_nodelay(true)?;
                        return Ok(stream);
                    }
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }) as Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>
    })
}

/// TLS towards the server, as its cluster configures it.
fn client_tls(
    cluster: &Cluster,
    host: &str,
    alpn: &[u8],
    secrets: &mut Secrets,
) -> Result<Tls, BootstrapError> {
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
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok((Arc::new(config), name))
}
