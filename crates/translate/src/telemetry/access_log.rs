//! Access logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::mesh::{AccessLogEncoding, ExtensionProvider, FileAccessLogProvider, MeshConfig};
use api::telemetry as tm;
use model::Config;
use proto::pb::envoy::config::accesslog::v3 as pb;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::access_loggers::file::v3 as file;
use proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use proto::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use proto::pb::google::protobuf::Struct;
use serde_json::Value;

use super::{Side, meant};
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

pub(super) fn all(
    context: &Context<'_>,
    levels: &[Arc<Config<tm::Telemetry>>],
    side: Side,
) -> Vec<pb::AccessLog> {
    let mesh = &context.mesh().value;
    rules(mesh, levels, side)
        .iter()
        .filter(|rule| !rule.disabled && rule.filter.as_deref().is_none_or(readable::expression))
        .flat_map(|rule| {
            rule.providers.iter().filter_map(|name| {
                Some(pb::AccessLog {
                    name: "envoy.access_loggers.file".into(),
                    filter: rule.filter.as_deref().map(expression),
                    config_type: Some(pb::access_log::ConfigType::TypedConfig(any(&logger(mesh, name)?))),
                })
            })
        })
        .collect()
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

/// `None` for a provider that is not declared or writes no logs, or whose lines no proxy could write.
fn logger(mesh: &MeshConfig, name: &str) -> Option<file::FileAccessLog> {
    let declared = mesh
        .provider(name)
        .and_then(|provider: &ExtensionProvider| provider.envoy_file_access_log.as_ref())
        .map(|file| (file.path.as_str(), own_format(file)));
    let (path, format) = match declared {
        Some((path, format)) => (path, format?),
        None if name == BUILT_IN => (mesh.access_log_file.as_str(), mesh_format(mesh)?),
        None => return None,
    };
    let path = if path.is_empty() { "/dev/stdout" } else { path }.to_owned();
    Some(file::FileAccessLog {
        path,
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(format)),
    })
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
    if syntax::format::is_for_logs(text) {
        format.formatters.push(core::TypedExtensionConfig {
            name: "envoy.formatter.req_without_query".into(),
            typed_config: Some(any(&ReqWithoutQuery {})),
        });
    }
    format
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
