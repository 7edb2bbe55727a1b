//! Arguments that `run`, `gateway` and `token create` have in common.

use std::path::PathBuf;

use agent::bootstrap::Discovery;
use anyhow::bail;
use clap::Args;

use super::{JoinFile, Spec, default_control_plane, parse_label};
use crate::run::state_folder;

/// Who a workload or gateway is.
#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// A further label of it
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Service account, its identity [default: the name of the service or gateway]
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Network that its address belongs to
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
}

/// The same, with its proxy, and whom that asks.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    /// Where it runs, for locality-aware balancing: region/zone/subzone
    #[arg(long, value_name = "LOCALITY")]
    locality: Option<String>,
    /// Threads of the proxy [default: what ProxyConfig or MeshConfig says, else as many as there are processors]
    #[arg(long, value_name = "N")]
    proxy_concurrency: Option<u16>,
    /// Where the proxy logs requests and errors [default: mizzen/log/NAME.log in the state folder]
    #[arg(long, value_name = "FILE")]
    proxy_log: Option<PathBuf>,
    /// Start this stock Envoy in the place of Mizzen's proxy
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// How the proxy asks the control plane: delta, sotw (state of the world) or, by a stock Envoy, rest
    #[arg(long, value_name = "WAY", default_value_t)]
    xds: Discovery,
    /// Control plane, as seen from this machine [default: this machine's, or what the file of --join says]
    #[arg(long, value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// Join the mesh of another host with this file, which `mizzen token create` printed there; - for standard input
    #[arg(long, value_name = "FILE", requires = "network", conflicts_with = "kubeconfig")]
    join: Option<PathBuf>,
}

impl WhoArgs {
    pub(crate) fn describe(&self, spec: &mut Spec) {
        spec.labels.extend(self.labels.iter().cloned());
        spec.service_account.clone_from(&self.service_account);
        spec.network.clone_from(&self.network);
    }
}

impl ProxyArgs {
    pub(crate) fn join_file(&self) -> anyhow::Result<Option<JoinFile>> {
        self.join.as_deref().map(JoinFile::read).transpose()
    }

    /// Writes down everything but the log's place, for which the workload's name must be known.
    pub(crate) fn describe(&self, spec: &mut Spec, join: Option<&JoinFile>) -> anyhow::Result<()> {
        if self.xds == Discovery::Rest && self.envoy.is_none() {
            bail!(
                "--xds rest: Mizzen's proxy does not poll; leave it out, or name a stock Envoy with --envoy"
            );
        }
        self.who.describe(spec);
        spec.locality.clone_from(&self.locality);
        spec.concurrency = self.proxy_concurrency;
        spec.envoy.clone_from(&self.envoy);
        let named = self.control_plane.clone().or_else(|| join?.control_plane.clone());
        spec.control_plane = named.unwrap_or_else(default_control_plane);
        spec.xds = self.xds;
        Ok(())
    }

    /// Where the proxy of that name logs.
    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        let default = || state_folder().join("log").join(format!("{name}.log"));
        self.proxy_log.clone().unwrap_or_else(default)
    }
}
