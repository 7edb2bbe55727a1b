//! Deciding on one request: a machine that is stepped until it is done, and asks its driver for what takes time.

mod authz;
mod count;
mod limit;
mod on_demand;
mod process;
mod router;
mod shed;
mod token;

pub use count::{Count, CountScope};

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base::Random;
use bytes::Bytes;

use crate::ask::{Answer, Ask, ReceivedBody};
use crate::cluster::{Cluster, Discovery};
use crate::connection::Connection;
use crate::decision::{Decision, LocalReply, Matched, Outcome, PolicyHit, TraceDecision};
use crate::explain::{Note, Recorder};
use crate::ext_authz::HeaderChange;
use crate::filters::Abort;
use crate::filters::{
    BodyFilter, BodyPass, BodyPasses, CorsPolicy, Csrf, CsrfCounts, Fault, GrpcWeb, HostFrom, Override,
    Overrides, Preflight,
};
use crate::flags::ResponseFlags;
use crate::hcm::{CorsAnswer, FilterKind, Hcm, HttpFilter, RouteSource};
use crate::headers::Known;
use crate::jwt;
use crate::listener::Direction;
use crate::metadata::PeerMetadata;
use crate::origin::Origin;
use crate::plan::Plan;
use crate::rbac::{self, Rbac};
use crate::request::Request;
use crate::route::{Action, Destination, MatchSubject, RequireTls, RouteTable};
use crate::shed::Permit;

/// What deciding looks at besides the request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub plan: &'a Plan,
    pub hcm: &'a Hcm,
    pub connection: &'a Connection,
    /// Of the listener.
    pub direction: Direction,
    pub node: &'a NodeFacts,
    /// The time of day when the request began.
    pub start: SystemTime,
    pub now: Instant,
}

/// What the proxy knows of itself.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// `node.cluster`.
    pub cluster: Arc<str>,
    /// `x-envoy-peer-metadata-id`: the node's id.
    pub id: Bytes,
    /// `x-envoy-peer-metadata`: from [`PeerMetadata::to_header`]. Empty: nothing is said.
    pub metadata: Bytes,
}

impl Default for NodeFacts {
    fn default() -> Self {
        Self { cluster: Arc::from(""), id: Bytes::new(), metadata: Bytes::new() }
    }
}

/// What the driver is asked for.
#[derive(Debug)]
pub enum Step {
    Ask(Ask),
    Done(Box<Decision>),
}

/// The machine. One per request; nothing in it is shared.
#[derive(Debug)]
pub struct Deciding {
    begun: bool,
    next_filter: usize,
    /// The fault filter has waited; what is left of it is the abort.
    delayed: bool,
    /// What the current filter asked for, once the driver has it.
    answer: Option<Answer>,
    /// The request follows a redirect: what the connection manager does with requests is done.
    received: bool,
    /// The request has a body.
    has_body: bool,
    /// Providers of tokens whose keys are asked for, and were asked for in vain.
    fetching: Option<usize>,
    /// How far the filter is that an external processor serves.
    processes: Option<process::Processes>,
    unfetched: Vec<usize>,
    /// A virtual host was asked for.
    demanded: bool,
    /// Somebody has seen the body: the request cannot begin again.
    told_of_body: bool,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) table: Option<Arc<RouteTable>>,
    pub(crate) matched: Option<Matched>,
    pub(crate) weighted: Option<usize>,
    pub(crate) flags: ResponseFlags,
    policies: Vec<PolicyHit>,
    /// How many RBAC filters let the request through.
    rbac_allowed: u32,
    jwt: jwt::Counts,
    csrf: CsrfCounts,
    bodies: BodyPasses,
    /// How many external processors the request has passed.
    processors: usize,
    /// What is to be done to the request's body, since it was last asked for.
    body_filters: Vec<BodyFilter>,
    /// The length that the client told of the body is no more that of what goes upstream.
    resized: bool,
    buffered: bool,
    /// Whom the dynamic forward proxy looks up.
    pub(crate) dynamic: Option<Arc<str>>,
    peer: Option<Arc<PeerMetadata>>,
    peer_wants_answer: bool,
    tell_upstream: Option<bool>,
    alpn: Option<Arc<crate::hcm::AlpnOverrides>>,
    cors: Option<CorsAnswer>,
    pub(crate) remote: std::net::SocketAddr,
    internal: bool,
    request_id: Arc<str>,
    trace: TraceDecision,
    pub(crate) cookies: Vec<String>,
    operation: Option<Arc<str>>,
    /// Headers that filters want in the answer, filter by filter.
    answers: Vec<Vec<HeaderChange>>,
    counts: Vec<Count>,
    /// Where filters count the request until it has ended.
    permits: Vec<Arc<Permit>>,
    charged: Option<u16>,
}

