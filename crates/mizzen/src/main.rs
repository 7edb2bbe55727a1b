//! The control plane, the command line and the console: arguments in, parts assembled.

mod up;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let result = match command {
        Command::Up(args) => up::execute(&args, &global),
        other => cli::execute(other, &global),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
