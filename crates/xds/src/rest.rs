//! xDS by polling: `POST /v3/discovery:clusters` and its siblings, in JSON. One answer says all there is; no I/O.

use proto::json;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::Any;
use proto::{Resource, ResourceType};

use crate::Source;

/// Envoy adds a random part up to the same again: twice as long is the longest that a change takes to be seen, which is
/// less than those wait who leave.
const REFRESH: &str = "0.300s";

/// What to answer to a poll.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 200 with this body, which has this version.
    Resources { version: String, body: Vec<u8> },
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

/// The path that a type is polled at.
pub fn path(t: ResourceType) -> Option<&'static str> {
    Some(match t {
        ResourceType::Cluster => "/v3/discovery:clusters",
        ResourceType::Endpoint => "/v3/discovery:endpoints",
        ResourceType::Listener => "/v3/discovery:listeners",
        ResourceType::Route => "/v3/discovery:routes",
        ResourceType::Secret => "/v3/discovery:secrets",
        _ => return None,
    })
}

/// Reads a poll's body.
pub fn parse(body: &[u8]) -> Result<pb::DiscoveryRequest, String> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
    json::decode(&value).map_err(|e| format!("the body is not a DiscoveryRequest: {e}"))
}

/// What a poller is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub version: String,
    pub resources: Vec<Resource>,
}

/// What the source has under these names; without names, all that it has.
pub fn wanted(names: &[String], resource_type: ResourceType, source: &dyn Source) -> Wanted {
    let resources: Vec<Resource> = if names.is_empty() {
        source.all(resource_type).resources().cloned().collect()
    } else {
        names.iter().filter_map(|name| source.get(resource_type, name)).collect()
    };
    let version = resources.iter().fold(resources.len() as u64, |hash, resource| {
        (hash.rotate_left(5) ^ resource.version).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    Wanted { version: crate::payload::version_text(version), resources }
}

/// What the source has of what the poll asks for.
pub fn answer(
    request: &pb::DiscoveryRequest,
    resource_type: ResourceType,
    source: &dyn Source,
) -> Result<Answer, json::Error> {
    let Wanted { version, resources } = wanted(&request.resource_names, resource_type, source);
    if request.version_info == version {
        return Ok(Answer::Unchanged);
    }
    let any = |body: &bytes::Bytes| Any { type_url: resource_type.url().to_owned(), value: body.to_vec() };
    let response = pb::DiscoveryResponse {
        version_info: version.clone(),
        type_url: resource_type.url().to_owned(),
        resources: resources.iter().map(|resource| any(&resource.body)).collect(),
        ..Default::default()
    };
    let mut value = json::encode(&response)?;
    poll_instead(&mut value, &polled_cluster(request));
    Ok(Answer::Resources { version, body: value.to_string().into_bytes() })
}

/// The cluster of the client's bootstrap by which it polls: metadata `XDS_REST_CLUSTER`, else `xds-rest`.
fn polled_cluster(request: &pb::DiscoveryRequest) -> String {
    use proto::pb::google::protobuf::value::Kind;
    let metadata = request.node.as_ref().and_then(|node| node.metadata.as_ref());
    match metadata.and_then(|metadata| metadata.fields.get("XDS_REST_CLUSTER")?.kind.as_ref()) {
        Some(Kind::StringValue(name)) => name.clone(),
        _ => "xds-rest".to_owned(),
    }
}

/// Who polls has no ADS stream: where a resource refers to one, it is told to poll.
fn poll_instead(value: &mut serde_json::Value, cluster: &str) {
    use serde_json::{Value, json};
    match value {
        Value::Object(object) => {
            if object.remove("ads").is_some() {
                let source = json!({
                    "apiType": "REST",
                    "transportApiVersion": "V3",
                    "clusterNames": [cluster],
                    "refreshDelay": REFRESH,
                });
                object.insert("apiConfigSource".to_owned(), source);
            }
            object.values_mut().for_each(|inner| poll_instead(inner, cluster));
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| poll_instead(inner, cluster)),
        _ => {}
    }
}
