//! Access logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::mesh::{AccessLogEncoding, FileAccessLogProvider, MeshConfig, OtelAlsProvider};
use api::telemetry as tm;
use model::Config;
use proto::pb::envoy::config::accesslog::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::access_loggers::file::v3 as file;
use proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use proto::pb::envoy::extensions::access_loggers::grpc::v3 as als;
use proto::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use proto::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use proto::pb::google::protobuf::{Any, Struct};
use proto::pb::opentelemetry::proto::common::v1 as otlp;
use serde_json::Value;

use super::{Side, meant, tracing};
use crate::build::Context;
use crate::encode::{any, json, text};
use crate::readable;

const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The fields of JSON logs, by name.
const JSON: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The provider that exists without being declared.
const BUILT_IN: &str = "envoy";

#[derive(Debug, Clone)]
struct Rule {
    providers: Vec<String>,
    filter: Option<String>,
    disabled: bool,
}

/// The logs of connection managers, and those of TCP.
#[derive(Debug, Clone, Default)]
pub(super) struct Logs {
    pub(super) http: Vec<pb::AccessLog>,
    pub(super) tcp: Vec<pb::AccessLog>,
}

/// A log as a provider has it, and what it is for.
struct Logger {
    name: &'static str,
    config: Any,
    http: bool,
    tcp: bool,
}

pub(super) fn all(context: &Context<'_>, levels: &[Arc<Config<tm::Telemetry>>], side: Side) -> Logs {
    let mesh = &context.mesh().value;
    let mut logs = Logs::default();
    let in_force = |rule: &&Rule| !rule.disabled && rule.filter.as_deref().is_none_or(readable::expression);
    for rule in rules(mesh, levels, side).iter().filter(in_force) {
        for logger in rule.providers.iter().filter_map(|name| logger(context, mesh, name)) {
            let log = pb::AccessLog {
                name: logger.name.into(),
                filter: rule.filter.as_deref().map(expression),
                config_type: Some(pb::access_log::ConfigType::TypedConfig(logger.config)),
            };
            if logger.tcp {
                logs.tcp.push(log.clone());
            }
            if logger.http {
                logs.http.push(log);
            }
        }
    }
    logs
}

