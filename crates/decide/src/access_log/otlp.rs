//! What a record of OTLP says: a body and attributes whose texts have operators.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use proto::opentelemetry::{AnyValue, KeyValue, LogRecord, Value};
use proto::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use proto::pb::opentelemetry::proto::common::v1::{ArrayValue, KeyValueList};

use crate::format::Format;
use crate::log::LogEntry;
use crate::refusal::{Refusal, Taken, Within, each};

#[derive(Debug, Clone)]
pub(super) struct RecordFormat {
    body: Option<Template>,
    attributes: Vec<(Box<str>, Template)>,
}

#[derive(Debug, Clone)]
enum Template {
    Text(Format),
    Array(Vec<Template>),
    Map(Vec<(Box<str>, Template)>),
}

impl RecordFormat {
    pub(super) fn compile(m: &OpenTelemetryAccessLogConfig) -> Taken<Self> {
        let attributes = m.attributes.as_ref().map_or(&[][..], |list| &list.values);
        Ok(Self {
            body: m.body.as_ref().map(Template::compile).transpose().within("body")?,
            attributes: Template::map(attributes).within("attributes")?,
        })
    }

    pub(super) fn record(&self, entry: &LogEntry<'_>) -> LogRecord {
        let since = entry.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let bytes = |id: &[u8]| Bytes::copy_from_slice(id);
        LogRecord {
            time_unix_nano: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            body: self.body.as_ref().map(|body| body.render(entry)),
            attributes: pairs(&self.attributes, entry),
            trace_id: entry.span.map(|(trace, _)| bytes(&trace.to_be_bytes())).unwrap_or_default(),
            span_id: entry.span.map(|(_, span)| bytes(&span.to_be_bytes())).unwrap_or_default(),
        }
    }
}

impl Template {
    fn compile(value: &AnyValue) -> Taken<Self> {
        Ok(match &value.value {
            Some(Value::StringValue(text)) => Self::Text(Format::compile(text, false).within("stringValue")?),
            Some(Value::ArrayValue(array)) => {
                Self::Array(each(&array.values, "values", Self::compile).within("arrayValue")?)
            }
            Some(Value::KvlistValue(list)) => Self::Map(Self::map(&list.values).within("kvlistValue")?),
            Some(_) => {
                return Err(Refusal::new("must be stringValue, arrayValue or kvlistValue, as in Envoy"));
            }
            None => return Err(Refusal::new("has no value")),
        })
    }

    fn map(values: &[KeyValue]) -> Taken<Vec<(Box<str>, Self)>> {
        each(values, "values", |pair| {
            let value = pair.value.as_ref().ok_or_else(|| Refusal::new("is missing").under("value"))?;
            Ok((pair.key.as_str().into(), Self::compile(value).within("value")?))
        })
    }

    fn render(&self, entry: &LogEntry<'_>) -> AnyValue {
        let value = match self {
            Self::Text(format) => {
                let mut text = String::new();
                format.render(entry, &mut text);
                Value::StringValue(text)
            }
            Self::Array(all) => {
                Value::ArrayValue(ArrayValue { values: all.iter().map(|t| t.render(entry)).collect() })
            }
            Self::Map(all) => Value::KvlistValue(KeyValueList { values: pairs(all, entry) }),
        };
        AnyValue { value: Some(value) }
    }
}

fn pairs(all: &[(Box<str>, Template)], entry: &LogEntry<'_>) -> Vec<KeyValue> {
    let pair = |(key, template): &(Box<str>, Template)| KeyValue {
        key: key.to_string(),
        value: Some(template.render(entry)),
        ..Default::default()
    };
    all.iter().map(pair).collect()
}
