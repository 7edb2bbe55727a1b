//! The filter from its protobuf form.

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;

use super::{BodySettings, ExtAuthz, HttpService, Names, PerRoute, RouteBody, Service, Stats};
use crate::ask::GrpcTarget;
use crate::collector;
use crate::matching::{MetadataMatcher, StringMatcher};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::route::Mutations;
use crate::wire::{Chance, duration, flag};

/// Envoy's, where the configuration says nothing.
pub(super) const GRPC_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);

impl ExtAuthz {
    pub(crate) fn compile(m: &pb::ExtAuthz) -> Taken<Self> {
        use pb::ext_authz::Services;
        let mut allowed = m.allowed_headers.as_ref().map(|l| names(l, "allowedHeaders")).transpose()?;
        let service = match m.services.as_ref() {
            Some(Services::GrpcService(service)) => {
                Service::Grpc(GrpcTarget::compile(service, Some(GRPC_TIMEOUT)).within("grpcService")?)
            }
            Some(Services::HttpService(service)) => {
                let old = service.authorization_request.as_ref().and_then(|r| r.allowed_headers.as_ref());
                if let Some(old) = old {
                    let path = "httpService.authorizationRequest.allowedHeaders";
                    if allowed.is_some() {
                        return Err(Refusal::new("stands beside allowedHeaders; write one").under(path));
                    }
                    allowed = Some(names(old, "allowedHeaders").within("httpService.authorizationRequest")?);
                }
                let always = ["authorization", ":method", ":path", ":authority"];
                let all = allowed.get_or_insert_default();
                all.0.extend(always.map(|name| StringMatcher::Exact(name.into())));
                Service::Http(Box::new(http(service).within("httpService")?))
            }
            None => return Err(Refusal::new("is missing; write it, or httpService").under("grpcService")),
        };
        let status = match &m.status_on_error {
            None => 403,
            Some(status) => status_code(status.code).within("code").within("statusOnError")?,
        };
        let default = |f: &core::RuntimeFeatureFlag| flag(&f.default_value, true);
        Ok(Self {
            service,
            failure_allows: m.failure_mode_allow,
            failure_header: m.failure_mode_allow_header_add,
            status_on_error: status,
            body: m.with_request_body.as_ref().map(body).transpose().within("withRequestBody")?,
            clear_route_cache: m.clear_route_cache,
            metadata_namespaces: m.metadata_context_namespaces.iter().map(|n| n.as_str().into()).collect(),
            enabled: match &m.filter_enabled {
                None => None,
                some => Some(Chance::runtime(some, Chance::ALWAYS).within("filterEnabled")?),
            },
            enabled_metadata: m
                .filter_enabled_metadata
                .as_ref()
                .map(MetadataMatcher::compile)
                .transpose()
                .within("filterEnabledMetadata")?,
            deny_at_disable: m.deny_at_disable.as_ref().is_some_and(default),
            peer_certificate: m.include_peer_certificate,
            tls_session: m.include_tls_session,
            raw_headers: m.encode_raw_headers,
            allowed,
            disallowed: match &m.disallowed_headers {
                Some(list) => names(list, "disallowedHeaders")?,
                None => Names::default(),
            },
            takes_metadata: flag(&m.enable_dynamic_metadata_ingestion, true),
            charges_cluster: flag(&m.charge_cluster_response_stats, true),
            max_denied_body: m.max_denied_response_body_bytes as usize,
            stats: Stats::new(&m.stat_prefix),
        })
    }
}

impl PerRoute {
    pub(crate) fn compile(m: &pb::ExtAuthzPerRoute) -> Taken<Self> {
        use pb::ext_authz_per_route::Override;
        match m.r#override.as_ref() {
            Some(Override::Disabled(disabled)) => {
                if !disabled {
                    return Err(Refusal::new("can only be true; leave it out").under("disabled"));
                }
                Ok(Self { disabled: true, extensions: Vec::new(), body: RouteBody::AsFilter })
            }
            Some(Override::CheckSettings(settings)) => {
                let own = match (&settings.with_request_body, settings.disable_request_body_buffering) {
                    (Some(_), true) => {
                        return Err(Refusal::new("stands beside disableRequestBodyBuffering; write one")
                            .under("withRequestBody")
                            .under("checkSettings"));
                    }
                    (Some(own), false) => {
                        RouteBody::Settings(body(own).within("withRequestBody").within("checkSettings")?)
                    }
                    (None, true) => RouteBody::Off,
                    (None, false) => RouteBody::AsFilter,
                };
                let mut extensions: Vec<_> =
                    settings.context_extensions.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                extensions.sort();
                Ok(Self { disabled: false, extensions, body: own })
            }
            None => Err(Refusal::new("says nothing; write disabled or checkSettings")),
        }
    }
}

