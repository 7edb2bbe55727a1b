//! `rateLimits` of routes, virtual hosts and filters: what a request is counted by.

use std::net::{IpAddr, SocketAddr};

use proto::pb::envoy::config::route::v3 as pb;
use proto::pb::envoy::config::route::v3::rate_limit as rl;
use proto::pb::envoy::r#type::metadata::v3 as metadata;

use crate::headers::HeaderName;
use crate::matching::{HeaderMatcher, StringMatcher};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Request;
use crate::wire::{flag, number};

#[derive(Debug, Clone, Default)]
pub(crate) struct RateLimits(Vec<RateLimit>);

#[derive(Debug, Clone)]
struct RateLimit {
    stage: u32,
    actions: Vec<Action>,
}

/// Keys and values: what the limits of a service are chosen by.
pub(crate) type Descriptor = Vec<(Box<str>, String)>;

/// What actions look at.
pub(crate) struct Subject<'a> {
    pub(crate) request: &'a Request,
    pub(crate) remote: SocketAddr,
    /// The cluster that the proxy itself is of, and the one that the route names.
    pub(crate) source: &'a str,
    pub(crate) destination: Option<&'a str>,
}

#[derive(Debug, Clone)]
enum Action {
    SourceCluster,
    DestinationCluster,
    Header { name: HeaderName, key: Box<str>, skip: bool },
    Query { name: Box<str>, key: Box<str>, skip: bool },
    Remote,
    Masked { v4: u8, v6: u8 },
    Generic { key: Box<str>, value: Box<str> },
    HeaderMatch { key: Box<str>, value: Box<str>, expect: bool, headers: Vec<HeaderMatcher> },
    QueryMatch { key: Box<str>, value: Box<str>, expect: bool, parameters: Vec<QueryMatcher> },
    Metadata { key: Box<str>, filter: Box<str>, path: Vec<Box<str>>, default: Box<str>, skip: bool },
}

/// The parameter's name, and how its value must look, or whether it must be there.
type QueryMatcher = (Box<str>, Option<StringMatcher>, bool);

/// What an action comes to.
enum Entry {
    Add(Box<str>, String),
    /// It says nothing, and the others count all the same.
    Skip,
    /// The request is not counted by this.
    Drop,
}

impl RateLimits {
    pub(crate) fn compile(messages: &[pb::RateLimit], field: &str) -> Taken<Self> {
        each(messages, field, RateLimit::compile).map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn describe(&self, stage: u32, subject: &Subject<'_>, into: &mut Vec<Descriptor>) {
        let of_stage = self.0.iter().filter(|limit| limit.stage == stage);
        into.extend(of_stage.filter_map(|limit| limit.describe(subject)));
    }
}

impl RateLimit {
    fn compile(message: &pb::RateLimit) -> Taken<Self> {
        let stage = number(&message.stage).unwrap_or(0);
        if stage > 10 {
            return Err(Refusal::new("must be from 0 to 10").under("stage"));
        }
        if message.actions.is_empty() {
            return Err(Refusal::new("is empty").under("actions"));
        }
        Ok(Self { stage, actions: each(&message.actions, "actions", Action::compile)? })
    }

