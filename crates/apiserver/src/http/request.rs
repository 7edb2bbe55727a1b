//! What a request asks for: its path, its query, its body.

use crate::status::{Result, Status};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) part: Option<String>,
}

impl ResourcePath {
    /// `None` when the path speaks of no resource.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            _ => (None, rest),
        };
        let (plural, name, part) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, part] => (*plural, Some(*name), Some(*part)),
            _ => return None,
        };
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: owned(namespace),
            plural: plural.to_owned(),
            name: owned(name),
            part: owned(part),
        })
    }
}

/// Undoes percent-encoding; what is malformed stays as it is.
pub(crate) fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of a query; of repeated ones the first counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let mut out = BTreeMap::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |part: &str| decoded(&part.replace('+', " "));
            out.entry(text(key)).or_insert_with(|| text(value));
        }
        Self(out)
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| matches!(value.as_str(), "" | "1" | "true" | "True" | "TRUE"))
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Option<bool> {
        self.0.contains_key(key).then(|| self.flag(key))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// Parses JSON and notes duplicate fields, as strict validation refuses them.
pub(crate) fn json(bytes: &[u8]) -> std::result::Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let seed = Node { path: String::new(), duplicates: &mut duplicates };
    let value = seed.deserialize(&mut input)?;
    input.end()?;
    Ok((value, duplicates))
}

struct Node<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> std::result::Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, out.len());
            let Some(item) = list.next_element_seed(Node { path, duplicates: &mut *self.duplicates })? else {
                return Ok(Value::Array(out));
            };
            out.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let node = Node { path: path.clone(), duplicates: &mut *self.duplicates };
            let value = map.next_value_seed(node)?;
            if out.insert(key, value).is_some() {
                self.duplicates.push(path);
            }
        }
        Ok(Value::Object(out))
    }
}

/// The shape in which a client wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Object,
    Table,
    /// `PartialObjectMetadata` and its list.
    Metadata,
    /// Aggregated discovery.
    Discovery,
}

/// What of an `Accept` header can be served; the first that fits.
pub(crate) fn form(accept: &str) -> Result<Form> {
    if accept.trim().is_empty() {
        return Ok(Form::Object);
    }
    for choice in accept.split(',') {
        let mut parts = choice.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        if !matches!(media, "application/json" | "*/*" | "application/*" | "application/yaml") {
            continue;
        }
        if media == "application/yaml" {
            continue;
        }
        let parameters: BTreeMap<&str, &str> = parts.filter_map(|p| p.split_once('=')).collect();
        let get = |key: &str| parameters.get(key).copied().unwrap_or("");
        match get("as") {
            "" => return Ok(Form::Object),
            "Table" if get("v") == "v1" => return Ok(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if get("v") == "v1" => {
                return Ok(Form::Metadata);
            }
            "APIGroupDiscoveryList" if get("v") == "v2" => return Ok(Form::Discovery),
            _ => {}
        }
    }
    Err(Status::not_acceptable(&["application/json"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let parse = |path: &str| ResourcePath::parse(path).unwrap();
        let pods = parse("/api/v1/namespaces/a/pods/b/status");
        assert_eq!((pods.namespace.as_deref(), pods.name.as_deref()), (Some("a"), Some("b")));
        assert_eq!(pods.part.as_deref(), Some("status"));
        let ns = parse("/api/v1/namespaces/a");
        assert_eq!((ns.plural.as_str(), ns.name.as_deref(), ns.namespace), ("namespaces", Some("a"), None));
        let ns = parse("/api/v1/namespaces/a/finalize");
        assert_eq!((ns.name.as_deref(), ns.part.as_deref()), (Some("a"), Some("finalize")));
        let vs = parse("/apis/networking.istio.io/v1/virtualservices");
        assert_eq!((vs.group.as_str(), vs.plural.as_str()), ("networking.istio.io", "virtualservices"));
        assert!(ResourcePath::parse("/healthz").is_none());
        assert!(ResourcePath::parse("/api/v1").is_none());
    }

    #[test]
    fn queries_decode_and_duplicates_are_seen() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc+in+(d)&watch=1&x"));
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
        let (value, duplicates) = json(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#).unwrap();
        assert_eq!(duplicates, ["b[0].c", "a"]);
        assert_eq!(value["a"], 3);
        assert!(json(b"{} x").is_err());
        assert!(json("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn accept_headers_choose_a_form() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table).unwrap(), Form::Table);
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json").unwrap(), Form::Object);
        assert_eq!(form("application/vnd.kubernetes.protobuf").unwrap_err().code, 406);
        assert_eq!(form("*/*").unwrap(), Form::Object);
    }
}
