//! Label and field selectors.

use crate::kinds::{Core, Resource};
use crate::status::{Result, Status};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Want {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    /// Greater (true) or less than a number.
    Beyond(bool, i64),
}

/// A label selector, as in `app=a,version in (v1,v2),!canary`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(String, Want)>);

impl Labels {
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| Status::bad_request(format!("unable to parse requirement: {why}"));
        let tokens = tokens(text);
        let mut rest = tokens.as_slice();
        let mut out = Vec::new();
        while let Some((requirement, after)) = requirement(rest).map_err(&bad)? {
            out.push(requirement);
            rest = match after.split_first() {
                None => break,
                Some((comma, [])) if comma == "," => {
                    return Err(bad("found '', expected: identifier after ','".into()));
                }
                Some((comma, after)) if comma == "," => after,
                Some((other, _)) => {
                    return Err(bad(format!("found '{other}', expected: ',' or 'end of string'")));
                }
            };
        }
        Ok(Self(out))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        let get = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.0.iter().all(|(key, want)| match (want, get(key)) {
            (Want::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Want::NotIn(values), Some(value)) => !values.iter().any(|v| v == value),
            (Want::Beyond(greater, bound), Some(value)) => {
                value.parse::<i64>().is_ok_and(|n| if *greater { n > *bound } else { n < *bound })
            }
            (Want::Exists, found) => found.is_some(),
            (Want::Absent, found) => found.is_none(),
            (Want::NotIn(_), None) => true,
            (Want::In(_) | Want::Beyond(..), None) => false,
        })
    }
}

fn tokens(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            c if c.is_whitespace() => {
                chars.next();
            }
            ',' | '(' | ')' => {
                out.push(c.to_string());
                chars.next();
            }
            '=' | '!' | '>' | '<' => {
                chars.next();
                let double = (c == '=' || c == '!') && chars.next_if_eq(&'=').is_some();
                out.push(if double { format!("{c}=") } else { c.to_string() });
            }
            _ => {
                let mut word = String::new();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !",()=!<>".contains(*c)) {
                    word.push(c);
                }
                out.push(word);
            }
        }
    }
    out
}

type Parsed<'a> = Option<((String, Want), &'a [String])>;

fn requirement(tokens: &[String]) -> Result<Parsed<'_>, String> {
    let Some((first, rest)) = tokens.split_first() else { return Ok(None) };
    if first == "!" {
        let Some((key, rest)) = rest.split_first() else {
            return Err("found '', expected: identifier".into());
        };
        return Ok(Some(((identifier(key)?, Want::Absent), rest)));
    }
    let key = identifier(first)?;
    let Some((operator, rest)) = rest.split_first() else { return Ok(Some(((key, Want::Exists), &[]))) };
    let one = |rest: &'_ [String]| -> Result<String, String> {
        match rest.first() {
            Some(value) if value != "," => identifier(value),
            _ => Ok(String::new()),
        }
    };
    let skip = |value: &str, rest: &'_ [String]| if value.is_empty() { 0 } else { 1.min(rest.len()) };
    match operator.as_str() {
        "," => Ok(Some(((key, Want::Exists), &tokens[1..]))),
        "=" | "==" | "!=" => {
            let value = one(rest)?;
            let rest = &rest[skip(&value, rest)..];
            let values = vec![value];
            Ok(Some(((key, if operator == "!=" { Want::NotIn(values) } else { Want::In(values) }), rest)))
        }
        ">" | "<" => {
            let value = one(rest)?;
            let bound = value
                .parse()
                .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))?;
            Ok(Some(((key, Want::Beyond(operator == ">", bound)), &rest[1..])))
        }
        "in" | "notin" => {
            if rest.first().map(String::as_str) != Some("(") {
                let found = rest.first().map_or("", String::as_str);
                return Err(format!("found '{found}', expected: '('"));
            }
            let close = rest.iter().position(|t| t == ")").ok_or("found '', expected: ',', or ')'")?;
            let values = rest[1..close].iter().filter(|t| *t != ",").cloned().collect();
            let want = if operator == "in" { Want::In(values) } else { Want::NotIn(values) };
            Ok(Some(((key, want), &rest[close + 1..])))
        }
        other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
    }
}

fn identifier(token: &str) -> Result<String, String> {
    if token.starts_with([',', '(', ')', '=', '!', '<', '>']) {
        return Err(format!("found '{token}', expected: identifier"));
    }
    Ok(token.to_owned())
}

/// A field selector, as in `metadata.name=a,status.phase!=Running`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, bool, String)>);

impl Fields {
    pub fn parse(text: &str, resource: &Resource) -> Result<Self> {
        let mut out = Vec::new();
        for term in text.split(',').filter(|term| !term.is_empty()) {
            let (key, equal, value) = if let Some((key, value)) = term.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (key, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            if !supported(resource, key) {
                return Err(Status::bad_request(unsupported(resource, key)));
            }
            out.push((key.to_owned(), equal, value.to_owned()));
        }
        Ok(Self(out))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name that can match, if the selector says so.
    pub fn name(&self) -> Option<&str> {
        let found = self.0.iter().find(|(key, equal, _)| *equal && key == "metadata.name");
        found.map(|(_, _, value)| value.as_str())
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(key, equal, value)| {
            let pointer = format!("/{}", key.replace('.', "/"));
            let found = match object.pointer(&pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Null) | None => String::new(),
                Some(other) => other.to_string(),
            };
            (found == *value) == *equal
        })
    }
}

fn unsupported(resource: &Resource, key: &str) -> String {
    match resource.core {
        Some(
            Core::ConfigMap
            | Core::ServiceAccount
            | Core::Endpoints
            | Core::EndpointSlice
            | Core::Deployment
            | Core::Lease,
        ) => {
            format!("{key:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        _ => format!("field label not supported: {key}"),
    }
}

fn supported(resource: &Resource, key: &str) -> bool {
    let more: &[&str] = match resource.core {
        Some(Core::Pod) => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Some(Core::Event) => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Some(Core::Namespace) => &["status.phase", "name"],
        Some(Core::Node) => &["spec.unschedulable"],
        Some(Core::Secret) => &["type"],
        Some(Core::Service) => &["spec.clusterIP", "spec.type"],
        Some(Core::ReplicaSet) => &["status.replicas"],
        _ => &[],
    };
    key == "metadata.name" || (key == "metadata.namespace" && resource.namespaced) || more.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_select() {
        let object = json!({"metadata": {"labels": {"app": "a", "n": "5", "empty": ""}}});
        for (selector, wanted) in [
            ("", true),
            ("app=a", true),
            ("app==b", false),
            ("app!=b", true),
            ("other!=b", true),
            ("app in (a, b),n", true),
            ("app notin (a)", false),
            ("!app", false),
            ("!other", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("empty=", true),
            ("empty=,app=a", true),
        ] {
            assert_eq!(Labels::parse(selector).unwrap().matches(&object), wanted, "{selector}");
        }
        for bad in ["a===b", "a in b", "a in (b", ",", "a,", "a b"] {
            assert_eq!(Labels::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
