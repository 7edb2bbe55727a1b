//! Subsets: what clusters and endpoints say of them, and what routes want of them.

use std::sync::Arc;

use ::upstream::{Fallback, Labels, LbLabel, SelectorFallback, SubsetConfig, SubsetSelector};
use proto::pb::envoy::config::cluster::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::google::protobuf::{Struct, Value};
use serde_json::Map;

use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{json_of, json_of_value};

/// The namespace of metadata that load balancing looks at.
pub(crate) const LB: &str = "envoy.lb";

pub(super) fn compile(message: &pb::Cluster) -> Taken<Option<Arc<SubsetConfig>>> {
    match &message.lb_subset_config {
        // As in Envoy: without selectors there are no subsets.
        Some(config) if !config.subset_selectors.is_empty() => {
            config_of(config).within("lbSubsetConfig").map(Arc::new).map(Some)
        }
        _ => Ok(None),
    }
}

fn config_of(config: &pb::cluster::LbSubsetConfig) -> Taken<SubsetConfig> {
    use pb::cluster::lb_subset_config::LbSubsetFallbackPolicy as Policy;
    Ok(SubsetConfig {
        fallback: match Policy::try_from(config.fallback_policy) {
            Ok(Policy::NoFallback) => Fallback::None,
            Ok(Policy::AnyEndpoint) => Fallback::Any,
            Ok(Policy::DefaultSubset) => Fallback::Default,
            Err(_) => return Err(Refusal::new("unknown").under("fallbackPolicy")),
        },
        default: config.default_subset.as_ref().map(labels).unwrap_or_default(),
        selectors: each(&config.subset_selectors, "subsetSelectors", selector)?,
        locality_weight_aware: config.locality_weight_aware,
        scale_locality_weight: config.scale_locality_weight,
        panic_mode_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
    })
}

fn selector(message: &pb::cluster::lb_subset_config::LbSubsetSelector) -> Taken<SubsetSelector> {
    use pb::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Policy;
    let sorted = |keys: &[String]| {
        let mut keys: Vec<Box<str>> = keys.iter().map(|key| key.as_str().into()).collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let keys = sorted(&message.keys);
    if message.single_host_per_subset && keys.len() != 1 {
        return Err(Refusal::new("needs exactly one key").under("singleHostPerSubset"));
    }
    let fewer = sorted(&message.fallback_keys_subset);
    let wrong = |reason: &str| Err(Refusal::new(reason).under("fallbackKeysSubset"));
    let fallback = match Policy::try_from(message.fallback_policy) {
        Ok(Policy::NotDefined) => None,
        Ok(Policy::NoFallback) => Some(SelectorFallback::Of(Fallback::None)),
        Ok(Policy::AnyEndpoint) => Some(SelectorFallback::Of(Fallback::Any)),
        Ok(Policy::DefaultSubset) => Some(SelectorFallback::Of(Fallback::Default)),
        Ok(Policy::KeysSubset) if fewer.is_empty() => return wrong("must not be empty for KEYS_SUBSET"),
        Ok(Policy::KeysSubset) if fewer == keys || !fewer.iter().all(|key| keys.contains(key)) => {
            return wrong("must be some of the selector's keys, not all");
        }
        Ok(Policy::KeysSubset) => {
            return Ok(SubsetSelector {
                keys,
                single_host: message.single_host_per_subset,
                fallback: Some(SelectorFallback::Keys(fewer)),
            });
        }
        Err(_) => return Err(Refusal::new("unknown").under("fallbackPolicy")),
    };
    if !fewer.is_empty() {
        return wrong("is for fallbackPolicy KEYS_SUBSET");
    }
    Ok(SubsetSelector { keys, single_host: message.single_host_per_subset, fallback })
}

fn text(value: &Value) -> Box<str> {
    json_of_value(value).to_string().into()
}

fn labels(fields: &Struct) -> Box<Labels> {
    json_of(fields).into_iter().map(|(key, value)| (key.into(), value.to_string().into())).collect()
}

/// What an endpoint's metadata says of it.
pub(super) fn labels_of_endpoint(metadata: &core::Metadata) -> Arc<[LbLabel]> {
    use proto::pb::google::protobuf::value::Kind;
    let Some(fields) = metadata.filter_metadata.get(LB) else { return Arc::from([]) };
    let mut all: Vec<LbLabel> = fields
        .fields
        .iter()
        .map(|(key, value)| LbLabel {
            key: key.as_str().into(),
            value: text(value),
            items: match &value.kind {
                Some(Kind::ListValue(list)) => list.values.iter().map(text).collect(),
                _ => Vec::new(),
            },
        })
        .collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all.into()
}

/// What a route wants (`metadataMatch`).
pub(crate) fn wanted(metadata: &Option<core::Metadata>) -> Box<Labels> {
    metadata.as_ref().and_then(|m| m.filter_metadata.get(LB)).map(labels).unwrap_or_default()
}

/// What is said last counts.
pub(crate) fn merged<'a>(levels: impl IntoIterator<Item = &'a Labels>) -> Box<Labels> {
    let all: std::collections::BTreeMap<Box<str>, Box<str>> =
        levels.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    all.into_iter().collect()
}

/// What filters learned for load balancing.
pub(crate) fn learned(fields: &Map<String, serde_json::Value>) -> Box<Labels> {
    fields.iter().map(|(key, value)| (key.as_str().into(), value.to_string().into())).collect()
}
