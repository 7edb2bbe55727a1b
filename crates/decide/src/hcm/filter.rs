//! HTTP filters, in order.

use std::sync::Arc;

use prost::Message;
use proto::pb::envoy::extensions::filters::http::cors::v3::Cors;
use proto::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as dynamic;
use proto::pb::envoy::extensions::filters::http::on_demand::v3::OnDemand;
use proto::pb::envoy::extensions::filters::http::router::v3::Router;
use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use proto::pb::google::protobuf::Any;
use serde_json::{Map, Value};

use super::RouterOptions;
use crate::cluster::name_cache;
use crate::ext_authz::ExtAuthz;
use crate::ext_proc::Processor;
use crate::filters::{Compressor, Csrf, Decompressor, Fault, HeaderToMetadata};
use crate::jwt::JwtAuthn;
use crate::limit::{GlobalRateLimit, LocalRateLimit};
use crate::rbac::Rbac;
use crate::refusal::{Refusal, Taken, Within};
use crate::shed::{Admission, Gradient};
use crate::support::check_any;
use crate::wire::{decode, type_of, typed_struct, unpack};

#[derive(Debug, Clone)]
pub(crate) struct HttpFilter {
    /// Routes override filters by name.
    pub(crate) name: Box<str>,
    pub(crate) kind: FilterKind,
    /// Only where a route enables it.
    pub(crate) disabled: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum FilterKind {
    Rbac(Arc<Rbac>),
    Jwt(Arc<JwtAuthn>),
    ExtAuthz(Arc<ExtAuthz>),
    ExtProc(Arc<Processor>),
    LocalLimit(Arc<LocalRateLimit>),
    GlobalLimit(Arc<GlobalRateLimit>),
    Fault(Arc<Fault>),
    Cors,
    Csrf(Arc<Csrf>),
    Compress(Arc<Compressor>),
    Decompress(Arc<Decompressor>),
    GrpcWeb,
    /// The host that the request names is looked up, where its cluster is for that.
    DynamicForward,
    /// The whole body before anything is sent on, if it is no larger than this.
    Buffer(u32),
    Admission(Arc<Admission>),
    Gradient(Arc<Gradient>),
    /// A virtual host that the route table lacks is asked for.
    OnDemand,
    /// `header_to_metadata`.
    Learn(Arc<HeaderToMetadata>),
    /// `istio.alpn`: what to offer upstream by the protocol spoken there.
    Alpn(Arc<AlpnOverrides>),
    PeerMetadata(PeerExchange),
    IstioStats,
    /// gRPC is counted in any case.
    GrpcStats,
    /// What it does is done in any case.
    Nothing,
    Router,
}

/// ALPN lists for HTTP/1.0, HTTP/1.1 and HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct AlpnOverrides {
    pub(crate) by_protocol: [Option<Arc<[Arc<str>]>>; 3],
}

/// `io.istio.http.peer_metadata`: who is asked, who is told, by headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PeerExchange {
    pub(crate) downstream_discovery: bool,
    pub(crate) upstream_discovery: bool,
    pub(crate) downstream_propagation: bool,
    pub(crate) upstream_propagation: bool,
    /// Tell no upstream outside the mesh.
    pub(crate) skip_external: bool,
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
#[derive(Clone, PartialEq, Message)]
struct AlpnConfig {
    #[prost(message, repeated, tag = "1")]
    alpn_override: Vec<AlpnOverride>,
}

#[derive(Clone, PartialEq, Message)]
struct AlpnOverride {
    #[prost(int32, tag = "1")]
    upstream_protocol: i32,
    #[prost(string, repeated, tag = "2")]
    alpn_override: Vec<String>,
}

