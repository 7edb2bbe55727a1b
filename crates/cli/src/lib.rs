//! The command line: what people type, and one module for each command.
//!
//! Commands return an exit code and print their results; errors are `anyhow` chains that end in what to do.
//! `up` is assembled by the program itself, since the control plane stands on this crate's floor.

mod analyze;
mod args;
mod check;
mod client;
mod control;
mod dashboard;
mod demo;
#[cfg(test)]
mod docs;
mod explain;
mod gateway;
pub mod join_secret;
mod objects;
mod output;
mod proxy_config;
mod proxy_status;
mod run;
mod snapshot;
mod table;
mod token;
mod version;
mod wait;
mod workload;

pub use args::{Cli, Command, GlobalArgs, ServerArgs, UpArgs};
pub use client::default_data_dir;

use std::process::ExitCode;

/// Runs every command but `up`. Called on the main thread before any other thread exists: commands that make
/// namespaces need that, and those that do not start a runtime of their own.
pub fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(_) => anyhow::bail!("`up` is assembled by the program"),
        Command::Demo(args) => demo::execute(&args),
        Command::Run(args) => run::execute(&args),
        Command::Gateway(args) => gateway::execute(&args),
        Command::Check(args) => check::execute(&args),
        Command::Hub(args) => run::hub(&args),
        Command::Apply(args) => block_on(objects::apply(&args)),
        Command::Get(args) => block_on(objects::get(&args)),
        Command::Delete(args) => block_on(objects::delete(&args)),
        Command::Wait(args) => block_on(wait::execute(&args)),
        Command::ProxyStatus(args) => block_on(proxy_status::execute(&args)),
        Command::ProxyConfig(args) => block_on(proxy_config::execute(&args)),
        Command::Explain(args) => block_on(explain::execute(&args)),
        Command::Analyze(args) => block_on(analyze::execute(&args)),
        Command::Dashboard(args) => dashboard::execute(&args),
        Command::Token(args) => block_on(token::execute(&args)),
        Command::Crds => crds(),
        Command::Version(args) => block_on(version::execute(&args)),
        Command::Completion { shell } => completion(shell),
    }
}

/// Runs a command that talks to servers on a runtime of its own.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tls::install_provider();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn crds() -> anyhow::Result<ExitCode> {
    for crd in api::crds() {
        println!("---");
        print!("{}", serde_yaml_ng::to_string(&crd)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "mizzen", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
