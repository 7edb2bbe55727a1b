//! The tree of commands: one definition gives parsing, help and completion.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::analyze::AnalyzeArgs;
use crate::dashboard::DashboardArgs;
use crate::explain::ExplainArgs;
use crate::gateway::GatewayArgs;
use crate::objects::{ApplyArgs, DeleteArgs, GetArgs};
use crate::proxy_config::ProxyConfigArgs;
use crate::proxy_status::ProxyStatusArgs;
use crate::token::TokenArgs;
use crate::wait::WaitArgs;
use crate::{
    check::CheckArgs,
    demo::DemoArgs,
    run::{HubArgs, RunArgs},
};

/// A service mesh for a laptop, a virtual machine or a cluster.
#[derive(Debug, Parser)]
#[command(name = "mizzen", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Kubeconfig file of the API server to talk to [default: $KUBECONFIG, then what `mizzen up` wrote]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace to work in
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the control plane, with its embedded API or, with --kubeconfig, on a cluster's
    Up(UpArgs),
    /// Bring up Bookinfo in a mesh on this machine, with traffic and a console
    Demo(DemoArgs),
    /// Run a command as a workload of the mesh
    Run(RunArgs),
    /// Run a gateway: a proxy at the mesh's edge, reached by ports of this machine
    Gateway(GatewayArgs),
    /// Say what this machine allows, and the cure for what it does not
    Check(CheckArgs),
    /// Create or change resources from manifests
    Apply(ApplyArgs),
    /// Show resources
    Get(GetArgs),
    /// Delete resources
    Delete(DeleteArgs),
    /// Wait until every proxy concerned has accepted a change
    Wait(WaitArgs),
    /// Show which proxies are connected, and whether they have accepted what they were sent
    #[command(visible_alias = "ps")]
    ProxyStatus(ProxyStatusArgs),
    /// Show what a proxy was given: listeners, routes, clusters, endpoints, secrets
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfigArgs),
    /// Say which route, policies, cluster and endpoints a request would meet, and why
    Explain(ExplainArgs),
    /// Find problems that only show when resources are seen beside each other
    Analyze(AnalyzeArgs),
    /// Let workloads of other hosts join the mesh
    Token(TokenArgs),
    /// Open the console
    Dashboard(DashboardArgs),
    /// Print the manifests of the custom resource definitions
    Crds,
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// The process that holds the hub's namespaces
    #[command(hide = true)]
    Hub(HubArgs),
}

#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Where the embedded store and the control plane's keys are kept
    #[arg(long, value_name = "DIR", env = "MIZZEN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the embedded API on the loopback interface
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// Address on which the control plane listens on this host
    #[arg(long, default_value = "127.0.0.1")]
    pub address: std::net::IpAddr,
    /// Port of the console
    #[arg(long, default_value_t = 20001)]
    pub console_port: u16,
    /// How long certificates of workloads live, such as 24h or 1m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub workload_cert_ttl: Option<std::time::Duration>,
    /// How long a workload whose proxy was lost keeps its entry, unready, before that is removed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = grace)]
    pub workload_grace: std::time::Duration,
    /// Address of this machine at which other hosts reach the control plane, on port 15012
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<std::net::IpAddr>,
    /// Name of the network that this machine's workloads are in; others are reached through their network's door
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Our revision: on a cluster, resources labelled istio.io/rev with it are validated here
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub revision: String,
    /// Do without the network of `mizzen run`
    #[arg(long)]
    pub no_hub: bool,
}

pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    text.parse::<api::Duration>().map(Into::into).map_err(|error| error.to_string())
}

/// Proxies need a moment to come back to a control plane that was restarted.
fn grace(text: &str) -> Result<std::time::Duration, String> {
    const SHORTEST: std::time::Duration = std::time::Duration::from_secs(1);
    let grace = duration(text)?;
    if grace < SHORTEST {
        return Err("a second at least: proxies that come back would be too late".into());
    }
    Ok(grace)
}