/// All filters but the router, which must be the last, and its options.
pub(super) fn compile_filters(messages: &[pb::HttpFilter]) -> Taken<(Vec<HttpFilter>, RouterOptions)> {
    let mut filters = Vec::with_capacity(messages.len());
    let mut router = None;
    for (message, i) in messages.iter().zip(0..) {
        if router.is_some() {
            return Err(Refusal::new("nothing may follow the router").under(format_args!("httpFilters[{i}]")));
        }
        let compiled = compile_filter(message, &mut router);
        match compiled {
            Ok(filter) => filters.push(filter),
            Err(_) if message.is_optional => {}
            Err(refusal) => {
                return Err(refusal.under(format_args!("httpFilters[{i}]")));
            }
        }
    }
    match router {
        Some(options) => Ok((filters, options)),
        None => Err(Refusal::new("the last filter must be envoy.filters.http.router").under("httpFilters")),
    }
}

fn compile_filter(message: &pb::HttpFilter, router: &mut Option<RouterOptions>) -> Taken<HttpFilter> {
    use pb::http_filter::ConfigType;
    let any = match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => return Err(Refusal::unsupported("configDiscovery")),
        None => return Err(Refusal::new("is missing").under("typedConfig")),
    };
    if message.is_optional {
        check_any(any).within("typedConfig")?;
    }
    let kind = kind(any, router).within("typedConfig")?;
    Ok(HttpFilter { name: message.name.as_str().into(), kind, disabled: message.disabled })
}

