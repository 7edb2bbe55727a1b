//! The router filter: what the route says is done to the request, and written down for the proxy.

use std::sync::Arc;
use std::time::Duration;

use base::Random;
use smallvec::SmallVec;
use upstream::{Labels, RetryOn, RetryPolicy};

use super::{Context, State};
use crate::cluster::{Cluster, Discovery, LB, UpstreamProtocol, learned, merged};
use crate::decision::{Expected, Forward, HostRewriteLater, LocalReply, Matched, Mirror, Outcome};
use crate::explain::{Note, Recorder};
use crate::flags::ResponseFlags;
use crate::headers::Known;
use crate::listener::Direction;
use crate::log::{LogEntry, UpstreamEntry};
use crate::matching::HeaderMatcher;
use crate::request::{Request, Version};
use crate::route::{
    Action, Destination, ForwardAction, HeaderMutations, MirrorPolicy, MirrorTarget, MutationLevels, Retry,
    hash,
};

impl State {
    pub(super) fn route<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Outcome {
        let Some(matched) = self.matched.clone() else {
            return reply(
                LocalReply::new(404, "", "route_not_found").with_flags(ResponseFlags::NO_ROUTE_FOUND),
            );
        };
        match &matched.route().action {
            Action::Direct(direct) => {
                let mut answer = LocalReply::new(direct.status, direct.body.clone(), "direct_response");
                answer.direct = true;
                reply(answer)
            }
            Action::Redirect(redirect) => {
                let mut answer = LocalReply::new(redirect.status, "", "direct_response");
                answer.direct = true;
                let location = redirect.location(request, &matched.route().matches, &request.path);
                answer.headers.set(Known::Location, location);
                reply(answer)
            }
            Action::Forward(action) => self.forward(cx, &matched, action, request, rng, recorder),
        }
    }

    fn forward<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        matched: &Matched,
        action: &ForwardAction,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Outcome {
        let Some(cluster) = self.cluster(cx, request).cloned() else {
            let missing = || self.cluster_name(request).unwrap_or_default().to_string();
            recorder.note(|| Note::new("cluster", missing(), "does not exist"));
            let answer = LocalReply::new(action.not_found_status, "", "cluster_not_found");
            return reply(answer.with_flags(ResponseFlags::NO_CLUSTER_FOUND));
        };
        recorder.note(|| Note::new("cluster", &*cluster.name, self.why_cluster(action)));
        if allows_upgrade(cx, Some(action), request) == Some(false) {
            return reply(LocalReply::new(403, "", "upgrade_failed"));
        }
        let hedge = hedges(action, request);
        let timeouts = Timeouts::of(cx, action, request);
        let timeout_status = status(request, Known::XEnvoyUpstreamRqTimeoutAltResponse).unwrap_or(504);
        for name in [Known::XEnvoyUpstreamRqTimeoutAltResponse, Known::XEnvoyUpstreamAltStatName] {
            request.headers.remove_known(name);
        }
        let retry = self.retry(action, request);
        let auto_host = self.mutate(cx, matched, action, &cluster, request);
        let expected = timeouts.expected(cx, action, hedge, request);
        if let Some(expected) = &expected {
            expected.announce(request);
        }
        let (hash, cookies) = hash(&action.hash, request, self.remote, rng);
        self.cookies = cookies;
        self.tell_peer(cx, &cluster, request);
        self.decorate(cx, request);
        let attempt_count = matched.virtual_host.attempt_count;
        if attempt_count {
            request.headers.set(Known::XEnvoyAttemptCount, "1");
        }
        let mirrors = match action.mirrors.as_slice() {
            [] => &matched.table.mirrors,
            own => own,
        };
        let mirrors = mirrors.iter().filter_map(|m| mirror(cx, m, request, rng)).collect();
        let original_destination = match &cluster.discovery {
            Discovery::OriginalDestination { header: Some(name), .. } => {
                request.headers.get_str(name).and_then(|text| text.parse().ok())
            }
            _ => None,
        };
        Outcome::Forward(Box::new(Forward {
            priority: action.priority,
            hash,
            // An upgraded connection or tunnel has no end to wait for.
            timeout: timeouts.total.filter(|_| request.upgrade.is_none() && !request.is_connect()),
            timeout_status,
            idle_timeout: action.idle_timeout.unwrap_or(cx.hcm.timeouts.stream_idle),
            max_stream_duration: timeouts.stream,
            expected,
            hedge: hedge && request.upgrade.is_none() && !request.is_connect(),
            per_try_timeout: timeouts.per_try,
            retry,
            mirrors,
            host_rewrite: if auto_host { HostRewriteLater::Auto } else { HostRewriteLater::None },
            upgrade: request.upgrade.is_some() || request.is_connect(),
            attempt_count,
            alpn: self.alpn_for(&cluster, request),
            original_destination,
            subset: self.subset(action, request),
            dynamic: self.dynamic.take(),
            cluster,
        }))
    }

