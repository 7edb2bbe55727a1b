//! Applications and load for the scenarios.

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "mizzen-e2e")]
struct Program {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// An application that says who it is
    Serve(e2e::serve::Options),
    /// A client that counts every answer
    Load(e2e::load::Plan),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Program::parse().part {
        Part::Serve(options) => e2e::serve::run(options).await,
        Part::Load(plan) => {
            let report = e2e::load::run(plan).await;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
    }
}
