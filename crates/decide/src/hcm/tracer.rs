//! Tracers: Zipkin's and OpenTelemetry's configuration, and where they send spans.

use std::sync::Arc;

use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::trace::v3 as pb;
use proto::pb::google::protobuf::Any;

use super::{Collector, CollectorProtocol, TraceHeaders, Tracer};
use crate::headers::HeaderName;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{duration, flag, type_of, unpack};

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
        Some(service) => {
            http(service, CollectorProtocol::ZipkinJson, "collectorService").within("collectorService")?
        }
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
        (Some(service), None) => grpc(service).within("grpcService")?,
        (None, Some(service)) => {
            http(service, CollectorProtocol::OtlpHttp, "httpService").within("httpService")?
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

fn grpc(service: &core::GrpcService) -> Taken<Collector> {
    use core::grpc_service::TargetSpecifier;
    let Some(TargetSpecifier::EnvoyGrpc(envoy)) = &service.target_specifier else {
        return Err(Refusal::new("needs envoyGrpc"));
    };
    let authority = if envoy.authority.is_empty() { &envoy.cluster_name } else { &envoy.authority };
    Ok(Collector {
        cluster: envoy.cluster_name.as_str().into(),
        protocol: CollectorProtocol::OtlpGrpc,
        authority: authority.as_str().into(),
        path: OTLP_METHOD.into(),
        headers: each(&service.initial_metadata, "initialMetadata", header)?,
        timeout: duration(&service.timeout, "timeout")?,
    })
}

fn http(service: &core::HttpService, protocol: CollectorProtocol, field: &str) -> Taken<Collector> {
    let uri = service.http_uri.as_ref().ok_or_else(|| Refusal::new("is missing").under("httpUri"))?;
    let cluster = match &uri.http_upstream_type {
        Some(core::http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name,
        _ => return Err(Refusal::new(format_args!("names no cluster for {field}")).under("httpUri")),
    };
    // Envoy takes a path alone, too; then the cluster's name stands for the host.
    let (host, path) = match uri.uri.split_once("://") {
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => (cluster.as_str(), uri.uri.trim_start_matches('/')),
    };
    let headers = each(&service.request_headers_to_add, "requestHeadersToAdd", |option| {
        let value = option.header.as_ref().ok_or_else(|| Refusal::new("is missing").under("header"))?;
        header(value).within("header")
    })?;
    Ok(Collector {
        cluster: cluster.as_str().into(),
        protocol,
        authority: host.into(),
        path: format!("/{path}").into(),
        headers,
        timeout: duration(&uri.timeout, "timeout").within("httpUri")?,
    })
}

/// A header of what is sent to a collector, where no request is at hand that operators could speak of.
fn header(header: &core::HeaderValue) -> Taken<(HeaderName, Arc<str>)> {
    if header.value.replace("%%", "").contains('%') {
        return Err(Refusal::new("operators are not supported here; % is written %%").under("value"));
    }
    Ok((HeaderName::from(header.key.as_str()), header.value.replace("%%", "%").into()))
}

#[cfg(test)]
mod tests {
    use proto::json;

    use super::*;

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
            (CollectorProtocol::OtlpGrpc, "otel.example", OTLP_METHOD)
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