fn kind(any: &Any, router: &mut Option<RouterOptions>) -> Taken<FilterKind> {
    if let Some((name, value)) = typed_struct(any)? {
        return by_struct(&name, &value);
    }
    Ok(match type_of(any) {
        "envoy.extensions.filters.http.router.v3.Router" => {
            let r: Router = unpack(any)?;
            *router = Some(RouterOptions {
                suppress_envoy_headers: r.suppress_envoy_headers,
                respect_expected_timeout: r.respect_expected_rq_timeout,
            });
            FilterKind::Router
        }
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            FilterKind::Rbac(Arc::new(Rbac::compile_http(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
            FilterKind::Jwt(Arc::new(JwtAuthn::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => {
            FilterKind::ExtAuthz(Arc::new(ExtAuthz::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor" => {
            FilterKind::ExtProc(Arc::new(Processor::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            FilterKind::LocalLimit(Arc::new(LocalRateLimit::compile(&unpack(any)?, false)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit" => {
            FilterKind::GlobalLimit(Arc::new(GlobalRateLimit::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            FilterKind::Fault(Arc::new(Fault::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => unpack::<Cors>(any).map(|_| FilterKind::Cors)?,
        "envoy.extensions.filters.http.compressor.v3.Compressor" => {
            FilterKind::Compress(Arc::new(Compressor::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.decompressor.v3.Decompressor" => {
            FilterKind::Decompress(Arc::new(Decompressor::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb" => FilterKind::GrpcWeb,
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig" => {
            use dynamic::filter_config::ImplementationSpecifier as Specifier;
            match &unpack::<dynamic::FilterConfig>(any)?.implementation_specifier {
                Some(Specifier::DnsCacheConfig(cache)) => name_cache(cache).within("dnsCacheConfig")?,
                _ => return Err(Refusal::new("is missing").under("dnsCacheConfig")),
            };
            FilterKind::DynamicForward
        }
        "envoy.extensions.filters.http.buffer.v3.Buffer" => {
            FilterKind::Buffer(crate::filters::largest(&unpack(any)?)?)
        }
        "envoy.extensions.filters.http.admission_control.v3.AdmissionControl" => {
            FilterKind::Admission(Arc::new(Admission::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency" => {
            FilterKind::Gradient(Arc::new(Gradient::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy" => {
            FilterKind::Csrf(Arc::new(Csrf::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            FilterKind::Learn(Arc::new(HeaderToMetadata::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.on_demand.v3.OnDemand" => {
            unpack::<OnDemand>(any).map(|_| FilterKind::OnDemand)?
        }
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => FilterKind::GrpcStats,
        // Answers are timed where they are waited for.
        "envoy.extensions.filters.http.peak_ewma.v3alpha.PeakEwmaConfig" => FilterKind::Nothing,
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
            let config: AlpnConfig = decode(&any.value)?;
            let mut overrides = AlpnOverrides::default();
            for o in config.alpn_override {
                let place =
                    usize::try_from(o.upstream_protocol).ok().and_then(|i| overrides.by_protocol.get_mut(i));
                let place =
                    place.ok_or_else(|| Refusal::new("unknown upstreamProtocol").under("alpnOverride"))?;
                *place = Some(o.alpn_override.iter().map(|p| Arc::from(p.as_str())).collect());
            }
            FilterKind::Alpn(Arc::new(overrides))
        }
        "stats.PluginConfig" | "istio.stats.PluginConfig" => FilterKind::IstioStats,
        "io.istio.http.peer_metadata.Config" => {
            return Err(Refusal::new("must be wrapped in a TypedStruct, as istiod sends it"));
        }
        other => {
            return Err(Refusal::new(format_args!("HTTP filter {other} is not supported by this proxy"))
                .under("@type"));
        }
    })
}

fn by_struct(name: &str, value: &Map<String, Value>) -> Taken<FilterKind> {
    match name {
        "io.istio.http.peer_metadata.Config" => Ok(FilterKind::PeerMetadata(peer_exchange(value)?)),
        "stats.PluginConfig" | "istio.stats.PluginConfig" => Ok(FilterKind::IstioStats),
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => alpn_struct(value),
        other => {
            Err(Refusal::new(format_args!("HTTP filter {other} is not supported by this proxy"))
                .under("typeUrl"))
        }
    }
}

fn peer_exchange(value: &Map<String, Value>) -> Taken<PeerExchange> {
    let mut exchange = PeerExchange::default();
    for (key, methods) in value {
        let methods = methods.as_array().map(Vec::as_slice).unwrap_or_default();
        let headers = methods.iter().find_map(|m| m.get("istio_headers").or_else(|| m.get("istioHeaders")));
        let place = match key.as_str() {
            "downstream_discovery" | "downstreamDiscovery" => &mut exchange.downstream_discovery,
            "upstream_discovery" | "upstreamDiscovery" => &mut exchange.upstream_discovery,
            "downstream_propagation" | "downstreamPropagation" => &mut exchange.downstream_propagation,
            "upstream_propagation" | "upstreamPropagation" => {
                let skip = headers
                    .and_then(|h| h.get("skip_external_clusters").or_else(|| h.get("skipExternalClusters")));
                exchange.skip_external = skip == Some(&Value::Bool(true));
                &mut exchange.upstream_propagation
            }
            // Where filter state is shared makes no difference here.
            "shared_with_upstream" | "sharedWithUpstream" | "additional_labels" | "additionalLabels" => {
                continue;
            }
            other => return Err(Refusal::unsupported(other)),
        };
        *place = headers.is_some();
    }
    Ok(exchange)
}

fn alpn_struct(value: &Map<String, Value>) -> Taken<FilterKind> {
    let mut overrides = AlpnOverrides::default();
    let list = value.get("alpn_override").or_else(|| value.get("alpnOverride"));
    for entry in list.and_then(Value::as_array).into_iter().flatten() {
        let protocol = entry.get("upstream_protocol").or_else(|| entry.get("upstreamProtocol"));
        let place = match protocol.and_then(Value::as_str) {
            None | Some("HTTP10") => 0,
            Some("HTTP11") => 1,
            Some("HTTP2") => 2,
            Some(_) => return Err(Refusal::new("unknown upstreamProtocol").under("alpnOverride")),
        };
        let names =
            entry.get("alpn_override").or_else(|| entry.get("alpnOverride")).and_then(Value::as_array);
        overrides.by_protocol[place] =
            Some(names.into_iter().flatten().filter_map(Value::as_str).map(Arc::from).collect());
    }
    Ok(FilterKind::Alpn(Arc::new(overrides)))
}
