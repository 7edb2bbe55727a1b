//! Tracers: Zipkin's and OpenTelemetry's configuration, and where they send spans.

use std::sync::Arc;

use proto::pb::envoy::config::trace::v3 as pb;
use proto::pb::google::protobuf::Any;

use super::{TraceHeaders, Tracer};
use crate::collector::{self, Collector, CollectorProtocol};
use crate::refusal::{Refusal, Taken, Within};
use crate::wire::{flag, type_of, unpack};

/// The method of OTLP's gRPC service for traces.
const OTLP_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

pub(super) fn compile(any: &Any) -> Taken<Tracer> {
    match type_of(any) {
        "envoy.config.trace.v3.ZipkinConfig" => zipkin(&unpack(any)?),
        "envoy.config.trace.v3.OpenTelemetryConfig" => open_telemetry(&unpack(any)?),
        other => Err(Refusal::new(format_args!("tracer {other} is not supported by this proxy"))),
    }
}

fn zipkin(z: &pb::ZipkinConfig) -> Taken<Tracer> {
    use pb::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    if z.collector_endpoint_version != CollectorEndpointVersion::HttpJson as i32 {
        return Err(Refusal::new("only HTTP_JSON is supported").under("collectorEndpointVersion"));
    }
    let collector = match &z.collector_service {
        Some(service) => collector::http(service, CollectorProtocol::ZipkinJson, "collectorService")
            .within("collectorService")?,
        None if z.collector_cluster.is_empty() => {
            return Err(Refusal::new("is empty").under("collectorCluster"));
        }
        None => {
            let host =
                if z.collector_hostname.is_empty() { &z.collector_cluster } else { &z.collector_hostname };
            Collector {
                cluster: z.collector_cluster.as_str().into(),
                protocol: CollectorProtocol::ZipkinJson,
                authority: host.as_str().into(),
                path: z.collector_endpoint.as_str().into(),
                headers: Vec::new(),
                timeout: None,
            }
        }
    };
    let both = z.trace_context_option == TraceContextOption::UseB3WithW3cPropagation as i32;
    Ok(Tracer {
        collector: Arc::new(collector),
        headers: if both { TraceHeaders::B3AndW3c } else { TraceHeaders::B3 },
        wide: z.trace_id_128bit,
        shared: flag(&z.shared_span_context, true),
        service: "".into(),
    })
}

fn open_telemetry(o: &pb::OpenTelemetryConfig) -> Taken<Tracer> {
    let collector = match (&o.grpc_service, &o.http_service) {
        (Some(_), Some(_)) => {
            return Err(Refusal::new("stands beside httpService; write one").under("grpcService"));
        }
        (None, None) => return Err(Refusal::new("is missing").under("grpcService")),
        (Some(service), None) => collector::grpc(service, OTLP_METHOD).within("grpcService")?,
        (None, Some(service)) => {
            collector::http(service, CollectorProtocol::OtlpHttp, "httpService").within("httpService")?
        }
    };
    Ok(Tracer {
        collector: Arc::new(collector),
        headers: TraceHeaders::W3c,
        wide: true,
        shared: false,
        service: o.service_name.as_str().into(),
    })
}

#[cfg(test)]
mod tests {
    use proto::json;

    use super::*;
    use crate::headers::HeaderName;

    fn compiled(name: &str, config: serde_json::Value) -> Result<Tracer, String> {
        let type_name = format!("envoy.config.trace.v3.{name}");
        let value = json::from_value(&type_name, &config).unwrap();
        let any = Any { type_url: format!("type.googleapis.com/{type_name}"), value };
        compile(&any).map_err(|refusal| format!("{}: {}", refusal.field(), refusal.reason))
    }

    #[test]
    fn tracers_say_where_spans_go_and_which_headers_tell_of_them() {
        let zipkin = serde_json::json!({
            "collectorEndpointVersion": "HTTP_JSON", "traceId128bit": true, "sharedSpanContext": false,
            "traceContextOption": "USE_B3_WITH_W3C_PROPAGATION",
            "collectorService": {
                "httpUri": {"uri": "http://zipkin.example/api/v2/spans", "cluster": "z", "timeout": "5s"},
                "requestHeadersToAdd": [{"header": {"key": "x-key", "value": "100%% secret"}}],
            },
        });
        let tracer = compiled("ZipkinConfig", zipkin).unwrap();
        assert_eq!((tracer.headers, tracer.wide, tracer.shared), (TraceHeaders::B3AndW3c, true, false));
        let c = &tracer.collector;
        assert_eq!((&*c.cluster, &*c.authority, &*c.path), ("z", "zipkin.example", "/api/v2/spans"));
        assert_eq!(c.headers, [(HeaderName::from("x-key"), "100% secret".into())]);

        let grpc = serde_json::json!({
            "serviceName": "reviews.default",
            "grpcService": {"envoyGrpc": {"clusterName": "o", "authority": "otel.example"}},
        });
        let tracer = compiled("OpenTelemetryConfig", grpc).unwrap();
        assert_eq!((tracer.headers, &*tracer.service), (TraceHeaders::W3c, "reviews.default"));
        let c = &tracer.collector;
        assert_eq!(
            (c.protocol, &*c.authority, &*c.path),
            (CollectorProtocol::Grpc, "otel.example", OTLP_METHOD)
        );

        let path_alone =
            serde_json::json!({"httpService": {"httpUri": {"uri": "/v1/traces", "cluster": "o"}}});
        let c = compiled("OpenTelemetryConfig", path_alone).unwrap().collector;
        assert_eq!((c.protocol, &*c.authority, &*c.path), (CollectorProtocol::OtlpHttp, "o", "/v1/traces"));
    }

    #[test]
    fn what_a_tracer_does_not_do_is_refused_by_name() {
        for (name, config, fault) in [
            ("ZipkinConfig", serde_json::json!({"collectorCluster": "z"}), "collectorEndpointVersion: "),
            ("OpenTelemetryConfig", serde_json::json!({}), "grpcService: is missing"),
            (
                "OpenTelemetryConfig",
                serde_json::json!({"grpcService": {"envoyGrpc": {"clusterName": "o"},
                    "initialMetadata": [{"key": "a", "value": "%HOSTNAME%"}]}}),
                "grpcService.initialMetadata[0].value: ",
            ),
        ] {
            let error = compiled(name, config).unwrap_err();
            assert!(error.starts_with(fault), "{error}");
        }
    }
}
