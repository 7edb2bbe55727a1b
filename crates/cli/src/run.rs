//! `mizzen run`: any process becomes a workload.

use std::process::ExitCode;

use crate::GlobalArgs;

#[derive(Debug, clap::Args)]
pub struct RunArgs {}

#[derive(Debug, clap::Args)]
pub struct HubArgs {}

pub(crate) fn execute(_args: &RunArgs, _global: &GlobalArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`run` is not built yet")
}

pub(crate) fn hub(_args: &HubArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the hub is not built yet")
}
