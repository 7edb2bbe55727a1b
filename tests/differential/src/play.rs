//! Plays everything to both proxies at once and gathers what differs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::bootstrap::{asked_port, bootstrap, further_ports, listener_port, upstream_port};
use crate::case::{Case, Group};
use crate::contestant::{Contestant, Kind, Place, objection};
use crate::listed::REFUSED;
use crate::message::text;
use crate::observe::{Difference, Observation};
use crate::tls::Keys;
use crate::upstream::Upstream;
use crate::{client, client_h2, client_tcp};

const KINDS: [Kind; 2] = [Kind::Envoy, Kind::Mizzen];
/// Groups that play at once. Cases of a group play one after the other.
const AT_ONCE: usize = 8;

/// What came of all of it.
pub struct Outcome {
    pub cases: Vec<Compared>,
    /// Played, each with counters of its own.
    pub groups: usize,
}

/// One case, and what the two disagree on.
pub struct Compared {
    pub name: String,
    /// What was sent, for the reader of a difference.
    pub messages: Vec<String>,
    pub differences: Vec<Difference>,
}

impl Compared {
    /// The message that a fact is about.
    pub fn message(&self, what: &str) -> Option<&str> {
        let turn: usize = what.split('.').find_map(|part| part.parse().ok())?;
        self.messages.get(turn.checked_sub(1)?).map(String::as_str)
    }

    pub fn is_refused(&self) -> bool {
        self.differences.first().is_some_and(|d| d.what == REFUSED)
    }
}

/// Starts both, plays, ends both, and compares.
pub async fn all(envoy: &Path, groups: Vec<Group>) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let keys = Keys::make()?;
    keys.write(folder.path())?;
    let place = Place::of_this_process();
    let (groups, refused) = taken(envoy, place, groups, folder.path()).await?;
    let config = bootstrap(&groups)?;
    let mut both = Vec::new();
    for kind in KINDS {
        let folder = folder.path().join(format!("{kind:?}"));
        std::fs::create_dir_all(&folder)?;
        keys.write(&folder)?;
        match Contestant::start(kind, envoy, place, &config, &folder, &[]).await {
            Ok(contestant) => both.push(contestant),
            Err(error) => return Err(culprits(kind, envoy, place, &groups, &folder).await?.unwrap_or(error)),
        }
    }
    let mut rounds = play_all(place, &keys, &groups).await?;
    let stats = (both[0].stats().await?, both[1].stats().await?);
    let health = (both[0].health(place).await?, both[1].health(place).await?);
    let mut logs = Vec::new();
    for contestant in both {
        logs.push(contestant.stop().await?);
    }
    for (i, log) in logs.iter().enumerate() {
        read_log(log, &mut rounds, i);
    }
    let mut cases: Vec<Compared> = rounds.into_iter().map(|round| round.compare(place)).collect();
    cases.extend(counters(&groups, &stats, &health));
    cases.extend(refused);
    Ok(Outcome { cases, groups: groups.len() })
}

/// Without the groups that `mizzen-proxy` refuses, which are cases of their own.
async fn taken(
    envoy: &Path,
    place: Place,
    mut groups: Vec<Group>,
    folder: &Path,
) -> anyhow::Result<(Vec<Group>, Vec<Compared>)> {
    let mut refused = Vec::new();
    loop {
        let config = bootstrap(&groups)?;
        let Some(objection) = objection(Kind::Mizzen, envoy, place, &config, folder).await? else {
            return Ok((groups, refused));
        };
        let before = groups.len();
        let reasons: Vec<Option<String>> =
            (0..before).map(|i| reason(&objection, i, &groups[i], &config)).collect();
        let mut reasons = reasons.into_iter();
        groups.retain(|group| match reasons.next().flatten() {
            None => true,
            Some(reason) => {
                refused.extend(group.cases.iter().map(|case| Compared {
                    name: format!("{}/{}", group.group, case.name),
                    messages: case.messages(),
                    differences: vec![Difference {
                        what: REFUSED.into(),
                        envoy: Some("takes it".into()),
                        mizzen: Some(reason.clone()),
                    }],
                }));
                false
            }
        });
        anyhow::ensure!(groups.len() < before, "mizzen-proxy refuses the bootstrap: {objection}");
    }
}