    /// What the route wants of hosts, then the weighted cluster, then what filters learned.
    fn subset(&self, action: &ForwardAction, request: &Request) -> Arc<Labels> {
        let weighted = match &action.destination {
            Destination::Weighted { clusters, .. } => self.weighted.and_then(|i| clusters.get(i)),
            _ => None,
        };
        let own = weighted.map_or(&[][..], |c| &c.subset);
        let learned = request.metadata.filter(LB).map(learned).unwrap_or_default();
        if own.is_empty() && learned.is_empty() {
            return Arc::clone(&action.subset);
        }
        merged([&*action.subset, own, &learned]).into()
    }

    fn why_cluster(&self, action: &ForwardAction) -> String {
        match (&action.destination, self.weighted) {
            (Destination::Weighted { clusters, total, .. }, Some(i)) => {
                format!("drawn by weight {} of {total}", clusters[i].weight)
            }
            (Destination::Header(name), _) => format!("named by the header {name}"),
            _ => "the route's cluster".to_owned(),
        }
    }

    /// Header rules of all levels, then path and host. Whether the host waits for the endpoint.
    fn mutate(
        &self,
        cx: &Context<'_>,
        matched: &Matched,
        action: &ForwardAction,
        cluster: &Cluster,
        request: &mut Request,
    ) -> bool {
        let levels = matched.levels(self.weighted);
        if !levels.is_empty() {
            let entry = LogEntry {
                request: Some(request),
                downstream_remote: self.remote,
                route_name: &matched.route().name,
                upstream: UpstreamEntry {
                    cluster: &cluster.stat_name,
                    cluster_raw: &cluster.name,
                    ..UpstreamEntry::default()
                },
                flags: self.flags,
                ..LogEntry::new(cx.connection, cx.start)
            };
            let values = levels.request_values(&entry);
            levels.apply_to_request(request, &values);
        }
        let tell = !cx.hcm.router.suppress_envoy_headers;
        action.rewrite(request, &matched.route().matches, self.weighted, tell)
    }

    /// The route's policy, with what trusted headers of the client say on top.
    fn retry(&self, action: &ForwardAction, request: &mut Request) -> Option<Arc<Retry>> {
        let asked = [
            Known::XEnvoyRetryOn,
            Known::XEnvoyRetryGrpcOn,
            Known::XEnvoyMaxRetries,
            Known::XEnvoyRetriableStatusCodes,
            Known::XEnvoyRetriableHeaderNames,
        ];
        let retry = if asked.iter().any(|name| request.headers.contains(*name)) {
            Some(Arc::new(by_headers(action.retry.as_deref(), request)))
        } else {
            action.retry.clone()
        };
        for name in asked {
            request.headers.remove_known(name);
        }
        retry
            .filter(|r| r.policy.on != RetryOn::NONE)
            .filter(|r| r.request_headers.is_empty() || r.request_headers.iter().any(|h| h.matches(request)))
    }

    fn tell_peer(&self, cx: &Context<'_>, cluster: &Cluster, request: &mut Request) {
        let Some(skip_external) = self.tell_upstream else { return };
        if cx.node.metadata.is_empty() || (skip_external && cluster.metadata.external) {
            return;
        }
        request.headers.set(Known::XEnvoyPeerMetadataId, cx.node.id.clone());
        request.headers.set(Known::XEnvoyPeerMetadata, cx.node.metadata.clone());
    }

