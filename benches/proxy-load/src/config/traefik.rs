//! Traefik's configuration: one router, one service.

use serde_json::{Value, json};

/// What the file provider reads; JSON is YAML.
pub(crate) fn http(upstream: u16) -> Value {
    json!({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "answer"}},
        "services": {"answer": {"loadBalancer": {"servers": [{"url": format!("http://127.0.0.1:{upstream}")}]}}},
    }})
}