/// The line of an objection that is about this group: by its name, or by its place in the file.
fn reason(objection: &str, index: usize, group: &Group, config: &Value) -> Option<String> {
    let clusters = config["static_resources"]["clusters"].as_array()?;
    let own = |name: &str| name == group.group || name.starts_with(&format!("{}-", group.group));
    let places = clusters
        .iter()
        .enumerate()
        .filter(|(_, c)| c["name"].as_str().is_some_and(own))
        .map(|(i, _)| format!("lusters[{i}]"))
        .chain([format!("isteners[{index}]")]);
    let mut names = group.clusters.keys().map(|name| format!("{}-{name}", group.group)).collect::<Vec<_>>();
    names.push(group.group.clone());
    let mut marks: Vec<String> = names
        .iter()
        .flat_map(|name| {
            [format!(" {name}: "), format!(" {name:?}: "), format!("/{name}: "), format!(" {name} ")]
        })
        .collect();
    marks.extend(places);
    let line = objection.lines().find(|line| marks.iter().any(|mark| line.contains(mark)))?;
    Some(line.to_owned())
}

/// The groups that a proxy does not take, where they are the cause.
async fn culprits(
    kind: Kind,
    envoy: &Path,
    place: Place,
    groups: &[Group],
    folder: &Path,
) -> anyhow::Result<Option<anyhow::Error>> {
    let mut faults = Vec::new();
    for group in groups {
        let config = bootstrap(std::slice::from_ref(group))?;
        if let Some(objection) = objection(kind, envoy, place, &config, folder).await? {
            faults.push(format!("{kind:?} refuses group {}: {objection}", group.group));
        }
    }
    Ok((!faults.is_empty()).then(|| anyhow::anyhow!(faults.join("\n"))))
}

/// What both saw of one case.
struct Round {
    name: String,
    client: String,
    messages: Vec<String>,
    seen: [Observation; 2],
    lines: [usize; 2],
}

impl Round {
    fn compare(mut self, place: Place) -> Compared {
        for (seen, kind) in self.seen.iter_mut().zip(KINDS) {
            seen.hide_port(&self.client);
            seen.rename(&[
                (place.proxy(kind).to_string(), "PROXY"),
                (place.upstream(kind).to_string(), "UPSTREAM"),
            ]);
        }
        let differences = self.seen[0].differences(&self.seen[1]);
        Compared { name: self.name, messages: self.messages, differences }
    }
}

async fn play_all(place: Place, keys: &Keys, groups: &[Group]) -> anyhow::Result<Vec<Round>> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let mut number = 0;
    for (index, group) in groups.iter().enumerate() {
        let (permits, keys, group, first) = (permits.clone(), keys.clone(), group.clone(), number);
        number += group.cases.len();
        playing.spawn(async move {
            let _permit = permits.acquire().await?;
            let rounds = Box::pin(play_group(place, &keys, index, &group, first)).await;
            rounds.with_context(|| format!("group {}", group.group)).map(|rounds| (index, rounds))
        });
    }
    let mut all = BTreeMap::new();
    while let Some(played) = playing.join_next().await {
        let (index, rounds) = played??;
        all.insert(index, rounds);
    }
    Ok(all.into_values().flatten().collect())
}

async fn play_group(
    place: Place,
    keys: &Keys,
    index: usize,
    group: &Group,
    first: usize,
) -> anyhow::Result<Vec<Round>> {
    let acceptor = keys.acceptor()?;
    let (mut upstreams, mut asked) = (Vec::new(), Vec::new());
    for kind in KINDS {
        if let Some(port) = asked_port(index, group) {
            asked.push(Upstream::start((place.upstream(kind), port).into(), false, acceptor.clone()).await?);
        }
        let address = (place.upstream(kind), upstream_port(index)).into();
        let upstream = Upstream::start(address, group.tcp.is_some(), acceptor.clone())
            .await
            .with_context(|| format!("upstream on {address}"))?;
        for port in further_ports(index, group) {
            let address = (place.upstream(kind), port).into();
            upstream.listen(address, group.tcp.is_some(), acceptor.clone()).await?;
        }
        upstreams.push(upstream);
    }
    let checked = group.is_checked();
    if checked {
        // The first rounds fail: nobody listened yet.
        for upstream in &upstreams {
            upstream.settle_checks(4).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut rounds = Vec::new();
    for (i, case) in group.cases.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(group.pause)).await;
        rounds.push(
            Box::pin(play_case(place, keys, index, group, case, first + i, [&upstreams, &asked])).await?,
        );
    }
    Ok(rounds)
}

