//! Secrets: names and expiry, no key material.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{View, at, dash, field, list, row, text};

/// A section of a dump that Envoy does not have.
const OF_AGENT: &str = "secretsOfAgent";

/// The certificate that a proxy proved to the control plane: its agent had it signed, and its key was never seen.
pub(super) fn of_agent(identity: &str) -> Value {
    json!({ OF_AGENT: [{"name": "default", "type": "Cert Chain", "status": "BY ITS AGENT", "identity": identity}] })
}

pub(super) fn view(dump: &Value) -> View {
    let mut all: Vec<Value> = Vec::new();
    for config in list(field(dump, "configs")) {
        for (section, state) in [
            ("dynamicActiveSecrets", "ACTIVE"),
            ("dynamicWarmingSecrets", "WARMING"),
            ("staticSecrets", "STATIC"),
        ] {
            all.extend(list(field(config, section)).iter().map(|entry| summary(entry, state)));
        }
    }
    for config in list(field(dump, "configs")) {
        all.extend(list(field(config, OF_AGENT)).iter().cloned());
    }
    all.sort_by(|a, b| text(&a["name"]).cmp(text(&b["name"])));
    let mut lines = vec![row(["NAME", "TYPE", "STATUS", "VALID UNTIL", "SERIAL", "IDENTITY"])];
    for secret in &all {
        lines.push(
            ["name", "type", "status", "validUntil", "serial", "identity"]
                .map(|f| dash(text(&secret[f])))
                .to_vec(),
        );
    }
    View { lines, resources: all }
}

fn summary(entry: &Value, state: &str) -> Value {
    let secret = field(entry, "secret");
    let chain = at(secret, &["tlsCertificate", "certificateChain"]);
    let roots = at(secret, &["validationContext", "trustedCa"]);
    let (kind, source) = match (chain.is_null(), roots.is_null()) {
        (false, _) => ("Cert Chain", chain),
        (_, false) => ("CA", roots),
        _ => ("", &Value::Null),
    };
    let mut summary = json!({"name": field(entry, "name"), "type": kind, "status": state});
    if let Some((until, serial)) = pem(source).and_then(|pem| leaf(&pem)) {
        summary["validUntil"] = json!(until);
        summary["serial"] = json!(serial);
    }
    summary
}

/// Inline bytes are base64 in JSON, inline strings are not; the certificates are public either way.
fn pem(source: &Value) -> Option<Vec<u8>> {
    if let Some(text) = field(source, "inlineString").as_str() {
        return Some(text.as_bytes().to_vec());
    }
    let encoded = field(source, "inlineBytes");
    let bytes: k8s_openapi::ByteString = serde_json::from_value(encoded.clone()).ok()?;
    Some(bytes.0)
}

fn leaf(pem: &[u8]) -> Option<(String, String)> {
    let chain = tls::certificates_from_pem("certificate", pem).ok()?;
    let info = tls::PeerInfo::from_chain(&chain).ok()?;
    let seconds = info.not_after.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let until = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some((until.to_string(), info.serial))
}
