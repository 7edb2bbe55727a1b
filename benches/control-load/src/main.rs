//! `cargo xtask bench control`: a control plane in a process of its own, and sidecars that acknowledge everything.
//!
//! The load starts the server, tells it on its standard input what to change, and measures from that moment until each
//! sidecar has acknowledged the change. CPU time and memory are the server's, from `/proc`.

mod keys;
mod load;
mod server;
mod sidecar;
mod table;
mod wire;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The control plane; prints its port, then reads changes from its standard input
    Serve(server::Mesh),
    /// The sidecars; starts the control plane and prints what was measured
    Run(load::Options),
}

fn main() -> anyhow::Result<()> {
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match Arguments::parse().command {
        Command::Serve(options) => runtime.block_on(server::run(&options)),
        Command::Run(options) => runtime.block_on(load::run(&options)),
    }
}
