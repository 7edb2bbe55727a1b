//! One proxy's part of the way: the connection, then the request, as `decide` has them.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use base::Random;
use decide::{
    Action, Answer, Ask, CallFault, Cluster, Connection, ConnectionDecision, ConnectionOutcome, Context,
    Deciding, Decision, Destination, Direction, Explanation, Hcm, Listener, Method, Note, Outcome, Request,
    Step, TlsInfo, Transport, TransportProtocol, decide_connection_with,
};
use serde::Serialize;
use smallvec::smallvec;
use upstream::{Health, LbKind};

use super::node::Proxy;
use super::{ExplainArgs, Scheme, Target};

/// What one proxy does.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) listener: String,
    pub(super) filter_chain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) virtual_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    /// The resource that configured the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) configured_by: Option<String>,
    pub(super) policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<String>,
    /// Response flags, as the access log would have them.
    pub(super) flags: String,
    pub(super) endpoints: Vec<String>,
    /// What becomes of the request.
    pub(super) outcome: String,
    pub(super) steps: Vec<Why>,
}

#[derive(Debug, Serialize)]
pub(super) struct Why {
    pub(super) step: String,
    pub(super) subject: String,
    pub(super) reason: String,
}

/// Where the request goes next.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// It has a proxy of its own.
    pub(super) in_mesh: bool,
    mutual: bool,
    sni: Arc<str>,
    alpn: Vec<Arc<str>>,
}

pub(super) struct Outbound {
    pub(super) side: Side,
    pub(super) request: Option<Request>,
    pub(super) peer: Option<Peer>,
}

/// What arrives at the destination's proxy.
pub(super) struct Inbound<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) request: Option<Request>,
    pub(super) peer: &'a Peer,
    pub(super) target: &'a Target,
}

const CLIENT_PORT: u16 = 40000;

pub(super) fn outbound(
    proxy: &Proxy,
    target: &Target,
    args: &ExplainArgs,
    address: SocketAddr,
    random: &mut impl Random,
) -> anyhow::Result<Outbound> {
    let mut connection = Connection::new(SocketAddr::new(proxy.ip(), CLIENT_PORT), address);
    connection.local_restored = !proxy.is_gateway();
    match target.scheme {
        Scheme::Http => connection.application_protocols = smallvec!["http/1.1".into()],
        Scheme::Https => {
            connection.transport = TransportProtocol::Tls;
            connection.server_name = target.host.as_str().into();
            connection.application_protocols = smallvec!["h2".into(), "http/1.1".into()];
        }
        Scheme::Tcp => {}
    }
    let mut request = Request::new(Method::new(&args.method), &target.authority, &target.path);
    for (name, value) in &args.header {
        request = request.with_header(name, value);
    }
    let listener = if proxy.is_gateway() {
        let mut listeners = proxy.plan.listeners();
        let on_port = |l: &&Arc<Listener>| l.socket().is_some_and(|s| s.port() == address.port());
        listeners
            .find(on_port)
            .with_context(|| format!("the gateway has no listener on port {}", address.port()))?
    } else {
        proxy.plan.listener("virtualOutbound").context("the proxy has no listener virtualOutbound")?
    };
    let listener = proxy.plan.hand_over(listener, address).unwrap_or(listener);
    let mut walk = Walk::new(proxy);
    let cluster = walk.take(listener, &connection, &mut request, random);
    let peer = cluster.and_then(|(cluster, alpn)| walk.endpoints(&cluster, alpn, address));
    let request = (target.scheme == Scheme::Http).then_some(request);
    Ok(Outbound { side: walk.side, request, peer })
}

