//! Reading protobuf's and Envoy's small types.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::Random;
use bytes::Bytes;
use prost::{Message, Name};
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::r#type::v3 as types;
use proto::pb::google::protobuf as pb;
use serde_json::{Map, Value};

use crate::refusal::{Refusal, Taken, Within};

/// A message within an `Any`, when it is of the type `M`.
pub(crate) fn unpack<M: Message + Name + Default>(any: &pb::Any) -> Taken<M> {
    if any.type_url.rsplit('/').next() != Some(&M::full_name()) {
        return Err(
            Refusal::new(format_args!("expected {}, found {}", M::full_name(), any.type_url)).under("@type")
        );
    }
    decode(&any.value)
}

pub(crate) fn decode<M: Message + Default>(bytes: &[u8]) -> Taken<M> {
    M::decode(bytes).map_err(|e| Refusal::new(format_args!("cannot be decoded: {e}")))
}

/// The type's full name, without the URL's host.
pub(crate) fn type_of(any: &pb::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

pub(crate) fn duration(value: &Option<pb::Duration>, field: &str) -> Taken<Option<Duration>> {
    let Some(d) = value else { return Ok(None) };
    let wrong = || Refusal::new("must not be negative").under(field);
    let seconds = u64::try_from(d.seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(d.nanos).map_err(|_| wrong())?;
    Ok(Some(Duration::new(seconds, nanos.min(999_999_999))))
}

/// A duration in which zero stands for "none".
pub(crate) fn timeout(value: &Option<pb::Duration>, field: &str) -> Taken<Option<Duration>> {
    Ok(duration(value, field)?.filter(|d| !d.is_zero()))
}

pub(crate) fn flag(value: &Option<pb::BoolValue>, default: bool) -> bool {
    value.as_ref().map_or(default, |v| v.value)
}

pub(crate) fn number(value: &Option<pb::UInt32Value>) -> Option<u32> {
    value.as_ref().map(|v| v.value)
}

/// A chance in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance(u32);

impl Chance {
    pub const NEVER: Self = Self(0);
    pub const ALWAYS: Self = Self(1_000_000);

    pub fn per_million(share: u32) -> Self {
        Self(share.min(1_000_000))
    }

    pub fn percent(percent: f64) -> Self {
        Self::per_million((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    pub fn as_percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    pub fn draw<R: Random + ?Sized>(self, rng: &mut R) -> bool {
        match self {
            Self::NEVER => false,
            Self::ALWAYS => true,
            Self(share) => rng.chance(share, 1_000_000),
        }
    }

    pub(crate) fn of(p: &types::FractionalPercent) -> Taken<Self> {
        let factor = match types::fractional_percent::DenominatorType::try_from(p.denominator) {
            Ok(types::fractional_percent::DenominatorType::Hundred) => 10_000,
            Ok(types::fractional_percent::DenominatorType::TenThousand) => 100,
            Ok(types::fractional_percent::DenominatorType::Million) => 1,
            Err(_) => return Err(Refusal::new("unknown denominator").under("denominator")),
        };
        Ok(Self::per_million(p.numerator.saturating_mul(factor)))
    }

    /// Runtime keys have no runtime to look in: their default holds, as in an Envoy without one.
    pub(crate) fn runtime(p: &Option<core::RuntimeFractionalPercent>, default: Self) -> Taken<Self> {
        match p.as_ref().and_then(|p| p.default_value.as_ref()) {
            Some(p) => Self::of(p).within("defaultValue"),
            None => Ok(default),
        }
    }

    pub(crate) fn of_percent(p: &Option<types::Percent>, default: Self) -> Self {
        p.as_ref().map_or(default, |p| Self::percent(p.value))
    }
}

/// Where bytes come from: a file is for the proxy to read.
#[derive(Clone, PartialEq, Eq)]
pub enum DataSource {
    File(Arc<str>),
    Inline(Bytes),
    Environment(Arc<str>),
}

/// Inline data may be a key: it is never printed.
impl std::fmt::Debug for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Environment(name) => write!(f, "Environment({name:?})"),
        }
    }
}

impl DataSource {
    pub(crate) fn compile(source: &core::DataSource) -> Taken<Self> {
        use core::data_source::Specifier;
        Ok(match source.specifier.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
            Specifier::Filename(path) => Self::File(path.as_str().into()),
            Specifier::InlineBytes(bytes) => Self::Inline(bytes.clone().into()),
            Specifier::InlineString(text) => Self::Inline(text.clone().into()),
            Specifier::EnvironmentVariable(name) => Self::Environment(name.as_str().into()),
        })
    }

    /// What is inline; deciding opens no files.
    pub(crate) fn inline(source: &core::DataSource) -> Taken<Bytes> {
        match Self::compile(source)? {
            Self::Inline(bytes) => Ok(bytes),
            _ => Err(Refusal::new("must be inline; files and environment variables are not read here")),
        }
    }
}

/// A socket or Unix address to listen on or connect to.
pub(crate) fn address(address: &Option<core::Address>) -> Taken<upstream::Address> {
    use core::address::Address;
    match address.as_ref().and_then(|a| a.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket_address(socket).within("socketAddress"),
        Some(Address::Pipe(pipe)) => Ok(upstream::Address::Pipe(pipe.path.as_str().into())),
        Some(Address::EnvoyInternalAddress(_)) => Err(Refusal::unsupported("envoyInternalAddress")),
        None => Err(Refusal::new("is missing")),
    }
}

fn socket_address(socket: &core::SocketAddress) -> Taken<upstream::Address> {
    use core::socket_address::PortSpecifier;
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| Refusal::new("must be at most 65535").under("portValue"))?
        }
        Some(PortSpecifier::NamedPort(_)) => return Err(Refusal::unsupported("namedPort")),
        None => 0,
    };
    if socket.address.is_empty() {
        return Err(Refusal::new("is empty").under("address"));
    }
    Ok(upstream::Address::parse(&socket.address, port))
}

