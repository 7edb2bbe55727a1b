//! Route tables from RDS and from what listeners carry inline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::google::protobuf::value::Kind;
use upstream::Priority;

use super::action::RedirectPath;
use super::host::HostIndex;
use super::mutation::Mutations;
use super::policy::{compile_hedge, compile_retry};
use super::{
    Action, Destination, DirectResponse, ForwardAction, HashPolicy, HeaderMutations, HostRewrite,
    InternalRedirects, MirrorPolicy, PathRewrite, Redirect, RequireTls, Retry, Route, RouteMatch, RouteTable,
    VirtualHost, WeightedCluster,
};
use crate::filters::{CorsPolicy, Overrides};
use crate::hcm::Sampling;
use crate::headers::HeaderName;
use crate::limit::RateLimits;
use crate::matching::RegexRewrite;
use crate::plan::{DIRECT_BODY, Ids};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{DataSource, duration, flag, number};

/// The macro's fields are the same in tables, virtual hosts, routes and weighted clusters.
macro_rules! mutations {
    ($message:expr) => {
        HeaderMutations {
            request: Mutations::compile(
                &$message.request_headers_to_add,
                &$message.request_headers_to_remove,
                ("requestHeadersToAdd", "requestHeadersToRemove"),
            )?,
            response: Mutations::compile(
                &$message.response_headers_to_add,
                &$message.response_headers_to_remove,
                ("responseHeadersToAdd", "responseHeadersToRemove"),
            )?,
        }
    };
}

pub(crate) fn compile_table(message: &pb::RouteConfiguration, ids: &mut Ids) -> Taken<RouteTable> {
    if flag(&message.validate_clusters, false) {
        return Err(Refusal::unsupported("validateClusters"));
    }
    let most = number(&message.max_direct_response_body_size_bytes).map_or(DIRECT_BODY, |most| most as usize);
    let mut hosts = HostIndex::default();
    let mut virtual_hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (vh, i) in message.virtual_hosts.iter().zip(0u32..) {
        let at = i as usize;
        for (domain, d) in vh.domains.iter().zip(0..) {
            hosts.insert(domain, i).at("domains", d).at("virtualHosts", at)?;
        }
        virtual_hosts.push(Arc::new(compile_virtual_host(vh, most, ids).at("virtualHosts", at)?));
    }
    Ok(RouteTable {
        id: ids.table(&message.name),
        name: message.name.as_str().into(),
        own_hosts: virtual_hosts.len(),
        virtual_hosts,
        hosts,
        vhds: message.vhds.as_ref().map(|vhds| super::vhds::source(vhds).within("vhds")).transpose()?,
        most_body: most,
        ignore_port: message.ignore_port_in_host_matching,
        host_header: (!message.vhost_header.is_empty()).then(|| message.vhost_header.as_str().into()),
        ignore_path_parameters: message.ignore_path_parameters_in_path_matching,
        mutations: mutations!(message),
        most_specific_wins: message.most_specific_header_mutations_wins,
        internal_only_headers: message.internal_only_headers.iter().map(|h| h.as_str().into()).collect(),
        mirrors: each(&message.request_mirror_policies, "requestMirrorPolicies", |m| {
            MirrorPolicy::compile(m, ids)
        })?,
        overrides: Overrides::compile(&message.typed_per_filter_config)?,
    })
}

/// One that stands in what refers to it: only what RDS brings is asked about further.
pub(crate) fn inline_table(message: &pb::RouteConfiguration, ids: &mut Ids) -> Taken<Arc<RouteTable>> {
    let table = compile_table(message, ids)?;
    match &table.vhds {
        Some(_) => Err(Refusal::new("is only for routes that come by RDS").under("vhds")),
        None => Ok(Arc::new(table)),
    }
}