pub(super) fn inbound(server: &Proxy, of: Inbound<'_>, random: &mut impl Random) -> anyhow::Result<Side> {
    let Inbound { proxy, request, peer, target } = of;
    let mut connection = Connection::new(SocketAddr::new(proxy.ip(), CLIENT_PORT), peer.address);
    connection.local_restored = true;
    connection.application_protocols = match (peer.mutual, target.scheme) {
        (true, _) => peer.alpn.iter().cloned().collect(),
        (false, Scheme::Http) => smallvec!["http/1.1".into()],
        (false, _) => smallvec![],
    };
    if peer.mutual {
        connection.transport = TransportProtocol::Tls;
        connection.server_name = Arc::clone(&peer.sni);
        let alpn = if request.is_some() { "http/1.1" } else { "istio-peer-exchange" };
        connection.tls = Some(Arc::new(TlsInfo {
            peer_verified: true,
            peer_presented: true,
            peer_uris: smallvec![proxy.identity.as_str().into()],
            alpn: alpn.into(),
            version: "TLSv1.3".into(),
            ..TlsInfo::default()
        }));
    } else if target.scheme == Scheme::Https {
        connection.transport = TransportProtocol::Tls;
        connection.server_name = target.host.as_str().into();
    }
    let listener =
        server.plan.listener("virtualInbound").context("the proxy has no listener virtualInbound")?;
    let mut walk = Walk::new(server);
    let mut request = request.unwrap_or_else(|| Request::new(Method::Get, &target.authority, "/"));
    walk.take(listener, &connection, &mut request, random);
    Ok(walk.side)
}

/// Follows a connection and its request through one proxy.
struct Walk<'a> {
    proxy: &'a Proxy,
    side: Side,
    explanation: Explanation,
}

/// Where it goes, and the ALPN that the filters ask for.
type Next = (Arc<Cluster>, Option<Arc<[Arc<str>]>>);

impl<'a> Walk<'a> {
    fn new(proxy: &'a Proxy) -> Self {
        let mut walk = Self { proxy, side: Side::default(), explanation: Explanation::default() };
        for rejected in &proxy.rejected {
            walk.note("configuration", "refused", rejected.clone());
        }
        walk
    }

    fn note(&mut self, step: &'static str, subject: impl Into<String>, reason: impl Into<String>) {
        self.explanation.notes.push(Note::new(step, subject, reason));
    }

    fn take(
        &mut self,
        listener: &Listener,
        connection: &Connection,
        request: &mut Request,
        random: &mut impl Random,
    ) -> Option<Next> {
        self.side.listener = listener.name.to_string();
        let next = match listener.choose(connection, &mut self.explanation) {
            None => {
                self.side.outcome = "the connection is closed: no filter chain matches it".into();
                self.side.flags = "NR".into();
                None
            }
            Some(chain) => {
                self.side.filter_chain = chain.name.to_string();
                let (plan, start) = (&self.proxy.plan, SystemTime::now());
                // Nobody waits for an explanation: whoever is to be asked is taken to let it through.
                let mut answers = Vec::new();
                let decision = loop {
                    let notes = self.explanation.notes.len();
                    let explanation = &mut self.explanation;
                    let decision =
                        decide_connection_with(plan, chain, connection, start, &answers, random, explanation);
                    if !matches!(decision.outcome, ConnectionOutcome::Ask(_)) {
                        break decision;
                    }
                    self.explanation.notes.truncate(notes);
                    answers.push(Err(CallFault::Explaining));
                };
                self.connected(listener, connection, &decision, request, random)
            }
        };
        let why = |note: &Note| Why {
            step: note.step.to_owned(),
            subject: note.subject.clone(),
            reason: note.reason.clone(),
        };
        self.side.steps = self.explanation.notes.iter().map(why).collect();
        next
    }

    fn connected(
        &mut self,
        listener: &Listener,
        connection: &Connection,
        decision: &ConnectionDecision,
        request: &mut Request,
        random: &mut impl Random,
    ) -> Option<Next> {
        self.policies(&decision.policies);
        self.side.flags = decision.flags.to_string();
        match &decision.outcome {
            ConnectionOutcome::Http(hcm) => {
                let decision = self.decide(listener.direction, connection, hcm, request, random);
                self.decided(&decision)
            }
            ConnectionOutcome::Tcp(forward) => {
                self.side.cluster = Some(forward.cluster.name.to_string());
                self.side.outcome = format!("the connection goes to cluster {}", forward.cluster.name);
                Some((Arc::clone(&forward.cluster), None))
            }
            ConnectionOutcome::Close { details } if details.is_empty() => {
                self.side.outcome = "the connection is closed".into();
                None
            }
            ConnectionOutcome::Close { details } => {
                self.side.outcome = format!("the connection is closed: {details}");
                None
            }
            ConnectionOutcome::Write(_) | ConnectionOutcome::Echo | ConnectionOutcome::Ask(_) => {
                self.side.outcome = "the proxy answers the connection itself".into();
                None
            }
        }
    }

