//! `/config_dump` and `/certs` in Envoy's shapes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use decide::Origin;
use proto::{Resource, ResourceType};
use serde_json::{Map, Value, json};

use super::Control;
use crate::clock::timestamp;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const V3: &str = "type.googleapis.com/envoy.admin.v3.";

impl Control {
    pub(super) fn dump(&self, endpoints: bool) -> Value {
        let mut configs =
            vec![json!({"@type": format!("{V3}BootstrapConfigDump"), "bootstrap": self.bootstrap()})];
        configs.push(self.section(
            ResourceType::Cluster,
            "ClustersConfigDump",
            "static_clusters",
            "dynamic_active_clusters",
            |v, _| json!({ "cluster": v }),
        ));
        configs.push(self.section(
            ResourceType::Listener,
            "ListenersConfigDump",
            "static_listeners",
            "dynamic_listeners",
            |v, r| {
                if r {
                    json!({"name": v["name"], "active_state": {"listener": v}})
                } else {
                    json!({ "listener": v })
                }
            },
        ));
        configs.push(self.section(
            ResourceType::Route,
            "RoutesConfigDump",
            "static_route_configs",
            "dynamic_route_configs",
            |v, _| json!({ "route_config": self.with_hosts(v) }),
        ));
        if endpoints {
            configs.push(self.section(
                ResourceType::Endpoint,
                "EndpointsConfigDump",
                "static_endpoint_configs",
                "dynamic_endpoint_configs",
                |v, _| json!({ "endpoint_config": v }),
            ));
        }
        let names: Vec<Value> =
            self.secrets.identities().map(|(name, _)| json!({"name": Origin::name_of(name)})).collect();
        configs.push(json!({"@type": format!("{V3}SecretsConfigDump"), "dynamic_active_secrets": names}));
        configs.iter_mut().for_each(proto::json::redact);
        json!({ "configs": configs })
    }

    /// A table with the virtual hosts that came by VHDS, as Envoy shows it.
    fn with_hosts(&self, mut table: Value) -> Value {
        if table.get("vhds").is_none() {
            return table;
        }
        let of_type = self.resources.range((ResourceType::VirtualHost, "".into())..);
        let of_type = of_type.take_while(|((t, _), _)| *t == ResourceType::VirtualHost);
        let of_table = of_type.filter(|((_, key), _)| {
            let owner = proto::table_of_host(Origin::name_of(key));
            owner.is_some() && owner == table["name"].as_str()
        });
        let hosts: Vec<Value> = of_table
            .filter_map(|(_, (host, ..))| {
                proto::json::to_value("envoy.config.route.v3.VirtualHost", &host.body).ok()
            })
            .collect();
        match table["virtual_hosts"].as_array_mut() {
            Some(own) => own.extend(hosts),
            None => table["virtual_hosts"] = hosts.into(),
        }
        table
    }

    fn bootstrap(&self) -> Value {
        proto::json::to_value(BOOTSTRAP, &self.bootstrap).unwrap_or_else(|e| json!({ "error": e.reason }))
    }

    fn section(
        &self,
        t: ResourceType,
        name: &str,
        fixed: &str,
        dynamic: &str,
        wrap: impl Fn(Value, bool) -> Value,
    ) -> Value {
        let mut section = Map::new();
        section.insert("@type".into(), format!("{V3}{name}").into());
        if let Some(written) = self.last_good.as_ref().and_then(|last| last.in_use()) {
            section.insert("version_info".into(), format!("last good configuration of {written}").into());
        }
        let mut lists: BTreeMap<bool, Vec<Value>> = BTreeMap::new();
        let mut errors = self.updates.errors(t);
        for ((_, name), (resource, at, came)) in
            self.resources.range((t, "".into())..).take_while(|((u, _), _)| *u == t)
        {
            let is_dynamic = came.is_dynamic();
            let mut entry = wrap(value_of(t, resource), is_dynamic);
            let place =
                if entry.get("active_state").is_some() { &mut entry["active_state"] } else { &mut entry };
            place["last_updated"] = timestamp(*at).into();
            if is_dynamic {
                place["version_info"] = format!("{:016x}", resource.version).into();
            }
            if let Some(error) = errors.remove(&**name) {
                entry["error_state"] = error;
            }
            lists.entry(is_dynamic).or_default().push(entry);
        }
        // What was never good is shown as well.
        for (name, mut error) in errors {
            let key = if t == ResourceType::Endpoint { "cluster_name" } else { "name" };
            error["failed_configuration"] = json!({"@type": t.url(), key: Origin::name_of(name)});
            let entry = match t {
                ResourceType::Listener => json!({"name": name, "error_state": error}),
                _ => json!({"error_state": error}),
            };
            lists.entry(true).or_default().push(entry);
        }
        for (is_dynamic, list) in lists {
            section.insert(if is_dynamic { dynamic } else { fixed }.to_owned(), list.into());
        }
        Value::Object(section)
    }

    pub(super) fn certificates(&self) -> Value {
        let mut certificates = Vec::new();
        for (name, source) in self.secrets.identities() {
            let Some(identity) = source.current() else { continue };
            let info = identity.info();
            let uris: Vec<Value> = info.uri_sans.iter().map(|u| json!({ "uri": u })).collect();
            let days =
                info.not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs() / 86_400;
            certificates.push(json!({
                "ca_cert": [],
                "cert_chain": [{
                    "path": format!("<inline: {}>", Origin::name_of(name)),
                    "serial_number": info.serial,
                    "subject_alt_names": uris,
                    "days_until_expiration": days.to_string(),
                    "valid_from": timestamp(info.not_before),
                    "expiration_time": timestamp(info.not_after),
                }],
            }));
        }
        for (name, source) in self.secrets.bundles() {
            let Some(bundle) = source.current() else { continue };
            let roots: Vec<Value> =
                bundle.certificates().iter().filter_map(|root| root_of(name, root)).collect();
            certificates.push(json!({ "ca_cert": roots, "cert_chain": [] }));
        }
        json!({ "certificates": certificates })
    }
}

fn root_of(name: &str, root: &tls::CertificateDer<'static>) -> Option<Value> {
    let info = tls::PeerInfo::from_chain(std::slice::from_ref(root)).ok()?;
    Some(json!({
        "path": format!("<inline: {}>", Origin::name_of(name)),
        "serial_number": info.serial,
        "valid_from": timestamp(info.not_before),
        "expiration_time": timestamp(info.not_after),
    }))
}

fn value_of(t: ResourceType, resource: &Resource) -> Value {
    proto::json::any_to_value(t.url(), &resource.body).unwrap_or_else(|e| json!({ "error": e.reason }))
}