impl Deciding {
    pub fn new(connection: &Connection) -> Self {
        Self {
            begun: false,
            next_filter: 0,
            delayed: false,
            answer: None,
            received: false,
            has_body: false,
            fetching: None,
            processes: None,
            unfetched: Vec::new(),
            demanded: false,
            told_of_body: false,
            state: State {
                table: None,
                matched: None,
                weighted: None,
                flags: ResponseFlags::NONE,
                policies: Vec::new(),
                rbac_allowed: 0,
                jwt: jwt::Counts::default(),
                csrf: CsrfCounts::default(),
                bodies: BodyPasses::default(),
                processors: 0,
                body_filters: Vec::new(),
                resized: false,
                buffered: false,
                dynamic: None,
                peer: None,
                peer_wants_answer: false,
                tell_upstream: None,
                alpn: None,
                cors: None,
                remote: connection.remote,
                internal: false,
                request_id: Arc::from(""),
                trace: TraceDecision::default(),
                cookies: Vec::new(),
                operation: None,
                answers: Vec::new(),
                counts: Vec::new(),
                permits: Vec::new(),
                charged: None,
            },
        }
    }

    /// Whether a body follows the request's head.
    pub fn with_body(mut self, has_body: bool) -> Self {
        self.has_body = has_body;
        self
    }

    /// For a request that follows a redirect: who asks is known from the one before.
    pub fn after(connection: &Connection, before: &Decision) -> Self {
        Self::of_known(connection, before.remote, before.internal, &before.request_id)
    }

    /// For a request that the connection manager has received.
    fn of_known(
        connection: &Connection,
        remote: std::net::SocketAddr,
        internal: bool,
        request_id: &Arc<str>,
    ) -> Self {
        let mut machine = Self::new(connection);
        machine.received = true;
        machine.state.remote = remote;
        machine.state.internal = internal;
        machine.state.request_id = Arc::clone(request_id);
        machine
    }