async fn play_case(
    place: Place,
    keys: &Keys,
    index: usize,
    group: &Group,
    case: &Case,
    number: usize,
    [upstreams, asked]: [&[Upstream]; 2],
) -> anyhow::Result<Round> {
    let from = place.client(number);
    let port = listener_port(index);
    let script = case.upstream.as_ref().unwrap_or(&group.upstream);
    upstreams.iter().for_each(|u| u.script(script));
    asked.iter().for_each(|u| u.script(case.asked.as_ref().unwrap_or(&group.asked)));
    let address = |kind| (place.proxy(kind), port).into();
    let (one, other) = tokio::join!(
        play(keys, group, case, address(Kind::Envoy), from),
        play(keys, group, case, address(Kind::Mizzen), from)
    );
    let fault = || format!("case {}", case.name);
    let (one, other) = (one.with_context(fault)?, other.with_context(fault)?);
    if case.half_close {
        // Whether such a request goes on is a matter of moments.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let most = upstreams.iter().map(Upstream::count).max().unwrap_or_default().max(case.copies);
    let mut seen = [one, other];
    for (upstream, seen) in upstreams.iter().zip(&mut seen) {
        upstream.settle(most).await;
        let mut messages = upstream.seen();
        if case.unordered {
            messages.sort_by_key(|m| (m.line.clone(), m.header("host").map(str::to_owned)));
        }
        for (i, message) in messages.iter().enumerate() {
            seen.upstream(i + 1, message);
        }
        if group.is_checked()
            && let Some(check) = upstream.settle_checks(1).await
        {
            seen.check(&check);
        }
    }
    for (asked, seen) in asked.iter().zip(&mut seen) {
        for (i, message) in asked.seen().iter().enumerate() {
            seen.asked(i + 1, message);
        }
    }
    Ok(Round {
        name: format!("{}/{}", group.group, case.name),
        client: from.to_string(),
        messages: case.messages(),
        seen,
        lines: [0, 0],
    })
}

/// What one client saw.
async fn play(
    keys: &Keys,
    group: &Group,
    case: &Case,
    to: SocketAddr,
    from: IpAddr,
) -> anyhow::Result<Observation> {
    let stream = client::connect(to, from).await?;
    if group.tls.is_none() {
        return over(group, case, case.http2, stream).await;
    }
    match keys.connect(&case.hello, stream).await {
        Ok(stream) => {
            let protocol = stream.get_ref().1.alpn_protocol().map(text);
            let http2 = protocol.as_deref() == Some("h2");
            let mut seen = over(group, case, http2, stream).await?;
            seen.note("protocol", protocol.as_deref().unwrap_or("-"));
            Ok(seen)
        }
        Err(_) => {
            let mut seen = Observation::default();
            seen.note("handshake", "failed");
            Ok(seen)
        }
    }
}

async fn over<S>(group: &Group, case: &Case, http2: bool, stream: S) -> anyhow::Result<Observation>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match (&group.tcp, http2) {
        (Some(_), _) => Ok(client_tcp::play(case, stream).await),
        (None, true) => {
            let scheme = if group.tls.is_some() { "https" } else { "http" };
            client_h2::play(case, scheme, stream).await
        }
        (None, false) => Ok(client::play(case, stream).await),
    }
}

