//! The project's own commands. `cargo xtask test` is what the README and CI call.

mod bench_control;
mod bench_proxy;
mod codegen;
mod fuzz;
mod peers;
mod shell;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what the compiler does not: floors, bans, open marks
    Tidy,
    /// Install the real servers and clients that the tests run against
    Peers {
        /// Install only these
        names: Vec<String>,
    },
    /// Measure, and print the figures of others beside
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Write what is generated from others' definitions
    Codegen {
        #[command(subcommand)]
        what: Codegen,
    },
    Fuzz(fuzz::Args),
    Soak(soak::Args),
    /// Install what the tests need and run everything
    Test(test::Args),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The control plane under a thousand simulated sidecars
    Control {
        /// The profile to build with
        #[arg(long, default_value = "dist")]
        profile: String,
    },
    Proxy(bench_proxy::Args),
}

#[derive(Debug, Subcommand)]
enum Codegen {
    /// The tables of protobuf's JSON mapping
    Proto {
        /// Only say whether the committed tables are up to date
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::Tidy => tidy::run(),
        Command::Peers { names } => peers::run(&names),
        Command::Bench { what: Bench::Control { profile } } => bench_control::run(&profile),
        Command::Bench { what: Bench::Proxy(args) } => bench_proxy::run(&args),
        Command::Codegen { what: Codegen::Proto { check } } => codegen::proto(&shell::root(), check),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Test(args) => test::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
