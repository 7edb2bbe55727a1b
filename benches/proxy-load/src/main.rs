//! `cargo xtask bench proxy`: mizzen-proxy beside Envoy, HAProxy, nginx and Traefik, in turns, on the same machine.
//!
//! A row of the benchmark starts every contestant with a configuration for the same work, puts the same load on one after
//! the other in several rounds, and reports medians and ratios. CPU time and memory are the proxy processes', from
//! `/proc`. The upstream is a process of its own, this program again; what generates the load is `wrk`, `h2load`, or this
//! program where a fixed rate, idle connections, handshakes or bytes are asked for.

mod ads;
mod answer;
mod bench;
mod config;
mod contestant;
mod keys;
mod load;
mod process;
mod report;
mod rows;
mod series;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The upstream; prints its ports, and ends with its standard input
    Answer,
    /// Measures and prints a table for each row
    Run(bench::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Answer => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(answer::serve())
        }
        Command::Run(options) => bench::run(&options),
    }
}