/// Gives each line of an access log to the case whose client it tells of.
fn read_log(log: &str, rounds: &mut [Round], which: usize) {
    let by_client: BTreeMap<String, usize> =
        rounds.iter().enumerate().map(|(i, round)| (round.client.clone(), i)).collect();
    for line in log.lines() {
        let Some((client, facts)) = line.split_once('\t') else { continue };
        let Some(round) = by_client.get(client).map(|i| &mut rounds[*i]) else { continue };
        round.lines[which] += 1;
        round.seen[which].log_line(round.lines[which], facts);
    }
}

/// Counters and gauges that are compared: of a connection manager, a TCP proxy and a cluster.
const HTTP: &[&str] = &[
    "downstream_cx_total",
    "downstream_cx_http1_total",
    "downstream_cx_http2_total",
    "downstream_cx_protocol_error",
    "downstream_cx_idle_timeout",
    "downstream_cx_upgrades_total",
    "downstream_rq_total",
    "downstream_rq_http1_total",
    "downstream_rq_http2_total",
    "downstream_rq_completed",
    "downstream_rq_1xx",
    "downstream_rq_2xx",
    "downstream_rq_3xx",
    "downstream_rq_4xx",
    "downstream_rq_5xx",
    "downstream_rq_active",
    "downstream_rq_timeout",
    "downstream_rq_idle_timeout",
    "downstream_rq_max_duration_reached",
    "no_route",
    "no_cluster",
    "rq_direct_response",
    "rq_redirect",
    "rbac.allowed",
    "rbac.denied",
    "ext_authz.ok",
    "ext_authz.denied",
    "ext_authz.error",
    "ext_authz.disabled",
    "ext_authz.failure_mode_allowed",
    "ext_authz.mine.error",
    "jwt_authn.allowed",
    "jwt_authn.denied",
    "jwt_authn.cors_preflight_bypassed",
    "jwt_authn.jwks_fetch_success",
    "jwt_authn.jwks_fetch_failed",
    "jwt_authn.jwt_cache_hit",
    "jwt_authn.jwt_cache_miss",
    "passthrough_internal_redirect_bad_location",
    "passthrough_internal_redirect_unsafe_scheme",
    "passthrough_internal_redirect_too_many_redirects",
    "passthrough_internal_redirect_no_route",
    "passthrough_internal_redirect_predicate",
    "fault.delays_injected",
    "fault.aborts_injected",
    "csrf.request_valid",
    "csrf.request_invalid",
    "csrf.missing_source_origin",
    "decompressor.mine.gzip.request.decompressed",
    "decompressor.mine.gzip.request.not_decompressed",
    "decompressor.mine.gzip.request.total_compressed_bytes",
    "decompressor.mine.gzip.request.total_uncompressed_bytes",
    "decompressor.mine.gzip.response.decompressed",
    "decompressor.mine.gzip.response.not_decompressed",
    "decompressor.mine.gzip.response.total_compressed_bytes",
    "decompressor.mine.gzip.response.total_uncompressed_bytes",
    "decompressor.mine.gzip.decompressor_library.zlib_data_error",
    "decompressor.mine.brotli.request.decompressed",
    "decompressor.mine.brotli.response.not_decompressed",
    "decompressor.mine.brotli.response.total_uncompressed_bytes",
    "ext_proc.streams_started",
    "ext_proc.stream_msgs_sent",
    "ext_proc.stream_msgs_received",
    "ext_proc.spurious_msgs_received",
    "ext_proc.streams_failed",
    "ext_proc.failure_mode_allowed",
    "ext_proc.message_timeouts",
    "ext_proc.rejected_header_mutations",
    "ext_proc.clear_route_cache_ignored",
    "ext_proc.clear_route_cache_disabled",
    "ext_proc.override_message_timeout_received",
    "ext_proc.override_message_timeout_ignored",
    "ext_proc.streams_closed",
    "ext_proc.mine.streams_started",
];
const TCP: &[&str] = &[
    "downstream_cx_total",
    "downstream_cx_no_route",
    "downstream_cx_rx_bytes_total",
    "downstream_cx_tx_bytes_total",
    "idle_timeout",
    "max_downstream_connection_duration",
];
const CLUSTER: &[&str] = &[
    "upstream_rq_total",
    "ext_authz.ok",
    "ext_authz.denied",
    "ext_authz.error",
    "ext_authz.failure_mode_allowed",
    "ext_authz.mine.error",
    "ratelimit.ok",
    "ratelimit.over_limit",
    "ratelimit.error",
    "ratelimit.failure_mode_allowed",
    "upstream_rq_429",
    "upstream_rq_1xx",
    "upstream_rq_2xx",
    "upstream_rq_3xx",
    "upstream_rq_4xx",
    "upstream_rq_5xx",
    "upstream_rq_200",
    "upstream_rq_404",
    "upstream_rq_503",
    "upstream_rq_504",
    "upstream_rq_completed",
    "upstream_rq_active",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_pending_overflow",
    "upstream_rq_pending_failure_eject",
    "upstream_rq_rx_reset",
    "upstream_rq_tx_reset",
    "upstream_cx_connect_fail",
    "upstream_cx_none_healthy",
    "upstream_cx_overflow",
    "upstream_rq_maintenance_mode",
    "upstream_internal_redirect_succeeded_total",
    "upstream_internal_redirect_failed_total",
    "membership_total",
    "membership_healthy",
    "membership_degraded",
    "health_check.healthy",
    "health_check.degraded",
    "lb_healthy_panic",
    "lb_zone_routing_all_directly",
    "lb_zone_routing_sampled",
    "lb_zone_routing_cross_zone",
    "lb_zone_no_capacity_left",
    "lb_subsets_selected",
    "lb_subsets_fallback",
    "lb_subsets_fallback_panic",
];

