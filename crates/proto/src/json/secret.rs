//! What nobody may read is taken out of JSON that is shown.

use serde_json::Value;

/// Fields that Envoy's definitions mark as sensitive, in both of their spellings.
const SECRET: [&str; 10] = [
    "genericSecret",
    "generic_secret",
    "password",
    "pkcs12",
    "privateKey",
    "privateKeyProvider",
    "private_key",
    "private_key_provider",
    "sessionTicketKeys",
    "session_ticket_keys",
];

/// Puts `[redacted]` in the place of every text below a field that holds a secret, as Envoy does.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if SECRET.contains(&name.as_str()) { erase(value) } else { redact(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn erase(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(erase),
        Value::Array(items) => items.iter_mut().for_each(erase),
        Value::String(text) => *text = "[redacted]".into(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_secret_is_shown_however_deep() {
        let mut value = json!({"tlsCertificate": {
            "certificateChain": {"inlineString": "public"},
            "privateKey": {"inlineString": "PRIVATE"},
            "password": {"filename": "/pass"},
        }, "list": [{"session_ticket_keys": {"keys": [{"inline_bytes": "QUJD"}]}}], "private_key": "PRIVATE"});
        redact(&mut value);
        assert_eq!(
            value,
            json!({"tlsCertificate": {
                "certificateChain": {"inlineString": "public"},
                "privateKey": {"inlineString": "[redacted]"},
                "password": {"filename": "[redacted]"},
            }, "list": [{"session_ticket_keys": {"keys": [{"inline_bytes": "[redacted]"}]}}], "private_key": "[redacted]"})
        );
    }
}
