//! Who called whom, for Istio's metrics: from peers' own words, their certificates, and what the control plane wrote of them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use decide::{Cluster, Connection, Direction, PeerMetadata, ResponseFlags, TlsInfo};

use crate::stats::{
    IstioStats, Reporter, RequestKey, RequestProtocol, RequestSample, Security, Service, TcpKey, Workload,
};
use crate::worker::Node;

/// Label sets of one worker, made once each. Bounded, since peers provide them.
pub struct Telemetry {
    node: Arc<PeerMetadata>,
    ours: RefCell<AHashMap<Arc<str>, Rc<Workload>>>,
    peers: RefCell<AHashMap<(String, Arc<str>), (Arc<PeerMetadata>, Rc<Workload>)>>,
    endpoints: RefCell<AHashMap<(Arc<str>, Arc<str>), Rc<Workload>>>,
    /// By cluster and, where that has no service, authority.
    services: RefCell<AHashMap<(Arc<str>, Arc<str>), Rc<Service>>>,
    unknown: Rc<Workload>,
}

/// The route that refuses hosts which nobody declared, and the service that such requests are counted for.
const BLOCK_ALL: &str = "block_all";
const BLACK_HOLE: &str = "BlackHoleCluster";

/// Entries of each cache; beyond them the cache starts anew.
const MAX: usize = 1024;

/// One finished request, or TCP connection, in terms of telemetry.
pub struct Call<'a> {
    pub direction: Direction,
    pub connection: &'a Connection,
    pub cluster: Option<&'a Cluster>,
    /// The authority or server name, where no service is known.
    pub authority: &'a str,
    /// The name of the route that was taken, if it has one.
    pub route: &'a str,
    pub downstream_peer: Option<&'a Arc<PeerMetadata>>,
    pub upstream_peer: Option<&'a Arc<PeerMetadata>>,
    /// Istio's `workload;namespace;…` of the endpoint.
    pub endpoint: Option<&'a Arc<str>>,
    pub upstream_tls: Option<&'a TlsInfo>,
    pub flags: ResponseFlags,
}

fn room<K, V>(cache: &mut AHashMap<K, V>) {
    if cache.len() >= MAX {
        cache.clear();
    }
}

impl Telemetry {
    pub fn new(node: &Node) -> Self {
        Self {
            node: node.peer.clone(),
            ours: RefCell::default(),
            peers: RefCell::default(),
            endpoints: RefCell::default(),
            services: RefCell::default(),
            unknown: Rc::new(Workload::unknown()),
        }
    }

    fn own(&self, principal: Option<&Arc<str>>) -> Rc<Workload> {
        let key: Arc<str> = principal.cloned().unwrap_or_else(|| "".into());
        let mut ours = self.ours.borrow_mut();
        room(&mut ours);
        let make = || Rc::new(Workload::of(&self.node, principal.map(|p| &**p)));
        ours.entry(key).or_insert_with(make).clone()
    }

    fn peer(&self, peer: &Arc<PeerMetadata>, principal: Option<&Arc<str>>) -> Rc<Workload> {
        let key = (peer.id.clone(), principal.cloned().unwrap_or_else(|| "".into()));
        let mut peers = self.peers.borrow_mut();
        if let Some((known, workload)) = peers.get(&key)
            && (Arc::ptr_eq(known, peer) || known == peer)
        {
            return workload.clone();
        }
        room(&mut peers);
        let workload = Rc::new(Workload::of(peer, principal.map(|p| &**p)));
        peers.insert(key, (peer.clone(), workload.clone()));
        workload
    }

    fn endpoint(&self, text: &Arc<str>, principal: Option<&Arc<str>>) -> Rc<Workload> {
        let key = (text.clone(), principal.cloned().unwrap_or_else(|| "".into()));
        let mut endpoints = self.endpoints.borrow_mut();
        room(&mut endpoints);
        let make = || match PeerMetadata::from_endpoint(text) {
            Some(peer) => Rc::new(Workload::of(&peer, principal.map(|p| &**p))),
            None => Rc::new(Workload {
                principal: principal.cloned().unwrap_or_else(|| "unknown".into()),
                ..Workload::unknown()
            }),
        };
        endpoints.entry(key).or_insert_with(make).clone()
    }