impl GrpcTarget {
    pub(crate) fn compile(service: &core::GrpcService, default: Option<std::time::Duration>) -> Taken<Self> {
        use core::grpc_service::TargetSpecifier;
        let Some(TargetSpecifier::EnvoyGrpc(envoy)) = &service.target_specifier else {
            return Err(Refusal::new("needs envoyGrpc"));
        };
        let authority = if envoy.authority.is_empty() { &envoy.cluster_name } else { &envoy.authority };
        let metadata = each(&service.initial_metadata, "initialMetadata", collector::header)?;
        Ok(Self {
            cluster: envoy.cluster_name.as_str().into(),
            authority: authority.as_str().into(),
            metadata,
            timeout: duration(&service.timeout, "timeout")?.or(default),
        })
    }
}

fn http(m: &pb::HttpService) -> Taken<HttpService> {
    let uri = m.server_uri.as_ref().ok_or_else(|| Refusal::new("is missing").under("serverUri"))?;
    let cluster = match &uri.http_upstream_type {
        Some(core::http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name.as_str(),
        _ => return Err(Refusal::new("is missing").under("cluster").under("serverUri")),
    };
    for (field, path) in [("pathPrefix", &m.path_prefix), ("pathOverride", &m.path_override)] {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(Refusal::new("must begin with /").under(field));
        }
    }
    if !m.path_prefix.is_empty() && !m.path_override.is_empty() {
        return Err(Refusal::new("stands beside pathPrefix; write one").under("pathOverride"));
    }
    let request = m.authorization_request.clone().unwrap_or_default();
    let added: Vec<_> = request
        .headers_to_add
        .into_iter()
        .map(|header| core::HeaderValueOption {
            header: Some(header),
            append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..Default::default()
        })
        .collect();
    let answer = m.authorization_response.clone().unwrap_or_default();
    let list = |l: &Option<ListStringMatcher>, field: &str| match l {
        Some(list) => names(list, field).within("authorizationResponse"),
        None => Ok(Names::default()),
    };
    let mut to_client = list(&answer.allowed_client_headers, "allowedClientHeaders")?;
    if !to_client.0.is_empty() {
        let always = [":status", "content-length", ":path", ":authority", "www-authenticate", "location"];
        to_client.0.extend(always.map(|name| StringMatcher::Exact(name.into())));
    }
    Ok(HttpService {
        cluster: cluster.into(),
        timeout: duration(&uri.timeout, "timeout").within("serverUri")?,
        path_prefix: m.path_prefix.as_str().into(),
        path_override: m.path_override.as_str().into(),
        headers_to_add: Mutations::compile(&added, &[], ("headersToAdd", ""))
            .within("authorizationRequest")?,
        to_upstream: list(&answer.allowed_upstream_headers, "allowedUpstreamHeaders")?,
        append_upstream: list(&answer.allowed_upstream_headers_to_append, "allowedUpstreamHeadersToAppend")?,
        to_client: (!to_client.0.is_empty()).then_some(to_client),
        to_client_on_success: list(
            &answer.allowed_client_headers_on_success,
            "allowedClientHeadersOnSuccess",
        )?,
        to_metadata: list(&answer.dynamic_metadata_from_headers, "dynamicMetadataFromHeaders")?,
    })
}

fn body(m: &pb::BufferSettings) -> Taken<BodySettings> {
    if m.max_request_bytes == 0 {
        return Err(Refusal::new("must be more than 0").under("maxRequestBytes"));
    }
    Ok(BodySettings {
        max_bytes: u64::from(m.max_request_bytes),
        allow_partial: m.allow_partial_message,
        as_bytes: m.pack_as_bytes,
    })
}

fn names(list: &ListStringMatcher, field: &str) -> Taken<Names> {
    each(&list.patterns, "patterns", StringMatcher::compile).within(field).map(Names)
}

/// One that an answer may have.
pub(super) fn status_code(code: i32) -> Taken<u16> {
    let known = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    known.ok_or_else(|| Refusal::new("must be from 200 to 599"))
}
