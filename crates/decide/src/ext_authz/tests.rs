use bytes::Bytes;
use proto::json;
use proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use serde_json::{Value, json};

use super::{ExtAuthz, PerRoute, Verdict};
use crate::ask::{Answered, CallFault};
use crate::request::{Method, Request, Response};

fn http(more: Value) -> Value {
    let mut service = json!({"serverUri": {"uri": "http://a", "cluster": "c", "timeout": "1s"}});
    service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"httpService": service})
}

fn compiled(config: &Value) -> Result<ExtAuthz, String> {
    let message: pb::ExtAuthz = json::decode(config).unwrap();
    ExtAuthz::compile(&message).map_err(|r| format!("{}: {}", r.field(), r.reason))
}

#[test]
fn what_cannot_be_is_refused_by_its_path() {
    for (config, expected) in [
        (json!({}), "grpcService: is missing; write it, or httpService"),
        (
            json!({"grpcService": {"googleGrpc": {"targetUri": "x", "statPrefix": "y"}}}),
            "grpcService: needs envoyGrpc",
        ),
        (json!({"httpService": {}}), "httpService.serverUri: is missing"),
        (http(json!({"pathPrefix": "x"})), "httpService.pathPrefix: must begin with /"),
        (
            http(json!({"pathPrefix": "/x", "pathOverride": "/y"})),
            "httpService.pathOverride: stands beside pathPrefix; write one",
        ),
    ] {
        assert_eq!(compiled(&config).unwrap_err(), expected, "{config}");
    }
    let mut config = http(json!({}));
    config["withRequestBody"] = json!({});
    assert_eq!(compiled(&config).unwrap_err(), "withRequestBody.maxRequestBytes: must be more than 0");
    for (config, expected) in [
        (json!({"disabled": false}), "disabled: can only be true; leave it out"),
        (json!({}), ": says nothing; write disabled or checkSettings"),
    ] {
        let message: pb::ExtAuthzPerRoute = json::decode(&config).unwrap();
        let refusal = PerRoute::compile(&message).unwrap_err();
        assert_eq!(format!("{}: {}", refusal.field(), refusal.reason), expected, "{config}");
    }
}

fn answered(status: u16, headers: &[(&str, &str)]) -> Answered {
    let mut response = Response::new(status);
    response.headers = headers.iter().map(|(n, v)| (*n, v.to_string())).collect();
    Answered { response, body: Bytes::from("body"), trailers: None, took: Default::default() }
}

#[test]
fn only_200_lets_through_and_only_what_is_allowed_changes_the_request() {
    let response = json!({"allowedUpstreamHeaders": {"patterns": [{"exact": "x-user"}]}});
    let authz = compiled(&http(json!({"authorizationResponse": response}))).unwrap();
    let told = [("x-user", "jo"), ("x-else", "e"), ("x-envoy-auth-headers-to-remove", "x-gone, :path, host")];
    let Verdict::Ok(changes) = authz.conclude(Ok(answered(200, &told))) else { panic!("not let through") };
    let mut request =
        Request::new(Method::Get, "a", "/p").with_header("x-gone", "1").with_header("x-user", "forged");
    changes.apply(&mut request);
    let left: Vec<_> =
        request.headers.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect();
    assert_eq!((left, &*request.path, &*request.authority), (vec!["x-user=jo".to_owned()], "/p", "a"));
    for (status, denied) in [(201, true), (302, true), (403, true), (500, false), (503, false)] {
        match authz.conclude(Ok(answered(status, &[]))) {
            Verdict::Denied { status: told, .. } => assert!(denied && told == status),
            Verdict::Error { .. } => assert!(!denied, "{status}"),
            _ => panic!("{status} lets through"),
        }
    }
    assert!(matches!(authz.conclude(Err(CallFault::Timeout)), Verdict::Error { .. }));
    assert!(matches!(authz.conclude(Err(CallFault::Explaining)), Verdict::Explaining));
}