    /// The span's name: told to the other side on the way out, taken from it on the way in.
    fn decorate(&mut self, cx: &Context<'_>, request: &mut Request) {
        if cx.hcm.tracing.is_none() {
            return;
        }
        if cx.direction == Direction::Outbound {
            if let Some(operation) = &self.operation {
                request.headers.set(Known::XEnvoyDecoratorOperation, operation.to_string());
            }
            return;
        }
        if let Some(given) = request.headers.known_str(Known::XEnvoyDecoratorOperation) {
            self.operation = Some(given.into());
        }
        request.headers.remove_known(Known::XEnvoyDecoratorOperation);
    }

    fn alpn_for(&self, cluster: &Cluster, request: &Request) -> Option<Arc<[Arc<str>]>> {
        let overrides = self.alpn.as_ref()?;
        let protocol = match (cluster.http.protocol, request.version) {
            (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Downstream, Version::Http2) => 2,
            (UpstreamProtocol::Downstream, Version::Http10) => 0,
            _ => 1,
        };
        overrides.by_protocol[protocol].clone()
    }
}

impl Matched {
    /// Header rules in the order in which they apply: the most specific first, unless the most specific shall win.
    pub(crate) fn levels(&self, weighted: Option<usize>) -> MutationLevels<'_> {
        let route = self.route();
        let mut levels: SmallVec<[&HeaderMutations; 4]> = SmallVec::new();
        if let (Action::Forward(action), Some(i)) = (&route.action, weighted)
            && let Destination::Weighted { clusters, .. } = &action.destination
        {
            levels.extend(clusters.get(i).map(|c| &c.mutations));
        }
        levels.extend([&route.mutations, &self.virtual_host.mutations, &self.table.mutations]);
        if self.table.most_specific_wins {
            levels.reverse();
        }
        MutationLevels(levels)
    }
}

fn reply(reply: LocalReply) -> Outcome {
    Outcome::Reply(Box::new(reply))
}

/// Whether the upgrade or tunnel that the request wants is let through; nothing where it wants none.
pub(super) fn allows_upgrade(
    cx: &Context<'_>,
    action: Option<&ForwardAction>,
    request: &Request,
) -> Option<bool> {
    let wanted = match &request.upgrade {
        Some(upgrade) => &**upgrade,
        None if request.is_connect() => "connect",
        None => return None,
    };
    let by_default =
        cx.hcm.upgrades.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).is_some_and(|(_, e)| *e);
    Some(action.map_or(by_default, |action| action.allows_upgrade(wanted, by_default)))
}