    fn certified(&self, principal: Option<&Arc<str>>) -> Rc<Workload> {
        match principal {
            None => self.unknown.clone(),
            Some(_) => self.endpoint(&"".into(), principal),
        }
    }

    fn service(&self, call: &Call<'_>) -> Rc<Service> {
        let Some(cluster) = call.cluster else { return self.nowhere(call) };
        let known = !cluster.metadata.services.is_empty();
        let key = (cluster.name.clone(), Arc::from(if known { "" } else { call.authority }));
        let mut services = self.services.borrow_mut();
        room(&mut services);
        let make = || match cluster.metadata.services.first() {
            Some(s) => Rc::new(Service {
                host: s.host.clone(),
                name: s.name.clone(),
                namespace: s.namespace.clone(),
            }),
            None => {
                let host: Arc<str> =
                    if call.authority.is_empty() { "unknown".into() } else { call.authority.into() };
                Rc::new(Service { host, name: cluster.name.clone(), namespace: "unknown".into() })
            }
        };
        services.entry(key).or_insert_with(make).clone()
    }

    /// What was answered here. Istio counts what `REGISTRY_ONLY` refuses as if it had gone where nothing comes back.
    fn nowhere(&self, call: &Call<'_>) -> Rc<Service> {
        if call.route != BLOCK_ALL {
            return Rc::new(Service::all("unknown"));
        }
        let key = (Arc::from(BLOCK_ALL), Arc::from(call.authority));
        let mut services = self.services.borrow_mut();
        room(&mut services);
        let make = || {
            let host = if call.authority.is_empty() { "unknown" } else { call.authority };
            Rc::new(Service { host: host.into(), name: BLACK_HOLE.into(), namespace: "unknown".into() })
        };
        services.entry(key).or_insert_with(make).clone()
    }

    fn ends(&self, call: &Call<'_>) -> (Reporter, Rc<Workload>, Rc<Workload>, Security) {
        let (reporter, downstream) = (call.direction, call.connection.tls.as_deref());
        if reporter == Direction::Inbound {
            let principal = downstream.filter(|t| t.peer_verified).and_then(|t| t.peer_uris.first());
            let source = match call.downstream_peer.or(call.connection.peer.as_ref()) {
                Some(peer) => self.peer(peer, principal),
                None => self.certified(principal),
            };
            let destination = self.own(downstream.and_then(|t| t.local_uris.first()));
            let security = if principal.is_some() { Security::MutualTls } else { Security::None };
            return (Reporter::Destination, source, destination, security);
        }
        let principal = call.upstream_tls.and_then(|t| t.peer_uris.first());
        let destination = match (call.upstream_peer, call.endpoint.filter(|e| !e.is_empty())) {
            (Some(peer), _) => self.peer(peer, principal),
            (None, Some(endpoint)) => self.endpoint(endpoint, principal),
            (None, None) => self.certified(principal),
        };
        let source = self.own(call.upstream_tls.and_then(|t| t.local_uris.first()));
        (Reporter::Source, source, destination, Security::Unknown)
    }

    pub fn request(
        &self,
        stats: &mut IstioStats,
        call: &Call<'_>,
        code: u16,
        grpc: Option<Option<u32>>,
        sample: &RequestSample,
    ) {
        if call.direction == Direction::Unspecified {
            return;
        }
        let (reporter, source, destination, security) = self.ends(call);
        let protocol = if grpc.is_some() { RequestProtocol::Grpc } else { RequestProtocol::Http };
        let key = RequestKey {
            reporter,
            source,
            destination,
            service: self.service(call),
            protocol,
            code,
            flags: call.flags,
            grpc_status: grpc.flatten(),
            security,
        };
        stats.record(key, sample);
    }

    /// The series of a TCP connection; nothing where no direction is configured.
    pub fn tcp(&self, call: &Call<'_>) -> Option<TcpKey> {
        if call.direction == Direction::Unspecified {
            return None;
        }
        let (reporter, source, destination, security) = self.ends(call);
        Some(TcpKey {
            reporter,
            source,
            destination,
            service: self.service(call),
            flags: call.flags,
            security,
        })
    }
}
