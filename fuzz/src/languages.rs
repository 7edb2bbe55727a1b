//! The languages inside of fields, and what users write.

use api::Kind;
use serde_json::Value;

/// One of the languages, by the first byte.
pub fn languages(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match which % 8 {
        0 => {
            if let Ok(regex) = syntax::regular::whole(text) {
                regex.is_match(b"/some/path?of=request");
            }
        }
        1 => _ = syntax::regular::template(text),
        2 => _ = syntax::regular::substitution(text, 3),
        3 => _ = syntax::format::parse(text),
        4 => _ = syntax::cel::parse(text),
        5 => _ = syntax::jwks::parse(rest),
        6 => {
            if let Ok(format) = syntax::TimeFormat::parse(text) {
                for seconds in [0, -1, 1_700_000_000, i64::from(u32::MAX)] {
                    format.format_epoch(seconds, 123_456_789);
                }
            }
        }
        _ => _ = syntax::regular::regex(text),
    }
}

/// A resource of the kind that the first byte says, as YAML: its spec is judged whole.
pub fn objects(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let Ok(spec) = serde_yaml_ng::from_slice::<Value>(rest) else { return };
    let kinds: Vec<Kind> = Kind::all().collect();
    let kind = kinds[usize::from(which) % kinds.len()];
    let object = serde_json::json!({
        "apiVersion": kind.info().api_version(),
        "kind": kind.name(),
        "metadata": {"name": "n", "namespace": "ns"},
        "spec": spec,
    });
    let _ = api::validate(kind, &object);
    if let Ok(text) = std::str::from_utf8(rest) {
        let _ = api::parse_mesh_config(text);
    }
}
