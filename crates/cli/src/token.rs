//! `mizzen token create`: lets a workload of another host join the mesh.
//!
//! It makes, through the API server and as its user, what the workload needs there and cannot make itself; prints the file
//! that the workload joins with; and keeps of the token only what judges it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use base::{Clock, SystemClock};
use clap::{Args, Subcommand};

use crate::{
    GlobalArgs,
    workload::{DOOR, JoinFile, MeshObjects, Port, Spec, WhoArgs, ensure_namespace},
};

/// A token is for one start, soon.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const GATEWAY_NAMESPACE: &str = "istio-system";

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print the file that a workload of another host joins with: `mizzen run --join FILE` there
    Create(CreateArgs),
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
struct CreateArgs {
    /// Name of the service that the workload belongs to, or of the gateway
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Its version: the label that subsets choose by
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// A port of the service, which is made if it is absent: http=9080, or http=80:9080
    #[arg(long = "port", value_name = "NAME=PORT[:PORT]")]
    ports: Vec<Port>,
    #[command(flatten)]
    who: WhoArgs,
    /// How long the token may be used, once: 10m
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = crate::args::duration)]
    ttl: Duration,
    /// The workload is a gateway: the door of its network, which other networks reach at this address
    #[arg(long, value_name = "ADDRESS", requires = "network")]
    door: Option<std::net::IpAddr>,
    /// Where the other host reaches the control plane; kept in the file
    #[arg(long, value_name = "HOST:PORT")]
    control_plane: Option<String>,
}

pub(crate) async fn execute(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let TokenArgs { command: TokenCommand::Create(args), global } = args;
    ensure!(args.ttl <= LONGEST && !args.ttl.is_zero(), "--ttl is more than nothing and at most 24h");
    let spec = spec(args, global);
    let client = global.server.client().await?;
    if args.door.is_some() {
        ensure_namespace(client.clone(), &spec.namespace).await?;
    }
    let objects = MeshObjects::new(client, &spec.namespace);
    objects.ensure_account(spec.account()).await?;
    match (args.door, &args.who.network) {
        (Some(address), Some(network)) => {
            objects.ensure_door(&args.service, network, &address.to_string()).await?;
        }
        _ => {
            objects.ensure_service(&spec.service, &spec.ports).await?;
            objects.ensure_group(&spec).await?;
        }
    }
    let roots = objects.root_certificates().await?;
    let roots = roots.context("the control plane has published no roots yet: is `mizzen up` running?")?;
    let now = SystemClock.wall();
    let (token, kept) = ca::Kept::mint(&spec.namespace, spec.account(), args.ttl, now)?;
    objects.keep_token(&kept).await?;
    JoinFile { token, roots, control_plane: args.control_plane.clone() }.print()?;
    Ok(ExitCode::SUCCESS)
}

fn spec(args: &CreateArgs, global: &GlobalArgs) -> Spec {
    let mut spec = Spec::sidecar(&args.service);
    spec.version.clone_from(&args.version);
    spec.ports.clone_from(&args.ports);
    args.who.describe(&mut spec);
    if args.door.is_some() {
        spec.namespace = GATEWAY_NAMESPACE.into();
        spec.labels.insert("istio".into(), DOOR.into());
    }
    if let Some(namespace) = global.namespace() {
        spec.namespace = namespace.into();
    }
    spec
}
