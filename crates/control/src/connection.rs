//! One ADS stream: reads requests, is woken by views, sends what the session says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{NamespacedName, SpiffeId};
use hyper::body::Incoming;
use prost::Message as _;
use proto::ResourceType;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::service::discovery::v3 as pb;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, info, warn};
use translate::{Node, Scope};
use xds::Mode;
use xds::grpc::{Inbound, Sender, Status};
use xds::server::{Received, Request, Session};

use crate::register::{self, RegisterError, Registrar};
use crate::serve::Context;
use crate::status::{Connection, Opened};
use crate::view::{Seen, Shown, View};

/// No request is longer: 10,000 names of a client that comes back are 1 MB.
const MAX_REQUEST: usize = 8 << 20;
/// A proxy must say who it is within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A first sync makes room for the next one after this time at the latest.
const FIRST_SYNC: Duration = Duration::from_secs(5);

/// Who is at the other end, as far as the connection proves it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) identity: Option<SpiffeId>,
    /// The connection proves identities (TLS), so that one is required.
    pub(crate) secure: bool,
}

/// Serves a stream to its end and says how it ended.
pub(crate) async fn serve(context: Arc<Context>, mode: Mode, body: Incoming, peer: Peer, sender: Sender) {
    let status = match run(&context, mode, body, peer, &sender).await {
        Ok(()) => Status::new(0, ""),
        Err(status) => {
            info!(%status, "an xDS stream ended");
            status
        }
    };
    sender.finish(status).await;
}

async fn run(
    context: &Arc<Context>,
    mode: Mode,
    body: Incoming,
    peer: Peer,
    sender: &Sender,
) -> Result<(), Status> {
    let mut serving = context.serving.clone();
    if serving.wait_for(|serving| *serving).await.is_err() {
        return Err(Status::new(Status::UNAVAILABLE, "the control plane is shutting down"));
    }
    let mut inbound = Inbound::new(body, MAX_REQUEST);
    let first = tokio::time::timeout(FIRST_REQUEST, next(mode, &mut inbound)).await;
    let first = first.map_err(|_| Status::new(Status::INVALID_ARGUMENT, "no request came within 10 s"))??;
    let Some((node, request)) = first else { return Ok(()) };
    let node = node.ok_or_else(|| {
        Status::new(
            Status::INVALID_ARGUMENT,
            "the first request has no node: the proxy's bootstrap must set one",
        )
    })?;
    let node = Node::from_proto(&node).map_err(|e| Status::new(Status::INVALID_ARGUMENT, e.to_string()))?;
    check_identity(&node, &peer)?;
    let registered = register(context, &node, &peer).await?;
    let mut stream = Stream::open(context, mode, node, &peer).await;
    stream.registered = registered;
    let first = stream.receive(request, sender).await;
    let outcome = match first {
        Ok(()) => stream.converse(&mut inbound, sender).await,
        Err(status) => Err(status),
    };
    if let Some(registered) = stream.registered.take() {
        registered.ended().await;
    }
    outcome
}

/// The entry of a proxy that registers itself.
struct Registered {
    registrar: Arc<dyn Registrar>,
    name: NamespacedName,
    /// What it said last of itself.
    healthy: Option<bool>,
}

async fn register(context: &Context, node: &Node, peer: &Peer) -> Result<Option<Registered>, Status> {
    let snapshot = context.publisher.snapshot();
    let Some(wanted) = register::registration(&snapshot, node, peer.identity.as_ref())? else {
        return Ok(None);
    };
    let Some(registrar) = context.registrar.clone() else {
        return Err(Status::new(Status::UNIMPLEMENTED, "this control plane registers nobody"));
    };
    registrar.enter(&wanted).await.map_err(|error| match error {
        RegisterError::Taken(_) => Status::new(Status::PERMISSION_DENIED, error.to_string()),
        RegisterError::Unavailable(_) => Status::new(Status::UNAVAILABLE, error.to_string()),
    })?;
    info!(target: "audit", event = "workload.registered", name = %wanted.name, group = %wanted.group, peer = %peer.address);
    Ok(Some(Registered { registrar, name: wanted.name, healthy: None }))
}

