//! The part of CEL that access-log filters use, over a log entry. What is written is read by `syntax`.
//!
//! A program that fails on an entry (a missing attribute, a comparison of different kinds) does not hold, as in Envoy.

mod attribute;

use std::cmp::Ordering;

use serde_json::Value;
use syntax::cel::{Function, Op};

use crate::log::LogEntry;

type Node = syntax::cel::Node<attribute::Path>;

/// A parsed expression.
#[derive(Debug)]
pub struct Program(Node);

impl Program {
    /// Fails with the reason and the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        syntax::cel::parse(text).map(|node| Self(node.map(&attribute::Path::from)))
    }

    /// Whether the expression is true for an entry.
    pub fn holds(&self, entry: &LogEntry<'_>) -> bool {
        eval(&self.0, entry) == Some(Value::Bool(true))
    }
}

fn eval(node: &Node, entry: &LogEntry<'_>) -> Option<Value> {
    Some(match node {
        Node::Constant(value) => value.clone(),
        Node::List(items) => Value::Array(items.iter().map(|i| eval(i, entry)).collect::<Option<_>>()?),
        Node::Attribute(path) => path.value(entry)?,
        Node::Has(path) => Value::Bool(path.value(entry).is_some()),
        Node::Not(inner) => Value::Bool(!truth(inner, entry)?),
        Node::And(a, b) => Value::Bool(logic(truth(a, entry), || truth(b, entry), false)?),
        Node::Or(a, b) => Value::Bool(logic(truth(a, entry), || truth(b, entry), true)?),
        Node::Compare(op, a, b) => Value::Bool(compare(*op, &eval(a, entry)?, &eval(b, entry)?)?),
        Node::In(item, list) => Value::Bool(match (eval(item, entry)?, eval(list, entry)?) {
            (item, Value::Array(items)) => items.iter().any(|i| equal(i, &item)),
            (Value::String(key), Value::Object(map)) => map.contains_key(&key),
            _ => return None,
        }),
        Node::If(condition, then, other) => eval(if truth(condition, entry)? { then } else { other }, entry)?,
        Node::Call(function, a, b) => {
            let (a, b) = (eval(a, entry)?, eval(b, entry)?);
            let (a, b) = (a.as_str()?, b.as_str()?);
            Value::Bool(match function {
                Function::StartsWith => a.starts_with(b),
                Function::EndsWith => a.ends_with(b),
                Function::Contains => a.contains(b),
            })
        }
        Node::Matches(text, regex) => Value::Bool(regex.is_match(eval(text, entry)?.as_str()?)),
        Node::Size(inner) => Value::from(match eval(inner, entry)? {
            Value::String(text) => text.chars().count(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => return None,
        }),
    })
}

fn truth(node: &Node, entry: &LogEntry<'_>) -> Option<bool> {
    eval(node, entry)?.as_bool()
}

/// CEL: one side that decides is enough, though the other fails.
fn logic(a: Option<bool>, b: impl FnOnce() -> Option<bool>, decisive: bool) -> Option<bool> {
    if a == Some(decisive) {
        return a;
    }
    match (a, b()) {
        (_, Some(b)) if b == decisive => Some(b),
        (Some(_), Some(b)) => Some(b),
        _ => None,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn compare(op: Op, a: &Value, b: &Value) -> Option<bool> {
    if let Op::Eq | Op::Ne = op {
        return Some(equal(a, b) == (op == Op::Eq));
    }
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?)?,
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => return None,
    };
    Some(match op {
        Op::Lt => order == Ordering::Less,
        Op::Le => order != Ordering::Greater,
        Op::Gt => order == Ordering::Greater,
        Op::Ge => order != Ordering::Less,
        Op::Eq | Op::Ne => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::connection::Connection;
    use crate::request::{Method, Request};

    #[test]
    fn expressions_hold_as_in_cel() {
        let connection = Connection::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let request = Request::new(Method::Get, "reviews:9080", "/a/b?c=d").with_header("x-user", "jason");
        let entry = LogEntry {
            request: Some(&request),
            response_code: 503,
            route_name: "default",
            ..LogEntry::new(&connection, SystemTime::UNIX_EPOCH)
        };
        for (text, expected) in [
            ("response.code >= 400", true),
            ("response.code == 503 && request.method == 'GET'", true),
            ("response.code < 400 || request.headers['x-user'] == \"jason\"", true),
            ("!(response.code in [500, 502])", true),
            ("has(request.headers['x-none'])", false),
            ("!has(request.headers['x-none'])", true),
            ("request.headers['x-none'] == 'a'", false),
            ("request.headers['x-none'] != 'a'", false),
            ("request.headers['x-none'] == 'a' || true", true),
            ("request.url_path.startsWith('/a')", true),
            ("request.path.contains('c=d') && !request.path.endsWith('e')", true),
            ("request.url_path.matches('^/[a-z]/b$')", true),
            ("size(request.host) > 3 ? response.code > 1 : false", true),
            ("source.address == '10.0.0.1:1'", true),
            ("destination.port == 80", true),
            ("xds.route_name == 'default'", true),
            ("connection.mtls", false),
            ("(response.code)", false),
        ] {
            let program = Program::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(program.holds(&entry), expected, "{text}");
        }
    }
}