    /// The name of the route of a request that follows a redirect, before any filter sees it; nothing where there is none.
    pub fn look_ahead<R: Random + ?Sized>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
    ) -> Option<Arc<str>> {
        self.begun = true;
        self.begin(cx, request, rng, &mut ()).ok()?;
        self.state.matched.as_ref().map(|matched| Arc::clone(&matched.route().name))
    }

    /// What came of the last ask: to be given before the next step.
    pub fn answer(&mut self, answer: Answer) {
        self.answer = Some(answer);
    }

    /// Goes on as far as possible. After [`Step::Done`] the machine is spent.
    pub fn step<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Step {
        loop {
            if !self.begun {
                self.begun = true;
                if let Err(reply) = self.begin(cx, request, rng, recorder) {
                    return self.done(cx, request, Outcome::Reply(reply));
                }
            }
            let Some(filter) = cx.hcm.filters.get(self.next_filter) else { break };
            match self.filter(cx, filter, request, rng, recorder) {
                Passed::Next => {
                    self.next_filter += 1;
                    self.delayed = false;
                    self.answer = None;
                    self.fetching = None;
                    self.unfetched.clear();
                    self.processes = None;
                }
                Passed::Ask(ask) => {
                    self.told_of_body |=
                        matches!(ask, Ask::Body { .. } | Ask::Process(_) | Ask::Replace { .. });
                    return Step::Ask(ask);
                }
                Passed::Again => {}
                Passed::Reply(reply) => return self.done(cx, request, Outcome::Reply(reply)),
            }
        }
        let outcome = self.state.route(cx, request, rng, recorder);
        self.done(cx, request, outcome)
    }

    fn begin<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Result<(), Box<LocalReply>> {
        let state = &mut self.state;
        if !self.received {
            let received = cx.hcm.receive(cx.connection, request, rng)?;
            state.remote = received.client.address;
            state.internal = received.client.internal;
            state.request_id = received.request_id;
        }
        state.table = match &cx.hcm.routes {
            RouteSource::Inline(table) => Some(Arc::clone(table)),
            RouteSource::Rds { id, .. } => cx.plan.route_table(*id).cloned(),
            // Chosen with the route, as what chooses it may change.
            RouteSource::Scoped(_) => None,
        };
        if let RouteSource::Rds { name, .. } = &cx.hcm.routes
            && state.table.is_none()
        {
            recorder.note(|| Note::new("route table", Origin::name_of(name), "has not arrived"));
        }
        let chosen = state.choose_route(cx, request, rng, recorder);
        let of_route = state.matched.as_ref().and_then(|m| m.route().tracing);
        state.trace = cx.hcm.trace(of_route.as_ref(), request, &mut state.request_id, rng);
        chosen
    }

    fn filter<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        filter: &HttpFilter,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let own = self.state.override_of(&filter.name);
        match own {
            Some(Override::Disabled) => return Passed::Next,
            None if filter.disabled => return Passed::Next,
            _ => {}
        }
        match &filter.kind {
            FilterKind::Rbac(base) => {
                let rbac = match own {
                    Some(Override::Rbac(own)) => own,
                    _ => base,
                };
                self.state.rbac(cx, &Arc::clone(rbac), &filter.name, request, recorder)
            }
            FilterKind::Jwt(jwt) => {
                let own = match own {
                    Some(Override::Jwt(own)) => Some(Arc::clone(own)),
                    _ => None,
                };
                self.jwt(cx, &Arc::clone(jwt), own.as_deref(), request, rng, recorder)
            }
            FilterKind::ExtAuthz(authz) => {
                self.ext_authz(cx, &Arc::clone(authz), &filter.name, request, rng, recorder)
            }
            FilterKind::ExtProc(processor) => {
                self.ext_proc(cx, &Arc::clone(processor), &filter.name, request, rng, recorder)
            }
            FilterKind::LocalLimit(base) => {
                let limit = match own {
                    Some(Override::LocalLimit(own)) => own,
                    _ => base,
                };
                self.local_limit(cx, &Arc::clone(limit), request, rng, recorder)
            }
            FilterKind::GlobalLimit(limit) => {
                let own = match own {
                    Some(Override::GlobalLimit(own)) => Some(Arc::clone(own)),
                    _ => None,
                };
                self.global_limit(cx, &Arc::clone(limit), own.as_deref(), request, rng, recorder)
            }
            FilterKind::Fault(base) => {
                let fault = match own {
                    Some(Override::Fault(own)) => Arc::clone(own),
                    _ => Arc::clone(base),
                };
                self.fault(&fault, request, rng, recorder)
            }
            FilterKind::Cors => {
                let policy = self.state.cors_policy(&filter.name).or_else(|| self.state.old_cors());
                policy.map_or(Passed::Next, |policy| self.state.cors(&policy, request, rng))
            }
            FilterKind::Csrf(base) => {
                let csrf = match own {
                    Some(Override::Csrf(own)) => own,
                    _ => base,
                };
                self.state.csrf(&Arc::clone(csrf), request, rng)
            }
            FilterKind::Compress(compressor) => {
                let own = match own {
                    Some(Override::Compress(own)) => Some(*own),
                    _ => None,
                };
                let bodies = &mut self.state.bodies;
                let which = bodies.compressors.pass(compressor, own, &mut request.headers);
                bodies.passes.push(BodyPass::Compress(which));
                Passed::Next
            }
            FilterKind::Decompress(decompressor) => {
                decompressor.advertise(&mut request.headers);
                if self.has_body {
                    let (decode, count) = decompressor.request(&cx.hcm.stat_prefix, &mut request.headers);
                    self.state.counts.push(count);
                    self.state.resized |= decode.is_some();
                    let filter = decode.map(|decode| BodyFilter::Decode(Box::new(decode)));
                    self.state.body_filters.extend(filter);
                }
                self.state.bodies.passes.push(BodyPass::Decompress(Arc::clone(decompressor)));
                Passed::Next
            }
            FilterKind::GrpcWeb => {
                if let Some((web, is_text)) = GrpcWeb::take(request) {
                    self.state.resized = true;
                    self.state.bodies.passes.push(BodyPass::Web(web));
                    self.state.body_filters.extend(is_text.then_some(BodyFilter::WebText));
                }
                Passed::Next
            }
            FilterKind::DynamicForward => {
                let is_dynamic =
                    |cluster: &Arc<Cluster>| matches!(cluster.discovery, Discovery::Dynamic { .. });
                if self.state.cluster(cx, request).is_some_and(is_dynamic) {
                    let given = match own {
                        Some(Override::Host(HostFrom::Literal(host))) => Some(host.to_string()),
                        Some(Override::Host(HostFrom::Header(name))) => {
                            request.value(name).map(|v| String::from_utf8_lossy(&v).into_owned())
                        }
                        _ => None,
                    };
                    if let Some(host) = given.filter(|host| !host.is_empty()) {
                        request.authority = host;
                    }
                    self.state.dynamic = Some(request.authority.as_str().into());
                }
                Passed::Next
            }
            FilterKind::Buffer(most) => {
                let most = match own {
                    Some(Override::Buffer(own)) => *own,
                    _ => *most,
                };
                self.buffer(most, request)
            }
            FilterKind::Admission(admission) => {
                let admission = Arc::clone(admission);
                self.state.admission(cx, &admission, rng, recorder)
            }
            FilterKind::Gradient(gradient) => {
                let gradient = Arc::clone(gradient);
                self.state.concurrency(cx, &gradient, recorder)
            }
            FilterKind::OnDemand => self.on_demand(cx, request, recorder),
            FilterKind::Learn(base) => {
                let rules = match own {
                    Some(Override::Learn(own)) => own,
                    _ => base,
                };
                rules.apply(request);
                Passed::Next
            }
            FilterKind::Alpn(overrides) => {
                self.state.alpn = Some(Arc::clone(overrides));
                Passed::Next
            }
            FilterKind::PeerMetadata(exchange) => {
                if exchange.downstream_discovery {
                    self.state.take_peer(request, exchange.downstream_propagation);
                }
                if exchange.upstream_propagation {
                    self.state.tell_upstream = Some(exchange.skip_external);
                }
                Passed::Next
            }
            FilterKind::IstioStats | FilterKind::GrpcStats | FilterKind::Nothing | FilterKind::Router => {
                Passed::Next
            }
        }
    }

    /// Asks for the body as it is behind the filters before.
    fn ask_body(&mut self, more_than: u64) -> Passed {
        Passed::Ask(Ask::Body { more_than, filters: std::mem::take(&mut self.state.body_filters) })
    }

    /// Waits for the whole body, if it is no larger than allowed.
    fn buffer(&mut self, most: u32, request: &Request) -> Passed {
        if request.upgrade.is_some() || request.is_connect() {
            return Passed::Next;
        }
        let Some(Answer::Body(body)) = self.answer.take() else {
            return self.ask_body(u64::from(most));
        };
        let too_large = |body: &ReceivedBody| !body.complete || body.data.len() as u64 > u64::from(most);
        if body.as_ref().is_some_and(too_large) {
            let reply = LocalReply::new(413, "Payload Too Large", "request_payload_too_large");
            return Passed::Reply(Box::new(LocalReply { close: true, ..reply }));
        }
        self.state.buffered = true;
        Passed::Next
    }

    /// First the delay, then, when the driver comes back, the abort.
    fn fault<R: Random + ?Sized, E: Recorder>(
        &mut self,
        fault: &Fault,
        request: &Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        if fault.delay.is_none() && fault.abort.is_none() {
            return Passed::Next;
        }
        let cluster = self.state.cluster_name(request);
        if !fault.applies(request, cluster.as_deref()) {
            return Passed::Next;
        }
        if !self.delayed
            && let Some(delay) = fault.draw_delay(request, rng)
        {
            self.delayed = true;
            self.state.flags.insert(ResponseFlags::DELAY_INJECTED);
            recorder.note(|| Note::new("fault", "delay", format!("{delay:?}")));
            return Passed::Ask(Ask::Delay(delay));
        }
        let Some(abort) = fault.draw_abort(request, rng) else { return Passed::Next };
        recorder.note(|| Note::new("fault", "abort", format!("{abort:?}")));
        let mut reply = LocalReply::new(200, "fault filter abort", "fault_filter_abort");
        match abort {
            Abort::Http(status) => reply.status = status,
            Abort::Grpc(code) => reply.grpc_status = Some(code),
            Abort::Header => {}
        }
        Passed::Reply(Box::new(reply.with_flags(ResponseFlags::FAULT_INJECTED)))
    }

    fn done(&mut self, cx: &Context<'_>, request: &Request, outcome: Outcome) -> Step {
        let state = &mut self.state;
        let action = state.matched.as_ref().and_then(|m| m.route().action.forward());
        let upgrade = router::allows_upgrade(cx, action, request) == Some(true);
        let mut meant = None;
        if let Outcome::Reply(reply) = &outcome {
            state.flags.insert(reply.flags);
            meant = state.cluster(cx, request).cloned();
        }
        Step::Done(Box::new(Decision {
            matched: state.matched.take(),
            outcome,
            flags: state.flags,
            policies: std::mem::take(&mut state.policies),
            upgrade,
            rbac_allowed: state.rbac_allowed,
            jwt: state.jwt,
            csrf: state.csrf,
            bodies: std::mem::take(&mut state.bodies),
            body_filters: std::mem::take(&mut state.body_filters),
            resized: state.resized,
            buffered: state.buffered,
            peer: state.peer.take(),
            peer_wants_answer: state.peer_wants_answer,
            remote: state.remote,
            internal: state.internal,
            request_id: Arc::clone(&state.request_id),
            trace: state.trace,
            operation: state.operation.take(),
            cors: state.cors.take(),
            answers: std::mem::take(&mut state.answers),
            counts: std::mem::take(&mut state.counts),
            permits: std::mem::take(&mut state.permits),
            charged: state.charged,
            weighted: state.weighted,
            meant,
            set_cookies: std::mem::take(&mut state.cookies),
        }))
    }
}

