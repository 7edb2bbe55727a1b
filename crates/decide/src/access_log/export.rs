//! Access logs that go to collectors, by Envoy's own service or by OTLP: to whom, when, and how batches are packed.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::opentelemetry::{self as otlp, KeyValue};
use proto::pb::envoy::config::core::v3::Node;
use proto::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use proto::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use proto::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use proto::pb::envoy::service::accesslog::v3 as als;

use super::entry::EntryFormat;
use super::otlp::RecordFormat;
use crate::collector::{self, Collector, CollectorProtocol};
use crate::log::LogEntry;
use crate::machine::{Count, CountScope};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{duration, number};

const OTLP_METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const OWN_METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Envoy's, where the configuration says nothing.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const FLUSH_AT: usize = 16 * 1024;

/// Where records go, and when.
#[derive(Debug, PartialEq)]
pub struct LogExport {
    pub collector: Collector,
    /// A batch goes out when it is as old, or as large.
    pub flush_every: Duration,
    pub flush_at: usize,
    service: Service,
}

#[derive(Debug, PartialEq)]
enum Service {
    /// `envoy.service.accesslog.v3`: each batch is a stream of one message.
    Own { log_name: String },
    Otlp {
        /// Whose records they are, beside what is known of the node: nothing of it depends on a request.
        resource: Vec<KeyValue>,
        /// Nothing: neither it nor the node is named.
        log_name: Option<String>,
        /// Below `access_logs.open_telemetry_access_log.`.
        stat_prefix: String,
    },
}

/// What counters say of records, either way.
#[derive(Debug)]
pub struct Counts {
    pub sent: Vec<(Count, u64)>,
    pub lost: (Count, u64),
}

/// What is told of a request or a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum LogRecord {
    Http(Box<HttpAccessLogEntry>),
    Tcp(Box<TcpAccessLogEntry>),
    Otlp(Box<otlp::LogRecord>),
}

#[derive(Debug, Clone)]
pub(super) enum ExportFormat {
    Own(EntryFormat),
    Otlp(RecordFormat),
}

impl ExportFormat {
    pub(super) fn record(&self, entry: &LogEntry<'_>) -> LogRecord {
        match self {
            Self::Own(format) => format.record(entry),
            Self::Otlp(format) => LogRecord::Otlp(Box::new(format.record(entry))),
        }
    }
}

pub(super) fn http(m: &HttpGrpcAccessLogConfig) -> Taken<(LogExport, ExportFormat)> {
    let format = EntryFormat::http(
        &m.additional_request_headers_to_log,
        &m.additional_response_headers_to_log,
        &m.additional_response_trailers_to_log,
    );
    Ok((own(m.common_config.as_ref())?, ExportFormat::Own(format)))
}

pub(super) fn tcp(m: &TcpGrpcAccessLogConfig) -> Taken<(LogExport, ExportFormat)> {
    Ok((own(m.common_config.as_ref())?, ExportFormat::Own(EntryFormat::Tcp)))
}

fn own(common: Option<&CommonGrpcAccessLogConfig>) -> Taken<LogExport> {
    let common = common.ok_or_else(|| Refusal::new("is missing").under("commonConfig"))?;
    if common.log_name.is_empty() {
        return Err(Refusal::new("is empty").under("logName").under("commonConfig"));
    }
    let service = common.grpc_service.as_ref().ok_or_else(|| Refusal::new("is missing").under("grpcService"));
    let to = |service| collector::grpc(service, OWN_METHOD).within("grpcService");
    Ok(LogExport {
        collector: service.and_then(to).within("commonConfig")?,
        flush_every: duration(&common.buffer_flush_interval, "bufferFlushInterval")
            .within("commonConfig")?
            .unwrap_or(FLUSH_EVERY),
        flush_at: number(&common.buffer_size_bytes).map_or(FLUSH_AT, |n| n as usize),
        service: Service::Own { log_name: common.log_name.clone() },
    })
}

pub(super) fn open_telemetry(m: &OpenTelemetryAccessLogConfig) -> Taken<(LogExport, ExportFormat)> {
    let common = m.common_config.clone().unwrap_or_default();
    let collector = match (&m.http_service, &m.grpc_service, &common.grpc_service) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err(Refusal::new("stands beside grpcService; write one").under("httpService"));
        }
        (Some(service), ..) => {
            collector::http(service, CollectorProtocol::OtlpHttp, "httpService").within("httpService")?
        }
        (_, Some(service), _) => collector::grpc(service, OTLP_METHOD).within("grpcService")?,
        (_, _, Some(service)) => {
            collector::grpc(service, OTLP_METHOD).within("grpcService").within("commonConfig")?
        }
        _ => return Err(Refusal::new("is missing").under("grpcService")),
    };
    each(&m.formatters, "formatters", super::formatter)?;
    let interval = duration(&m.buffer_flush_interval, "bufferFlushInterval")?;
    let older = duration(&common.buffer_flush_interval, "bufferFlushInterval").within("commonConfig")?;
    let size = number(&m.buffer_size_bytes).or(number(&common.buffer_size_bytes));
    let log_name = if m.log_name.is_empty() { common.log_name } else { m.log_name.clone() };
    let service = Service::Otlp {
        resource: m.resource_attributes.clone().unwrap_or_default().values,
        log_name: (!m.disable_builtin_labels).then_some(log_name),
        stat_prefix: match m.stat_prefix.trim_end_matches('.') {
            "" => String::new(),
            prefix => format!("{prefix}."),
        },
    };
    let export = LogExport {
        collector,
        flush_every: interval.or(older).unwrap_or(FLUSH_EVERY),
        flush_at: size.map_or(FLUSH_AT, |n| n as usize),
        service,
    };
    Ok((export, ExportFormat::Otlp(RecordFormat::compile(m)?)))
}

