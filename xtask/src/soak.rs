//! `cargo xtask soak`: mixed load for an hour, while configuration changes, upstreams die and connections are cut.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{bench_proxy, peers};

/// Mixed load for long, while things change and break: nothing may leak, get lost or be miscounted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// All changes and requests follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do the same to this one thereafter, and compare
    #[arg(long, value_parser = ["envoy"])]
    peer: Option<String>,
    /// The profile to build with
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Soak this mizzen-proxy, and build none
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
}

/// Builds both programs and becomes the one that soaks: Ctrl-C is for it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(peer) = &args.peer {
        peers::run(std::slice::from_ref(peer))?;
    }
    let mut soak = bench_proxy::load("soak", &args.profile, args.proxy.as_deref())?;
    soak.args(["--minutes", &args.minutes.to_string(), "--seed", &args.seed.to_string()]);
    if let Some(peer) = &args.peer {
        soak.args(["--peer", peer]);
    }
    Err(soak.exec()).with_context(|| format!("cannot start {soak:?}"))
}
