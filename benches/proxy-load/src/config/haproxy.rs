//! HAProxy's configurations: one thread, no logs, connections of both sides kept.

use crate::keys::Leaf;

const COMMON: &str = "\
global
    nbthread 1
defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
";

/// Requests are read and passed on.
pub(crate) fn http(port: u16, upstream: u16, tls: Option<&Leaf>) -> String {
    proxy("http", port, upstream, tls)
}

/// Bytes are passed on.
pub(crate) fn tcp(port: u16, upstream: u16, tls: Option<&Leaf>) -> String {
    proxy("tcp", port, upstream, tls)
}

fn proxy(mode: &str, port: u16, upstream: u16, tls: Option<&Leaf>) -> String {
    let tls = tls.map_or_else(String::new, |leaf| {
        format!(" ssl crt {} ssl-min-ver TLSv1.3 no-tls-tickets", leaf.both.display())
    });
    format!(
        "{COMMON}    mode {mode}
frontend in
    bind 127.0.0.1:{port}{tls} backlog 4096
    default_backend answer
backend answer
    server answer 127.0.0.1:{upstream}
"
    )
}
