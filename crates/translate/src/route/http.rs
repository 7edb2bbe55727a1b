//! The routes of a VirtualService, and the route of a service without one.

use std::sync::Arc;

use api::StringMatchKind;
use api::networking as net;
use model::Service;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::route::v3 as pb;

use super::policy::{self, HeaderChanges};
use super::{Destination, destination, matches};
use crate::build::Context;
use crate::destination_rule::config_path;
use crate::encode::{any, boolv, duration, fields, istio_metadata, millionths, seconds, text, u32v};
use crate::readable;
use crate::scope::Facet;
use crate::view::VirtualService;

/// Where routes are written for.
pub(crate) struct Place<'a> {
    pub(crate) port: u32,
    /// `mesh`, or the gateways that serve here as `namespace/name`.
    pub(crate) gateways: &'a [&'a str],
}

/// The route of a service that no VirtualService speaks for.
pub(crate) fn default_route(context: &Context<'_>, service: &Arc<Service>, port: u32) -> pb::Route {
    let cluster = crate::cluster::name(port, "", &service.key.host);
    let mut action = action(context, None);
    action.cluster_specifier = Some(pb::route_action::ClusterSpecifier::Cluster(cluster));
    action.hash_policy = policy::hash(context, Some(service), port, "").into_iter().collect();
    pb::Route {
        name: "default".into(),
        r#match: Some(matches::everything()),
        decorator: Some(pb::Decorator {
            operation: format!("{}:{port}/*", service.key.host),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(action)),
        ..Default::default()
    }
}

/// In order; what comes after a route for everything is left out, since it is never reached. So is what no proxy would
/// take, where something of the resource is of that kind.
pub(crate) fn routes(context: &Context<'_>, rules: &VirtualService, place: &Place<'_>) -> Vec<pb::Route> {
    let mut routes = Vec::new();
    for route in &rules.spec.http {
        if rules.faulty && !route.rewrite.as_ref().is_none_or(readable::rewrite) {
            continue;
        }
        if route.r#match.is_empty() {
            routes.push(build(context, rules, route, None, place));
            return routes;
        }
        for request in route.r#match.iter().filter(|request| applies(context, request, place)) {
            if rules.faulty && !readable::request(request) {
                continue;
            }
            let built = build(context, rules, route, Some(request), place);
            let last = built.r#match.as_ref().is_some_and(is_everything);
            routes.push(built);
            if last {
                return routes;
            }
        }
    }
    routes
}

/// Whether no route after it is ever reached.
pub(crate) fn takes_everything(route: &pb::Route) -> bool {
    route.r#match.as_ref().is_some_and(is_everything)
}

fn is_everything(condition: &pb::RouteMatch) -> bool {
    condition.headers.is_empty()
        && condition.dynamic_metadata.is_empty()
        && condition.query_parameters.is_empty()
        && condition.path_specifier == matches::everything().path_specifier
}

/// Whether the caller and the place are ones that the condition speaks of.
fn applies(context: &Context<'_>, request: &net::HttpMatchRequest, place: &Place<'_>) -> bool {
    let here = request.gateways.is_empty()
        || request.gateways.iter().any(|gateway| {
            place
                .gateways
                .iter()
                .any(|own| own == gateway || own.rsplit_once('/').is_some_and(|(_, name)| name == gateway))
        });
    let wanted = &request.source_labels;
    here && (request.port == 0 || request.port == place.port)
        && (request.source_namespace.is_empty()
            || *context.reader.facets(Facet::Namespace).namespace == *request.source_namespace)
        && (wanted.is_empty() || {
            let own = &context.reader.facets(Facet::Labels).labels;
            wanted.iter().all(|(key, value)| own.get(key) == Some(value))
        })
}