/// A level's rules replace those before; what they leave out they take from there.
fn rules(mesh: &MeshConfig, levels: &[Arc<Config<tm::Telemetry>>], side: Side) -> Vec<Rule> {
    let declared = mesh.default_providers.as_ref().map(|providers| providers.access_logging.clone());
    let mut providers = declared.unwrap_or_default();
    if providers.is_empty() && !mesh.access_log_file.is_empty() {
        providers.push(BUILT_IN.into());
    }
    let off = providers.is_empty();
    let mut rules = vec![Rule { providers, filter: None, disabled: off }];
    for level in levels {
        let own: Vec<_> =
            level.spec.access_logging.iter().filter(|rule| meant(rule.r#match.as_ref(), side)).collect();
        if own.is_empty() {
            continue;
        }
        let inherited = rules[0].clone();
        rules = own
            .iter()
            .map(|rule| Rule {
                providers: match rule.providers.as_slice() {
                    [] if inherited.providers.is_empty() => vec![BUILT_IN.into()],
                    [] => inherited.providers.clone(),
                    named => named.iter().map(|provider| provider.name.clone()).collect(),
                },
                filter: rule
                    .filter
                    .as_ref()
                    .map(|f| f.expression.clone())
                    .or_else(|| inherited.filter.clone()),
                disabled: rule.disabled.unwrap_or_default(),
            })
            .collect();
    }
    rules
}

/// `None` for a provider that is not declared or writes no logs, or whose lines no proxy could write, or whose service is
/// not known here.
fn logger(context: &Context<'_>, mesh: &MeshConfig, name: &str) -> Option<Logger> {
    let both = |name, config| Logger { name, config, http: true, tcp: true };
    let Some(provider) = mesh.provider(name) else {
        let format = mesh_format(mesh).filter(|_| name == BUILT_IN)?;
        return Some(both("envoy.access_loggers.file", lines(&mesh.access_log_file, format)));
    };
    if let Some(file) = &provider.envoy_file_access_log {
        return Some(both("envoy.access_loggers.file", lines(&file.path, own_format(file)?)));
    }
    if let Some(http) = &provider.envoy_http_als {
        let config = als::HttpGrpcAccessLogConfig {
            common_config: Some(collector(
                context,
                &http.service,
                http.port,
                &http.log_name,
                "http_envoy_accesslog",
            )?),
            additional_request_headers_to_log: http.additional_request_headers_to_log.clone(),
            additional_response_headers_to_log: http.additional_response_headers_to_log.clone(),
            additional_response_trailers_to_log: http.additional_response_trailers_to_log.clone(),
        };
        let name = "envoy.access_loggers.http_grpc";
        return Some(Logger { name, config: any(&config), http: true, tcp: false });
    }
    if let Some(tcp) = &provider.envoy_tcp_als {
        let common = collector(context, &tcp.service, tcp.port, &tcp.log_name, "tcp_envoy_accesslog")?;
        let config = als::TcpGrpcAccessLogConfig { common_config: Some(common) };
        let name = "envoy.access_loggers.tcp_grpc";
        return Some(Logger { name, config: any(&config), http: false, tcp: true });
    }
    let config = records(context, provider.envoy_otel_als.as_ref()?)?;
    Some(both("envoy.access_loggers.open_telemetry", any(&config)))
}

fn named(own: &str, default: &str) -> String {
    if own.is_empty() { default } else { own }.to_owned()
}

fn lines(path: &str, format: core::SubstitutionFormatString) -> Any {
    any(&file::FileAccessLog {
        path: named(path, "/dev/stdout"),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(format)),
    })
}

fn collector(
    context: &Context<'_>,
    service: &str,
    port: u32,
    log_name: &str,
    default: &str,
) -> Option<als::CommonGrpcAccessLogConfig> {
    Some(als::CommonGrpcAccessLogConfig {
        log_name: named(log_name, default),
        grpc_service: Some(tracing::grpc_service(context, service, port)?),
        transport_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    })
}

/// Records of OTLP: as in Istio, what the format says and nothing of Envoy's own labels.
fn records(context: &Context<'_>, otel: &OtelAlsProvider) -> Option<OpenTelemetryAccessLogConfig> {
    let own = otel.log_format.as_ref();
    let line = match own.map_or("", |format| &format.text) {
        "" => TEXT,
        own => own,
    };
    let labels = own.and_then(|format| format.labels.as_ref());
    let is_readable = readable::line(line) && labels.is_none_or(|labels| labels.values().all(readable::json));
    let said = labels.iter().flat_map(|labels| labels.values()).map(Value::to_string).collect::<String>();
    is_readable.then_some(())?;
    Some(OpenTelemetryAccessLogConfig {
        log_name: named(&otel.log_name, "otel_envoy_accesslog"),
        grpc_service: Some(tracing::grpc_service(context, &otel.service, otel.port)?),
        disable_builtin_labels: true,
        body: Some(otlp::AnyValue { value: Some(otlp::any_value::Value::StringValue(line.to_owned())) }),
        attributes: labels
            .map(|labels| otlp::KeyValueList { values: labels.iter().map(attribute).collect() }),
        formatters: formatters(&format!("{line}{said}")),
        ..Default::default()
    })
}

fn attribute((key, value): (&String, &Value)) -> otlp::KeyValue {
    otlp::KeyValue { key: key.clone(), value: Some(attribute_value(value)), ..Default::default() }
}

fn attribute_value(value: &Value) -> otlp::AnyValue {
    use otlp::any_value::Value as Kind;
    let value = match value {
        Value::Array(items) => {
            Kind::ArrayValue(otlp::ArrayValue { values: items.iter().map(attribute_value).collect() })
        }
        Value::Object(fields) => {
            Kind::KvlistValue(otlp::KeyValueList { values: fields.iter().map(attribute).collect() })
        }
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => Kind::StringValue(value.to_string()),
    };
    otlp::AnyValue { value: Some(value) }
}

/// A provider's own format, or Istio's.
fn own_format(file: &FileAccessLogProvider) -> Option<core::SubstitutionFormatString> {
    let own = file.log_format.as_ref();
    let mut format = match own.map(|format| (&format.text, &format.labels)) {
        Some((None, Some(labels))) => json_lines(labels)?,
        Some((text, _)) => text_lines(text.as_deref().unwrap_or_default())?,
        None => text_lines("")?,
    };
    format.omit_empty_values = file.omit_empty_values;
    Some(format)
}

fn mesh_format(mesh: &MeshConfig) -> Option<core::SubstitutionFormatString> {
    let own = mesh.access_log_format.as_str();
    match mesh.access_log_encoding {
        AccessLogEncoding::Text => text_lines(own),
        AccessLogEncoding::Json if own.is_empty() => json_lines(&BTreeMap::new()),
        AccessLogEncoding::Json => json_lines(&serde_json::from_str(own).ok()?),
    }
}

/// Lines of a format, or Istio's where it is empty. Each ends, as in Istio, whether the format says so or not.
fn text_lines(own: &str) -> Option<core::SubstitutionFormatString> {
    let line = if own.is_empty() { TEXT } else { own };
    let end = if line.ends_with('\n') { "" } else { "\n" };
    readable::line(line).then(|| with_formatters(text_format(&format!("{line}{end}")), line))
}

/// Objects with these fields, or Istio's where there are none.
fn json_lines(own: &BTreeMap<String, Value>) -> Option<core::SubstitutionFormatString> {
    if !own.values().all(readable::json) {
        return None;
    }
    let fields = if own.is_empty() {
        JSON.iter().map(|(name, value)| ((*name).to_owned(), text(*value))).collect()
    } else {
        own.iter().map(|(name, value)| (name.clone(), json(value))).collect()
    };
    let text = own.values().map(Value::to_string).collect::<String>();
    Some(with_formatters(json_format(Struct { fields }), &text))
}

/// Envoy wants the extension to be named that an operator comes from.
fn with_formatters(mut format: core::SubstitutionFormatString, text: &str) -> core::SubstitutionFormatString {
    format.formatters = formatters(text);
    format
}

fn formatters(text: &str) -> Vec<core::TypedExtensionConfig> {
    let extension = || core::TypedExtensionConfig {
        name: "envoy.formatter.req_without_query".into(),
        typed_config: Some(any(&ReqWithoutQuery {})),
    };
    syntax::format::is_for_logs(text).then(extension).into_iter().collect()
}

fn text_format(line: &str) -> core::SubstitutionFormatString {
    let source = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(line.into())),
        ..Default::default()
    };
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(source)),
        ..Default::default()
    }
}

fn json_format(fields: Struct) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::JsonFormat(fields)),
        ..Default::default()
    }
}

fn filter(specifier: pb::access_log_filter::FilterSpecifier) -> pb::AccessLogFilter {
    pb::AccessLogFilter { filter_specifier: Some(specifier) }
}

fn expression(text: &str) -> pb::AccessLogFilter {
    let config = ExpressionFilter { expression: text.into(), ..Default::default() };
    filter(pb::access_log_filter::FilterSpecifier::ExtensionFilter(pb::ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(pb::extension_filter::ConfigType::TypedConfig(any(&config))),
    }))
}

/// The same log for what found no filter chain alone.
pub(super) fn only_unrouted(log: &pb::AccessLog) -> pb::AccessLog {
    use pb::access_log_filter::FilterSpecifier;
    let unrouted =
        filter(FilterSpecifier::ResponseFlagFilter(pb::ResponseFlagFilter { flags: vec!["NR".into()] }));
    let both = match &log.filter {
        None => unrouted,
        Some(own) => {
            filter(FilterSpecifier::AndFilter(pb::AndFilter { filters: vec![unrouted, own.clone()] }))
        }
    };
    pb::AccessLog { filter: Some(both), ..log.clone() }
}