/// Whether tries that take too long go on beside others: as the route says, unless a trusted client says otherwise.
fn hedges(action: &ForwardAction, request: &mut Request) -> bool {
    let told = match request.headers.known_str(Known::XEnvoyHedgeOnPerTryTimeout) {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    request.headers.remove_known(Known::XEnvoyHedgeOnPerTryTimeout);
    told.unwrap_or(action.hedge)
}

struct Timeouts {
    /// Of the answer, from the end of the request.
    total: Option<Duration>,
    /// Of the whole, from its beginning.
    stream: Option<Duration>,
    per_try: Option<Duration>,
}

impl Timeouts {
    fn of(cx: &Context<'_>, action: &ForwardAction, request: &mut Request) -> Self {
        let by_grpc = action.grpc_timeout_max.filter(|_| request.is_grpc());
        let mut stream = action.max_stream_duration.unwrap_or(cx.hcm.timeouts.max_stream);
        let mut total = match by_grpc {
            _ if action.bounds_streams => None,
            Some(max) => grpc_timeout(action, max, request),
            None => action.timeout,
        };
        if let (true, Some(max)) = (action.bounds_streams, by_grpc)
            && request.headers.contains(Known::GrpcTimeout)
        {
            stream = grpc_timeout(action, max, request);
        }
        let mut per_try = action.retry.as_ref().and_then(|r| r.policy.per_try_timeout);
        if cx.hcm.router.respect_expected_timeout
            && let Some(expected) = millis(request, Known::XEnvoyExpectedRqTimeoutMs)
        {
            total = expected;
        }
        if let Some(own) = millis(request, Known::XEnvoyUpstreamRqTimeoutMs) {
            total = own;
        }
        if let Some(own) = millis(request, Known::XEnvoyUpstreamRqPerTryTimeoutMs) {
            per_try = own;
        }
        request.headers.remove_known(Known::XEnvoyUpstreamRqTimeoutMs);
        request.headers.remove_known(Known::XEnvoyUpstreamRqPerTryTimeoutMs);
        if total.is_some_and(|t| per_try.is_some_and(|p| p >= t)) {
            per_try = None;
        }
        Self { total, stream, per_try }
    }

    /// What the upstream is told of how long it has.
    fn expected(
        &self,
        cx: &Context<'_>,
        action: &ForwardAction,
        hedge: bool,
        request: &Request,
    ) -> Option<Expected> {
        // A try that is hedged has all the time that there is.
        let time = self.per_try.filter(|_| !hedge).or(self.total)?;
        let by_grpc = action.grpc_timeout_max.is_some() && !action.bounds_streams && request.is_grpc();
        Some(Expected { time, by_header: !cx.hcm.router.suppress_envoy_headers, by_grpc })
    }
}

/// A header that is the status of an answer.
fn status(request: &Request, name: Known) -> Option<u16> {
    request.headers.known_str(name)?.parse().ok().filter(|status| (200..=599).contains(status))
}

/// A header in milliseconds; zero is none.
fn millis(request: &Request, name: Known) -> Option<Option<Duration>> {
    let n: u64 = request.headers.known_str(name)?.parse().ok()?;
    Some((n > 0).then(|| Duration::from_millis(n)))
}

/// gRPC over HTTP/2, "Timeout": up to eight digits and a unit.
fn grpc_timeout(action: &ForwardAction, max: Option<Duration>, request: &Request) -> Option<Duration> {
    let given = request.headers.known_str(Known::GrpcTimeout).and_then(parse_grpc_timeout);
    let offset = action.grpc_timeout_offset.unwrap_or_default();
    let given = given.map(|d| if d > offset { d - offset } else { d });
    match (given, max) {
        (Some(given), Some(max)) => Some(given.min(max)),
        (given, max) => given.or(max),
    }
}

fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

fn by_headers(base: Option<&Retry>, request: &Request) -> Retry {
    let mut retry = base.cloned().unwrap_or_else(|| Retry {
        policy: RetryPolicy::default(),
        response_headers: Vec::new(),
        request_headers: Vec::new(),
    });
    for name in [Known::XEnvoyRetryOn, Known::XEnvoyRetryGrpcOn] {
        if let Some(text) = request.headers.known_str(name) {
            retry.policy.on = retry.policy.on.with(RetryOn::parse(text).0);
        }
    }
    if let Some(n) = request.headers.known_str(Known::XEnvoyMaxRetries).and_then(|t| t.parse().ok()) {
        retry.policy.retries = n;
    }
    if let Some(list) = request.headers.known_str(Known::XEnvoyRetriableStatusCodes) {
        retry.policy.status_codes.extend(list.split(',').filter_map(|c| c.trim().parse::<u16>().ok()));
    }
    if let Some(list) = request.headers.known_str(Known::XEnvoyRetriableHeaderNames) {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        retry.response_headers.extend(names.map(HeaderMatcher::present));
    }
    retry
}

fn mirror<R: Random + ?Sized>(
    cx: &Context<'_>,
    policy: &MirrorPolicy,
    request: &Request,
    rng: &mut R,
) -> Option<Mirror> {
    if !policy.chance.draw(rng) {
        return None;
    }
    let cluster = match &policy.cluster {
        MirrorTarget::Cluster(cluster) => cx.plan.cluster(cluster.id)?,
        MirrorTarget::Header(name) => {
            cx.plan.cluster_named(std::str::from_utf8(&request.value(name)?).ok()?)?
        }
    };
    let authority = match &policy.host {
        Some(host) => host.to_string(),
        None if policy.keep_host => request.authority.clone(),
        None => {
            let host = crate::route::without_port(&request.authority);
            format!("{host}-shadow{}", &request.authority[host.len()..])
        }
    };
    Some(Mirror { cluster: Arc::clone(cluster), authority, trace_sampled: policy.trace_sampled })
}
