//! What MeshConfig says of access logs and traces: format strings, and how collectors are reached.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{note, rules, telemetry};
use crate::error::{FieldError, Path, Validation};
use crate::mesh::{
    AccessLogEncoding, ExtAuthzHttpProvider, ExtAuthzRequestBody, ExtensionProvider, LogFormat, MeshConfig,
    ProviderHeader, RecordFormat,
};

pub(super) fn check(it: &MeshConfig, root: &Path, out: &mut Validation) {
    access_log(it, &root.field("accessLogFormat"), out);
    for (index, provider) in it.extension_providers.iter().enumerate() {
        self::provider(provider, &root.field("extensionProviders").index(index), out);
    }
    let tracing = it.default_config.as_ref().and_then(|config| config.tracing.as_ref());
    let Some(tracing) = tracing else { return };
    let path = root.field("defaultConfig").field("tracing");
    telemetry::custom_tags(&tracing.custom_tags, &path.field("customTags"), out);
    if let Some(zipkin) = &tracing.zipkin {
        let address = zipkin.address.rsplit_once(':');
        let good = address
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !good {
            let path = path.field("zipkin").field("address");
            let error = FieldError::invalid(&path, zipkin.address.as_str(), "must be HOST:PORT");
            out.error(error.hint("such as \"zipkin.istio-system:9411\""));
        }
    }
}

fn access_log(it: &MeshConfig, path: &Path, out: &mut Validation) {
    let format = it.access_log_format.as_str();
    if format.is_empty() {
        return;
    }
    match it.access_log_encoding {
        AccessLogEncoding::Text => note(out, rules::line(path, format)),
        AccessLogEncoding::Json => match serde_json::from_str::<BTreeMap<String, Value>>(format) {
            Ok(fields) => labels(&fields, path, out),
            Err(error) => {
                let detail = format!("must be a JSON object, as accessLogEncoding is JSON: {error}");
                let error = FieldError::invalid(path, format, detail);
                out.error(
                    error.hint("such as {\"status\": \"%RESPONSE_CODE%\"}, or write accessLogEncoding: TEXT"),
                );
            }
        },
    }
}

/// The strings of a JSON format, however deep.
fn labels(fields: &BTreeMap<String, Value>, path: &Path, out: &mut Validation) {
    for (name, value) in fields {
        label(value, &path.key(name), out);
    }
}