impl Registered {
    async fn said(&mut self, healthy: bool) {
        if self.healthy == Some(healthy) {
            return;
        }
        match self.registrar.set_health(&self.name, healthy).await {
            Ok(()) => self.healthy = Some(healthy),
            Err(error) => warn!(name = %self.name, %error, "a workload's health could not be written"),
        }
    }

    /// Whoever said goodbye is gone; whoever did not may come back.
    async fn ended(self) {
        if self.healthy != Some(false) {
            return;
        }
        if let Err(error) = self.registrar.leave(&self.name).await {
            warn!(name = %self.name, %error, "the entry of a workload that left could not be removed");
        }
    }
}

/// What a node says of itself must agree with what its certificate says.
pub(crate) fn check_identity(node: &Node, peer: &Peer) -> Result<(), Status> {
    let Some(identity) = &peer.identity else {
        let missing = "no identity: show a client certificate, or send a token as authorization";
        return if peer.secure { Err(Status::new(Status::UNAUTHENTICATED, missing)) } else { Ok(()) };
    };
    if *identity.namespace == *node.namespace && *identity.service_account == *node.service_account {
        return Ok(());
    }
    warn!(target: "audit", event = "node.refused", %identity, node = %node.id);
    let reason = format!(
        "the node says namespace {:?} and service account {:?}, but its identity is {identity}; its metadata must agree",
        node.namespace, node.service_account
    );
    Err(Status::new(Status::PERMISSION_DENIED, reason))
}

struct Stream {
    context: Arc<Context>,
    session: Session,
    views: watch::Receiver<Arc<View>>,
    shown: Shown,
    opened: Opened,
    permit: Option<OwnedSemaphorePermit>,
    permit_until: Instant,
    registered: Option<Registered>,
}

impl Stream {
    async fn open(context: &Arc<Context>, mode: Mode, node: Node, peer: &Peer) -> Self {
        let permit = Arc::clone(&context.pace).acquire_owned().await.ok();
        let scope = Scope::of(&node);
        let (state, views) = context.publisher.join(&scope);
        debug!(node = %node.id, peer = %peer.address, "a proxy connected");
        let identity = peer.identity.as_ref().map(ToString::to_string);
        let authenticated = peer.identity.is_some();
        let opened = context.connections.open(node, peer.address, identity, scope, state, authenticated);
        Self {
            context: Arc::clone(context),
            session: Session::new(mode),
            views,
            shown: Shown::default(),
            opened,
            permit,
            permit_until: Instant::now() + FIRST_SYNC,
            registered: None,
        }
    }

    fn connection(&self) -> &Connection {
        &self.opened.connection
    }

