//! Where a resource comes from that another one, or the bootstrap, refers to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use prost::Name as _;
use proto::pb::envoy::config::core::v3 as core;

use crate::refusal::{Refusal, Taken, Within};
use crate::support::check;
use crate::wire::duration;

/// A source of configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The aggregated stream.
    Ads,
    /// The service of the resource's own type, through this static cluster.
    Grpc { cluster: Arc<str>, authority: Arc<str>, delta: bool },
    /// Polled through this static cluster.
    Rest { cluster: Arc<str>, refresh: Duration, timeout: Duration },
    /// Read again whenever something changes beside it, or in the folder that is watched in its place.
    File { path: Arc<str>, watched: Option<Arc<str>> },
}

/// Envoy's, where the configuration does not say.
const REST_TIMEOUT: Duration = Duration::from_secs(1);
/// Stands between the name and the source of a key: in no name that people write.
const OF: char = '\t';

impl Origin {
    /// What a resource of this source is kept under: two sources may give resources of one name.
    pub fn key(&self, name: &Arc<str>) -> Arc<str> {
        match self {
            Self::Ads => name.clone(),
            other => format!("{name}{OF}{other}").into(),
        }
    }

    /// The name that a key was made of.
    pub fn name_of(key: &str) -> &str {
        key.split_once(OF).map_or(key, |(name, _)| name)
    }

    /// The same from what a bootstrap says; the error is a field's path and a reason.
    pub fn read(source: &core::ConfigSource) -> Result<Self, (String, String)> {
        check(&core::ConfigSource::full_name(), &source.encode_to_vec())
            .and_then(|()| Self::compile(source))
            .map_err(|refusal| (refusal.field(), refusal.reason))
    }

    /// The source of a reference that need not name one.
    pub(crate) fn of(source: &Option<core::ConfigSource>) -> Taken<Self> {
        source.as_ref().map_or(Ok(Self::Ads), Self::compile)
    }

    pub(crate) fn compile(source: &core::ConfigSource) -> Taken<Self> {
        use core::config_source::ConfigSourceSpecifier as Source;
        let file = |path: &str, watched: Option<&core::WatchedDirectory>| match path {
            "" => Err(Refusal::new("is missing").under("path")),
            path => Ok(Self::File {
                path: path.into(),
                watched: watched.map(|w| w.path.as_str().into()).filter(|p: &Arc<str>| !p.is_empty()),
            }),
        };
        match source.config_source_specifier.as_ref() {
            Some(Source::Ads(_)) => Ok(Self::Ads),
            Some(Source::Path(path)) => file(path, None),
            Some(Source::PathConfigSource(path)) => {
                file(&path.path, path.watched_directory.as_ref()).within("pathConfigSource")
            }
            Some(Source::ApiConfigSource(api)) => Self::api(api).within("apiConfigSource"),
            Some(Source::Self_(_)) => Err(Refusal::unsupported("self")),
            None => Err(Refusal::new("names no source")),
        }
    }

