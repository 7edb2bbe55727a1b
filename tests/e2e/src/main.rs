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
    /// An external authorizer
    Authorize(e2e::authorize::Options),
    /// A client that counts every answer
    Load(e2e::load::Plan),
    /// A client that holds a connection open
    Hold(e2e::hold::Options),
    /// What no well-meaning client sends
    Garbage(e2e::garbage::Options),
    /// One TCP connection, and what the server says by itself
    Probe(e2e::probe::Options),
    /// What goes over the links of a process's network
    Capture(e2e::capture::Options),
    /// Makes the record of a real istiod that other tests read, unless it is there
    Istiod,
}

fn main() -> anyhow::Result<()> {
    match Program::parse().part {
        Part::Istiod => e2e::istiod::make_record(),
        part => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(play(part)),
    }
}

async fn play(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Serve(options) => e2e::serve::run(options).await,
        Part::Authorize(options) => e2e::authorize::run(options).await,
        Part::Garbage(options) => {
            println!("{}", serde_json::to_string(&e2e::garbage::run(options).await)?);
            Ok(())
        }
        Part::Hold(options) => {
            println!("{}", serde_json::to_string(&e2e::hold::run(options).await?)?);
            Ok(())
        }
        Part::Load(plan) => {
            let lingers = plan.linger;
            let report = e2e::load::run(plan).await?;
            println!("{}", serde_json::to_string(&report)?);
            if lingers {
                e2e::load::linger().await;
            }
            Ok(())
        }
        Part::Probe(options) => {
            println!("{}", serde_json::to_string(&e2e::probe::run(&options)?)?);
            Ok(())
        }
        Part::Capture(options) => e2e::capture::run(&options),
        Part::Istiod => Ok(()),
    }
}
