//! The filter from its protobuf form.

use std::sync::Arc;
use std::time::Duration;

use proto::pb::envoy::extensions::filters::http::ext_proc::v3 as pb;
use proto::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;

use super::{BodyMode, Mode, Parts, Processor, RouteCache, Rules, Stats};
use crate::ask::GrpcTarget;
use crate::headers::HeaderName;
use crate::matching::StringMatcher;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::duration;

/// Envoy's, where the configuration says nothing.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);

/// What a route says.
#[derive(Debug)]
pub(crate) enum PerRoute {
    Disabled,
    Overrides(Box<Overrides>),
}

#[derive(Debug)]
pub(crate) struct Overrides {
    mode: Option<Mode>,
    target: Option<GrpcTarget>,
    metadata: Vec<(HeaderName, bytes::Bytes)>,
    failure_allows: Option<bool>,
    forwards: Option<Vec<Box<str>>>,
    receives: Option<Vec<Box<str>>>,
}

impl Processor {
    pub(crate) fn compile(m: &pb::ExternalProcessor) -> Taken<Self> {
        use pb::external_processor::RouteCacheAction as Action;
        let service =
            m.grpc_service.as_ref().ok_or_else(|| Refusal::new("is missing").under("grpcService"))?;
        let route_cache = match (m.disable_clear_route_cache, Action::try_from(m.route_cache_action)) {
            (true, Ok(Action::Default)) | (false, Ok(Action::Retain)) => RouteCache::Retain,
            (true, _) => {
                let fault = "stands beside disableClearRouteCache; write one";
                return Err(Refusal::new(fault).under("routeCacheAction"));
            }
            (false, Ok(Action::Clear)) => RouteCache::Clear,
            (false, _) => RouteCache::AsSaid,
        };
        let status_on_error = match &m.status_on_error {
            None => 500,
            Some(status) => {
                u16::try_from(status.code).ok().filter(|code| (200..600).contains(code)).ok_or_else(|| {
                    Refusal::new("must be from 200 to 599").under("code").under("statusOnError")
                })?
            }
        };
        let rules = m.forward_rules.as_ref();
        let names = |list: Option<&ListStringMatcher>, field: &str| match list {
            None => Ok(Vec::new()),
            Some(list) => {
                each(&list.patterns, "patterns", StringMatcher::compile).within(field).within("forwardRules")
            }
        };
        let options = m.metadata_options.as_ref();
        Ok(Self {
            target: GrpcTarget::compile(service, None).within("grpcService")?,
            failure_allows: m.failure_mode_allow,
            message_timeout: duration(&m.message_timeout, "messageTimeout")?.unwrap_or(MESSAGE_TIMEOUT),
            max_message_timeout: duration(&m.max_message_timeout, "maxMessageTimeout")?.unwrap_or_default(),
            status_on_error,
            stats: Arc::new(Stats::new(&m.stat_prefix)),
            mode: Mode::compile(&m.processing_mode.unwrap_or_default()).within("processingMode")?,
            allows_mode_override: m.allow_mode_override,
            allowed_overrides: each(&m.allowed_override_modes, "allowedOverrideModes", Mode::compile)?,
            immediate_allowed: !m.disable_immediate_response,
            route_cache,
            rules: Rules::compile(m.mutation_rules.as_ref()).within("mutationRules")?,
            allowed: names(rules.and_then(|r| r.allowed_headers.as_ref()), "allowedHeaders")?,
            disallowed: names(rules.and_then(|r| r.disallowed_headers.as_ref()), "disallowedHeaders")?,
            forwards: options.and_then(|o| namespaces(&o.forwarding_namespaces)).unwrap_or_default(),
            receives: options.and_then(|o| namespaces(&o.receiving_namespaces)).unwrap_or_default(),
        })
    }

