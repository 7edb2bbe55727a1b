//! From values to responses.

use super::request::Form;
use super::table;
use crate::engine::List;
use crate::kinds::Resource;
use crate::status::Status;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};
use std::convert::Infallible;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

pub(super) fn json_bytes(code: u16, bytes: impl Into<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(super) fn json_value(code: u16, value: &Value) -> Response<Body> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    json_bytes(code, bytes, "application/json")
}

pub(super) fn text(code: u16, text: &'static str) -> Response<Body> {
    json_bytes(code, text, "text/plain; charset=utf-8")
}

pub(super) fn status(status: &Status) -> Response<Body> {
    let mut response = json_value(status.code, &status.to_json());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers; control characters and an overlong text are cut.
pub(super) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(20) {
        let clean: String = warning.chars().filter(|c| !c.is_control() && c.is_ascii()).take(1000).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// One object in the wanted form.
pub(super) fn object(
    code: u16,
    resource: &Resource,
    object: Value,
    form: Form,
    query: &super::request::Query,
    now: i64,
) -> Response<Body> {
    json_value(code, &shaped(resource, object, form, query, now))
}

pub(super) fn shaped(
    resource: &Resource,
    object: Value,
    form: Form,
    query: &super::request::Query,
    now: i64,
) -> Value {
    match form {
        Form::Table => {
            let version = object.pointer("/metadata/resourceVersion").cloned();
            let metadata = json!({ "resourceVersion": version });
            table::table(resource, vec![object], metadata, include(query), now)
        }
        Form::Metadata => metadata_only(&object),
        Form::Object | Form::Discovery => object,
    }
}

pub(super) fn include(query: &super::request::Query) -> table::Include {
    match query.get("includeObject") {
        "None" => table::Include::None,
        "Object" => table::Include::Object,
        _ => table::Include::Metadata,
    }
}

pub(super) fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A list in the wanted form.
pub(super) fn list(
    resource: &Resource,
    version: &str,
    list: List,
    form: Form,
    query: &super::request::Query,
    now: i64,
) -> Response<Body> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(list.revision.to_string()));
    if let Some(token) = list.continue_token {
        metadata.insert("continue".into(), json!(token));
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".into(), json!(remaining));
    }
    let metadata = Value::Object(metadata);
    let value = match form {
        Form::Table => table::table(resource, list.items, metadata, include(query), now),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": list.items.iter().map(metadata_only).collect::<Vec<_>>(),
        }),
        Form::Object | Form::Discovery => {
            let mut items = list.items;
            if resource.core.is_some() {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.shift_remove("kind");
                    item.shift_remove("apiVersion");
                }
            }
            json!({
                "kind": resource.list_kind(), "apiVersion": resource.api_version(version),
                "metadata": metadata, "items": items,
            })
        }
    };
    json_value(200, &value)
}