    async fn converse(&mut self, inbound: &mut Inbound<Incoming>, sender: &Sender) -> Result<(), Status> {
        let mode = self.session.mode();
        loop {
            let paced = self.permit.is_some();
            let due = self.session.due();
            tokio::select! {
                request = next(mode, inbound) => match request? {
                    Some((_, request)) => self.receive(request, sender).await?,
                    None => return Ok(()),
                },
                changed = self.views.changed() => {
                    if changed.is_err() {
                        return Err(Status::new(Status::UNAVAILABLE, "the control plane is shutting down"));
                    }
                    self.send(sender).await?;
                }
                () = tokio::time::sleep_until(self.permit_until.into()), if paced => self.permit = None,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.send(sender).await?;
                }
                () = sender.closed() => return Ok(()),
            }
        }
    }

    async fn receive(&mut self, request: Request, sender: &Sender) -> Result<(), Status> {
        if let Some(response) = crate::debug::over_ads(&self.context, &request.type_url) {
            let bytes = response.encode_to_vec().into();
            return sender.send(bytes, bytes::Bytes::new()).await.map_err(closed);
        }
        let of = request.resource_type;
        if of == Some(ResourceType::HealthInformation) {
            // A report, not a subscription.
            if let Some(registered) = &mut self.registered {
                registered.said(request.error.is_none()).await;
            }
            return Ok(());
        }
        let new_type = of.is_some_and(|of| !self.session.watches(of));
        match self.session.receive(request) {
            Received::Rejected(of, reason) => {
                self.context.metrics.rejected(of);
                warn!(node = %self.connection().node.id, r#type = %of, reason, "a proxy refused configuration");
            }
            Received::Ignored if of.is_none() => {
                debug!(node = %self.connection().node.id, "a proxy asked for a type that is not served");
            }
            _ => {}
        }
        if let Some(of) = of.filter(|_| new_type) {
            self.connection().scope_state.watch(of);
        }
        self.send(sender).await
    }

    /// The newest view; what differs in it from what was shown before is marked. Held no longer than it takes to send:
    /// a view keeps a whole snapshot alive.
    fn advance(&mut self) -> Arc<View> {
        let view = Arc::clone(&self.views.borrow_and_update());
        let session = &self.session;
        let differences = self.shown.advance(&view, |of| session.watches(of));
        self.session.mark(&differences, view.generation());
        view
    }

    async fn send(&mut self, sender: &Sender) -> Result<(), Status> {
        let view = self.advance();
        let seen = Seen { view: &view, authenticated: self.connection().authenticated };
        loop {
            let started = Instant::now();
            let Some(out) = self.session.next(&seen, &self.context.payloads, started) else { break };
            let bytes = out.head.len() + out.payload.bytes();
            sender.send_parts(out.head, &out.payload.parts).await.map_err(closed)?;
            self.context.metrics.pushed(out.resource_type, bytes, started.elapsed());
        }
        self.connection().report(view.generation(), self.session.status().collect());
        if self.permit.is_some() && self.session.is_synced() {
            self.permit = None;
        }
        Ok(())
    }
}

fn closed(_: xds::grpc::Closed) -> Status {
    Status::new(Status::UNAVAILABLE, "the proxy closed the stream")
}

async fn next(
    mode: Mode,
    inbound: &mut Inbound<Incoming>,
) -> Result<Option<(Option<core::Node>, Request)>, Status> {
    Ok(match mode {
        Mode::Sotw => inbound
            .message::<pb::DiscoveryRequest>()
            .await?
            .map(|mut request| (request.node.take(), Request::from(request))),
        Mode::Delta => inbound
            .message::<pb::DeltaDiscoveryRequest>()
            .await?
            .map(|mut request| (request.node.take(), Request::from(request))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let id = "sidecar~10.0.0.1~reviews-v1.default~default.svc.cluster.local";
        Node::from_proto(&core::Node { id: id.into(), ..Default::default() }).unwrap()
    }

    #[test]
    fn a_node_must_be_who_its_certificate_says() {
        let peer = |identity: Option<&str>, secure| Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            identity: identity.map(|id| id.parse().unwrap()),
            secure,
        };
        let code = |peer: &Peer| check_identity(&node(), peer).err().map(|status| status.code);
        assert_eq!(code(&peer(Some("spiffe://cluster.local/ns/default/sa/default"), true)), None);
        for other in
            ["spiffe://cluster.local/ns/other/sa/default", "spiffe://cluster.local/ns/default/sa/ratings"]
        {
            assert_eq!(code(&peer(Some(other), true)), Some(Status::PERMISSION_DENIED), "{other}");
        }
        assert_eq!(code(&peer(None, true)), Some(Status::UNAUTHENTICATED));
        assert_eq!(
            code(&peer(None, false)),
            None,
            "in plaintext nobody proves anything, and gets no secrets"
        );
    }
}
