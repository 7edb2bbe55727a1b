//! `cargo xtask bench proxy`: mizzen-proxy beside Envoy, HAProxy, nginx and Traefik, in turns, on the same machine.
//!
//! A row of the benchmark starts every contestant with a configuration for the same work, puts the same load on one after
//! the other in several rounds, and reports medians and ratios. CPU time and memory are the proxy processes', from
//! `/proc`. The upstream is a process of its own, this program again; what generates the load is `wrk`, `h2load`, or this
//! program where a fixed rate, idle connections, handshakes or bytes are asked for.
//!
//! `soak` is another matter: nothing is measured there, and everything has to hold.

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
mod soak;

use std::process::ExitCode;

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
    /// Mixed load for long, while things change and break
    Soak(soak::Options),
    /// An upstream of the soak; ends with its standard input
    SoakUpstream(soak::backend::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let upstream = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match Arguments::parse().command {
        Command::Answer => upstream()?.block_on(answer::serve())?,
        Command::Run(options) => bench::run(&options)?,
        Command::Soak(options) => return soak::run(&options),
        Command::SoakUpstream(options) => upstream()?.block_on(soak::backend::serve(&options))?,
    }
    Ok(ExitCode::SUCCESS)
}