/// Also for virtual hosts that come by VHDS.
pub(crate) fn compile_virtual_host(
    message: &pb::VirtualHost,
    most_body: usize,
    ids: &mut Ids,
) -> Taken<VirtualHost> {
    let defaults = Defaults {
        retry: message
            .retry_policy
            .as_ref()
            .map(|r| compile_retry(r).within("retryPolicy").map(Arc::new))
            .transpose()?,
        mirrors: each(&message.request_mirror_policies, "requestMirrorPolicies", |m| {
            MirrorPolicy::compile(m, ids)
        })?,
        cors: message
            .cors
            .as_ref()
            .map(|c| CorsPolicy::compile_old(c).within("cors").map(Arc::new))
            .transpose()?,
        hedge: hedge(&message.hedge_policy, false)?,
        most_body,
    };
    let require_tls = match pb::virtual_host::TlsRequirementType::try_from(message.require_tls) {
        Ok(pb::virtual_host::TlsRequirementType::None) => RequireTls::None,
        Ok(pb::virtual_host::TlsRequirementType::ExternalOnly) => RequireTls::External,
        Ok(pb::virtual_host::TlsRequirementType::All) => RequireTls::All,
        Err(_) => return Err(Refusal::new("unknown").under("requireTls")),
    };
    Ok(VirtualHost {
        name: message.name.as_str().into(),
        domains: message.domains.iter().map(|d| d.as_str().into()).collect(),
        routes: each(&message.routes, "routes", |r| route(r, &defaults, ids))?,
        require_tls,
        mutations: mutations!(message),
        attempt_count: message.include_request_attempt_count,
        attempt_count_in_response: message.include_attempt_count_in_response,
        rate_limits: RateLimits::compile(&message.rate_limits, "rateLimits")?,
        overrides: Overrides::compile(&message.typed_per_filter_config)?,
    })
}

/// What a virtual host says for routes that do not.
struct Defaults {
    retry: Option<Arc<Retry>>,
    mirrors: Vec<MirrorPolicy>,
    cors: Option<Arc<CorsPolicy>>,
    hedge: bool,
    most_body: usize,
}

fn route(message: &pb::Route, defaults: &Defaults, ids: &mut Ids) -> Taken<Route> {
    let matches = message.r#match.as_ref().ok_or_else(|| Refusal::new("is missing").under("match"))?;
    let matches = RouteMatch::compile(matches).within("match")?;
    let config = message
        .metadata
        .as_ref()
        .and_then(|m| m.filter_metadata.get("istio"))
        .and_then(|s| s.fields.get("config"))
        .and_then(|v| match v.kind.as_ref() {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        });
    Ok(Route {
        name: message.name.as_str().into(),
        matches,
        action: action(&message.action, defaults, ids)?,
        operation: message.decorator.as_ref().map(|d| d.operation.as_str().into()),
        config: config.unwrap_or_default().into(),
        mutations: mutations!(message),
        overrides: Overrides::compile(&message.typed_per_filter_config)?,
        tracing: message.tracing.as_ref().map(|t| Sampling::of_route(t).within("tracing")).transpose()?,
    })
}

fn action(action: &Option<pb::route::Action>, defaults: &Defaults, ids: &mut Ids) -> Taken<Action> {
    Ok(match action.as_ref().ok_or_else(|| Refusal::new("says nothing to do"))? {
        pb::route::Action::Route(r) => Action::Forward(Box::new(forward(r, defaults, ids).within("route")?)),
        pb::route::Action::Redirect(r) => Action::Redirect(Box::new(redirect(r).within("redirect")?)),
        pb::route::Action::DirectResponse(d) => Action::Direct(direct(d, defaults).within("directResponse")?),
        pb::route::Action::FilterAction(_) => return Err(Refusal::unsupported("filterAction")),
        pb::route::Action::NonForwardingAction(_) => return Err(Refusal::unsupported("nonForwardingAction")),
    })
}

fn direct(d: &pb::DirectResponseAction, defaults: &Defaults) -> Taken<DirectResponse> {
    let status = u16::try_from(d.status).ok().filter(|s| (200..600).contains(s));
    let body = match &d.body {
        None => Bytes::new(),
        Some(source) => DataSource::inline(source).within("body")?,
    };
    if body.len() > defaults.most_body {
        return Err(Refusal::new(format_args!("is longer than {} bytes", defaults.most_body)).under("body"));
    }
    Ok(DirectResponse {
        status: status.ok_or_else(|| Refusal::new("must be from 200 to 599").under("status"))?,
        body,
    })
}

