//! What a request asks for, whichever of the two protocols it was written in.

use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3 as pb;

/// A request, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// `None` for a type that is not known here.
    pub resource_type: Option<ResourceType>,
    pub type_url: String,
    pub nonce: String,
    /// Set in a NACK: why the last response was refused.
    pub error: Option<String>,
    pub names: Names,
}

/// How subscriptions change.
#[derive(Debug, Clone, PartialEq)]
pub enum Names {
    /// State of the world: these are all.
    All(Vec<String>),
    Change {
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        /// What the client holds from an earlier stream, with versions.
        initial: Vec<(String, String)>,
    },
}

impl From<pb::DiscoveryRequest> for Request {
    fn from(request: pb::DiscoveryRequest) -> Self {
        Self {
            resource_type: ResourceType::from_url(&request.type_url),
            type_url: request.type_url,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            names: Names::All(request.resource_names),
        }
    }
}

impl From<pb::DeltaDiscoveryRequest> for Request {
    fn from(request: pb::DeltaDiscoveryRequest) -> Self {
        Self {
            resource_type: ResourceType::from_url(&request.type_url),
            type_url: request.type_url,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            names: Names::Change {
                subscribe: request.resource_names_subscribe,
                unsubscribe: request.resource_names_unsubscribe,
                initial: request.initial_resource_versions.into_iter().collect(),
            },
        }
    }
}
