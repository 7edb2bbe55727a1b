//! `header_to_metadata`: what headers and cookies of a request say becomes metadata, for subsets, policies and logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use proto::pb::envoy::extensions::filters::http::header_to_metadata::v3 as pb;
use proto::pb::google::protobuf::Value as Protobuf;
use serde_json::Value;

use crate::headers::HeaderName;
use crate::matching::RegexRewrite;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Request;
use crate::wire::json_of_value;

/// Where no namespace is given.
const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";
/// Longer values are not taken.
const LONGEST: usize = 8 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct HeaderToMetadata(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    source: Source,
    present: Option<Entry>,
    missing: Option<Entry>,
    remove: bool,
}

#[derive(Debug, Clone)]
enum Source {
    Header(HeaderName),
    Cookie(Box<str>),
}

#[derive(Debug, Clone)]
struct Entry {
    namespace: Box<str>,
    key: Box<str>,
    /// In place of the header's.
    value: Box<str>,
    rewrite: Option<RegexRewrite>,
    kind: Kind,
    base64: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Protobuf,
}

impl HeaderToMetadata {
    pub(crate) fn compile(config: &pb::Config) -> Taken<Self> {
        if config.request_rules.is_empty() {
            return Err(Refusal::new("is empty").under("requestRules"));
        }
        each(&config.request_rules, "requestRules", Rule::compile).map(Self)
    }

    pub(crate) fn apply(&self, request: &mut Request) {
        for rule in &self.0 {
            rule.apply(request);
        }
    }
}

impl Rule {
    fn compile(rule: &pb::config::Rule) -> Taken<Self> {
        let source = match (rule.header.as_str(), rule.cookie.as_str()) {
            ("", "") => return Err(Refusal::new("needs a header or a cookie")),
            (header, "") => Source::Header(HeaderName::from(header)),
            ("", cookie) => Source::Cookie(cookie.into()),
            _ => return Err(Refusal::new("cannot be set together with header").under("cookie")),
        };
        let entry = |entry: &Option<pb::config::KeyValuePair>, field: &str| {
            entry.as_ref().map(|e| Entry::compile(e).within(field)).transpose()
        };
        let present = entry(&rule.on_header_present, "onHeaderPresent")?;
        let missing = entry(&rule.on_header_missing, "onHeaderMissing")?;
        if present.is_none() && missing.is_none() {
            return Err(Refusal::new("needs onHeaderPresent or onHeaderMissing"));
        }
        if missing.as_ref().is_some_and(|m| m.value.is_empty()) {
            return Err(Refusal::new("is empty").under("value").under("onHeaderMissing"));
        }
        if rule.remove && matches!(source, Source::Cookie(_)) {
            return Err(Refusal::new("is for headers").under("remove"));
        }
        Ok(Self { source, present, missing, remove: rule.remove })
    }

    fn apply(&self, request: &mut Request) {
        let value = match &self.source {
            Source::Header(name) => request.value(name).map(|v| String::from_utf8_lossy(&v).into_owned()),
            Source::Cookie(name) => request.cookie(name).filter(|v| !v.is_empty()).map(str::to_owned),
        };
        let entry = if value.is_some() { &self.present } else { &self.missing };
        if let Some(entry) = entry {
            entry.learn(value.unwrap_or_default(), request);
        }
        if self.remove
            && let Source::Header(name) = &self.source
        {
            request.headers.remove(name);
        }
    }
}

impl Entry {
    fn compile(entry: &pb::config::KeyValuePair) -> Taken<Self> {
        use pb::config::{ValueEncode, ValueType};
        if entry.key.is_empty() {
            return Err(Refusal::new("is empty").under("key"));
        }
        let rewrite = entry.regex_value_rewrite.as_ref();
        if rewrite.is_some() && !entry.value.is_empty() {
            return Err(Refusal::new("cannot be set together with value").under("regexValueRewrite"));
        }
        Ok(Self {
            namespace: match entry.metadata_namespace.as_str() {
                "" => NAMESPACE.into(),
                namespace => namespace.into(),
            },
            key: entry.key.as_str().into(),
            value: entry.value.as_str().into(),
            rewrite: rewrite.map(|r| RegexRewrite::compile(r).within("regexValueRewrite")).transpose()?,
            kind: match ValueType::try_from(entry.r#type) {
                Ok(ValueType::String) => Kind::Text,
                Ok(ValueType::Number) => Kind::Number,
                Ok(ValueType::ProtobufValue) => Kind::Protobuf,
                Err(_) => return Err(Refusal::new("unknown").under("type")),
            },
            base64: match ValueEncode::try_from(entry.encode) {
                Ok(ValueEncode::None) => false,
                Ok(ValueEncode::Base64) => true,
                Err(_) => return Err(Refusal::new("unknown").under("encode")),
            },
        })
    }