impl LogRecord {
    /// About as long as it is on the way.
    pub fn size(&self) -> usize {
        match self {
            Self::Http(entry) => entry.encoded_len(),
            Self::Tcp(entry) => entry.encoded_len(),
            Self::Otlp(record) => record.encoded_len(),
        }
    }
}

impl LogExport {
    /// The message that a batch is sent as.
    pub fn pack(&self, records: Vec<LogRecord>, node: &Node) -> Bytes {
        let (mut http, mut tcp, mut otlp) = (Vec::new(), Vec::new(), Vec::new());
        for record in records {
            match record {
                LogRecord::Http(entry) => http.push(*entry),
                LogRecord::Tcp(entry) => tcp.push(*entry),
                LogRecord::Otlp(record) => otlp.push(*record),
            }
        }
        match &self.service {
            Service::Own { log_name } => {
                use als::stream_access_logs_message::{
                    HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
                };
                let entries = if tcp.is_empty() {
                    LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: http })
                } else {
                    LogEntries::TcpLogs(TcpAccessLogEntries { log_entry: tcp })
                };
                let identifier = Identifier { node: Some(node.clone()), log_name: log_name.clone() };
                als::StreamAccessLogsMessage { identifier: Some(identifier), log_entries: Some(entries) }
                    .encode_to_vec()
                    .into()
            }
            Service::Otlp { resource, log_name, .. } => {
                let mut attributes = log_name.as_ref().map_or_else(Vec::new, |name| labels(name, node));
                attributes.extend(resource.iter().cloned());
                let scope_logs = vec![otlp::ScopeLogs { log_records: otlp }];
                let resource = Some(otlp::Resource { attributes });
                let resource_logs = vec![otlp::ResourceLogs { resource, scope_logs }];
                otlp::ExportLogs { resource_logs }.encode_to_vec().into()
            }
        }
    }

    /// How it is counted that records were sent, or are lost; by Envoy's names.
    pub fn counts(&self, records: &[LogRecord]) -> Counts {
        let all = records.len() as u64;
        let count = |stat: &str, n: u64| {
            let stat = match &self.service {
                Service::Own { .. } => format!("grpc_access_log.{stat}"),
                Service::Otlp { stat_prefix, .. } => format!("open_telemetry_access_log.{stat_prefix}{stat}"),
            };
            (Count { scope: CountScope::Logs, owner: "".into(), stat: stat.into() }, n)
        };
        let sent = match &self.service {
            // Entries of TCP are not counted as written.
            Service::Own { .. } => {
                let http = records.iter().filter(|record| matches!(record, LogRecord::Http(_))).count();
                vec![count("logs_written", http as u64), count("grpc_entries_flushed", all)]
            }
            Service::Otlp { .. } => vec![count("logs_written", all)],
        };
        Counts { sent, lost: count("logs_dropped", all) }
    }
}

/// Envoy's built-in labels.
fn labels(log_name: &str, node: &Node) -> Vec<KeyValue> {
    let zone = node.locality.as_ref().map_or("", |locality| &locality.zone);
    [("log_name", log_name), ("zone_name", zone), ("cluster_name", &node.cluster), ("node_name", &node.id)]
        .map(|(key, value)| otlp::attribute(key, value))
        .into()
}

#[cfg(test)]
mod tests {
    use proto::json;
    use serde_json::{Value, json};

    use crate::access_log::AccessLog;

    const OWN: &str = "grpc.v3.TcpGrpcAccessLogConfig";
    const OTLP: &str = "open_telemetry.v3.OpenTelemetryAccessLogConfig";

    fn refused(kind: &str, mut config: Value) -> String {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.access_loggers.{kind}").into();
        let log = json!({"name": "log", "typedConfig": config});
        let message = json::decode(&log).unwrap();
        AccessLog::compile(&message)
            .map_or_else(|it| format!("{}: {}", it.field(), it.reason), |_| String::new())
    }

    #[test]
    fn what_no_collector_could_be_sent_is_refused_by_its_field() {
        let service = json!({"envoyGrpc": {"clusterName": "c"}});
        let said = |body: Value| json!({"grpcService": service, "body": body});
        for (kind, config, expected) in [
            (OWN, json!({}), "typedConfig.commonConfig: is missing"),
            (
                OWN,
                json!({"commonConfig": {"grpcService": service}}),
                "typedConfig.commonConfig.logName: is empty",
            ),
            (
                OWN,
                json!({"commonConfig": {"logName": "l"}}),
                "typedConfig.commonConfig.grpcService: is missing",
            ),
            (OWN, json!({"commonConfig": {"logName": "l", "grpcService": service}}), ""),
            (OTLP, json!({}), "typedConfig.grpcService: is missing"),
            (OTLP, json!({"commonConfig": {"grpcService": service}}), ""),
            (
                OTLP,
                json!({"grpcService": service, "httpService": {"httpUri": {"uri": "/v1/logs", "cluster": "c", "timeout": "1s"}}}),
                "typedConfig.httpService: stands beside grpcService; write one",
            ),
            (OTLP, said(json!({"stringValue": "%PROTOCOL%"})), ""),
            (
                OTLP,
                said(json!({"intValue": 1})),
                "typedConfig.body: must be stringValue, arrayValue or kvlistValue, as in Envoy",
            ),
            (
                OTLP,
                said(json!({"kvlistValue": {"values": [{"key": "a"}]}})),
                "typedConfig.body.kvlistValue.values[0].value: is missing",
            ),
        ] {
            assert_eq!(refused(kind, config.clone()), expected, "{config}");
        }
    }
}
