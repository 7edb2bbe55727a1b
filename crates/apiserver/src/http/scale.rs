//! The subresource `scale`: how many replicas somebody wants, in the shape that is the same for every kind.

use super::respond::{self, Body};
use super::route::Call;
use crate::engine::{Patch, Target, text};
use crate::patch::PatchKind;
use crate::status::{Cause, Result, Status};
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

impl Call<'_> {
    pub(super) async fn scale(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        let current = self.api.engine.get(target)?;
        let shown = scale_of(&current);
        let wanted = if self.is(&Method::GET) || self.is(&Method::HEAD) {
            return Ok(respond::json_value(200, &shown));
        } else if self.is(&Method::PUT) {
            self.body(body, "Scale").await?.0
        } else if self.is(&Method::PATCH) {
            self.patched(&shown, body).await?
        } else {
            return Err(Status::method_not_allowed());
        };
        let replicas = replicas(target, &wanted)?;
        let mut change = json!({ "spec": { "replicas": replicas } });
        // Who names a version means that one and no other.
        let version = text(&wanted, "/metadata/resourceVersion");
        if !version.is_empty() {
            change["metadata"] = json!({ "resourceVersion": version });
        }
        let patch = Patch { kind: PatchKind::Merge, body: change, duplicates: Vec::new() };
        let written = self.api.engine.patch(target, &patch, &self.write_options()?).await?;
        Ok(respond::json_value(200, &scale_of(&written.object)))
    }

    async fn patched(&self, shown: &Value, body: Incoming) -> Result<Value> {
        let kind = match PatchKind::of(&self.content_type()) {
            // A Scale has no lists: the two say the same.
            Some(PatchKind::Merge | PatchKind::Strategic) => PatchKind::Merge,
            Some(PatchKind::Json) => PatchKind::Json,
            _ => {
                return Err(Status::unsupported_media_type(&[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                ]));
            }
        };
        let bytes = self.bytes(body).await?;
        let (change, _) = super::request::json(&bytes)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        // What was shown names a version only if the patch does.
        let mut base = shown.clone();
        if let Some(metadata) = base["metadata"].as_object_mut() {
            metadata.shift_remove("resourceVersion");
        }
        let schemas = &self.api.engine.kinds.schemas;
        crate::patch::patch(kind, schemas, crate::schema::Id::default(), &base, &change)
    }
}

fn replicas(target: &Target, wanted: &Value) -> Result<i64> {
    let value = &wanted["spec"]["replicas"];
    let fault = match value.as_i64() {
        Some(replicas) if replicas >= 0 => return Ok(replicas),
        None if value.is_null() => return Ok(0),
        Some(_) => "must be greater than or equal to 0",
        None => "must be a number",
    };
    let about = crate::status::About {
        group: "autoscaling".into(),
        kind: "Scale".into(),
        name: target.name.clone().unwrap_or_default(),
        uid: String::new(),
    };
    Err(Status::invalid(about, vec![Cause::invalid("spec.replicas", value, fault)]))
}

fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    let labels = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": { "replicas": object["spec"]["replicas"].as_i64().unwrap_or(1) },
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector.join(","),
        },
    })
}
