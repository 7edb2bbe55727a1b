//! Which proxies a Prometheus is to scrape, in the form of its HTTP service discovery.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use translate::Node;

pub(crate) const PATH: &str = "/prometheus/targets";

/// Where an agent shows its own counters with its proxy's and its application's.
const AGENT_PORT: u16 = 15020;

/// One group for each proxy, however many streams it has. Labels are those of Istio's configuration of Prometheus.
pub(crate) fn targets<'a>(nodes: impl Iterator<Item = &'a Node>) -> Value {
    let mut found = BTreeMap::new();
    for node in nodes {
        let Some(address) = node.addresses.first() else { continue };
        let group = json!({
            "targets": [SocketAddr::new(*address, AGENT_PORT).to_string()],
            "labels": {
                "__metrics_path__": "/stats/prometheus",
                "namespace": *node.namespace,
                "pod": *node.name,
            },
        });
        found.insert(*address, group);
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use proto::pb::envoy::config::core::v3 as core;

    use super::*;

    #[test]
    fn every_proxy_is_a_target_once() {
        let node = |id: &str| Node::from_proto(&core::Node { id: id.into(), ..Default::default() }).unwrap();
        let one = node("sidecar~10.44.0.5~reviews-v1-x.default~default.svc.cluster.local");
        let six = node("router~fd44::5~gateway.istio-system~istio-system.svc.cluster.local");
        let all = targets([&one, &six, &one].into_iter());
        assert_eq!(all.as_array().unwrap().len(), 2);
        assert_eq!(all[0]["targets"], json!(["10.44.0.5:15020"]));
        assert_eq!(all[0]["labels"]["pod"], "reviews-v1-x");
        assert_eq!(all[1]["targets"], json!(["[fd44::5]:15020"]));
    }
}
