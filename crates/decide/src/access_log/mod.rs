//! Access logs: where they go, what lines look like, and which requests get one.

mod entry;
mod export;
mod otlp;

use std::sync::Arc;

use proto::pb::envoy::config::accesslog::v3 as pb;
use proto::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use proto::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use proto::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};

use base::Random;

use crate::cel;
use crate::flags::ResponseFlags;
use crate::format::{DEFAULT_ENVOY, Format, JsonFormat};
use crate::log::LogEntry;
use crate::matching::{HeaderMatcher, MetadataMatcher};
use crate::refusal::{Refusal, Taken, Within, each};
use crate::wire::{Chance, flag, type_of, unpack};

use export::ExportFormat;
pub use export::{LogExport, LogRecord};

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    output: Output,
    filter: Option<LogFilter>,
}

#[derive(Debug, Clone)]
enum Output {
    Lines(LogSink, LogFormat),
    Records(Arc<LogExport>, ExportFormat),
}

/// What an entry gets.
#[derive(Debug)]
pub enum Logged<'a> {
    Line(&'a LogSink),
    Record(&'a Arc<LogExport>, LogRecord),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogSink {
    Stdout,
    Stderr,
    File(Arc<str>),
}

#[derive(Debug, Clone)]
enum LogFormat {
    Text(Format),
    Json(JsonFormat),
}

#[derive(Debug, Clone)]
pub(crate) enum LogFilter {
    Status(Comparison),
    Duration(Comparison),
    NotHealthCheck,
    Traceable,
    Runtime(Chance),
    And(Vec<LogFilter>),
    Or(Vec<LogFilter>),
    Header(Box<HeaderMatcher>),
    /// Any flag at all when empty.
    Flags(ResponseFlags),
    Grpc {
        statuses: Vec<i64>,
        exclude: bool,
    },
    Metadata {
        matcher: Option<Box<MetadataMatcher>>,
        if_missing: bool,
    },
    Cel(Arc<cel::Program>),
    /// Kinds of entry: TCP and HTTP ends are the ones written here.
    Kinds {
        tcp: bool,
        http: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    op: pb::comparison_filter::Op,
    value: u64,
}

impl AccessLog {
    /// Whether the entry gets a line.
    pub fn wants<R: Random + ?Sized>(&self, entry: &LogEntry<'_>, rng: &mut R) -> bool {
        self.filter.as_ref().is_none_or(|f| f.accepts(entry, rng))
    }

    /// Adds the line, with its end, or makes the record.
    pub fn log(&self, entry: &LogEntry<'_>, line: &mut String) -> Logged<'_> {
        match &self.output {
            Output::Lines(sink, format) => {
                format.render(entry, line);
                Logged::Line(sink)
            }
            Output::Records(to, format) => Logged::Record(to, format.record(entry)),
        }
    }

    pub(crate) fn compile(message: &pb::AccessLog) -> Taken<Self> {
        let Some(pb::access_log::ConfigType::TypedConfig(any)) = &message.config_type else {
            return Err(Refusal::new("is missing").under("typedConfig"));
        };
        let output = match type_of(any) {
            "envoy.extensions.access_loggers.file.v3.FileAccessLog" => unpack(any).and_then(|m| file(&m)),
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig" => {
                unpack(any).and_then(|m| export::http(&m)).map(Output::exported)
            }
            "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig" => {
                unpack(any).and_then(|m| export::tcp(&m)).map(Output::exported)
            }
            "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig" => {
                unpack(any).and_then(|m| export::open_telemetry(&m)).map(Output::exported)
            }
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
                unpack(any).and_then(|m: StdoutAccessLog| {
                    let format =
                        m.access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(f)| f);
                    Ok(Output::Lines(LogSink::Stdout, substitution(&format)?))
                })
            }
            "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
                unpack(any).and_then(|m: StderrAccessLog| {
                    let format =
                        m.access_log_format.map(|stderr_access_log::AccessLogFormat::LogFormat(f)| f);
                    Ok(Output::Lines(LogSink::Stderr, substitution(&format)?))
                })
            }
            other => Err(Refusal::new(format_args!("access logger {other} is not supported by this proxy"))),
        }
        .within("typedConfig")?;
        let filter = message.filter.as_ref().map(|f| LogFilter::compile(f).within("filter")).transpose()?;
        Ok(Self { output, filter })
    }
}

impl Output {
    fn exported((to, format): (LogExport, ExportFormat)) -> Self {
        Self::Records(Arc::new(to), format)
    }
}

impl LogFormat {
    fn render(&self, entry: &LogEntry<'_>, out: &mut String) {
        match self {
            Self::Text(format) => format.render(entry, out),
            Self::Json(format) => {
                out.push_str(&format.render(entry).to_string());
                out.push('\n');
            }
        }
    }
}