    fn describe(&self, subject: &Subject<'_>) -> Option<Descriptor> {
        let mut all = Descriptor::new();
        for action in &self.actions {
            match action.entry(subject) {
                Entry::Add(key, value) => all.push((key, value)),
                Entry::Skip => {}
                Entry::Drop => return None,
            }
        }
        Some(all)
    }
}

impl Action {
    fn entry(&self, subject: &Subject<'_>) -> Entry {
        let request = subject.request;
        let or_skip = |key: &str, value: Option<String>, skip: bool| match value {
            Some(value) => Entry::Add(key.into(), value),
            None if skip => Entry::Skip,
            None => Entry::Drop,
        };
        let matched = |key: &str, value: &str, holds: bool| match holds {
            true => Entry::Add(key.into(), value.to_owned()),
            false => Entry::Drop,
        };
        match self {
            Self::SourceCluster => Entry::Add("source_cluster".into(), subject.source.to_owned()),
            Self::DestinationCluster => {
                or_skip("destination_cluster", subject.destination.map(str::to_owned), false)
            }
            Self::Header { name, key, skip } => {
                // Of a repeated one, the first.
                let first = request.headers.get(name).map(|v| String::from_utf8_lossy(v).into_owned());
                let pseudo = || request.value(name).map(|v| String::from_utf8_lossy(&v).into_owned());
                or_skip(key, first.or_else(pseudo), *skip)
            }
            Self::Query { name, key, skip } => {
                or_skip(key, request.query_parameter(name).map(str::to_owned), *skip)
            }
            Self::Remote => {
                Entry::Add("remote_address".into(), subject.remote.ip().to_canonical().to_string())
            }
            Self::Masked { v4, v6 } => {
                let ip = subject.remote.ip().to_canonical();
                let masked = match ip {
                    IpAddr::V4(ip) => {
                        let kept = u32::MAX.checked_shl(32 - u32::from(*v4)).unwrap_or(0);
                        format!("{}/{v4}", std::net::Ipv4Addr::from_bits(ip.to_bits() & kept))
                    }
                    IpAddr::V6(ip) => {
                        let kept = u128::MAX.checked_shl(128 - u32::from(*v6)).unwrap_or(0);
                        format!("{}/{v6}", std::net::Ipv6Addr::from_bits(ip.to_bits() & kept))
                    }
                };
                Entry::Add("masked_remote_address".into(), masked)
            }
            Self::Generic { key, value } => Entry::Add(key.clone(), value.to_string()),
            Self::HeaderMatch { key, value, expect, headers } => {
                matched(key, value, headers.iter().all(|h| h.matches(request)) == *expect)
            }
            Self::QueryMatch { key, value, expect, parameters } => {
                let holds = |(name, matcher, present): &QueryMatcher| match (
                    request.query_parameter(name),
                    matcher,
                ) {
                    (Some(value), Some(matcher)) => matcher.matches(value.as_bytes()),
                    (value, None) => value.is_some() == *present,
                    (None, Some(_)) => false,
                };
                matched(key, value, parameters.iter().all(holds) == *expect)
            }
            Self::Metadata { key, filter, path, default, skip } => {
                let value = request.metadata.get(filter, path).and_then(|v| v.as_str());
                let value = value.filter(|v| !v.is_empty()).or((!default.is_empty()).then_some(default));
                or_skip(key, value.map(str::to_owned), *skip)
            }
        }
    }

    fn compile(message: &rl::Action) -> Taken<Self> {
        use rl::action::ActionSpecifier as Kind;
        let kind = message.action_specifier.as_ref().ok_or_else(|| Refusal::new("says nothing"))?;
        let or = |key: &str, default: &str| -> Box<str> { if key.is_empty() { default } else { key }.into() };
        Ok(match kind {
            Kind::SourceCluster(_) => Self::SourceCluster,
            Kind::DestinationCluster(_) => Self::DestinationCluster,
            Kind::RequestHeaders(h) => Self::Header {
                name: h.header_name.as_str().into(),
                key: h.descriptor_key.as_str().into(),
                skip: h.skip_if_absent,
            },
            Kind::QueryParameters(q) => Self::Query {
                name: q.query_parameter_name.as_str().into(),
                key: q.descriptor_key.as_str().into(),
                skip: q.skip_if_absent,
            },
            Kind::RemoteAddress(_) => Self::Remote,
            Kind::MaskedRemoteAddress(m) => {
                let length = |value, most: u8, field: &str| match number(value) {
                    None => Ok(most),
                    Some(n) => u8::try_from(n).ok().filter(|n| *n <= most).ok_or_else(|| {
                        Refusal::new(format_args!("must be {most} at most"))
                            .under(field)
                            .under("maskedRemoteAddress")
                    }),
                };
                Self::Masked {
                    v4: length(&m.v4_prefix_mask_len, 32, "v4PrefixMaskLen")?,
                    v6: length(&m.v6_prefix_mask_len, 128, "v6PrefixMaskLen")?,
                }
            }
            Kind::GenericKey(g) => Self::Generic {
                key: or(&g.descriptor_key, "generic_key"),
                value: literal(&g.descriptor_value).within("genericKey")?,
            },
            Kind::HeaderValueMatch(h) => Self::HeaderMatch {
                key: or(&h.descriptor_key, "header_match"),
                value: literal(&h.descriptor_value).within("headerValueMatch")?,
                expect: flag(&h.expect_match, true),
                headers: each(&h.headers, "headers", HeaderMatcher::compile).within("headerValueMatch")?,
            },
            Kind::QueryParameterValueMatch(q) => Self::QueryMatch {
                key: or(&q.descriptor_key, "query_match"),
                value: literal(&q.descriptor_value).within("queryParameterValueMatch")?,
                expect: flag(&q.expect_match, true),
                parameters: each(&q.query_parameters, "queryParameters", parameter)
                    .within("queryParameterValueMatch")?,
            },
            Kind::Metadata(m) => {
                if m.source != rl::action::meta_data::Source::Dynamic as i32 {
                    return Err(Refusal::new("must be DYNAMIC").under("source").under("metadata"));
                }
                let key = m
                    .metadata_key
                    .as_ref()
                    .ok_or_else(|| Refusal::new("is missing").under("metadataKey").under("metadata"))?;
                let path = each(&key.path, "path", |segment| match &segment.segment {
                    Some(metadata::metadata_key::path_segment::Segment::Key(key)) => Ok(key.as_str().into()),
                    Some(_) => Err(Refusal::unsupported("index")),
                    None => Err(Refusal::new("is empty")),
                });
                Self::Metadata {
                    key: m.descriptor_key.as_str().into(),
                    filter: key.key.as_str().into(),
                    path: path.within("metadataKey").within("metadata")?,
                    default: m.default_value.as_str().into(),
                    skip: m.skip_if_absent,
                }
            }
            Kind::DynamicMetadata(_) => {
                return Err(Refusal::new("Envoy knows it no more; write metadata").under("dynamicMetadata"));
            }
            Kind::Extension(_) => return Err(Refusal::unsupported("extension")),
            Kind::RemoteAddressMatch(_) => return Err(Refusal::unsupported("remoteAddressMatch")),
        })
    }
}

/// Newer Envoys take operators in these.
fn literal(value: &str) -> Taken<Box<str>> {
    if value.contains('%') {
        return Err(Refusal::new("operators are not supported here").under("descriptorValue"));
    }
    Ok(value.into())
}

fn parameter(q: &pb::QueryParameterMatcher) -> Taken<QueryMatcher> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
    let name = q.name.as_str().into();
    Ok(match &q.query_parameter_match_specifier {
        None => (name, None, true),
        Some(Query::PresentMatch(wanted)) => (name, None, *wanted),
        Some(Query::StringMatch(s)) => (name, Some(StringMatcher::compile(s).within("stringMatch")?), true),
    })
}

