//! What filters learn of a request, and what mesh peers say of themselves.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use proto::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
use serde_json::{Map, Value};

/// Metadata by filter, as `%DYNAMIC_METADATA(filter:key)%` and RBAC's metadata matchers read it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DynamicMetadata(Vec<(Arc<str>, Map<String, Value>)>);

impl DynamicMetadata {
    pub fn set(&mut self, filter: &str, key: &str, value: Value) {
        match self.0.iter_mut().find(|(name, _)| &**name == filter) {
            Some((_, map)) => {
                map.insert(key.to_owned(), value);
            }
            None => {
                let map = [(key.to_owned(), value)].into_iter().collect();
                self.0.push((filter.into(), map));
            }
        }
    }

    pub fn filter(&self, filter: &str) -> Option<&Map<String, Value>> {
        self.0.iter().find(|(name, _)| &**name == filter).map(|(_, map)| map)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Map<String, Value>)> {
        self.0.iter().map(|(filter, map)| (filter, map))
    }

    /// The value at a path of keys; the whole map of the filter for an empty path has no single value and is not given.
    pub fn get<S: AsRef<str>>(&self, filter: &str, path: &[S]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.filter(filter)?.get(first.as_ref())?;
        for key in rest {
            value = value.as_object()?.get(key.as_ref())?;
        }
        Some(value)
    }
}

/// What a workload says of itself to its peers: the inputs of Istio's metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerMetadata {
    /// The node's id.
    pub id: String,
    pub name: String,
    pub namespace: String,
    pub cluster: String,
    pub owner: String,
    pub workload: String,
    pub identity: String,
    /// Sorted.
    pub labels: Vec<(String, String)>,
}

impl PeerMetadata {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// `app` as metrics name it.
    pub fn app(&self) -> Option<&str> {
        self.label("app").or_else(|| self.label("app.kubernetes.io/name"))
    }

    pub fn version(&self) -> Option<&str> {
        self.label("version").or_else(|| self.label("app.kubernetes.io/version"))
    }

    pub fn canonical_service(&self) -> Option<&str> {
        self.label("service.istio.io/canonical-name")
            .or_else(|| self.label("app.kubernetes.io/name"))
            .or_else(|| self.label("app"))
            .or(if self.workload.is_empty() { None } else { Some(&self.workload) })
    }

    pub fn canonical_revision(&self) -> Option<&str> {
        self.label("service.istio.io/canonical-revision")
            .or_else(|| self.label("app.kubernetes.io/version"))
            .or_else(|| self.label("version"))
    }

    /// From the headers `x-envoy-peer-metadata` (base64 of a Struct) and `x-envoy-peer-metadata-id`.
    pub fn from_headers(metadata: &[u8], id: &str) -> Option<Self> {
        let bytes = STANDARD.decode(metadata).ok()?;
        Some(Self::from_struct(&Struct::decode(bytes.as_slice()).ok()?, id))
    }

    pub fn from_struct(fields: &Struct, id: &str) -> Self {
        let text = |key: &str| match fields.fields.get(key).and_then(|v| v.kind.as_ref()) {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        };
        let mut labels = match fields.fields.get("LABELS").and_then(|v| v.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => labels
                .fields
                .iter()
                .filter_map(|(key, value)| match value.kind.as_ref() {
                    Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        labels.sort();
        Self {
            id: id.to_owned(),
            name: text("NAME"),
            namespace: text("NAMESPACE"),
            cluster: text("CLUSTER_ID"),
            owner: text("OWNER"),
            workload: text("WORKLOAD_NAME"),
            identity: text("IDENTITY"),
            labels,
        }
    }

    pub fn to_struct(&self) -> Struct {
        let text = |text: &str| PbValue { kind: Some(Kind::StringValue(text.to_owned())) };
        let labels = Struct { fields: self.labels.iter().map(|(k, v)| (k.clone(), text(v))).collect() };
        let mut fields: std::collections::HashMap<_, _> = [
            ("NAME", &self.name),
            ("NAMESPACE", &self.namespace),
            ("CLUSTER_ID", &self.cluster),
            ("OWNER", &self.owner),
            ("WORKLOAD_NAME", &self.workload),
            ("IDENTITY", &self.identity),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), text(value)))
        .collect();
        if !labels.fields.is_empty() {
            fields.insert("LABELS".to_owned(), PbValue { kind: Some(Kind::StructValue(labels)) });
        }
        Struct { fields }
    }

    /// The value of `x-envoy-peer-metadata`.
    pub fn to_header(&self) -> String {
        STANDARD.encode(self.to_struct().encode_to_vec())
    }

    /// From Istio's endpoint metadata `workload;namespace;canonical;revision;cluster`: what an upstream is called
    /// before it says so itself.
    pub fn from_endpoint(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (workload, namespace, canonical, revision, cluster) = (next(), next(), next(), next(), next());
        if workload.is_empty() && canonical.is_empty() {
            return None;
        }
        let mut labels = Vec::new();
        for (key, value) in [
            ("service.istio.io/canonical-name", canonical),
            ("service.istio.io/canonical-revision", revision),
        ] {
            if !value.is_empty() {
                labels.push((key.to_owned(), value));
            }
        }
        Some(Self { workload, namespace, cluster, labels, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_read_what_peers_write() {
        let peer = PeerMetadata {
            id: "sidecar~10.0.0.1~reviews.default~x".into(),
            name: "reviews-v1".into(),
            namespace: "default".into(),
            cluster: "Kubernetes".into(),
            workload: "reviews-v1".into(),
            labels: vec![("app".into(), "reviews".into()), ("version".into(), "v1".into())],
            ..PeerMetadata::default()
        };
        assert_eq!(PeerMetadata::from_headers(peer.to_header().as_bytes(), &peer.id), Some(peer.clone()));
        assert_eq!((peer.app(), peer.canonical_revision()), (Some("reviews"), Some("v1")));
        assert_eq!(PeerMetadata::from_headers(b"%%%", "x"), None);
    }

    #[test]
    fn endpoints_name_their_workload() {
        let peer = PeerMetadata::from_endpoint("reviews-v2;default;reviews;v2;Kubernetes").unwrap();
        assert_eq!((peer.workload.as_str(), peer.canonical_service()), ("reviews-v2", Some("reviews")));
        assert_eq!(PeerMetadata::from_endpoint(";;;;"), None);
    }

    #[test]
    fn metadata_is_read_by_path() {
        let mut metadata = DynamicMetadata::default();
        metadata.set("jwt", "payload", serde_json::json!({"iss": "me"}));
        assert_eq!(metadata.get("jwt", &["payload", "iss"]).unwrap(), "me");
        assert!(metadata.get("jwt", &["payload", "iss", "x"]).is_none());
        assert!(metadata.get::<&str>("jwt", &[]).is_none());
    }
}
