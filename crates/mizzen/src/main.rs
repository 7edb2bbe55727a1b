//! The control plane, the command line and the console: arguments in, parts assembled.

mod up;

use std::process::ExitCode;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::read() {
        Command::Up(args) => up::execute(&args),
        other => cli::execute(other),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
