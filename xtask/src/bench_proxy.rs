//! `cargo xtask bench proxy`: the proxy beside Envoy, HAProxy, nginx and Traefik, on this machine, in turns.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{peers, shell};

/// Whom the proxy is compared with, and what puts load on them.
const PEERS: [&str; 6] = ["envoy", "haproxy", "nginx", "traefik", "wrk", "h2load"];

/// The proxy beside Envoy, HAProxy, nginx and Traefik
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The profile to build with
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Measure this mizzen-proxy, and build none
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Only these rows of the table
    rows: Vec<String>,
}

/// Installs the peers, builds what is measured and what measures it, and runs.
pub(crate) fn run(args: &Args) -> Result<()> {
    peers::run(&PEERS.map(str::to_owned))?;
    let mut load = load("run", &args.profile, args.proxy.as_deref())?;
    load.args(args.quick.then_some("--quick")).args(&args.rows);
    shell::run(&mut load)
}

/// Builds the program that puts load on proxies, and the proxy unless there is one; what starts it on that.
pub(crate) fn load(what: &str, profile: &str, proxy: Option<&Path>) -> Result<Command> {
    let mut build = shell::cargo();
    build.args(["build", "--profile", profile, "-p", "proxy-load"]);
    if proxy.is_none() {
        build.args(["-p", "mizzen-proxy"]);
    }
    shell::run(&mut build)?;
    let proxy = match proxy {
        Some(file) => std::path::absolute(file)?,
        None => shell::built(profile, "mizzen-proxy"),
    };
    let mut load = shell::command(shell::built(profile, "proxy-load"));
    load.arg(what).arg("--proxy").arg(proxy);
    Ok(load)
}