fn redirect(r: &pb::RedirectAction) -> Taken<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let status = match RedirectResponseCode::try_from(r.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(Refusal::new("unknown").under("responseCode")),
    };
    let (https, scheme) = match &r.scheme_rewrite_specifier {
        None => (false, None),
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (*https, None),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            (false, Some(scheme.to_ascii_lowercase().into()))
        }
    };
    let path = match &r.path_rewrite_specifier {
        None => RedirectPath::Same,
        Some(PathRewriteSpecifier::PathRedirect(p)) => RedirectPath::Whole(p.as_str().into()),
        Some(PathRewriteSpecifier::PrefixRewrite(p)) => RedirectPath::Prefix(p.as_str().into()),
        Some(PathRewriteSpecifier::RegexRewrite(r)) => {
            RedirectPath::Regex(RegexRewrite::compile(r).within("regexRewrite")?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(Refusal::unsupported("pathRewrite")),
    };
    let port = match r.port_redirect {
        0 => None,
        port => Some(
            u16::try_from(port).map_err(|_| Refusal::new("must be at most 65535").under("portRedirect"))?,
        ),
    };
    Ok(Redirect {
        status,
        https,
        scheme,
        host: (!r.host_redirect.is_empty()).then(|| r.host_redirect.as_str().into()),
        port,
        path,
        strip_query: r.strip_query,
    })
}

fn forward(r: &pb::RouteAction, defaults: &Defaults, ids: &mut Ids) -> Taken<ForwardAction> {
    let not_found_status =
        match pb::route_action::ClusterNotFoundResponseCode::try_from(r.cluster_not_found_response_code) {
            Ok(pb::route_action::ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
            Ok(pb::route_action::ClusterNotFoundResponseCode::NotFound) => 404,
            Ok(pb::route_action::ClusterNotFoundResponseCode::InternalServerError) => 500,
            Err(_) => return Err(Refusal::new("unknown").under("clusterNotFoundResponseCode")),
        };
    let mirrors = match r.request_mirror_policies.as_slice() {
        [] => defaults.mirrors.clone(),
        own => each(own, "requestMirrorPolicies", |m| MirrorPolicy::compile(m, ids))?,
    };
    let retry = match &r.retry_policy {
        None => defaults.retry.clone(),
        Some(own) => Some(Arc::new(compile_retry(own).within("retryPolicy")?)),
    };
    let cors = match &r.cors {
        None => defaults.cors.clone(),
        Some(own) => Some(Arc::new(CorsPolicy::compile_old(own).within("cors")?)),
    };
    let (grpc_timeout_max, grpc_timeout_offset) = grpc_timeouts(r)?;
    let bound = |d: Option<Duration>| d.map(|d| (!d.is_zero()).then_some(d));
    let max_stream_duration = match &r.max_stream_duration {
        Some(m) => bound(duration(&m.max_stream_duration, "maxStreamDuration").within("maxStreamDuration")?),
        None => None,
    };
    Ok(ForwardAction {
        destination: destination(&r.cluster_specifier, ids)?,
        not_found_status,
        path_rewrite: path_rewrite(r)?,
        host_rewrite: host_rewrite(&r.host_rewrite_specifier)?,
        append_forwarded_host: r.append_x_forwarded_host,
        timeout: duration(&r.timeout, "timeout")?.or(Some(Duration::from_secs(15))).filter(|d| !d.is_zero()),
        idle_timeout: bound(duration(&r.idle_timeout, "idleTimeout")?),
        max_stream_duration,
        grpc_timeout_max,
        grpc_timeout_offset,
        bounds_streams: r.max_stream_duration.is_some(),
        retry,
        mirrors,
        priority: match core::RoutingPriority::try_from(r.priority) {
            Ok(core::RoutingPriority::High) => Priority::High,
            _ => Priority::Default,
        },
        hash: each(&r.hash_policy, "hashPolicy", HashPolicy::compile)?,
        upgrades: each(&r.upgrade_configs, "upgradeConfigs", upgrade)?,
        cors,
        rate_limits: RateLimits::compile(&r.rate_limits, "rateLimits")?,
        include_host_limits: flag(&r.include_vh_rate_limits, false),
        hedge: hedge(&r.hedge_policy, defaults.hedge)?,
        redirects: r
            .internal_redirect_policy
            .as_ref()
            .map(|p| InternalRedirects::compile(p).within("internalRedirectPolicy").map(Arc::new))
            .transpose()?,
        subset: crate::cluster::wanted(&r.metadata_match).into(),
    })
}

fn hedge(policy: &Option<pb::HedgePolicy>, default: bool) -> Taken<bool> {
    policy.as_ref().map_or(Ok(default), |policy| compile_hedge(policy).within("hedgePolicy"))
}

/// `grpc-timeout` is honoured where a bound for it is set; zero is no bound.
fn grpc_timeouts(r: &pb::RouteAction) -> Taken<(Option<Option<Duration>>, Option<Duration>)> {
    let bound = |d: Option<Duration>| d.map(|d| (!d.is_zero()).then_some(d));
    if let Some(m) = &r.max_stream_duration {
        let max = duration(&m.grpc_timeout_header_max, "grpcTimeoutHeaderMax").within("maxStreamDuration")?;
        let offset =
            duration(&m.grpc_timeout_header_offset, "grpcTimeoutHeaderOffset").within("maxStreamDuration")?;
        if max.is_some() {
            return Ok((bound(max), offset));
        }
    }
    Ok((
        bound(duration(&r.max_grpc_timeout, "maxGrpcTimeout")?),
        duration(&r.grpc_timeout_offset, "grpcTimeoutOffset")?,
    ))
}

fn upgrade(u: &pb::route_action::UpgradeConfig) -> Taken<(Box<str>, bool)> {
    Ok((u.upgrade_type.to_ascii_lowercase().into(), flag(&u.enabled, true)))
}

fn path_rewrite(r: &pb::RouteAction) -> Taken<PathRewrite> {
    match (r.prefix_rewrite.as_str(), &r.regex_rewrite) {
        ("", None) => Ok(PathRewrite::None),
        (prefix, None) => Ok(PathRewrite::Prefix(prefix.into())),
        ("", Some(regex)) => Ok(PathRewrite::Regex(RegexRewrite::compile(regex).within("regexRewrite")?)),
        _ => Err(Refusal::new("cannot be set together with prefixRewrite").under("regexRewrite")),
    }
}

fn host_rewrite(specifier: &Option<pb::route_action::HostRewriteSpecifier>) -> Taken<HostRewrite> {
    use pb::route_action::HostRewriteSpecifier;
    Ok(match specifier {
        None => HostRewrite::None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => HostRewrite::Literal(host.as_str().into()),
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if auto.value => HostRewrite::Auto,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => HostRewrite::None,
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => HostRewrite::Header(name.as_str().into()),
        Some(HostRewriteSpecifier::HostRewritePathRegex(r)) => {
            HostRewrite::PathRegex(RegexRewrite::compile(r).within("hostRewritePathRegex")?)
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => return Err(Refusal::unsupported("hostRewrite")),
    })
}

fn destination(specifier: &Option<pb::route_action::ClusterSpecifier>, ids: &mut Ids) -> Taken<Destination> {
    use pb::route_action::ClusterSpecifier;
    match specifier.as_ref().ok_or_else(|| Refusal::new("names no cluster"))? {
        ClusterSpecifier::Cluster(name) => Ok(Destination::Cluster(ids.cluster_ref(name))),
        ClusterSpecifier::ClusterHeader(name) => Ok(Destination::Header(HeaderName::from(name.as_str()))),
        ClusterSpecifier::WeightedClusters(w) => weighted(w, ids).within("weightedClusters"),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => Err(Refusal::unsupported("clusterSpecifierPlugin")),
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            Err(Refusal::unsupported("inlineClusterSpecifierPlugin"))
        }
    }
}

fn weighted(w: &pb::WeightedCluster, ids: &mut Ids) -> Taken<Destination> {
    use pb::weighted_cluster::RandomValueSpecifier;
    let clusters = each(&w.clusters, "clusters", |c| weighted_cluster(c, ids))?;
    let total: u64 = clusters.iter().map(|c| u64::from(c.weight)).sum();
    if total == 0 {
        return Err(Refusal::new("the weights add up to zero; give one of them a weight").under("clusters"));
    }
    let by = match &w.random_value_specifier {
        None => None,
        Some(RandomValueSpecifier::HeaderName(name)) => Some(HeaderName::from(name.as_str())),
        Some(RandomValueSpecifier::UseHashPolicy(_)) => return Err(Refusal::unsupported("useHashPolicy")),
    };
    Ok(Destination::Weighted { clusters, total, by })
}

fn weighted_cluster(c: &pb::weighted_cluster::ClusterWeight, ids: &mut Ids) -> Taken<WeightedCluster> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let host_rewrite = c
        .host_rewrite_specifier
        .as_ref()
        .map(|HostRewriteSpecifier::HostRewriteLiteral(h)| h.as_str().into());
    Ok(WeightedCluster {
        cluster: ids.cluster_ref(&c.name),
        weight: number(&c.weight).unwrap_or(0),
        mutations: mutations!(c),
        host_rewrite,
        overrides: Overrides::compile(&c.typed_per_filter_config)?,
        subset: crate::cluster::wanted(&c.metadata_match),
    })
}
