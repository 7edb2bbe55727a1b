//! The data plane together with its agent: arguments in, parts assembled.

mod sidecar;
mod standalone;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    // The allocator asks for huge pages: a proxy with little to do would be six times as large. Where the kernel cannot
    // refuse them it is so.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
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