    /// With what the route says, the least specific first; nothing where it says that there is no processing.
    pub(crate) fn with<'a>(
        self: &Arc<Self>,
        levels: impl DoubleEndedIterator<Item = &'a PerRoute>,
    ) -> Option<Arc<Self>> {
        let mut own = Arc::clone(self);
        let mut disabled = false;
        for level in levels {
            disabled = matches!(level, PerRoute::Disabled);
            let PerRoute::Overrides(overrides) = level else { continue };
            let own = Arc::make_mut(&mut own);
            own.mode = overrides.mode.unwrap_or(own.mode);
            own.failure_allows = overrides.failure_allows.unwrap_or(own.failure_allows);
            if let Some(target) = &overrides.target {
                own.target = target.clone();
            }
            for (name, value) in &overrides.metadata {
                own.target.metadata.retain(|(known, _)| known != name);
                own.target.metadata.push((name.clone(), value.clone()));
            }
            if let Some(forwards) = &overrides.forwards {
                own.forwards.clone_from(forwards);
            }
            if let Some(receives) = &overrides.receives {
                own.receives.clone_from(receives);
            }
        }
        (!disabled).then_some(own)
    }
}

impl PerRoute {
    pub(crate) fn compile(m: &pb::ExtProcPerRoute) -> Taken<Self> {
        use pb::ext_proc_per_route::Override;
        match m.r#override.as_ref() {
            Some(Override::Disabled(true)) => Ok(Self::Disabled),
            Some(Override::Disabled(false)) => {
                Err(Refusal::new("can only be true; leave it out").under("disabled"))
            }
            Some(Override::Overrides(own)) => {
                Overrides::compile(own).within("overrides").map(|own| Self::Overrides(Box::new(own)))
            }
            None => Err(Refusal::new("says nothing; write disabled or overrides")),
        }
    }
}

impl Overrides {
    fn compile(m: &pb::ExtProcOverrides) -> Taken<Self> {
        let options = m.metadata_options.as_ref();
        Ok(Self {
            mode: m.processing_mode.as_ref().map(Mode::compile).transpose().within("processingMode")?,
            target: m
                .grpc_service
                .as_ref()
                .map(|service| GrpcTarget::compile(service, None))
                .transpose()
                .within("grpcService")?,
            metadata: m
                .grpc_initial_metadata
                .iter()
                .map(|h| (h.key.as_str().into(), h.value.clone().into()))
                .collect(),
            failure_allows: m.failure_mode_allow.as_ref().map(|v| v.value),
            forwards: options.and_then(|o| namespaces(&o.forwarding_namespaces)),
            receives: options.and_then(|o| namespaces(&o.receiving_namespaces)),
        })
    }
}

fn namespaces(of: &Option<pb::metadata_options::MetadataNamespaces>) -> Option<Vec<Box<str>>> {
    of.as_ref().map(|n| n.untyped.iter().map(|name| name.as_str().into()).collect())
}

impl Mode {
    pub(super) fn compile(m: &pb::ProcessingMode) -> Taken<Self> {
        let sends = |mode: i32, field: &str, default: bool| match HeaderSendMode::try_from(mode) {
            Ok(HeaderSendMode::Default) => Ok(default),
            Ok(HeaderSendMode::Send) => Ok(true),
            Ok(HeaderSendMode::Skip) => Ok(false),
            Err(_) => Err(Refusal::new("unknown").under(field)),
        };
        let body = |mode: i32, field: &str| match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Ok(BodyMode::None),
            Ok(BodySendMode::Streamed) => Ok(BodyMode::Streamed),
            Ok(BodySendMode::Buffered) => Ok(BodyMode::Buffered),
            Ok(BodySendMode::BufferedPartial) => Ok(BodyMode::Partial),
            Ok(other) => {
                let fault = format_args!("{} is not supported by this proxy", other.as_str_name());
                Err(Refusal::new(fault).under(field))
            }
            Err(_) => Err(Refusal::new("unknown").under(field)),
        };
        Ok(Self {
            request: Parts {
                headers: sends(m.request_header_mode, "requestHeaderMode", true)?,
                body: body(m.request_body_mode, "requestBodyMode")?,
                trailers: sends(m.request_trailer_mode, "requestTrailerMode", false)?,
            },
            response: Parts {
                headers: sends(m.response_header_mode, "responseHeaderMode", true)?,
                body: body(m.response_body_mode, "responseBodyMode")?,
                trailers: sends(m.response_trailer_mode, "responseTrailerMode", false)?,
            },
        })
    }

    /// As what is allowed is compared: whether request headers are sent is past.
    pub(super) fn is_as(self, other: Self) -> bool {
        let request = Parts { headers: true, ..self.request };
        request == Parts { headers: true, ..other.request } && self.response == other.response
    }
}
