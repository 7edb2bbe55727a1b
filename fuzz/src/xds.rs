//! What a control plane is polled with, what it says over gRPC, and JSON's mapping of all that.

use std::convert::Infallible;

use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use proto::ResourceType;
use proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

/// A poll's body, and gRPC's frames.
pub fn xds(data: &[u8]) {
    let _ = xds::rest::parse(data);
    xds::rest::resource_type(&String::from_utf8_lossy(data));
    let body = Full::new(Bytes::copy_from_slice(data)).map_err(|error: Infallible| error);
    let mut inbound = xds::grpc::Inbound::new(body, 1 << 16);
    while let Some(Ok(Some(_))) = inbound.message::<DeltaDiscoveryResponse>().now_or_never() {}
}

/// A message of the type that the first byte says: what it says as JSON means the same.
pub fn json_mapping(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let url = ResourceType::ALL[usize::from(which) % ResourceType::ALL.len()].url();
    let name = url.rsplit('/').next().unwrap_or(url);
    if let Ok(value) = proto::json::to_value(name, rest) {
        let bytes = proto::json::from_value(name, &value).unwrap_or_else(|e| panic!("{e:?} in {value}"));
        let again = proto::json::to_value(name, &bytes).unwrap_or_else(|e| panic!("{e:?} in {value}"));
        assert_eq!(value, again);
    }
    if let Ok(value) = serde_json::from_slice(rest)
        && let Ok(bytes) = proto::json::from_value(name, &value)
    {
        let value = proto::json::to_value(name, &bytes).unwrap_or_else(|e| panic!("{e:?} in {value}"));
        assert_eq!(proto::json::from_value(name, &value).ok(), Some(bytes), "{value}");
    }
}