    fn decide(
        &mut self,
        direction: Direction,
        connection: &Connection,
        hcm: &Hcm,
        request: &mut Request,
        random: &mut impl Random,
    ) -> Decision {
        let context = Context {
            plan: &self.proxy.plan,
            hcm,
            connection,
            direction,
            node: &self.proxy.facts,
            start: SystemTime::now(),
            now: Instant::now(),
        };
        let mut deciding = Deciding::new(connection);
        loop {
            match deciding.step(&context, request, random, &mut self.explanation) {
                // Its note says so; nobody waits for an explanation.
                Step::Ask(Ask::Delay(_)) => {}
                Step::Ask(Ask::Call(_)) => deciding.answer(Answer::Called(Err(CallFault::Explaining))),
                Step::Ask(Ask::Process(_)) => deciding.answer(Answer::Processed(decide::Processed::Over)),
                Step::Ask(Ask::Replace { .. }) => {}
                Step::Ask(Ask::VirtualHost { .. }) => deciding.answer(Answer::VirtualHost(false)),
                Step::Ask(Ask::Body { .. }) => deciding.answer(Answer::Body(None)),
                Step::Done(decision) => return *decision,
            }
        }
    }

    fn decided(&mut self, decision: &Decision) -> Option<Next> {
        self.policies(&decision.policies);
        self.side.flags = decision.flags.to_string();
        if let Some(matched) = &decision.matched {
            let route = matched.route();
            self.side.virtual_host = Some(matched.virtual_host.name.to_string());
            let name =
                if route.name.is_empty() { format!("#{}", matched.index) } else { route.name.to_string() };
            self.side.route = Some(name);
            self.side.configured_by = (!route.config.is_empty()).then(|| route.config.to_string());
            self.weights(&route.action);
        }
        self.side.cluster = decision.destination().map(|cluster| cluster.name.to_string());
        match &decision.outcome {
            Outcome::Reply(reply) => {
                let details = &reply.details;
                self.side.outcome = format!("the proxy itself answers {} ({details})", reply.status);
                None
            }
            Outcome::Reset => {
                self.side.outcome = "the connection is reset".into();
                None
            }
            Outcome::Forward(forward) => {
                let mut said = format!("the request goes to cluster {}", forward.cluster.name);
                if let Some(timeout) = forward.timeout {
                    let _ = write!(said, ", timeout {timeout:?}");
                }
                if let Some(timeout) = forward.per_try_timeout {
                    let _ = write!(said, ", {timeout:?} a try");
                }
                for mirror in &forward.mirrors {
                    let _ = write!(said, ", a copy to {}", mirror.cluster.name);
                }
                self.side.outcome = said;
                Some((Arc::clone(&forward.cluster), forward.alpn.clone()))
            }
        }
    }

    /// What was drawn from.
    fn weights(&mut self, action: &Action) {
        let Some(Destination::Weighted { clusters, total, .. }) = action.forward().map(|f| &f.destination)
        else {
            return;
        };
        let shares: Vec<String> =
            clusters.iter().map(|c| format!("{} of {total} to {}", c.weight, c.cluster.name)).collect();
        self.note("weights", "this time drawn", shares.join(", "));
    }

    fn policies(&mut self, hits: &[decide::PolicyHit]) {
        for hit in hits {
            if hit.policy.starts_with("istio-ext-authz-") && hit.shadow {
                self.side.policies.push(format!("{}: its provider is asked", hit.policy));
                continue;
            }
            let verdict = if hit.allowed { "allowed" } else { "denied" };
            let shadow = if hit.shadow { " (decides nothing)" } else { "" };
            self.side.policies.push(format!("{}: {verdict}{shadow}", hit.policy));
        }
    }

