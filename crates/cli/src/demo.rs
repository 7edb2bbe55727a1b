//! `mizzen demo`: Bookinfo in a mesh on this machine.

use std::process::ExitCode;

use crate::GlobalArgs;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

pub(crate) fn execute(_args: &DemoArgs, _global: &GlobalArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`demo` is not built yet")
}
