//! The validating webhook: an API server asks at `/validate` whether one of Istio's resources may be stored.
//!
//! The judgement is `api`'s, the same as the embedded API's; what only shows beside other resources becomes a warning.
//! Nobody proves here who they are: an answer depends on the question alone and changes nothing.

use api::{FieldError, Reason, Validation};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::time::Duration;

use crate::debug;
use crate::serve::Context;

/// An API server sends the old object and the new one, each of at most 3 MB.
const LARGEST: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// The version of `AdmissionReview` that is spoken.
const VERSION: &str = "admission.k8s.io/v1";

/// Answers a request on the webhooks' port.
pub(crate) async fn answer(context: &Context, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/ready" if request.method() == Method::GET => return debug::ready(context),
        "/validate" if request.method() == Method::POST => {}
        "/validate" => return debug::text(StatusCode::METHOD_NOT_ALLOWED, "reviews are asked for by POST\n"),
        path if path.starts_with("/inject") => {
            return debug::text(StatusCode::NOT_IMPLEMENTED, "injection into pods is not supported yet\n");
        }
        _ => return debug::text(StatusCode::NOT_FOUND, "only /validate and /ready are served here\n"),
    }
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return debug::text(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}\n"));
        }
        Err(_) => return debug::text(StatusCode::REQUEST_TIMEOUT, "the body took too long to come\n"),
    };
    let review = match review(&body) {
        Ok(review) => review,
        Err(reason) => return debug::text(StatusCode::BAD_REQUEST, reason),
    };
    let object = &review["request"]["object"];
    let Validation { errors, mut warnings } = judged(&review["request"]);
    context.metrics.validated(errors.is_empty());
    if errors.is_empty() && object.is_object() {
        warnings.extend(context.judge.warnings(object).await);
    }
    debug::json_of(&response(&review["request"], &errors, &warnings))
}

/// The body of a request, if it is a review of a version that is spoken here.
fn review(body: &[u8]) -> Result<Value, String> {
    let review: Value =
        serde_json::from_slice(body).map_err(|error| format!("this is no JSON: {error}\n"))?;
    if review["apiVersion"] != VERSION || review["kind"] != "AdmissionReview" {
        return Err(format!("write an AdmissionReview of {VERSION}\n"));
    }
    if review["request"]["uid"].as_str().is_none_or(str::is_empty) {
        return Err("request.uid: Required value\n".into());
    }
    Ok(review)
}

fn judged(request: &Value) -> Validation {
    let object = &request["object"];
    if let Some(found) = api::validate_mesh_config_map(object) {
        return found;
    }
    // A deletion has no object; a kind that is not ours is somebody else's to judge.
    match api::kind_of(object) {
        Ok(kind) if object.is_object() => api::validate(kind, object),
        Err(error) if is_ours(object) => Validation { errors: vec![error], warnings: Vec::new() },
        _ => Validation::default(),
    }
}

/// Groups in which every kind is either supported or refused by name.
fn is_ours(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.split('/').next().is_some_and(|group| group.ends_with(".istio.io"))
}

fn response(request: &Value, errors: &[FieldError], warnings: &[String]) -> Value {
    let mut response = json!({ "uid": request["uid"], "allowed": errors.is_empty() });
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    if !errors.is_empty() {
        let kind = &request["kind"];
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        response["status"] = json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": said.join("; "),
            "details": {
                "name": request["name"], "group": kind["group"], "kind": kind["kind"],
                "causes": errors.iter().map(cause).collect::<Vec<_>>(),
            },
        });
    }
    json!({ "apiVersion": VERSION, "kind": "AdmissionReview", "response": response })
}

fn cause(error: &FieldError) -> Value {
    let hint = error.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
    let message = match error.reason {
        Reason::UnknownField => format!("Invalid value: {}{hint}", error.message),
        _ => format!("{}{hint}", error.message),
    };
    json!({ "reason": error.reason.as_str(), "message": message, "field": error.path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(object: Value) -> Value {
        json!({ "uid": "u", "name": "x", "kind": { "group": "g", "kind": "K" }, "object": object })
    }

    fn answered(object: Value) -> Value {
        let request = asked(object);
        response(&request, &judged(&request).errors, &[])["response"].clone()
    }

    fn policy(principal: &str) -> Value {
        json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "x", "namespace": "default" },
            "spec": { "rules": [{ "from": [{ "source": { "principals": [principal] } }] }] } })
    }

    #[test]
    fn wrong_resources_are_refused_with_path_and_hint() {
        let good = answered(policy("cluster.local/ns/default/sa/a"));
        assert_eq!(good, json!({ "uid": "u", "allowed": true }));
        let bad = answered(policy("spiffe://cluster.local/ns/default/sa/a"));
        assert_eq!(bad["allowed"], false);
        let path = "spec.rules[0].from[0].source.principals[0]";
        let message = bad["status"]["message"].as_str().unwrap();
        assert!(message.starts_with(path) && message.contains("write \"cluster.local/"), "{message}");
        assert_eq!(bad["status"]["details"]["causes"][0]["field"], path);
    }

    #[test]
    fn a_wrong_mesh_config_is_refused_and_other_config_maps_pass() {
        let of = |name: &str, text: &str| {
            answered(json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": name, "namespace": "istio-system" }, "data": { "mesh": text } }))
        };
        let bad = of("istio", "accessLogFormat: '%NOPE%'");
        assert_eq!(bad["status"]["details"]["causes"][0]["field"], "data.mesh.accessLogFormat");
        assert_eq!(of("istio", "accessLogFormat: '%PROTOCOL%'")["allowed"], true);
        assert_eq!(of("other", "accessLogFormat: '%NOPE%'")["allowed"], true);
    }

    #[test]
    fn others_kinds_and_deletions_pass_and_ours_that_are_unknown_do_not() {
        let of = |version: &str, kind: &str| {
            answered(json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "x" } }))["allowed"]
                .clone()
        };
        assert_eq!(of("apps/v1", "Deployment"), true);
        assert_eq!(of("networking.istio.io/v1alpha3", "EnvoyFilter"), false);
        assert_eq!(answered(Value::Null)["allowed"], true);
    }

    #[test]
    fn what_is_no_review_is_told_so() {
        for body in [
            "",
            "[",
            "{}",
            "null",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":5}}"#,
        ] {
            assert!(review(body.as_bytes()).is_err(), "{body}");
        }
    }
}
