//! Whether a resource makes sense by itself: the rules of Istio's validation, each error with the field's path.

mod destination_rule;
mod gateway;
mod http_route;
mod jwt;
mod mesh;
mod mesh_formats;
mod rules;
mod security;
mod service_entry;
mod sidecar;
mod telemetry;
mod virtual_service;

use base::NamespacedName;
use serde_json::Value;

use crate::error::{FieldError, Path, Validation};
use crate::kind::Kind;
use crate::mesh::MeshConfig;
use crate::object::{Spec, Typed};
use crate::{check, object, support};

pub(crate) use mesh::mesh_config;

/// Judges an object of that kind: its shape, whether everything it uses is honoured, its sense.
pub fn validate(kind: Kind, object: &Value) -> Validation {
    let (spec, errors) = check::spec(kind, object);
    let shaped = errors.is_empty();
    let mut out = Validation { errors, warnings: Vec::new() };
    support::check(kind, &spec, &mut out);
    support::check_annotations(kind, &object["metadata"]["annotations"], &mut out);
    if shaped {
        match object::decode(kind, spec) {
            Ok(typed) => sense(&typed, &Meta::of(object), &mut out),
            Err(error) => out.error(error),
        }
    }
    out
}

/// Judges the sense of a spec that was read before: what of it no proxy would take, however it got in.
pub fn judge<T: Spec>(spec: &T, name: &NamespacedName) -> Vec<FieldError> {
    let mut out = Validation::default();
    sense(&spec.typed(), &Meta { name: &name.name, namespace: &name.namespace }, &mut out);
    out.errors
}

/// The same for MeshConfig.
pub fn judge_mesh_config(config: &MeshConfig) -> Vec<FieldError> {
    let mut out = Validation::default();
    mesh_config(config, &mut out);
    out.errors
}

/// What the rules need to know of an object's metadata.
struct Meta<'a> {
    name: &'a str,
    namespace: &'a str,
}

impl<'a> Meta<'a> {
    fn of(object: &'a Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str();
        Self { name: text("name").unwrap_or_default(), namespace: text("namespace").unwrap_or("default") }
    }
}

fn sense(typed: &Typed, meta: &Meta<'_>, out: &mut Validation) {
    let spec = Path::root("spec");
    match typed {
        Typed::VirtualService(it) => virtual_service::check(it, meta, &spec, out),
        Typed::DestinationRule(it) => destination_rule::check(it, meta, &spec, out),
        Typed::Gateway(it) => gateway::check(it, meta, &spec, out),
        Typed::ServiceEntry(it) => service_entry::check(it, meta, &spec, out),
        Typed::Sidecar(it) => sidecar::check(it, meta, &spec, out),
        Typed::WorkloadEntry(it) => service_entry::workload(it, &spec, out),
        Typed::WorkloadGroup(it) => service_entry::group(it, &spec, out),
        Typed::ProxyConfig(it) => rules::label_selector(it.selector.as_ref(), &spec, out),
        Typed::AuthorizationPolicy(it) => security::authorization(it, &spec, out),
        Typed::PeerAuthentication(it) => security::peer_authentication(it, &spec, out),
        Typed::RequestAuthentication(it) => jwt::check(it, &spec, out),
        Typed::Telemetry(it) => telemetry::check(it, &spec, out),
    }
}

/// Adds the error of a rule that found one.
fn note(out: &mut Validation, found: Option<FieldError>) {
    out.errors.extend(found);
}
