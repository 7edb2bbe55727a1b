use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::filters::http::ext_proc::v3 as config;
use proto::pb::envoy::service::ext_proc::v3 as pb;
use serde_json::{Value, json};

use super::*;
use crate::metadata::DynamicMetadata;
use crate::request::{Method, Request};

fn message<M: prost::Message + prost::Name + Default>(value: &Value) -> M {
    let bytes = proto::json::from_value(&M::full_name(), value).unwrap();
    M::decode(bytes.as_slice()).unwrap()
}

fn processing(mut fields: Value) -> Processing {
    fields["grpcService"] = json!({"envoyGrpc": {"clusterName": "p"}});
    let processor = Processor::compile(&message::<config::ExternalProcessor>(&fields)).unwrap();
    Processing::new(0, Arc::new(processor), &"x".into())
}

fn set(key: &str, value: &str) -> core::HeaderValueOption {
    let header = core::HeaderValue { key: key.into(), raw_value: value.into(), ..Default::default() };
    core::HeaderValueOption { header: Some(header), ..Default::default() }
}

#[test]
fn rules_say_what_may_be_changed() {
    for (rules, key, expected) in [
        (json!({}), "x-a", Ok(true)),
        (json!({}), ":path", Ok(true)),
        (json!({}), ":method", Ok(false)),
        (json!({}), "host", Ok(false)),
        (json!({}), "x-envoy-a", Ok(false)),
        (json!({}), "transfer-encoding", Ok(false)),
        (json!({"allowAllRouting": true}), "host", Ok(true)),
        (json!({"allowEnvoy": true}), "x-envoy-a", Ok(true)),
        (json!({"disallowSystem": true}), ":path", Ok(false)),
        (json!({"disallowAll": true}), "x-a", Ok(false)),
        (json!({"disallowAll": true, "allowExpression": {"regex": "x-.*"}}), "x-a", Ok(true)),
        (json!({"disallowExpression": {"regex": "x-.*"}}), "x-a", Ok(false)),
        (json!({"disallowIsError": true}), "x-envoy-a", Err(())),
        (json!({}), "x a", Err(())),
        (json!({}), "", Err(())),
    ] {
        let processing = processing(json!({"mutationRules": rules}));
        let common = pb::CommonResponse {
            header_mutation: Some(pb::HeaderMutation {
                set_headers: vec![set(key, "new")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let said = pb::ProcessingResponse {
            response: Some(pb::processing_response::Response::RequestHeaders(pb::HeadersResponse {
                response: Some(common),
            })),
            ..Default::default()
        };
        let (mut counts, mut metadata) = (Vec::new(), DynamicMetadata::default());
        let mut judging = processing.clone();
        let Judged::On(common) =
            judging.judge(Side::Request, Part::Headers, said, &mut metadata, &mut counts)
        else {
            panic!()
        };
        let mut request = Request::new(Method::Get, "a", "/old");
        let subject = Subject::Request(&mut request);
        let changed = processing.change(Side::Request, &common, subject, &mut counts).map_err(drop);
        let is_new = request.value(&key.into()).is_some_and(|value| &value[..] == b"new");
        assert_eq!(changed.map(|()| is_new), expected, "{rules} {key}");
    }
}

#[test]
fn modes_are_replaced_where_that_is_allowed() {
    let streamed = json!({"requestBodyMode": "STREAMED", "responseHeaderMode": "SKIP"});
    for (fields, expected) in [
        (json!({}), BodyMode::None),
        (json!({"allowModeOverride": true}), BodyMode::Streamed),
        (json!({"allowModeOverride": true, "allowedOverrideModes": [{}]}), BodyMode::None),
        (json!({"allowModeOverride": true, "allowedOverrideModes": [{}, streamed]}), BodyMode::Streamed),
    ] {
        let mut processing = processing(fields.clone());
        let said =
            message::<pb::ProcessingResponse>(&json!({"requestHeaders": {}, "modeOverride": streamed}));
        let (mut counts, mut metadata) = (Vec::new(), DynamicMetadata::default());
        let judged = processing.judge(Side::Request, Part::Headers, said, &mut metadata, &mut counts);
        assert!(matches!(judged, Judged::On(_)));
        assert_eq!(processing.parts(Side::Request).body, expected, "{fields}");
    }
}

#[test]
fn what_answers_another_question_is_spurious() {
    for (said, expected) in [
        (json!({"requestHeaders": {}}), "on"),
        (json!({"requestBody": {}}), "spurious"),
        (json!({"responseHeaders": {}}), "spurious"),
        (json!({}), "spurious"),
        (json!({"immediateResponse": {"status": {"code": 403}, "details": "no  way"}}), "403 no_way"),
        (json!({"immediateResponse": {}}), "200 "),
    ] {
        let mut processing = processing(json!({}));
        let (mut counts, mut metadata) = (Vec::new(), DynamicMetadata::default());
        let message = message::<pb::ProcessingResponse>(&said);
        let judged = match processing.judge(Side::Request, Part::Headers, message, &mut metadata, &mut counts)
        {
            Judged::On(_) => "on".to_owned(),
            Judged::Spurious(_) => "spurious".to_owned(),
            Judged::Reply(reply) => format!("{} {}", reply.status, reply.details),
        };
        assert_eq!(judged, expected, "{said}");
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    for (fields, path) in [
        (
            json!({"processingMode": {"requestBodyMode": "FULL_DUPLEX_STREAMED"}}),
            "processingMode.requestBodyMode",
        ),
        (json!({"processingMode": {"responseBodyMode": "GRPC"}}), "processingMode.responseBodyMode"),
        (json!({"disableClearRouteCache": true, "routeCacheAction": "CLEAR"}), "routeCacheAction"),
    ] {
        let mut fields = fields;
        fields["grpcService"] = json!({"envoyGrpc": {"clusterName": "p"}});
        let refusal = Processor::compile(&message::<config::ExternalProcessor>(&fields)).unwrap_err();
        assert_eq!(refusal.field(), path, "{}", refusal.reason);
    }
}
