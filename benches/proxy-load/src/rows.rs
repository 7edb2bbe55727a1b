//! The rows of the benchmark, in the order in which they are measured.

mod bytes;
mod change;
mod held;
mod http;
mod latency;
mod pair;
mod start;
mod workers;

use anyhow::Result;

use crate::bench::Bench;
use crate::report::Report;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Bench) -> Result<Vec<Report>>,
}

pub(crate) const ROWS: &[Row] = &[
    Row { name: "http1", run: http::plain },
    Row { name: "mesh", run: http::mesh },
    Row { name: "start", run: start::run },
    Row { name: "pair", run: pair::http1 },
    Row { name: "idle", run: held::run },
    Row { name: "tcp", run: bytes::tcp },
    Row { name: "pair-h2", run: pair::http2 },
    Row { name: "http2", run: http::http2 },
    Row { name: "grpc", run: http::grpc },
    Row { name: "tls", run: bytes::tls },
    Row { name: "handshakes", run: bytes::handshakes },
    Row { name: "latency", run: latency::run },
    Row { name: "workers", run: workers::run },
    Row { name: "change", run: change::run },
];