/// Of network filters and HTTP filters that limit rates, under the group's name.
const DOORS: &[&str] = &["rate_limited"];
/// Of network filters that ask others, under the group's name.
const ASKERS: &[&str] = &["total", "ok", "denied", "error", "disabled", "failure_mode_allowed", "cx_closed"];
const BUCKETS: &[&str] = &[
    "http_local_rate_limit.enabled",
    "http_local_rate_limit.ok",
    "http_local_rate_limit.rate_limited",
    "http_local_rate_limit.enforced",
];

type Stats = BTreeMap<String, i64>;
/// What `/clusters` says against each host.
type Health = BTreeMap<String, String>;

/// One case for each group: its counters after all of its requests.
fn counters(groups: &[Group], (envoy, mizzen): &(Stats, Stats), health: &(Health, Health)) -> Vec<Compared> {
    let case = |group: &Group| {
        let name = &group.group;
        let door = if group.tcp.is_some() { ("tcp", TCP) } else { ("http", HTTP) };
        let owners =
            [door, ("cluster", CLUSTER), ("local_rate_limit", DOORS), ("ext_authz", ASKERS), ("", BUCKETS)];
        let mut differences: Vec<Difference> = owners
            .into_iter()
            .flat_map(|(owner, stats)| stats.iter().map(move |stat| (owner, stat)))
            .filter_map(|(owner, stat)| {
                let full = format!("{owner}.{name}.{stat}");
                let full = full.trim_start_matches('.');
                // What nothing has happened to need not be shown.
                let value = |stats: &Stats| stats.get(full).copied().unwrap_or_default();
                (value(envoy) != value(mizzen)).then(|| Difference {
                    what: format!("{owner}.{stat}"),
                    envoy: Some(value(envoy).to_string()),
                    mizzen: Some(value(mizzen).to_string()),
                })
            })
            .collect();
        let own = |key: &&String| {
            key.split("::").next().is_some_and(|c| c == name || c.starts_with(&format!("{name}-")))
        };
        let mut hosts: Vec<&String> = health.0.keys().chain(health.1.keys()).filter(own).collect();
        hosts.sort();
        hosts.dedup();
        for host in hosts {
            let (envoy, mizzen) = (health.0.get(host).cloned(), health.1.get(host).cloned());
            if envoy != mizzen {
                differences.push(Difference { what: format!("health.{host}"), envoy, mizzen });
            }
        }
        Compared { name: format!("{name}/counters"), messages: Vec::new(), differences }
    };
    groups.iter().map(case).collect()
}
