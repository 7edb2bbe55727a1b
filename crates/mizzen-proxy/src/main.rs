//! The data plane together with its agent: arguments in, parts assembled.

mod standalone;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Mizzen's data plane and agent.
#[derive(Debug, Parser)]
#[command(name = "mizzen-proxy", version)]
struct Args {
    #[command(flatten)]
    standalone: standalone::StandaloneArgs,
}

fn main() -> ExitCode {
    tls::install_provider();
    runtime::logging::init(runtime::logging::Format::Text, "info");
    match standalone::run(&Args::parse().standalone) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mizzen-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
