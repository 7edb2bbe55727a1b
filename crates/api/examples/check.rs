//! Judges files of resources: `cargo run -p api --example check -- FILE...`. Kinds that are not ours are passed over;
//! a document without a kind is taken for a MeshConfig.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut bad = false;
    for file in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{file}: {error}");
                bad = true;
                continue;
            }
        };
        match api::yaml::documents(&text) {
            Ok(documents) => documents.iter().for_each(|document| bad |= !judge(&file, document)),
            Err(error) => {
                eprintln!("{file}: {error}");
                bad = true;
            }
        }
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn judge(file: &str, document: &serde_json::Value) -> bool {
    let group = document["apiVersion"].as_str().unwrap_or_default();
    let label = format!("{file}: {} {}", document["kind"], document["metadata"]["name"]);
    if !group.contains(".istio.io/") && !document["kind"].is_null() {
        println!("{label}: passed over");
        return true;
    }
    let found = match api::kind_of(document) {
        Ok(kind) => api::validate(kind, document),
        Err(_) if document["kind"].is_null() => match api::parse_mesh_config(&document.to_string()) {
            Ok((_, warnings)) => api::Validation { errors: Vec::new(), warnings },
            Err(errors) => api::Validation { errors, warnings: Vec::new() },
        },
        Err(error) => api::Validation { errors: vec![error], warnings: Vec::new() },
    };
    for error in &found.errors {
        println!("{label}: {error}");
    }
    for warning in &found.warnings {
        println!("{label}: warning: {warning}");
    }
    if found.is_ok() {
        println!("{label}: accepted");
    }
    found.is_ok()
}
