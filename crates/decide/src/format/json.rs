//! JSON formats: objects whose texts hold operators. A text that is one operator keeps the kind of its value.

use proto::pb::google::protobuf as pb;
use serde_json::{Map, Value};

use super::{Format, Piece};
use crate::log::LogEntry;
use crate::refusal::{Refusal, Taken, Within};

#[derive(Debug, Clone)]
pub struct JsonFormat {
    root: Vec<(String, Node)>,
    omit_empty: bool,
}

#[derive(Debug, Clone)]
enum Node {
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(Format),
    Constant(Value),
}

impl JsonFormat {
    pub(crate) fn compile(fields: &pb::Struct, omit_empty: bool) -> Taken<Self> {
        Ok(Self { root: object(fields, omit_empty)?, omit_empty })
    }

    /// One line, without its end.
    pub fn render(&self, entry: &LogEntry<'_>) -> Value {
        Value::Object(render_object(&self.root, entry, self.omit_empty))
    }
}

/// By key, as Envoy sorts them.
fn object(fields: &pb::Struct, omit_empty: bool) -> Taken<Vec<(String, Node)>> {
    let mut entries: Vec<_> = fields.fields.iter().collect();
    entries.sort_by_key(|(key, _)| key.as_str());
    entries.into_iter().map(|(key, value)| Ok((key.clone(), node(value, omit_empty).within(key)?))).collect()
}

fn node(value: &pb::Value, omit_empty: bool) -> Taken<Node> {
    use pb::value::Kind;
    Ok(match value.kind.as_ref().ok_or_else(|| Refusal::new("is empty"))? {
        Kind::StringValue(text) => Node::Text(Format::compile(text, omit_empty)?),
        Kind::StructValue(fields) => Node::Object(object(fields, omit_empty)?),
        Kind::ListValue(list) => {
            Node::List(list.values.iter().map(|v| node(v, omit_empty)).collect::<Taken<_>>()?)
        }
        _ => Node::Constant(crate::wire::json_of_value(value)),
    })
}

fn render_object(entries: &[(String, Node)], entry: &LogEntry<'_>, omit_empty: bool) -> Map<String, Value> {
    entries
        .iter()
        .map(|(key, node)| (key, render(node, entry, omit_empty)))
        .filter(|(_, value)| !(omit_empty && value.is_null()))
        .map(|(key, value)| (key.clone(), value))
        .collect()
}

fn render(node: &Node, entry: &LogEntry<'_>, omit_empty: bool) -> Value {
    match node {
        Node::Object(entries) => Value::Object(render_object(entries, entry, omit_empty)),
        Node::List(nodes) => Value::Array(nodes.iter().map(|n| render(n, entry, omit_empty)).collect()),
        Node::Constant(value) => value.clone(),
        Node::Text(format) => match format.pieces.as_slice() {
            [Piece::Value { operator, limit: None }] => operator.value(entry).json(),
            _ => {
                let mut text = String::new();
                format.render(entry, &mut text);
                Value::String(text)
            }
        },
    }
}
