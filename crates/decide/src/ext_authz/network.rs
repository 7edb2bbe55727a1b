//! The same question about a connection (`envoy.filters.network.ext_authz`), always by gRPC: it goes on, or ends.

use std::sync::Arc;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::network::ext_authz::v3 as network;
use proto::pb::envoy::service::auth::v3 as pb;
use serde_json::{Map, Value};

use super::check::{CHECK, peers, struct_of};
use super::compile::GRPC_TIMEOUT;
use super::verdict::{Verdict, conclude_grpc};
use crate::ask::{Answered, Call, CallFault, GrpcTarget};
use crate::connection::Connection;
use crate::matching::MetadataMatcher;
use crate::metadata::DynamicMetadata;
use crate::refusal::{Refusal, Taken, Within};

/// Where what the service says is kept for logs.
pub(crate) const NETWORK_METADATA: &str = "envoy.filters.network.ext_authz";

#[derive(Debug)]
pub struct NetworkAuthz {
    pub(crate) service: GrpcTarget,
    failure_allows: bool,
    peer_certificate: bool,
    tls_session: bool,
    namespaces: Vec<Box<str>>,
    enabled: Option<MetadataMatcher>,
    /// Whose counters: `ext_authz.OWNER.STAT`.
    pub(crate) owner: Arc<str>,
}

/// What becomes of a connection.
#[derive(Debug)]
pub(crate) struct NetworkVerdict {
    /// `%RESPONSE_CODE_DETAILS%` of one that ends.
    pub(crate) refused: Option<&'static str>,
    pub(crate) stat: &'static str,
    /// Nobody judged, and it goes on all the same.
    pub(crate) failure_allowed: bool,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) why: String,
}

impl NetworkAuthz {
    pub(crate) fn compile(m: &network::ExtAuthz) -> Taken<Self> {
        if m.stat_prefix.is_empty() {
            return Err(Refusal::new("is missing").under("statPrefix"));
        }
        let service =
            m.grpc_service.as_ref().ok_or_else(|| Refusal::new("is missing").under("grpcService"))?;
        Ok(Self {
            service: GrpcTarget::compile(service, Some(GRPC_TIMEOUT)).within("grpcService")?,
            failure_allows: m.failure_mode_allow,
            peer_certificate: m.include_peer_certificate,
            tls_session: m.include_tls_session,
            namespaces: m.metadata_context_namespaces.iter().map(|n| n.as_str().into()).collect(),
            enabled: m
                .filter_enabled_metadata
                .as_ref()
                .map(MetadataMatcher::compile)
                .transpose()
                .within("filterEnabledMetadata")?,
            owner: m.stat_prefix.trim_end_matches('.').into(),
        })
    }

    /// Whether the connection is one to ask about.
    pub(crate) fn is_enabled(&self, metadata: &DynamicMetadata) -> bool {
        self.enabled.as_ref().is_none_or(|matcher| matcher.matches(metadata))
    }

    pub(crate) fn call(&self, connection: &Connection, metadata: &DynamicMetadata) -> Call {
        let (source, mut destination) = peers(connection, self.peer_certificate, String::new());
        // As Envoy: the server that the client means.
        destination.service = connection.server_name.to_string();
        let told = self.namespaces.iter();
        let told = told.filter_map(|name| Some((name.to_string(), struct_of(metadata.filter(name)?))));
        let attributes = pb::AttributeContext {
            source: Some(source),
            destination: Some(destination),
            metadata_context: Some(core::Metadata { filter_metadata: told.collect(), ..Default::default() }),
            tls_session: self
                .tls_session
                .then(|| pb::attribute_context::TlsSession { sni: connection.server_name.to_string() }),
            ..Default::default()
        };
        Call::grpc(&self.service, CHECK, &pb::CheckRequest { attributes: Some(attributes) })
    }

    pub(crate) fn judge(&self, called: &Result<Answered, CallFault>) -> NetworkVerdict {
        let verdict = match called {
            Err(CallFault::Explaining) => Verdict::Explaining,
            Err(fault) => super::verdict::error(fault.to_string()),
            Ok(answer) => match answer.grpc_message::<pb::CheckResponse>() {
                Ok(response) => conclude_grpc(response),
                Err(fault) => super::verdict::error(format!("gRPC status {}: {}", fault.code, fault.message)),
            },
        };
        let passes = |stat, metadata, why: &str| NetworkVerdict {
            refused: None,
            stat,
            failure_allowed: false,
            metadata,
            why: why.to_owned(),
        };
        let fails = |why| NetworkVerdict {
            refused: (!self.failure_allows).then_some("ext_authz_error"),
            failure_allowed: self.failure_allows,
            ..passes("error", Map::new(), why)
        };
        match verdict {
            Verdict::Explaining => passes("ok", Map::new(), "nobody is asked"),
            Verdict::Ok(changes) => passes("ok", changes.metadata, "lets it through"),
            Verdict::Denied { metadata, .. } => {
                NetworkVerdict { refused: Some("ext_authz_denied"), ..passes("denied", metadata, "denies") }
            }
            Verdict::Error { reason, .. } => fails(&format!("fails: {reason}")),
            // Headers are no matter here.
            Verdict::Invalid(_) => passes("ok", Map::new(), "lets it through"),
        }
    }
}
