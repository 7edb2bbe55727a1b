//! The control plane, the command line and the console: arguments in, parts assembled.

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let result = match command {
        Command::Up(_) => Err(anyhow::anyhow!("`up` is not built yet")),
        other => cli::execute(other, &global),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