enum Passed {
    Next,
    /// The request begins again, from the first filter.
    Again,
    Ask(Ask),
    Reply(Box<LocalReply>),
}

impl State {
    fn choose_route<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Result<(), Box<LocalReply>> {
        if let RouteSource::Scoped(scoped) = &cx.hcm.routes {
            self.table = scoped.table(cx.plan, request);
            recorder.note(|| match &self.table {
                Some(table) => Note::new("scope", &*table.name, "is the route table of the request's scope"),
                None => Note::new("scope", "", "the request has no scope whose route table is there"),
            });
        }
        let Some(table) = self.table.clone() else { return Ok(()) };
        if !self.internal {
            for name in &table.internal_only_headers {
                request.headers.remove(name);
            }
        }
        let Some(host) = table.virtual_host(request, recorder).cloned() else { return Ok(()) };
        let insecure = request.headers.known_str(Known::XForwardedProto) != Some("https");
        let redirect = match host.require_tls {
            RequireTls::None => false,
            RequireTls::External => insecure && !self.internal,
            RequireTls::All => insecure,
        };
        if redirect {
            recorder.note(|| Note::new("virtual host", &*host.name, "requires TLS: redirected"));
            let mut reply = LocalReply::new(301, "", "direct_response");
            reply.headers.set(Known::Location, format!("https://{}{}", request.authority, request.path));
            reply.direct = true;
            return Err(Box::new(reply));
        }
        let mut subject = MatchSubject {
            request,
            connection: cx.connection,
            draw: rng.next_u64(),
            ignore_path_parameters: table.ignore_path_parameters,
        };
        let Some(index) = host.route(&mut subject, recorder) else { return Ok(()) };
        if let Action::Forward(action) = &host.routes[index].action
            && let Destination::Weighted { clusters, total, by } = &action.destination
        {
            let draw = by
                .as_ref()
                .and_then(|name| request.value(name))
                .and_then(|v| std::str::from_utf8(&v).ok().and_then(|t| t.parse::<u64>().ok()))
                .map_or_else(|| rng.below(*total), |n| n % total);
            self.weighted = Some(by_weight(clusters.iter().map(|c| c.weight), draw));
        }
        self.operation = host.routes[index].operation.clone();
        self.matched = Some(Matched { table, virtual_host: host, index });
        Ok(())
    }

