//! End-to-end scenarios over real processes and real sockets: what the scenarios stand on.
//!
//! A scenario runs in a process and a network namespace of its own, so that ports never clash and nothing is left
//! behind. In it, [`Mesh`] starts the programs as a user would; applications and load are processes of
//! `mizzen-e2e`, which knows nothing of the mesh.

pub mod ask;
pub mod authorize;
pub mod browser;
pub mod capture;
pub mod cluster;
pub mod demo;
pub mod dial;
pub mod garbage;
pub mod hold;
pub mod issuer;
pub mod istiod;
pub mod load;
pub mod mesh;
pub mod outside;
pub mod probe;
pub mod processes;
pub mod proxies;
pub mod serve;
pub mod stage;
pub mod watchers;
pub mod websocket;
pub mod yaml;

pub use browser::Browser;
pub use demo::Demo;
pub use mesh::{Mesh, Workload};
pub use proxies::Proxies;

use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks until there is an answer; an error names what was waited for.
pub fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let asked = Instant::now();
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {within:?}");
        }
        // What is costly to ask leaves at least as much time to those who are asked about.
        std::thread::sleep(asked.elapsed().clamp(Duration::from_millis(20), Duration::from_millis(250)));
    }
}

/// Tries until it succeeds; the last failure tells what was still wrong.
pub fn until_ok<T>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut last = None;
    let succeeded = until(what, within, || attempt().map_err(|error| last = Some(error)).ok());
    succeeded.map_err(|late| match last {
        Some(error) => error.context(late),
        None => late,
    })
}
