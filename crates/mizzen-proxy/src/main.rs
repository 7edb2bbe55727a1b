//! The data plane together with its agent: arguments in, parts assembled.

mod memory;
mod sidecar;
mod standalone;

use std::process::ExitCode;

use clap::Parser;

/// Mizzen's data plane and agent.
#[derive(Debug, Parser)]
#[command(name = "mizzen-proxy", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    standalone: standalone::StandaloneArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Runs beside a workload: agent and proxy in one process
    Sidecar(Box<sidecar::SidecarArgs>),
    /// Runs as a gateway: agent and proxy in one process
    Router(Box<sidecar::SidecarArgs>),
}

fn main() -> ExitCode {
    memory::prepare();
    tls::install_provider();
    runtime::logging::init(runtime::logging::Format::Text, "info");
    let args = Args::parse();
    let ended = match &args.command {
        Some(Command::Sidecar(args) | Command::Router(args)) => sidecar::run(args),
        None => standalone::run(&args.standalone),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mizzen-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