    fn api(api: &core::ApiConfigSource) -> Taken<Self> {
        use core::api_config_source::ApiType;
        let delta = match ApiType::try_from(api.api_type) {
            Ok(ApiType::Rest) => return Self::rest(api),
            Ok(ApiType::Grpc) => false,
            Ok(ApiType::DeltaGrpc) => true,
            _ => return Err(Refusal::new("must be GRPC, DELTA_GRPC or REST").under("apiType")),
        };
        let one = match &api.grpc_services[..] {
            [one] => one,
            _ => return Err(Refusal::new("needs exactly one entry").under("grpcServices")),
        };
        // A time-out is for calls that are answered once: a stream has none, in Envoy either.
        if !one.initial_metadata.is_empty() {
            return Err(Refusal::unsupported("initialMetadata")).at("grpcServices", 0);
        }
        match &one.target_specifier {
            Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) => Ok(Self::Grpc {
                cluster: grpc.cluster_name.as_str().into(),
                authority: grpc.authority.as_str().into(),
                delta,
            }),
            _ => Err(Refusal::new("needs envoyGrpc")).at("grpcServices", 0),
        }
    }

    fn rest(api: &core::ApiConfigSource) -> Taken<Self> {
        let [cluster] = &api.cluster_names[..] else {
            return Err(Refusal::new("needs exactly one name").under("clusterNames"));
        };
        let refresh = duration(&api.refresh_delay, "refreshDelay")?.filter(|d| !d.is_zero());
        let refresh = refresh.ok_or_else(|| Refusal::new("is needed with REST").under("refreshDelay"))?;
        let timeout = duration(&api.request_timeout, "requestTimeout")?.filter(|d| !d.is_zero());
        let timeout = timeout.unwrap_or(REST_TIMEOUT);
        Ok(Self::Rest { cluster: cluster.as_str().into(), refresh, timeout })
    }

    /// The static cluster that leads to it.
    pub fn cluster(&self) -> Option<&Arc<str>> {
        match self {
            Self::Grpc { cluster, .. } | Self::Rest { cluster, .. } => Some(cluster),
            Self::Ads | Self::File { .. } => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ads => f.write_str("ADS"),
            Self::Grpc { cluster, delta: false, .. } => write!(f, "gRPC through {cluster}"),
            Self::Grpc { cluster, delta: true, .. } => write!(f, "delta gRPC through {cluster}"),
            Self::Rest { cluster, .. } => write!(f, "REST through {cluster}"),
            Self::File { path, .. } => write!(f, "file {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_are_read_or_refused_by_name() {
        let grpc = |api_type: &str| {
            json!({"apiConfigSource": {"apiType": api_type, "transportApiVersion": "V3",
                "grpcServices": [{"envoyGrpc": {"clusterName": "c"}, "timeout": "1s"}]}})
        };
        let rest = |refresh: serde_json::Value| json!({"apiConfigSource": {"apiType": "REST", "clusterNames": ["c"], "refreshDelay": refresh}});
        let files = json!({"pathConfigSource": {"path": "/a/b", "watchedDirectory": {"path": "/a"}}});
        for (source, wanted) in [
            (json!({"ads": {}}), "ADS"),
            (grpc("GRPC"), "gRPC through c"),
            (grpc("DELTA_GRPC"), "delta gRPC through c"),
            (grpc("AGGREGATED_GRPC"), "apiConfigSource.apiType: must be GRPC, DELTA_GRPC or REST"),
            (rest(json!("2s")), "REST through c"),
            (rest(json!(null)), "apiConfigSource.refreshDelay: is needed with REST"),
            (json!({"path": "/x.yaml"}), "file /x.yaml"),
            (files, "file /a/b"),
            (json!({"self": {}}), "self: not supported by this proxy; remove it"),
            (
                json!({"apiConfigSource": {"apiType": "GRPC", "rateLimitSettings": {}, "grpcServices": []}}),
                "apiConfigSource.rateLimitSettings: not supported by this proxy; remove it",
            ),
            (
                json!({"apiConfigSource": {"apiType": "GRPC", "grpcServices": []}}),
                "apiConfigSource.grpcServices: needs exactly one entry",
            ),
            (json!({}), ": names no source"),
        ] {
            let read = Origin::read(&proto::json::decode(&source).unwrap());
            let said = read.map_or_else(|(field, reason)| format!("{field}: {reason}"), |o| o.to_string());
            assert_eq!(said, wanted, "{source}");
        }
    }

    #[test]
    fn keys_keep_the_names_of_sources_apart() {
        let name: Arc<str> = "local_route".into();
        let file = |path: &str| Origin::File { path: path.into(), watched: None };
        assert_eq!(Origin::Ads.key(&name), name);
        assert_ne!(file("/a").key(&name), file("/b").key(&name));
        assert_eq!(Origin::name_of(&file("/a").key(&name)), "local_route");
    }
}