    /// All that the cluster may choose from, and one that it could choose.
    fn endpoints(
        &mut self,
        cluster: &Cluster,
        alpn: Option<Arc<[Arc<str>]>>,
        original: SocketAddr,
    ) -> Option<Peer> {
        let policy = balancing(&cluster.settings.lb.kind);
        let Some(assignment) = self.proxy.plan.assignment(cluster) else {
            let original_only = matches!(cluster.discovery, decide::Discovery::OriginalDestination { .. });
            if original_only {
                self.side.endpoints.push(format!("{original}: where the connection wanted to go"));
                let sni = Arc::from("");
                return Some(Peer { address: original, in_mesh: false, mutual: false, sni, alpn: vec![] });
            }
            if let decide::Discovery::Aggregate { clusters } = &cluster.discovery {
                let plan = self.proxy.plan.clone();
                let first = clusters.iter().filter_map(|name| plan.cluster_named(name)).find(|cluster| {
                    plan.assignment(cluster)
                        .is_some_and(|a| a.endpoints().any(|e| e.health == Health::Healthy))
                });
                if let Some(first) = first {
                    return self.endpoints(first, alpn, original);
                }
            }
            self.side.outcome.push_str("; it has no endpoints: 503 UH");
            return None;
        };
        let mut chosen = None;
        let lowest = |healthy: &bool, priority: u32, best: &Option<(u32, Peer)>| {
            *healthy && best.as_ref().is_none_or(|(p, _)| priority < *p)
        };
        for group in &assignment.groups {
            for endpoint in &group.endpoints {
                let healthy = endpoint.health == Health::Healthy;
                let transport = cluster.transport_for(endpoint);
                let mutual = match transport {
                    Transport::Tls(tls) if !tls.common.certificates.is_empty() => "mutual TLS",
                    Transport::Tls(_) => "TLS",
                    Transport::Plain => "plaintext",
                };
                self.side.endpoints.push(format!(
                    "{} ({:?}, priority {}, weight {}, {mutual})",
                    endpoint.address, endpoint.health, group.priority, endpoint.weight
                ));
                let Some(address) = endpoint.address.socket() else { continue };
                if !lowest(&healthy, group.priority, &chosen) {
                    continue;
                }
                let (sni, own) = match transport {
                    Transport::Tls(tls) => (tls.sni.clone().unwrap_or_default(), tls.common.alpn.clone()),
                    Transport::Plain => (Arc::from(""), vec![]),
                };
                let alpn = alpn.as_ref().map_or(own, |alpn| alpn.to_vec());
                let mutual = mutual == "mutual TLS";
                chosen = Some((group.priority, Peer { address, in_mesh: true, mutual, sni, alpn }));
            }
        }
        if self.side.endpoints.is_empty() {
            self.side.outcome.push_str("; it has no endpoints: 503 UH");
        } else {
            self.side.outcome.push_str(&format!("; an endpoint is chosen by {policy}"));
        }
        chosen.map(|(_, peer)| peer)
    }
}

/// How people call a way of balancing.
fn balancing(kind: &LbKind) -> &'static str {
    match kind {
        LbKind::RoundRobin => "turns (ROUND_ROBIN)",
        LbKind::LeastRequest { .. } => "fewest requests in flight (LEAST_REQUEST)",
        LbKind::PeakEwma(_) => "peak EWMA of latency",
        LbKind::Random => "chance (RANDOM)",
        LbKind::RingHash(_) => "consistent hash, on a ring",
        LbKind::Maglev(_) => "consistent hash, by Maglev's table",
        LbKind::OriginalDestination => "where the connection wanted to go",
    }
}

impl Side {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for why in &self.steps {
            let _ = writeln!(text, "  {} {}: {}", why.step, why.subject, why.reason);
        }
        if let Some(config) = &self.configured_by {
            let _ = writeln!(text, "  the route was written in {config}");
        }
        for policy in &self.policies {
            let _ = writeln!(text, "  policy {policy}");
        }
        for endpoint in &self.endpoints {
            let _ = writeln!(text, "  endpoint {endpoint}");
        }
        let flags = if self.flags.is_empty() || self.flags == "-" {
            String::new()
        } else {
            format!(" [{}]", self.flags)
        };
        let _ = writeln!(text, "  => {}{flags}", self.outcome);
        text
    }
}