fn file(m: &FileAccessLog) -> Taken<Output> {
    use file_access_log::AccessLogFormat;
    let sink = match m.path.as_str() {
        "/dev/stdout" => LogSink::Stdout,
        "/dev/stderr" => LogSink::Stderr,
        "" => return Err(Refusal::new("is empty").under("path")),
        path => LogSink::File(path.into()),
    };
    let format = match &m.access_log_format {
        None => LogFormat::Text(Format::compile(DEFAULT_ENVOY, false)?),
        Some(AccessLogFormat::Format(text)) if text.is_empty() => {
            LogFormat::Text(Format::compile(DEFAULT_ENVOY, false)?)
        }
        Some(AccessLogFormat::Format(text)) => {
            LogFormat::Text(Format::compile(text, false).within("format")?)
        }
        Some(AccessLogFormat::JsonFormat(s)) => {
            LogFormat::Json(JsonFormat::compile(s, false).within("jsonFormat")?)
        }
        Some(AccessLogFormat::TypedJsonFormat(s)) => {
            LogFormat::Json(JsonFormat::compile(s, false).within("typedJsonFormat")?)
        }
        Some(AccessLogFormat::LogFormat(f)) => substitution(&Some(f.clone())).within("logFormat")?,
    };
    Ok(Output::Lines(sink, format))
}

fn substitution(format: &Option<core::SubstitutionFormatString>) -> Taken<LogFormat> {
    use core::substitution_format_string::Format as Kind;
    let Some(f) = format else { return Ok(LogFormat::Text(Format::compile(DEFAULT_ENVOY, false)?)) };
    each(&f.formatters, "formatters", formatter)?;
    let omit = f.omit_empty_values;
    match f.format.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Kind::TextFormat(text) => Ok(LogFormat::Text(Format::compile(text, omit).within("textFormat")?)),
        Kind::JsonFormat(s) => Ok(LogFormat::Json(JsonFormat::compile(s, omit).within("jsonFormat")?)),
        Kind::TextFormatSource(source) => {
            let bytes = crate::wire::DataSource::inline(source).within("textFormatSource")?;
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| Refusal::new("is no UTF-8").under("textFormatSource"))?;
            Ok(LogFormat::Text(Format::compile(text, omit).within("textFormatSource")?))
        }
    }
}

/// The one extension whose operators are always there.
fn formatter(extension: &core::TypedExtensionConfig) -> Taken<()> {
    match extension.typed_config.as_ref().map(type_of) {
        Some("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery") => Ok(()),
        Some(other) => Err(Refusal::new(format_args!("formatter {other} is not supported by this proxy"))),
        None => Err(Refusal::new("is missing").under("typedConfig")),
    }
}

/// The text of a local reply's body: text or JSON, and its content type.
#[derive(Debug, Clone)]
pub(crate) struct BodyFormat {
    format: LogFormat,
    pub(crate) content_type: Box<str>,
}

impl BodyFormat {
    pub(crate) fn compile(f: &core::SubstitutionFormatString) -> Taken<Self> {
        let format = substitution(&Some(f.clone()))?;
        let default = match format {
            LogFormat::Text(_) => "text/plain",
            LogFormat::Json(_) => "application/json",
        };
        let content_type = if f.content_type.is_empty() { default } else { &f.content_type };
        Ok(Self { format, content_type: content_type.into() })
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(self.format, LogFormat::Json(_))
    }

    pub(crate) fn render(&self, entry: &LogEntry<'_>) -> String {
        let mut out = String::new();
        self.format.render(entry, &mut out);
        out
    }
}

impl LogFilter {
    pub(crate) fn accepts<R: Random + ?Sized>(&self, entry: &LogEntry<'_>, rng: &mut R) -> bool {
        match self {
            Self::Status(c) => c.holds(u64::from(entry.response_code)),
            Self::Duration(c) => entry.times.total.is_some_and(|d| c.holds(d.as_millis() as u64)),
            // Health checks are answered by no filter here, so no request is one.
            Self::NotHealthCheck => true,
            Self::Traceable => entry.sampled,
            Self::Runtime(chance) => chance.draw(rng),
            Self::And(all) => all.iter().all(|f| f.accepts(entry, rng)),
            Self::Or(any) => any.iter().any(|f| f.accepts(entry, rng)),
            Self::Header(matcher) => entry.request.is_some_and(|r| matcher.matches(r)),
            Self::Flags(flags) if flags.is_empty() => !entry.flags.is_empty(),
            Self::Flags(flags) => entry.flags.has(*flags),
            Self::Grpc { statuses, exclude } => {
                entry.grpc_status().is_some_and(|s| statuses.contains(&s)) != *exclude
            }
            Self::Metadata { matcher, if_missing } => match (matcher, entry.request) {
                (Some(matcher), Some(request)) => {
                    if matcher.finds(&request.metadata) {
                        matcher.matches(&request.metadata)
                    } else {
                        *if_missing
                    }
                }
                _ => *if_missing,
            },
            Self::Cel(program) => program.holds(entry),
            Self::Kinds { tcp, http } => {
                if entry.request.is_some() {
                    *http
                } else {
                    *tcp
                }
            }
        }
    }

