//! EndpointSlices of services with selectors, from the pods that they select.

use super::follow;
use crate::engine::{
    DeleteOptions, Engine, ListOptions, Target, WatchEvent, WriteOptions, name_of, namespace_of, text, uid_of,
};
use crate::kinds::Core;
use crate::selector::Labels;
use crate::status::Result;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How many endpoints go into one slice.
const MOST: usize = 1000;

pub(super) async fn run(engine: Arc<Engine>) {
    // Pods and services both lead to namespaces whose services are to be looked at.
    let (touched, mut queue) = mpsc::channel::<String>(1024);
    let watches = [Core::Pod, Core::Service].map(|core| {
        let touched = touched.clone();
        let resource = engine.kinds.core(core).clone();
        follow(engine.clone(), resource, move |event| {
            let touched = touched.clone();
            async move {
                if let WatchEvent::Added(object)
                | WatchEvent::Modified(object)
                | WatchEvent::Deleted(object) = event
                {
                    let _ = touched.send(namespace_of(&object).to_owned()).await;
                }
            }
        })
    });
    drop(touched);
    let write = async {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, 1024).await > 0 {
            batch.sort();
            batch.dedup();
            for namespace in batch.drain(..) {
                if let Err(status) = namespace_slices(&engine, &namespace).await
                    && !matches!(status.code, 403 | 404 | 409)
                {
                    tracing::warn!(namespace, %status, "writing endpoint slices");
                }
            }
        }
    };
    futures::future::join(futures::future::join_all(watches), write).await;
}

async fn namespace_slices(engine: &Arc<Engine>, namespace: &str) -> Result<()> {
    let all = |core| Target { name: None, ..Target::of(engine.kinds.core(core), Some(namespace), "") };
    let pods = engine.list(&all(Core::Pod), &ListOptions::default())?.items;
    let slices = engine.list(&all(Core::EndpointSlice), &ListOptions::default())?.items;
    let made_here =
        |slice: &&Value| slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] == MANAGER;
    let services = engine.list(&all(Core::Service), &ListOptions::default())?.items;
    let mut wanted: Vec<Value> = Vec::new();
    for service in services.iter().filter(|service| selects(service)) {
        let had = slices.iter().filter(made_here).any(|slice| owner(slice) == name_of(service));
        wanted.extend(of_service(service, &pods, had));
    }
    for slice in &wanted {
        write(engine, namespace, slice, &slices).await?;
    }
    for stale in slices.iter().filter(made_here) {
        if !wanted.iter().any(|slice| name_of(slice) == name_of(stale)) {
            let target = Target::of(engine.kinds.core(Core::EndpointSlice), Some(namespace), name_of(stale));
            engine.delete(&target, &DeleteOptions::default()).await?;
        }
    }
    Ok(())
}

const MANAGER: &str = "endpointslice-controller.k8s.io";

fn owner(slice: &Value) -> &str {
    slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or("")
}

fn selects(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty())
        && text(service, "/spec/type") != "ExternalName"
}

/// The slices of a service: none while no pod was ever selected, so that services of other workloads have no
/// empty slice beside them.
fn of_service(service: &Value, pods: &[Value], had: bool) -> Vec<Value> {
    let selector = service["spec"]["selector"].as_object().into_iter().flatten();
    let selector: Vec<String> = selector.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    let Ok(selector) = Labels::parse(&selector.join(",")) else { return Vec::new() };
    let chosen: Vec<&Value> = pods.iter().filter(|pod| selector.matches(pod) && has_address(pod)).collect();
    if chosen.is_empty() && !had {
        return Vec::new();
    }
    let chunks: Vec<&[&Value]> = if chosen.is_empty() { vec![&[]] } else { chosen.chunks(MOST).collect() };
    let slice = |(index, pods): (usize, &&[&Value])| {
        let name = name_of(service);
        let name = if index == 0 { format!("{name}-mizzen") } else { format!("{name}-mizzen-{index}") };
        json!({
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/service-name": name_of(service),
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": name_of(service),
                    "uid": uid_of(service), "controller": true, "blockOwnerDeletion": true }],
            },
            "addressType": "IPv4",
            "endpoints": pods.iter().map(|pod| endpoint(pod)).collect::<Vec<_>>(),
            "ports": ports(service, pods.first().copied()),
        })
    };
    chunks.iter().enumerate().map(slice).collect()
}

fn has_address(pod: &Value) -> bool {
    let over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    text(pod, "/status/podIP").parse::<std::net::Ipv4Addr>().is_ok() && !over
}

fn endpoint(pod: &Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True");
    let going = pod.pointer("/metadata/deletionTimestamp").is_some();
    let mut endpoint = json!({
        "addresses": [text(pod, "/status/podIP")],
        "conditions": { "ready": ready && !going, "serving": ready, "terminating": going },
        "targetRef": { "kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod) },
    });
    if !text(pod, "/spec/nodeName").is_empty() {
        endpoint["nodeName"] = json!(text(pod, "/spec/nodeName"));
    }
    endpoint
}

fn ports(service: &Value, pod: Option<&Value>) -> Vec<Value> {
    let list = service["spec"]["ports"].as_array().into_iter().flatten();
    list.filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => json!(named_port(pod?, name)?),
            number => number.clone(),
        };
        let mut out = json!({
            "name": port["name"].as_str().unwrap_or(""), "port": number,
            "protocol": port["protocol"].as_str().unwrap_or("TCP"),
        });
        if let Some(protocol) = port["appProtocol"].as_str() {
            out["appProtocol"] = json!(protocol);
        }
        Some(out)
    })
    .collect()
}

fn named_port(pod: &Value, name: &str) -> Option<i64> {
    let containers = pod["spec"]["containers"].as_array()?;
    let mut ports = containers.iter().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.find(|port| port["name"] == name)?["containerPort"].as_i64()
}

async fn write(engine: &Arc<Engine>, namespace: &str, slice: &Value, known: &[Value]) -> Result<()> {
    let slices = engine.kinds.core(Core::EndpointSlice);
    let target = Target::of(slices, Some(namespace), name_of(slice));
    let options = WriteOptions::internal();
    match known.iter().find(|old| name_of(old) == name_of(slice)) {
        None => {
            engine.create(&target, slice.clone(), &[], &options).await?;
        }
        Some(old) => {
            let mut new = old.clone();
            for key in ["endpoints", "ports"] {
                new[key] = slice[key].clone();
            }
            new["metadata"]["ownerReferences"] = slice["metadata"]["ownerReferences"].clone();
            engine.update(&target, new, &[], &options).await?;
        }
    }
    Ok(())
}
