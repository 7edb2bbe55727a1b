//! Fuzz targets: one for each thing that reads what a peer sends, and for compiling configuration and deciding by it.
//!
//! A target is a function of bytes that panics where something is wrong. `tests/corpora.rs` plays what is kept in `corpus/`
//! and `crashes/` to it as plain tests; `tests/engine.rs` has libFuzzer look for more (`cargo xtask fuzz`).

mod certificates;
mod deciding;
mod dns;
mod languages;
mod plan;
mod xds;

use std::sync::OnceLock;

use apiserver::kinds::Kinds;

/// What can be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// All of them: the data plane's first.
pub const TARGETS: &[Target] = &[
    target("http1_requests", proxy::fuzz::http1_requests),
    target("http1_answers", proxy::fuzz::http1_answers),
    target("http2_to_http1", proxy::fuzz::http2_to_http1),
    target("proxy_header", proxy::fuzz::proxy_header),
    target("first_bytes", proxy::fuzz::first_bytes),
    target("peer_exchange", proxy::fuzz::peer_exchange),
    target("trace_headers", proxy::fuzz::trace_headers),
    target("path", decide::fuzz::path),
    target("token", decide::fuzz::token),
    target("parts_of_requests", decide::fuzz::parts_of_requests),
    target("decide", deciding::decide),
    target("plan", plan::resource),
    target("plan_json", plan::json),
    target("bootstrap", plan::bootstrap),
    target("xds", xds::xds),
    target("json_mapping", xds::json_mapping),
    target("dns", dns::dns),
    target("certificates", certificates::certificates),
    target("certificate_requests", certificates::requests),
    target("languages", languages::languages),
    target("api_protobuf", apiserver::fuzz::protobuf_object),
    target("api_request", |data| apiserver::fuzz::request(kinds(), data)),
    target("api_patch", |data| apiserver::fuzz::patched(kinds(), data)),
    target("api_objects", languages::objects),
];

/// A target by its name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

fn kinds() -> &'static Kinds {
    static KINDS: OnceLock<Kinds> = OnceLock::new();
    KINDS.get_or_init(Kinds::standard)
}

/// What programs do before anything else.
pub fn prepare() {
    tls::install_provider();
}
