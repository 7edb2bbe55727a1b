//! Cases as data: what `cases/*.yaml` say, and how variables in them become many cases.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::message::{expanded, request};
use crate::tls::Hello;

/// A piece of configuration and the cases that play on it: one listener, its route table, its clusters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub group: String,
    /// Whether its cases are played over HTTP/2 as well, as far as HTTP/2 can say them.
    #[serde(default)]
    pub http2: bool,
    /// How many milliseconds nothing is asked before each case: what is kept for a moment is gone then.
    #[serde(default)]
    pub pause: u64,
    /// Fields of the HttpConnectionManager.
    #[serde(default)]
    pub hcm: Map<String, Value>,
    /// Fields of the TCP proxy that carries this group's connections; without it they carry HTTP.
    #[serde(default)]
    pub tcp: Option<Map<String, Value>>,
    /// Network filters before it, by their short names.
    #[serde(default)]
    pub network: Vec<Map<String, Value>>,
    /// Fields of the listener's TLS context; the run's certificate is there already.
    #[serde(default)]
    pub tls: Option<Map<String, Value>>,
    /// Fields of the cluster's TLS context.
    #[serde(default)]
    pub upstream_tls: Option<Map<String, Value>>,
    /// In place of one filter chain: each answers every connection with what it `says`, if it `match`es; at most one is the
    /// `default`.
    #[serde(default)]
    pub chains: Vec<Chain>,
    /// Listener filters, by their short names.
    #[serde(default)]
    pub listener_filters: Vec<Map<String, Value>>,
    /// HTTP filters before the router, by their short names.
    #[serde(default)]
    pub filters: Vec<Map<String, Value>>,
    #[serde(default)]
    pub router: Map<String, Value>,
    /// Fields of the cluster that routes go to by default.
    #[serde(default)]
    pub cluster: ClusterSpec,
    /// More clusters; each is named after the group's: `${cluster}-NAME`.
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterSpec>,
    #[serde(default)]
    pub listener: Map<String, Value>,
    #[serde(default)]
    pub route_config: Map<String, Value>,
    /// Fields of the one virtual host.
    #[serde(default)]
    pub virtual_host: Map<String, Value>,
    #[serde(default)]
    pub routes: Vec<Value>,
    /// In place of `routes`.
    #[serde(default)]
    pub virtual_hosts: Vec<Value>,
    /// More operators for the access log, compared like the rest.
    #[serde(default)]
    pub log: Vec<String>,
    /// Which lines it has.
    #[serde(default)]
    pub log_filter: Option<Value>,
    /// What the upstream answers in cases that do not say.
    #[serde(default)]
    pub upstream: Vec<Answer>,
    /// The same of whoever is asked at the endpoint `asked`.
    #[serde(default)]
    pub asked: Vec<Answer>,
    pub cases: Vec<Case>,
}