fn label(value: &Value, path: &Path, out: &mut Validation) {
    match value {
        Value::String(text) => note(out, rules::line(path, text)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| label(item, &path.index(index), out));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| label(value, &path.key(name), out));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The attributes of records: what is neither text nor made of texts is none in Envoy.
fn attributes(values: &BTreeMap<String, Value>, path: &Path, out: &mut Validation) {
    fn is_of_texts(value: &Value) -> bool {
        match value {
            Value::String(_) => true,
            Value::Array(items) => items.iter().all(is_of_texts),
            Value::Object(fields) => fields.values().all(is_of_texts),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    for (name, value) in values.iter().filter(|(_, value)| !is_of_texts(value)) {
        let error = FieldError::invalid(&path.key(name), value.to_string(), "must be text, or made of texts");
        out.error(error.hint("put it in quotes"));
    }
    labels(values, path, out);
}

fn provider(it: &ExtensionProvider, path: &Path, out: &mut Validation) {
    if let Some(file) = &it.envoy_file_access_log {
        let path = path.field("envoyFileAccessLog").field("logFormat");
        let LogFormat { text, labels: fields } = file.log_format.as_ref().cloned().unwrap_or_default();
        note(out, text.and_then(|text| rules::line(&path.field("text"), &text)));
        labels(&fields.unwrap_or_default(), &path.field("labels"), out);
    }
    if let Some(als) = &it.envoy_http_als {
        let path = path.field("envoyHttpAls");
        service(&als.service, &path, out);
        for (field, names) in [
            ("additionalRequestHeadersToLog", &als.additional_request_headers_to_log),
            ("additionalResponseHeadersToLog", &als.additional_response_headers_to_log),
            ("additionalResponseTrailersToLog", &als.additional_response_trailers_to_log),
        ] {
            for (index, name) in names.iter().enumerate() {
                note(out, rules::header_name(&path.field(field).index(index), name));
            }
        }
    }
    if let Some(als) = &it.envoy_tcp_als {
        service(&als.service, &path.field("envoyTcpAls"), out);
    }
    if let Some(als) = &it.envoy_otel_als {
        let path = path.field("envoyOtelAls");
        service(&als.service, &path, out);
        let RecordFormat { text, labels: fields } = als.log_format.as_ref().cloned().unwrap_or_default();
        let path = path.field("logFormat");
        note(out, rules::line(&path.field("text"), &text));
        attributes(&fields.unwrap_or_default(), &path.field("labels"), out);
    }
    if let Some(zipkin) = &it.zipkin {
        let path = path.field("zipkin");
        service(&zipkin.service, &path, out);
        url_path(&zipkin.path, &path, out);
        headers(&zipkin.headers, &path.field("headers"), out);
    }
    if let Some(http) = &it.envoy_ext_authz_http {
        authorizer(http, &path.field("envoyExtAuthzHttp"), out);
    }
    if let Some(grpc) = &it.envoy_ext_authz_grpc {
        let path = path.field("envoyExtAuthzGrpc");
        service(&grpc.service, &path, out);
        status(&grpc.status_on_error, &path, out);
        body(grpc.include_request_body_in_check.as_ref(), &path, out);
    }
    if let Some(otlp) = &it.opentelemetry {
        let path = path.field("opentelemetry");
        service(&otlp.service, &path, out);
        if let Some(http) = &otlp.http {
            let path = path.field("http");
            url_path(&http.path, &path, out);
            headers(&http.headers, &path.field("headers"), out);
        }
        if let Some(grpc) = &otlp.grpc {
            headers(&grpc.initial_metadata, &path.field("grpc").field("initialMetadata"), out);
        }
    }
}

fn authorizer(it: &ExtAuthzHttpProvider, path: &Path, out: &mut Validation) {
    service(&it.service, path, out);
    status(&it.status_on_error, path, out);
    let prefix = path.field("pathPrefix");
    if !it.path_prefix.is_empty() && !it.path_prefix.starts_with('/') {
        out.error(FieldError::invalid(&prefix, it.path_prefix.as_str(), "must begin with a slash"));
    }
    note(out, rules::visible(&prefix, &it.path_prefix));
    body(it.include_request_body_in_check.as_ref(), path, out);
    let lists = [
        ("includeHeadersInCheck", &it.include_headers_in_check),
        ("includeRequestHeadersInCheck", &it.include_request_headers_in_check),
        ("headersToUpstreamOnAllow", &it.headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", &it.headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", &it.headers_to_downstream_on_allow),
    ];
    for (field, list) in lists {
        for (index, name) in list.iter().enumerate() {
            let path = path.field(field).index(index);
            let bare = name.strip_prefix('*').or(name.strip_suffix('*')).unwrap_or(name);
            if bare.is_empty() || bare.contains('*') {
                out.error(FieldError::invalid(&path, name.as_str(), "must be NAME, PREFIX* or *SUFFIX"));
            }
        }
    }
    for (name, value) in &it.include_additional_headers_in_check {
        if value.replace("%%", "").contains('%') {
            let path = path.field("includeAdditionalHeadersInCheck").key(name);
            note(out, rules::line(&path, value));
        }
    }
}

/// One that Envoy can name.
fn status(text: &str, of: &Path, out: &mut Validation) {
    let known = |code: &u16| (200..=208).contains(code) || (300..600).contains(code);
    if !text.is_empty() && text.parse::<u16>().ok().filter(known).is_none() {
        let path = of.field("statusOnError");
        let error = FieldError::invalid(&path, text, "must be an HTTP status");
        out.error(error.hint("such as \"503\""));
    }
}

fn body(it: Option<&ExtAuthzRequestBody>, of: &Path, out: &mut Validation) {
    if it.is_some_and(|it| it.max_request_bytes == 0) {
        let path = of.field("includeRequestBodyInCheck").field("maxRequestBytes");
        out.error(FieldError::required(&path, "more than 0"));
    }
}

/// `[namespace/]host`.
fn service(text: &str, of: &Path, out: &mut Validation) {
    let path = of.field("service");
    if text.is_empty() {
        out.error(FieldError::required(&path, "its service: [namespace/]host"));
        return;
    }
    note(out, rules::full_host(&path, text.split_once('/').map_or(text, |(_, host)| host)));
}

fn url_path(text: &str, of: &Path, out: &mut Validation) {
    let path = of.field("path");
    if !text.is_empty() && !text.starts_with('/') {
        out.error(FieldError::invalid(&path, text, "must begin with a slash"));
    }
    note(out, rules::visible(&path, text));
}

/// What is sent to a collector: values are taken literally.
fn headers(list: &[ProviderHeader], path: &Path, out: &mut Validation) {
    for (index, header) in list.iter().enumerate() {
        let path = path.index(index);
        note(out, rules::header_name(&path.field("name"), &header.name));
        note(out, header.value.as_deref().and_then(|value| rules::visible(&path.field("value"), value)));
    }
}