#[cfg(test)]
mod tests {
    use proto::json;
    use serde_json::json;

    use super::*;
    use crate::request::Method;

    fn compiled(actions: serde_json::Value) -> Result<RateLimits, String> {
        let message: pb::RateLimit = json::decode(&json!({"actions": actions})).unwrap();
        RateLimits::compile(&[message], "rateLimits").map_err(|r| format!("{}: {}", r.field(), r.reason))
    }

    #[test]
    fn a_request_is_described_by_all_actions_or_not_at_all() {
        let request =
            Request::new(Method::Get, "a", "/p?q=1").with_header("x-a", "1").with_header("x-a", "2");
        let described = |actions: serde_json::Value, remote: &str| {
            let subject = Subject {
                request: &request,
                remote: remote.parse().unwrap(),
                source: "me",
                destination: Some("you"),
            };
            let mut all = Vec::new();
            compiled(actions).unwrap().describe(0, &subject, &mut all);
            let pairs =
                |d: &Descriptor| d.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
            all.iter().map(pairs).collect::<Vec<_>>()
        };
        let header = |name: &str, skip: bool| json!({"requestHeaders": {"headerName": name, "descriptorKey": "h", "skipIfAbsent": skip}});
        let v4 = "10.1.2.3:5";
        for (actions, remote, expected) in [
            (
                json!([{"sourceCluster": {}}, {"destinationCluster": {}}]),
                v4,
                "source_cluster=me destination_cluster=you",
            ),
            (json!([header("x-a", false), header("x-b", true)]), v4, "h=1"),
            (json!([header(":path", false)]), v4, "h=/p?q=1"),
            (json!([{"remoteAddress": {}}]), "[::ffff:10.1.2.3]:5", "remote_address=10.1.2.3"),
            (
                json!([{"maskedRemoteAddress": {"v4PrefixMaskLen": 8}}]),
                v4,
                "masked_remote_address=10.0.0.0/8",
            ),
            (json!([{"maskedRemoteAddress": {"v4PrefixMaskLen": 0}}]), v4, "masked_remote_address=0.0.0.0/0"),
            (json!([{"maskedRemoteAddress": {}}]), "[fd00::1]:5", "masked_remote_address=fd00::1/128"),
            (json!([{"queryParameters": {"queryParameterName": "q", "descriptorKey": "q"}}]), v4, "q=1"),
        ] {
            assert_eq!(described(actions.clone(), remote), [expected], "{actions}");
        }
        assert!(described(json!([header("x-a", false), header("x-b", false)]), v4).is_empty());
    }

    #[test]
    fn what_is_not_built_is_refused_by_its_path() {
        for (action, expected) in [
            (
                json!({"genericKey": {"descriptorValue": "%REQ(x)%"}}),
                "rateLimits[0].actions[0].genericKey.descriptorValue: operators are not supported here",
            ),
            (
                json!({"metadata": {"descriptorKey": "k", "source": "ROUTE_ENTRY"}}),
                "rateLimits[0].actions[0].metadata.source: must be DYNAMIC",
            ),
            (json!({}), "rateLimits[0].actions[0]: says nothing"),
        ] {
            assert_eq!(compiled(json!([action])).unwrap_err(), expected);
        }
        assert_eq!(compiled(json!([])).unwrap_err(), "rateLimits[0].actions: is empty");
    }
}