/// An address that must be an IP address and port.
pub(crate) fn ip_address(value: &Option<core::Address>) -> Taken<SocketAddr> {
    address(value)?.socket().ok_or_else(|| Refusal::new("must be an IP address"))
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    pub base: IpAddr,
    pub length: u8,
}

impl Cidr {
    pub fn new(base: IpAddr, length: u8) -> Self {
        let length = length.min(if base.is_ipv4() { 32 } else { 128 });
        Self { base: mask(base, length), length }
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = if self.base.is_ipv4() { ip.to_canonical() } else { ip };
        ip.is_ipv4() == self.base.is_ipv4() && mask(ip, self.length) == self.base
    }

    pub(crate) fn compile(range: &core::CidrRange) -> Taken<Self> {
        let base: IpAddr = range.address_prefix.parse().map_err(|_| {
            Refusal::new(format_args!("{:?} is not an IP address", range.address_prefix))
                .under("addressPrefix")
        })?;
        let length = number(&range.prefix_len).unwrap_or(0);
        let most = if base.is_ipv4() { 32 } else { 128 };
        if length > most {
            return Err(Refusal::new(format_args!("must be at most {most}")).under("prefixLen"));
        }
        Ok(Self::new(base, length as u8))
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

fn mask(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// A protobuf Struct as JSON. Whole numbers read as integers.
pub fn json_of(fields: &pb::Struct) -> Map<String, Value> {
    let mut entries: Vec<_> = fields.fields.iter().collect();
    entries.sort_by_key(|(key, _)| key.as_str());
    entries.into_iter().map(|(k, v)| (k.clone(), json_of_value(v))).collect()
}

pub(crate) fn json_of_value(value: &pb::Value) -> Value {
    use pb::value::Kind;
    match value.kind.as_ref() {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => Value::from(*n as i64),
        Some(Kind::NumberValue(n)) => Value::from(*n),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::StructValue(fields)) => Value::Object(json_of(fields)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(json_of_value).collect()),
    }
}

/// `xds.type.v3.TypedStruct` and `udpa.type.v1.TypedStruct`.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<pb::Struct>,
}

/// The type and fields of a `TypedStruct`, when it is one.
pub(crate) fn typed_struct(any: &pb::Any) -> Taken<Option<(String, Map<String, Value>)>> {
    if !matches!(type_of(any), "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct") {
        return Ok(None);
    }
    let wrapped: TypedStruct = decode(&any.value)?;
    let name = wrapped.type_url.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Some((name, wrapped.value.as_ref().map(json_of).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_say() {
        let cidr = |text: &str, length| Cidr::new(text.parse().unwrap(), length);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(cidr("10.1.2.3", 8).contains(ip("10.200.0.1")));
        assert!(!cidr("10.1.2.3", 16).contains(ip("10.2.0.1")));
        assert!(cidr("0.0.0.0", 0).contains(ip("8.8.8.8")));
        assert!(!cidr("0.0.0.0", 0).contains(ip("::1")));
        assert!(cidr("10.0.0.0", 8).contains(ip("::ffff:10.0.0.1")));
        assert!(cidr("fd00::", 8).contains(ip("fd44::1")));
    }

    #[test]
    fn chances_are_drawn_in_millionths() {
        let mut rng = base::SeededRandom::new(3);
        let hits = (0..100_000).filter(|_| Chance::percent(12.5).draw(&mut rng)).count();
        assert!((12_000..13_000).contains(&hits), "{hits}");
        assert!(!Chance::NEVER.draw(&mut rng) && Chance::percent(100.0).draw(&mut rng));
    }
}
