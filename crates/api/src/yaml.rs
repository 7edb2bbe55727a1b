//! YAML files: streams of documents, as people apply them.

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, thiserror::Error)]
#[error("document {index}: {source}")]
pub struct YamlError {
    /// Counted from 1.
    pub index: usize,
    #[source]
    pub source: serde_yaml_ng::Error,
}

/// The documents of a stream as JSON; empty ones are left out, and a `List` stands for its items.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    let mut found = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document).map_err(|source| YamlError { index: index + 1, source })?;
        match value {
            Value::Null => {}
            Value::Object(mut list) if is_list(&list) => {
                let items = list.remove("items").unwrap_or_default();
                found.extend(items.as_array().cloned().unwrap_or_default());
            }
            value => found.push(value),
        }
    }
    Ok(found)
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("List") && object.contains_key("items")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_hold_documents_and_lists() {
        let text = "a: 1\n---\n---\nkind: List\nitems: [{b: 2}, {9080: x}]\n";
        let values = documents(text).unwrap();
        assert_eq!(
            values,
            [serde_json::json!({"a": 1}), serde_json::json!({"b": 2}), serde_json::json!({"9080": "x"})]
        );
        assert_eq!(documents("a: 1\n---\na: [").unwrap_err().index, 2);
    }
}