    fn learn(&self, given: String, request: &mut Request) {
        let text = match (&*self.value, &self.rewrite) {
            ("", Some(rewrite)) => rewrite.apply(&given),
            ("", None) => given,
            (value, _) => value.to_owned(),
        };
        if let Some(value) = self.read(text) {
            request.metadata.set(&self.namespace, &self.key, value);
        }
    }

    /// Nothing for what cannot be read.
    fn read(&self, text: String) -> Option<Value> {
        if text.is_empty() || text.len() >= LONGEST {
            return None;
        }
        let bytes = if self.base64 { STANDARD.decode(&text).ok()? } else { text.into_bytes() };
        match self.kind {
            Kind::Text => String::from_utf8(bytes).ok().map(Value::String),
            Kind::Number => {
                let number: f64 = std::str::from_utf8(&bytes).ok()?.trim().parse().ok()?;
                let kind = proto::pb::google::protobuf::value::Kind::NumberValue(number);
                number.is_finite().then(|| json_of_value(&Protobuf { kind: Some(kind) }))
            }
            Kind::Protobuf => Protobuf::decode(&bytes[..]).ok().map(|value| json_of_value(&value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::Method;

    fn learned(rule: Value, request: &mut Request) -> Option<Value> {
        let bytes = proto::json::from_value(
            "envoy.extensions.filters.http.header_to_metadata.v3.Config",
            &json!({"requestRules": [rule]}),
        );
        let config = pb::Config::decode(&bytes.unwrap()[..]).unwrap();
        HeaderToMetadata::compile(&config).unwrap().apply(request);
        request.metadata.get("envoy.lb", &["k"]).cloned()
    }

    #[test]
    fn headers_and_cookies_become_metadata() {
        let to = |extra: Value| {
            let mut entry = json!({"metadataNamespace": "envoy.lb", "key": "k"});
            entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            entry
        };
        let rewrite = json!({"regexValueRewrite": {"pattern": {"regex": "^v(.*)$"}, "substitution": "\\1"}});
        for (rule, expected) in [
            (json!({"header": "x-v", "onHeaderPresent": to(json!({}))}), Some(json!("v1"))),
            (
                json!({"header": "x-v", "onHeaderPresent": to(json!({"value": "fixed"}))}),
                Some(json!("fixed")),
            ),
            (json!({"header": "x-v", "onHeaderPresent": to(rewrite)}), Some(json!("1"))),
            (json!({"header": "x-n", "onHeaderPresent": to(json!({"type": "NUMBER"}))}), Some(json!(42))),
            (json!({"header": "x-v", "onHeaderPresent": to(json!({"type": "NUMBER"}))}), None),
            (json!({"header": "x-b", "onHeaderPresent": to(json!({"encode": "BASE64"}))}), Some(json!("hi"))),
            (json!({"header": "x-v", "onHeaderPresent": to(json!({"encode": "BASE64"}))}), None),
            (json!({"header": "x-none", "onHeaderPresent": to(json!({}))}), None),
            (json!({"header": "x-none", "onHeaderMissing": to(json!({"value": "d"}))}), Some(json!("d"))),
            (json!({"cookie": "user", "onHeaderPresent": to(json!({}))}), Some(json!("jo"))),
        ] {
            let mut request = Request::new(Method::Get, "a", "/")
                .with_header("x-v", "v1")
                .with_header("x-n", "42")
                .with_header("x-b", "aGk=")
                .with_header("cookie", "user=jo");
            assert_eq!(learned(rule.clone(), &mut request), expected, "{rule}");
        }
        let mut request = Request::new(Method::Get, "a", "/").with_header("x-v", "v1");
        learned(json!({"header": "x-v", "onHeaderPresent": to(json!({})), "remove": true}), &mut request);
        assert!(request.headers.get_str("x-v").is_none());
    }
}
