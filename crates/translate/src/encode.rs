//! Small pieces of Envoy's messages, and the hash that versions are.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::{Message, Name};
use proto::Resource;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::google::protobuf as wkt;
use proto::pb::google::protobuf::value::Kind;

/// A resource of these bytes.
pub(crate) fn resource(name: Arc<str>, body: Bytes) -> Resource {
    Resource { version: content_hash(&body), name, body }
}

/// A service of gRPC at a cluster; without an authority it goes by the cluster's name.
pub(crate) fn grpc_service(cluster_name: String, authority: String) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name, authority, ..Default::default() });
    core::GrpcService { target_specifier: Some(target), ..Default::default() }
}

/// Encoded so that equal messages have equal bytes: hash maps have no order of their own.
pub(crate) fn stable<M: Message + Name>(message: &M) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    proto::json::canonical(&M::full_name(), &bytes).unwrap_or(bytes)
}

/// The same for the same bytes on every machine and in every run.
pub(crate) fn content_hash(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ ((wide >> 64) as u64)
    };
    let mut hash = 0x243F_6A88_85A3_08D3 ^ bytes.len() as u64;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), MULTIPLIER);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash ^ u64::from_le_bytes(last), 0xA076_1D64_78BD_642F | 1)
}

pub(crate) fn any<M: Message + Name>(message: &M) -> wkt::Any {
    wkt::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Istio's way of configuring an extension by a JSON object.
pub(crate) fn typed_struct(type_url: &str, value: wkt::Struct) -> wkt::Any {
    any(&proto::istio::TypedStruct {
        type_url: format!("type.googleapis.com/{type_url}"),
        value: Some(value),
    })
}

pub(crate) fn fields<const N: usize>(fields: [(&str, wkt::Value); N]) -> wkt::Struct {
    wkt::Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

pub(crate) fn text(value: impl Into<String>) -> wkt::Value {
    wkt::Value { kind: Some(Kind::StringValue(value.into())) }
}

pub(crate) fn flag(value: bool) -> wkt::Value {
    wkt::Value { kind: Some(Kind::BoolValue(value)) }
}

pub(crate) fn object(value: wkt::Struct) -> wkt::Value {
    wkt::Value { kind: Some(Kind::StructValue(value)) }
}

pub(crate) fn list(values: Vec<wkt::Value>) -> wkt::Value {
    wkt::Value { kind: Some(Kind::ListValue(wkt::ListValue { values })) }
}

pub(crate) fn json(value: &serde_json::Value) -> wkt::Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            Kind::ListValue(wkt::ListValue { values: values.iter().map(json).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(wkt::Struct {
            fields: map.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        }),
    };
    wkt::Value { kind: Some(kind) }
}

pub(crate) fn duration(length: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: length.subsec_nanos().cast_signed(),
    }
}

pub(crate) const fn seconds(seconds: i64) -> wkt::Duration {
    wkt::Duration { seconds, nanos: 0 }
}

pub(crate) const fn u32v(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

pub(crate) const fn boolv(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

pub(crate) fn socket_address(address: &str, port: u32) -> core::Address {
    use core::{address::Address, socket_address::PortSpecifier};
    core::Address {
        address: Some(match address.strip_prefix("unix://") {
            Some(path) => Address::Pipe(core::Pipe { path: path.into(), mode: 0 }),
            None => Address::SocketAddress(core::SocketAddress {
                address: address.into(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..Default::default()
            }),
        }),
    }
}

/// Configuration from the stream that everything comes from.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        initial_fetch_timeout: Some(seconds(0)),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// Metadata under the filter name `istio`.
pub(crate) fn istio_metadata(fields: wkt::Struct) -> core::Metadata {
    core::Metadata { filter_metadata: [("istio".to_owned(), fields)].into(), ..Default::default() }
}

/// A share of requests as Istio writes it: parts of a million.
pub(crate) fn millionths(percent: f64) -> proto::pb::envoy::r#type::v3::FractionalPercent {
    proto::pb::envoy::r#type::v3::FractionalPercent {
        numerator: (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32,
        denominator: proto::pb::envoy::r#type::v3::fractional_percent::DenominatorType::Million as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_contents_apart() {
        let all = [&b""[..], b"\0", b"\0\0", b"a", b"b", b"12345678", b"123456789", b"123456780"];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                assert_ne!(content_hash(a), content_hash(b), "{a:?} {b:?}");
            }
        }
    }
}