    /// After what routes may ask about has changed.
    fn choose_again<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        (self.matched, self.weighted, self.operation) = (None, None, None);
        match self.choose_route(cx, request, rng, recorder) {
            Ok(()) => Passed::Next,
            Err(reply) => Passed::Reply(reply),
        }
    }

    /// What the most specific level says for a filter.
    fn override_of(&self, filter: &str) -> Option<&Override> {
        self.overrides_of(filter).next()
    }

    /// What all levels say for a filter, the most specific first.
    fn overrides_of<'a>(&'a self, filter: &str) -> impl Iterator<Item = &'a Override> {
        let levels: [Option<&Overrides>; 4] = match self.matched.as_ref() {
            None => [None; 4],
            Some(matched) => [
                self.weighted_overrides(matched),
                Some(&matched.route().overrides),
                Some(&matched.virtual_host.overrides),
                Some(&matched.table.overrides),
            ],
        };
        levels.into_iter().flatten().filter_map(move |o| o.get(filter))
    }

    fn weighted_overrides<'m>(&self, matched: &'m Matched) -> Option<&'m Overrides> {
        match &matched.route().action {
            Action::Forward(action) => match &action.destination {
                Destination::Weighted { clusters, .. } => clusters.get(self.weighted?).map(|c| &c.overrides),
                _ => None,
            },
            _ => None,
        }
    }

    fn rbac<E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        rbac: &Rbac,
        filter: &str,
        request: &mut Request,
        recorder: &mut E,
    ) -> Passed {
        if rbac.is_idle() {
            return Passed::Next;
        }
        let subject =
            rbac::Subject { connection: cx.connection, request: Some(request), remote: self.remote };
        let mut learned = Vec::new();
        let verdict = rbac.judge(&subject, &mut self.policies, &mut learned, recorder);
        rbac::store(&mut request.metadata, filter, learned);
        if verdict.allowed {
            self.rbac_allowed += u32::from(rbac.enforces());
            return Passed::Next;
        }
        let policy = verdict.policy.as_deref().unwrap_or("none").replace(' ', "_");
        let mut reply = LocalReply::new(403, "RBAC: access denied", "");
        reply.details = format!("rbac_access_denied_matched_policy[{policy}]").into();
        Passed::Reply(Box::new(reply))
    }

    fn csrf<R: Random + ?Sized>(&mut self, csrf: &Csrf, request: &Request, rng: &mut R) -> Passed {
        let (enabled, shadow) = (csrf.enabled.draw(rng), csrf.shadow.draw(rng));
        if !enabled && !shadow {
            return Passed::Next;
        }
        // A dry run counts.
        let allowed = csrf.allows(request, &mut self.csrf);
        if allowed || !enabled {
            return Passed::Next;
        }
        Passed::Reply(Box::new(LocalReply::new(403, "Invalid origin", "csrf_origin_mismatch")))
    }

    /// The policies of all levels as one. Only what is forwarded has any, as in Envoy.
    fn cors_policy(&self, filter: &str) -> Option<Arc<CorsPolicy>> {
        self.matched.as_ref()?.route().action.forward()?;
        let mut policies = self.overrides_of(filter).filter_map(|own| match own {
            Override::Cors(policy) => Some(policy),
            _ => None,
        });
        let first = Arc::clone(policies.next()?);
        Some(policies.fold(first, |own, wider| Arc::new(own.or(wider))))
    }

    fn old_cors(&self) -> Option<Arc<CorsPolicy>> {
        self.matched.as_ref()?.route().action.forward()?.cors.clone()
    }

    fn cors<R: Random + ?Sized>(
        &mut self,
        policy: &Arc<CorsPolicy>,
        request: &Request,
        rng: &mut R,
    ) -> Passed {
        if !policy.enabled.draw(rng) {
            return Passed::Next;
        }
        match policy.judge(request) {
            Preflight::Ignore => Passed::Next,
            Preflight::Allow(origin) => {
                self.cors = Some(CorsAnswer { origin, policy: Arc::clone(policy) });
                Passed::Next
            }
            Preflight::Answer(headers) => {
                let mut reply = LocalReply::new(200, "", "cors_response");
                reply.headers = headers;
                reply.direct = true;
                Passed::Reply(Box::new(reply))
            }
        }
    }

    /// Takes the client's word for who it is, and remembers whether it wants ours.
    fn take_peer(&mut self, request: &mut Request, answer: bool) {
        let id = request.headers.known_str(Known::XEnvoyPeerMetadataId).unwrap_or_default().to_owned();
        let metadata = request.headers.known(Known::XEnvoyPeerMetadata).cloned();
        self.peer_wants_answer = answer && (metadata.is_some() || !id.is_empty());
        if let Some(metadata) = metadata {
            self.peer = PeerMetadata::from_headers(&metadata, &id).map(Arc::new);
        }
        request.headers.remove_known(Known::XEnvoyPeerMetadata);
        request.headers.remove_known(Known::XEnvoyPeerMetadataId);
    }

    /// The cluster that the route leads to, if it exists.
    pub(crate) fn cluster<'p>(&self, cx: &Context<'p>, request: &Request) -> Option<&'p Arc<Cluster>> {
        match &self.matched.as_ref()?.route().action.forward()?.destination {
            Destination::Cluster(cluster) => cx.plan.cluster(cluster.id),
            Destination::Weighted { clusters, .. } => {
                cx.plan.cluster(clusters.get(self.weighted?)?.cluster.id)
            }
            Destination::Header(_) => cx.plan.cluster_named(&self.cluster_name(request)?),
        }
    }

    /// The cluster that the route names, whether it exists or not.
    pub(crate) fn cluster_name(&self, request: &Request) -> Option<Arc<str>> {
        let action = self.matched.as_ref()?.route().action.forward()?;
        match &action.destination {
            Destination::Cluster(cluster) => Some(Arc::clone(&cluster.name)),
            Destination::Header(name) => Some(String::from_utf8_lossy(&request.value(name)?).into()),
            Destination::Weighted { clusters, .. } => {
                clusters.get(self.weighted?).map(|c| Arc::clone(&c.cluster.name))
            }
        }
    }
}

/// The index that `draw`, below the sum of the weights, falls on.
pub(crate) fn by_weight(weights: impl Iterator<Item = u32>, draw: u64) -> usize {
    let mut left = draw;
    let mut last = 0;
    for (i, weight) in weights.enumerate() {
        let weight = u64::from(weight);
        if left < weight {
            return i;
        }
        left -= weight;
        last = i;
    }
    last
}