fn build(
    context: &Context<'_>,
    rules: &VirtualService,
    route: &net::HttpRoute,
    request: Option<&net::HttpMatchRequest>,
    place: &Place<'_>,
) -> pb::Route {
    let name = match request.map(|request| request.name.as_str()).filter(|name| !name.is_empty()) {
        Some(matched) => format!("{}.{matched}", route.name),
        None => route.name.clone(),
    };
    let mut built = pb::Route {
        name,
        r#match: Some(request.map_or_else(matches::everything, matches::of)),
        metadata: Some(istio_metadata(fields([(
            "config",
            text(config_path("virtual-service", &rules.name)),
        )]))),
        stat_prefix: request.map(|request| request.stat_prefix.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let mut changes = policy::headers(route.headers.as_ref());
    let mut operation = format!("{}:{}", rules.spec.hosts[0], place.port);
    if let Some(redirect) = &route.redirect {
        built.action = Some(pb::route::Action::Redirect(self::redirect(redirect, place.port)));
    } else if let Some(direct) = &route.direct_response {
        built.action = Some(pb::route::Action::DirectResponse(direct_response(direct)));
    } else {
        let (action, lone) = forward(context, rules, route, &mut changes, place);
        if let Some(to) = lone {
            operation = format!("{}:{}", to.host, to.port);
        }
        built.action = Some(pb::route::Action::Route(action));
    }
    operation.push_str(&path_of(request));
    built.decorator = Some(pb::Decorator { operation, ..Default::default() });
    built.request_headers_to_add = changes.request_add;
    built.request_headers_to_remove = changes.request_remove;
    built.response_headers_to_add = changes.response_add;
    built.response_headers_to_remove = changes.response_remove;
    if let Some(fault) = route.fault.as_ref().and_then(policy::fault) {
        built.typed_per_filter_config.insert("envoy.filters.http.fault".into(), any(&fault));
    }
    if let Some(cors) = &route.cors_policy {
        built
            .typed_per_filter_config
            .insert("envoy.filters.http.cors".into(), any(&policy::cors(cors, rules.faulty)));
    }
    built
}

/// The path in the name of a span.
fn path_of(request: Option<&net::HttpMatchRequest>) -> String {
    match request.and_then(|request| request.uri.as_ref()).map(|uri| uri.kind()) {
        Some(StringMatchKind::Exact(path) | StringMatchKind::Regex(path)) => path.into(),
        Some(StringMatchKind::Prefix(prefix)) => format!("{prefix}*"),
        Some(StringMatchKind::Present) | None => "/*".into(),
    }
}

#[allow(deprecated)]
fn action(context: &Context<'_>, route: Option<&net::HttpRoute>) -> pb::RouteAction {
    let timeout =
        route.and_then(|route| route.timeout).map_or(seconds(0), |timeout| duration(timeout.as_std()));
    pb::RouteAction {
        timeout: Some(timeout),
        max_grpc_timeout: Some(timeout),
        retry_policy: policy::retry(context, route.and_then(|route| route.retries.as_ref())),
        ..Default::default()
    }
}

/// The action, and the destination if there is only one.
fn forward(
    context: &Context<'_>,
    rules: &VirtualService,
    route: &net::HttpRoute,
    changes: &mut HeaderChanges,
    place: &Place<'_>,
) -> (pb::RouteAction, Option<Destination>) {
    use pb::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let mut action = action(context, Some(route));
    let weighted = route.weighted();
    let to: Vec<_> = weighted
        .iter()
        .map(|(to, weight)| (destination(context, rules, &to.destination, place.port), *weight, *to))
        .collect();
    for (to, ..) in &to {
        let policy = policy::hash(context, to.service.as_ref(), to.port, &to.subset);
        if let Some(policy) = policy.filter(|policy| !action.hash_policy.contains(policy)) {
            action.hash_policy.push(policy);
        }
    }
    let mut lone = None;
    action.cluster_specifier = Some(match <[_; 1]>::try_from(to) {
        Ok([(only, _, declared)]) => {
            let own = policy::headers(declared.headers.as_ref());
            changes.request_add.extend(own.request_add);
            changes.request_remove.extend(own.request_remove);
            changes.response_add.extend(own.response_add);
            changes.response_remove.extend(own.response_remove);
            changes.authority = own.authority.or(changes.authority.take());
            let cluster = only.cluster.clone();
            lone = Some(only);
            ClusterSpecifier::Cluster(cluster)
        }
        Err(several) => ClusterSpecifier::WeightedClusters(pb::WeightedCluster {
            clusters: several
                .into_iter()
                .map(|(to, weight, declared)| share(&to, weight, declared))
                .collect(),
            ..Default::default()
        }),
    });
    if let Some(rewrite) = &route.rewrite {
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(proto::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute {
                pattern: Some(matches::regex(&regex.pattern)),
                substitution: regex.rewrite.clone(),
            });
        } else {
            action.prefix_rewrite.clone_from(&rewrite.uri);
        }
        if !rewrite.authority.is_empty() {
            changes.authority = Some(rewrite.authority.clone());
        }
    }
    action.host_rewrite_specifier = changes.authority.take().map(HostRewriteSpecifier::HostRewriteLiteral);
    action.request_mirror_policies = route
        .mirror_policies()
        .into_iter()
        .map(|(to, share)| mirror(&destination(context, rules, to, place.port), share))
        .collect();
    (action, lone)
}

fn share(
    to: &Destination,
    weight: u32,
    declared: &net::HttpRouteDestination,
) -> pb::weighted_cluster::ClusterWeight {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let changes = policy::headers(declared.headers.as_ref());
    pb::weighted_cluster::ClusterWeight {
        name: to.cluster.clone(),
        weight: Some(u32v(weight)),
        request_headers_to_add: changes.request_add,
        request_headers_to_remove: changes.request_remove,
        response_headers_to_add: changes.response_add,
        response_headers_to_remove: changes.response_remove,
        host_rewrite_specifier: changes.authority.map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn mirror(to: &Destination, percent: f64) -> pb::route_action::RequestMirrorPolicy {
    pb::route_action::RequestMirrorPolicy {
        cluster: to.cluster.clone(),
        runtime_fraction: Some(core::RuntimeFractionalPercent {
            default_value: Some(millionths(percent)),
            runtime_key: String::new(),
        }),
        trace_sampled: Some(boolv(false)),
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    }
}

fn redirect(redirect: &net::HttpRedirect, port: u32) -> pb::RedirectAction {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let path = if !redirect.prefix_rewrite.is_empty() {
        Some(PathRewriteSpecifier::PrefixRewrite(redirect.prefix_rewrite.clone()))
    } else if !redirect.uri.is_empty() {
        Some(PathRewriteSpecifier::PathRedirect(redirect.uri.clone()))
    } else {
        None
    };
    let derived = match redirect.derive_port {
        Some(net::RedirectPortSelection::FromRequestPort) => port,
        Some(net::RedirectPortSelection::FromProtocolDefault) if redirect.scheme == "https" => 443,
        Some(net::RedirectPortSelection::FromProtocolDefault) => 80,
        None => 0,
    };
    let scheme = Some(redirect.scheme.clone()).filter(|scheme| !scheme.is_empty());
    pb::RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: redirect.port.unwrap_or(derived),
        path_rewrite_specifier: path,
        scheme_rewrite_specifier: scheme.map(SchemeRewriteSpecifier::SchemeRedirect),
        response_code: match redirect.code() {
            302 => RedirectResponseCode::Found,
            303 => RedirectResponseCode::SeeOther,
            307 => RedirectResponseCode::TemporaryRedirect,
            308 => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        } as i32,
        ..Default::default()
    }
}

fn direct_response(direct: &net::HttpDirectResponse) -> pb::DirectResponseAction {
    use core::data_source::Specifier;
    let body = direct.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(base64)) => Some(Specifier::InlineBytes(crate::base64::decode(base64)?)),
        (None, None) => None,
    });
    pb::DirectResponseAction {
        status: direct.status,
        body: body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() }),
        ..Default::default()
    }
}