    pub(crate) fn compile(filter: &pb::AccessLogFilter) -> Taken<Self> {
        Ok(match filter.filter_specifier.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
            FilterSpecifier::StatusCodeFilter(f) => {
                Self::Status(comparison(&f.comparison).within("statusCodeFilter")?)
            }
            FilterSpecifier::DurationFilter(f) => {
                Self::Duration(comparison(&f.comparison).within("durationFilter")?)
            }
            FilterSpecifier::NotHealthCheckFilter(_) => Self::NotHealthCheck,
            FilterSpecifier::TraceableFilter(_) => Self::Traceable,
            FilterSpecifier::RuntimeFilter(f) => Self::Runtime(match &f.percent_sampled {
                Some(p) => Chance::of(p).within("percentSampled").within("runtimeFilter")?,
                None => Chance::NEVER,
            }),
            FilterSpecifier::AndFilter(f) => {
                Self::And(each(&f.filters, "filters", Self::compile).within("andFilter")?)
            }
            FilterSpecifier::OrFilter(f) => {
                Self::Or(each(&f.filters, "filters", Self::compile).within("orFilter")?)
            }
            FilterSpecifier::HeaderFilter(f) => {
                let header = f
                    .header
                    .as_ref()
                    .ok_or_else(|| Refusal::new("is missing").under("headerFilter.header"))?;
                Self::Header(Box::new(
                    HeaderMatcher::compile(header).within("header").within("headerFilter")?,
                ))
            }
            FilterSpecifier::ResponseFlagFilter(f) => {
                Self::Flags(flags(&f.flags).within("responseFlagFilter")?)
            }
            FilterSpecifier::GrpcStatusFilter(f) => Self::Grpc {
                statuses: f.statuses.iter().map(|s| i64::from(*s)).collect(),
                exclude: f.exclude,
            },
            FilterSpecifier::MetadataFilter(f) => Self::Metadata {
                matcher: f
                    .matcher
                    .as_ref()
                    .map(|m| {
                        MetadataMatcher::compile(m).within("matcher").within("metadataFilter").map(Box::new)
                    })
                    .transpose()?,
                if_missing: flag(&f.match_if_key_not_found, true),
            },
            FilterSpecifier::ExtensionFilter(f) => extension(f).within("extensionFilter")?,
            FilterSpecifier::LogTypeFilter(f) => kinds(f),
        })
    }
}

fn kinds(f: &pb::LogTypeFilter) -> LogFilter {
    use proto::pb::envoy::data::accesslog::v3::AccessLogType;
    let named = |kind: AccessLogType| f.types.contains(&(kind as i32)) != f.exclude;
    LogFilter::Kinds {
        tcp: named(AccessLogType::TcpConnectionEnd),
        http: named(AccessLogType::DownstreamEnd),
    }
}

fn flags(names: &[String]) -> Taken<ResponseFlags> {
    let mut flags = ResponseFlags::NONE;
    for (name, i) in names.iter().zip(0..) {
        let flag = ResponseFlags::from_short(name)
            .ok_or_else(|| Refusal::new(format_args!("{name:?} is no response flag")))
            .at("flags", i)?;
        flags.insert(flag);
    }
    Ok(flags)
}

fn extension(f: &pb::ExtensionFilter) -> Taken<LogFilter> {
    let Some(pb::extension_filter::ConfigType::TypedConfig(any)) = &f.config_type else {
        return Err(Refusal::new("is missing").under("typedConfig"));
    };
    let filter: ExpressionFilter = match type_of(any) {
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter" => {
            unpack(any).within("typedConfig")?
        }
        other => {
            return Err(
                Refusal::new(format_args!("{other} is not supported by this proxy")).under("typedConfig")
            );
        }
    };
    let program = cel::Program::parse(&filter.expression)
        .map_err(|reason| Refusal::new(reason).under("expression").under("typedConfig"))?;
    Ok(LogFilter::Cel(Arc::new(program)))
}

fn comparison(c: &Option<pb::ComparisonFilter>) -> Taken<Comparison> {
    let c = c.as_ref().ok_or_else(|| Refusal::new("is missing").under("comparison"))?;
    let op = pb::comparison_filter::Op::try_from(c.op)
        .map_err(|_| Refusal::new("unknown").under("op").under("comparison"))?;
    let value =
        c.value.as_ref().ok_or_else(|| Refusal::new("is missing").under("value").under("comparison"))?;
    Ok(Comparison { op, value: u64::from(value.default_value) })
}

impl Comparison {
    fn holds(self, value: u64) -> bool {
        use pb::comparison_filter::Op;
        match self.op {
            Op::Eq => value == self.value,
            Op::Ge => value >= self.value,
            Op::Le => value <= self.value,
            Op::Ne => value != self.value,
        }
    }
}

pub(crate) fn compile_logs(logs: &[pb::AccessLog], field: &str) -> Taken<Vec<AccessLog>> {
    each(logs, field, AccessLog::compile)
}
