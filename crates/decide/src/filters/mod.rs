//! HTTP filters that are plain data: faults, CORS, and what routes say for them instead.

mod body;
mod compress;
mod cors;
mod csrf;
mod decompress;
mod fault;
mod grpc_web;
mod learn;

use std::collections::HashMap;
use std::sync::Arc;

use proto::pb::envoy::config::route::v3 as route;
use proto::pb::envoy::extensions::filters::http::buffer::v3 as buffer;
use proto::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as dynamic;
use proto::pb::envoy::extensions::filters::http::jwt_authn::v3::PerRouteConfig as JwtPerRoute;
use proto::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use proto::pb::google::protobuf::Any;

use crate::ext_authz;
use crate::ext_proc;
use crate::headers::HeaderName;
use crate::jwt;
use crate::limit::{GlobalPerRoute, LocalRateLimit};
use crate::rbac::Rbac;
use crate::refusal::{Refusal, Taken, Within};
use crate::support::check_any;
use crate::wire::{type_of, unpack};

pub use body::{Answering, BodyFilter};
pub(crate) use body::{BodyPass, BodyPasses};
pub use compress::Coding;
pub(crate) use compress::{Compressor, PerRoute as CompressPerRoute};
pub(crate) use cors::{CorsPolicy, Preflight};
pub(crate) use csrf::Csrf;
pub use csrf::CsrfCounts;
pub(crate) use decompress::Decompressor;
pub use decompress::{Decode, Encoded};
pub(crate) use fault::{Abort, Fault};
pub(crate) use grpc_web::GrpcWeb;
pub use grpc_web::{LONGEST_MESSAGE, as_grpc_message};
pub(crate) use learn::HeaderToMetadata;

/// What a route (virtual host, table, weighted cluster) says for filters, by the filter's name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(Vec<(Box<str>, Override)>);

#[derive(Debug, Clone)]
pub(crate) enum Override {
    Disabled,
    Enabled,
    Fault(Arc<Fault>),
    Cors(Arc<CorsPolicy>),
    Rbac(Arc<Rbac>),
    Jwt(Arc<jwt::PerRoute>),
    ExtAuthz(Arc<ext_authz::PerRoute>),
    ExtProc(Arc<ext_proc::PerRoute>),
    LocalLimit(Arc<LocalRateLimit>),
    GlobalLimit(Arc<GlobalPerRoute>),
    Csrf(Arc<Csrf>),
    Learn(Arc<HeaderToMetadata>),
    Compress(CompressPerRoute),
    /// The largest body.
    Buffer(u32),
    /// What the dynamic forward proxy asks for in place of the authority.
    Host(HostFrom),
}

#[derive(Debug, Clone)]
pub(crate) enum HostFrom {
    Literal(Box<str>),
    Header(HeaderName),
}

impl Overrides {
    pub(crate) fn get(&self, filter: &str) -> Option<&Override> {
        self.0.iter().find(|(name, _)| &**name == filter).map(|(_, o)| o)
    }

    pub(crate) fn compile(configs: &HashMap<String, Any>) -> Taken<Self> {
        let mut all = Vec::with_capacity(configs.len());
        for (name, any) in configs {
            if let Some(o) = compile_override(any).keyed("typedPerFilterConfig", name)? {
                all.push((name.as_str().into(), o));
            }
        }
        all.sort_by(|(a, _): &(Box<str>, Override), (b, _)| a.cmp(b));
        Ok(Self(all))
    }
}

/// Of the buffer filter.
pub(crate) fn largest(buffer: &buffer::Buffer) -> Taken<u32> {
    let most = crate::wire::number(&buffer.max_request_bytes).filter(|most| *most > 0);
    most.ok_or_else(|| Refusal::new("must be greater than 0").under("maxRequestBytes"))
}

fn compile_override(any: &Any) -> Taken<Option<Override>> {
    Ok(Some(match type_of(any) {
        "envoy.config.route.v3.FilterConfig" => {
            let config: route::FilterConfig = unpack(any)?;
            if config.disabled {
                return Ok(Some(Override::Disabled));
            }
            return match &config.config {
                None => Ok(Some(Override::Enabled)),
                Some(inner) if config.is_optional => {
                    Ok(check_any(inner).and_then(|()| compile_override(inner)).unwrap_or_default())
                }
                Some(inner) => compile_override(inner).within("config"),
            };
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            Override::Fault(Arc::new(Fault::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
            Override::Cors(Arc::new(CorsPolicy::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            Override::Jwt(Arc::new(jwt::PerRoute::compile(&unpack::<JwtPerRoute>(any)?)?))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            Override::ExtAuthz(Arc::new(ext_authz::PerRoute::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute" => {
            Override::ExtProc(Arc::new(ext_proc::PerRoute::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            Override::LocalLimit(Arc::new(LocalRateLimit::compile(&unpack(any)?, true)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
            Override::GlobalLimit(Arc::new(GlobalPerRoute::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute" => {
            Override::Compress(CompressPerRoute::compile(&unpack(any)?)?)
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig" => {
            use dynamic::per_route_config::HostRewriteSpecifier as From;
            match unpack::<dynamic::PerRouteConfig>(any)?.host_rewrite_specifier {
                Some(From::HostRewriteLiteral(host)) => Override::Host(HostFrom::Literal(host.into())),
                Some(From::HostRewriteHeader(name)) => Override::Host(HostFrom::Header(name.as_str().into())),
                None => return Ok(None),
            }
        }
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
            use buffer::buffer_per_route::Override as Of;
            match unpack::<buffer::BufferPerRoute>(any)?.r#override {
                Some(Of::Disabled(_)) => Override::Disabled,
                Some(Of::Buffer(own)) => Override::Buffer(largest(&own).within("buffer")?),
                None => return Err(Refusal::new("says neither disabled nor buffer")),
            }
        }
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy" => {
            Override::Csrf(Arc::new(Csrf::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            Override::Learn(Arc::new(HeaderToMetadata::compile(&unpack(any)?)?))
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            let per_route: RbacPerRoute = unpack(any)?;
            match &per_route.rbac {
                None => Override::Disabled,
                Some(rbac) => Override::Rbac(Arc::new(Rbac::compile_http(rbac).within("rbac")?)),
            }
        }
        other => return Err(Refusal::new(format_args!("{other} is not supported by this proxy"))),
    }))
}
