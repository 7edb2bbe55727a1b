//! xDS by polling: `POST /v3/discovery:clusters` and its siblings, in JSON. One answer says all there is; no I/O.

use proto::ResourceType;
use proto::json;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::Any;

use crate::Source;

/// What to answer to a poll.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 200 with this body.
    Resources(Vec<u8>),
    /// 304: the client has this version.
    Unchanged,
}

/// The type that a path is for.
pub fn resource_type(path: &str) -> Option<ResourceType> {
    Some(match path.strip_prefix("/v3/discovery:")? {
        "clusters" => ResourceType::Cluster,
        "endpoints" => ResourceType::Endpoint,
        "listeners" => ResourceType::Listener,
        "routes" => ResourceType::Route,
        "scoped-routes" => ResourceType::ScopedRoute,
        "secrets" => ResourceType::Secret,
        "extension_configs" => ResourceType::ExtensionConfig,
        _ => return None,
    })
}

/// Reads a poll's body.
pub fn parse(body: &[u8]) -> Result<pb::DiscoveryRequest, String> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    json::decode(&value).map_err(|e| format!("the body is not a DiscoveryRequest: {e}"))
}

/// What the source has of what the poll asks for.
pub fn answer(
    request: &pb::DiscoveryRequest,
    resource_type: ResourceType,
    source: &dyn Source,
) -> Result<Answer, json::Error> {
    let resources = if request.resource_names.is_empty() {
        source.all(resource_type).to_vec()
    } else {
        request.resource_names.iter().filter_map(|name| source.get(resource_type, name)).collect()
    };
    let version = resources.iter().fold(resources.len() as u64, |hash, resource| {
        (hash.rotate_left(5) ^ resource.version).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    let version_info = crate::payload::version_text(version);
    if request.version_info == version_info {
        return Ok(Answer::Unchanged);
    }
    let any = |body: &bytes::Bytes| Any { type_url: resource_type.url().to_owned(), value: body.to_vec() };
    let response = pb::DiscoveryResponse {
        version_info,
        type_url: resource_type.url().to_owned(),
        resources: resources.iter().map(|resource| any(&resource.body)).collect(),
        ..Default::default()
    };
    json::encode(&response).map(|value| Answer::Resources(value.to_string().into_bytes()))
}