impl Group {
    /// Whether hosts of its clusters are checked actively.
    pub fn is_checked(&self) -> bool {
        std::iter::once(&self.cluster)
            .chain(self.clusters.values())
            .any(|c| c.fields.contains_key("health_checks"))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    #[serde(default, rename = "match")]
    pub matches: Map<String, Value>,
    pub says: String,
    #[serde(default)]
    pub default: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct ClusterSpec {
    /// `live` is the recording upstream, `live2` and `live3` are further ports of it, `asked` is another that speaks HTTP
    /// whatever the group carries, `dead` is a port that nobody listens on, `none` no endpoint at all.
    #[serde(default = "live")]
    pub endpoints: Vec<EndpointSpec>,
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

fn live() -> Vec<EndpointSpec> {
    vec![EndpointSpec::At("live".into())]
}

/// Where an endpoint is, and what else is said of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum EndpointSpec {
    At(String),
    Full {
        at: String,
        #[serde(default)]
        zone: String,
        #[serde(default)]
        priority: u32,
        #[serde(default)]
        locality_weight: Option<u32>,
        /// Fields of the endpoint within the LbEndpoint.
        #[serde(default)]
        endpoint: Map<String, Value>,
        /// Fields of the LbEndpoint.
        #[serde(flatten)]
        fields: Map<String, Value>,
    },
}

impl EndpointSpec {
    pub fn at(&self) -> &str {
        match self {
            Self::At(at) | Self::Full { at, .. } => at,
        }
    }

    /// What its place in the assignment is: priority, zone, the zone's weight.
    pub fn place(&self) -> (u32, &str, Option<u32>) {
        match self {
            Self::At(_) => (0, "", None),
            Self::Full { priority, zone, locality_weight, .. } => (*priority, zone, *locality_weight),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// Messages with what is usual left out: version, host, length.
    #[serde(default)]
    pub send: Many,
    /// Messages to the byte.
    #[serde(default)]
    pub raw: Many,
    /// Everything is written before the first answer is read.
    #[serde(default)]
    pub pipeline: bool,
    /// The client ends its direction after the last message.
    #[serde(default)]
    pub half_close: bool,
    /// Whether one more request shows that the connection is still served; otherwise its end is awaited for a moment.
    #[serde(default = "yes")]
    pub probe: bool,
    /// How long an answer may take before the client gives up, in milliseconds.
    #[serde(default = "patience")]
    pub patience: u64,
    /// How TLS begins, where the listener wants it.
    #[serde(default)]
    pub hello: Hello,
    /// Played over HTTP/2; groups say so for all of their cases.
    #[serde(skip)]
    pub http2: bool,
    /// The upstream may see what it sees in any order.
    #[serde(default)]
    pub unordered: bool,
    /// Requests that the upstream sees at least: copies come when they come.
    #[serde(default)]
    pub copies: usize,
    #[serde(default)]
    pub upstream: Option<Vec<Answer>>,
    #[serde(default)]
    pub asked: Option<Vec<Answer>>,
}

impl Case {
    /// What the client sends, whole.
    pub fn messages(&self) -> Vec<String> {
        self.send.iter().map(request).chain(self.raw.iter().map(expanded)).collect()
    }
}

fn yes() -> bool {
    true
}

fn patience() -> u64 {
    4000
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub enum Many {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
}

impl Many {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (one, several): (Option<&String>, &[String]) = match self {
            Self::None => (None, &[]),
            Self::One(one) => (Some(one), &[]),
            Self::Several(several) => (None, several),
        };
        one.into_iter().chain(several).map(String::as_str)
    }
}

/// What the upstream does with one request.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    Status(u16),
    /// `200 body`, or a whole message that begins with `HTTP/`.
    Text(String),
    Full(FullAnswer),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullAnswer {
    #[serde(default)]
    pub send: Option<String>,
    /// The message of a unary gRPC answer, in place of `send`.
    #[serde(default)]
    pub grpc: Option<Value>,
    /// What a stream of gRPC is answered, message by message; nothing for a message that is not answered, several for one
    /// that has several answers, `end: STATUS` for the stream's end.
    #[serde(default)]
    pub stream: Option<Vec<Value>>,
    /// Before anything is sent, in milliseconds.
    #[serde(default)]
    pub delay: u64,
    /// Answers when it has the head, without waiting for the body.
    #[serde(default)]
    pub early: bool,
    #[serde(default)]
    pub then: Then,
    /// Of HTTP/2's reset.
    #[serde(default)]
    pub code: Option<u32>,
}

impl FullAnswer {
    pub fn ok() -> Self {
        Self { send: Some("200 ok".into()), ..Self::default() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    #[default]
    Keep,
    Close,
    Reset,
    /// Sends back whatever arrives.
    Echo,
}

/// All groups of a folder's files, in their order.
pub fn load(folder: &Path) -> anyhow::Result<Vec<Group>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let mut groups = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let values: Vec<Value> =
            serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())?;
        for value in values.iter().flat_map(each) {
            groups.push(group(&value).with_context(|| format!("{}: {}", file.display(), value["group"]))?);
        }
    }
    Ok(groups)
}

fn group(value: &Value) -> anyhow::Result<Group> {
    let mut value = value.clone();
    let cases = value["cases"].as_array().context("has no cases")?.iter().flat_map(each).collect();
    value["cases"] = Value::Array(cases);
    let mut group: Group = serde_json::from_value(value)?;
    if group.http2 {
        let again = group.cases.iter().filter(|case| crate::client_h2::can_say(case));
        let again: Vec<Case> =
            again.map(|c| Case { name: format!("HTTP/2 {}", c.name), http2: true, ..c.clone() }).collect();
        group.cases.extend(again);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    anyhow::ensure!(group.group.chars().all(plain), "is no plain name");
    Ok(group)
}

/// One value for each combination of what its `each` lists, `${VARIABLE}` replaced.
fn each(value: &Value) -> Vec<Value> {
    let mut value = value.clone();
    let Some(Value::Object(each)) = value.as_object_mut().and_then(|v| v.remove("each")) else {
        return vec![value];
    };
    let mut all = vec![value];
    for (variable, values) in &each {
        let values = values.as_array().cloned().unwrap_or_default();
        all = all.iter().flat_map(|v| values.iter().map(|with| with_variable(v, variable, with))).collect();
    }
    all
}

/// `${VARIABLE}` replaced by the value, and `${VARIABLE.FIELD}` by its fields.
fn with_variable(value: &Value, variable: &str, with: &Value) -> Value {
    let fields = with.as_object().into_iter().flatten();
    let value = fields.fold(value.clone(), |value, (field, with)| {
        substituted(&value, &format!("${{{variable}.{field}}}"), with)
    });
    substituted(&value, &format!("${{{variable}}}"), with)
}

/// `variable` replaced everywhere: by the value itself where it is the whole text, else by its text.
pub fn substituted(value: &Value, variable: &str, with: &Value) -> Value {
    match value {
        Value::String(text) if text == variable => with.clone(),
        Value::String(text) => {
            let with = with.as_str().map_or_else(|| with.to_string(), str::to_owned);
            Value::String(text.replace(variable, &with))
        }
        Value::Array(items) => items.iter().map(|item| substituted(item, variable, with)).collect(),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, v)| {
                    let with_text = with.as_str().map_or_else(|| with.to_string(), str::to_owned);
                    (name.replace(variable, &with_text), substituted(v, variable, with))
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_makes_every_combination() {
        let value =
            serde_json::json!({"each": {"a": [1, 2], "b": ["x", "y"]}, "name": "${a}${b}", "n": "${a}"});
        let all: Vec<String> = each(&value).iter().map(|v| format!("{}{}", v["name"], v["n"])).collect();
        assert_eq!(all, ["\"1x\"1", "\"1y\"1", "\"2x\"2", "\"2y\"2"]);
    }
}
