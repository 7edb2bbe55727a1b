//! The project's own commands. `cargo xtask test` is what the README and CI call.

mod peers;
mod shell;
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
    /// Install what the tests need and run everything
    Test(test::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::Tidy => tidy::run(),
        Command::Peers { names } => peers::run(&names),
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
