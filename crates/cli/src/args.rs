//! The tree of commands: one definition gives parsing, help and completion.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::analyze::AnalyzeArgs;
use crate::dashboard::DashboardArgs;
use crate::explain::ExplainArgs;
use crate::gateway::GatewayArgs;
use crate::objects::{ApplyArgs, DeleteArgs, GetArgs};
use crate::proxy_config::ProxyConfigArgs;
use crate::proxy_status::ProxyStatusArgs;
use crate::token::TokenArgs;
use crate::version::VersionArgs;
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
    before: Before,
    #[command(subcommand)]
    command: Command,
}

/// What may also stand before the command's name, as with kubectl.
#[derive(Debug, Args)]
struct Before {
    /// Kubeconfig file, for the commands that talk to an API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace, for the commands that work in one
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Which API server a command talks to.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerArgs {
    /// Kubeconfig file of the API server to talk to [default: $KUBECONFIG, then what `mizzen up` wrote]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which namespace it works in.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceArgs {
    /// Namespace to work in
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Both: most commands take them.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub scope: NamespaceArgs,
}

impl GlobalArgs {
    pub fn namespace(&self) -> Option<&str> {
        self.scope.namespace.as_deref()
    }
}

impl Cli {
    /// The command, with what stands before its name; what it does not take is refused by name.
    pub fn read() -> Command {
        Self::read_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn read_from<T: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = T>,
    ) -> Result<Command, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let Self { before, mut command } = Self::from_arg_matches(&matches)?;
        let name = matches.subcommand_name().unwrap_or_default();
        let (kubeconfig, namespace) = command.takes();
        put(name, "--kubeconfig", before.kubeconfig, kubeconfig)?;
        put(name, "--namespace", before.namespace, namespace)?;
        Ok(command)
    }
}

/// Puts what was given before the name where the command keeps it; what stands behind the name wins.
fn put<T>(
    command: &str,
    option: &str,
    given: Option<T>,
    to: Option<&mut Option<T>>,
) -> Result<(), clap::Error> {
    let Some(given) = given else { return Ok(()) };
    let Some(to) = to else {
        let message = format!("`mizzen {command}` has no use for {option}: leave it out");
        return Err(Cli::command().error(ErrorKind::UnknownArgument, message));
    };
    to.get_or_insert(given);
    Ok(())
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
    /// Print the versions of this program, of the control plane and of its proxies
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// The process that holds the hub's namespaces
    #[command(hide = true)]
    Hub(HubArgs),
}

impl Command {
    /// Where it keeps the kubeconfig and the namespace; nothing where it has no use for them.
    fn takes(&mut self) -> (Option<&mut Option<PathBuf>>, Option<&mut Option<String>>) {
        let global = match self {
            Self::Run(args) => &mut args.global,
            Self::Gateway(args) => &mut args.global,
            Self::Apply(args) => &mut args.global,
            Self::Get(args) => &mut args.global,
            Self::Delete(args) => &mut args.global,
            Self::Wait(args) => &mut args.global,
            Self::Explain(args) => &mut args.global,
            Self::Analyze(args) => &mut args.global,
            Self::Token(args) => &mut args.global,
            Self::Up(args) => return (Some(&mut args.kubeconfig), None),
            Self::Dashboard(args) => return (Some(&mut args.server.kubeconfig), None),
            Self::ProxyStatus(args) => return (None, Some(&mut args.scope.namespace)),
            Self::ProxyConfig(args) => return (None, Some(&mut args.scope.namespace)),
            Self::Demo(_) | Self::Check(_) | Self::Crds | Self::Version(_) => return (None, None),
            Self::Completion { .. } | Self::Hub(_) => return (None, None),
        };
        (Some(&mut global.server.kubeconfig), Some(&mut global.scope.namespace))
    }
}

#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Where the embedded store and the control plane's keys are kept
    #[arg(long, value_name = "DIR", env = "MIZZEN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Work on the cluster of this kubeconfig file instead of an embedded API
    #[arg(long, value_name = "FILE", conflicts_with = "api_port")]
    pub kubeconfig: Option<PathBuf>,
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
    /// How often the keys of tokens are fetched where a RequestAuthentication says jwksUri
    #[arg(long, value_name = "DURATION", default_value = "20m", value_parser = refresh)]
    pub jwks_refresh: std::time::Duration,
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

fn refresh(text: &str) -> Result<std::time::Duration, String> {
    duration(text).and_then(|refresh| match refresh.as_secs() {
        0 => Err("a second at least".into()),
        _ => Ok(refresh),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        let words = std::iter::once("mizzen").chain(line.split_whitespace());
        Cli::read_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn the_kubeconfig_and_the_namespace_stand_before_or_behind_the_name() {
        for line in
            ["-n a --kubeconfig f get vs", "get vs -n a --kubeconfig f", "-n b get vs -n a --kubeconfig=f"]
        {
            let Ok(Command::Get(args)) = read(line) else { panic!("{line}") };
            assert_eq!(args.global.namespace(), Some("a"), "{line}");
            assert_eq!(args.global.server.kubeconfig, Some("f".into()), "{line}");
        }
        for line in ["-n a proxy-config routes p", "proxy-config -n a routes p", "proxy-config routes p -n a"]
        {
            let Ok(Command::ProxyConfig(args)) = read(line) else { panic!("{line}") };
            assert_eq!(args.scope.namespace.as_deref(), Some("a"), "{line}");
        }
        for line in ["--kubeconfig f up", "up --kubeconfig f"] {
            let Ok(Command::Up(args)) = read(line) else { panic!("{line}") };
            assert_eq!(args.kubeconfig, Some("f".into()), "{line}");
        }
    }

    #[test]
    fn options_that_a_command_has_no_use_for_are_refused_by_name() {
        for (command, kubeconfig, namespace) in [
            ("up", true, false),
            ("demo", false, false),
            ("check", false, false),
            ("crds", false, false),
            ("version", false, false),
            ("completion bash", false, false),
            ("dashboard", true, false),
            ("proxy-status", false, true),
            ("proxy-config routes p", false, true),
            ("run --service a", true, true),
            ("token create --service a", true, true),
            ("wait", true, true),
        ] {
            let command_after = if command.starts_with("run") { " -- true" } else { "" };
            for (option, taken) in [("--kubeconfig", kubeconfig), ("--namespace", namespace)] {
                for line in [
                    format!("{option} x {command}{command_after}"),
                    format!("{command} {option} x{command_after}"),
                ] {
                    match read(&line) {
                        Ok(_) => assert!(taken, "{line} is taken"),
                        Err(said) => assert!(!taken && said.contains(option), "{line}: {said}"),
                    }
                }
            }
        }
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        for line in [
            "up --kubeconfig f --api-port 6444",
            "run --service a --join f --network n --kubeconfig f -- true",
            "gateway --join f --network n --kubeconfig f",
            "get vs -A -n a",
            "get vs reviews -A",
            "get vs reviews -l a=b",
            "version --client --control http://127.0.0.1:1",
            "proxy-config routes -f dump -n a",
            "proxy-config routes -f dump --control http://127.0.0.1:1",
        ] {
            assert!(read(line).is_err(), "{line} is taken");
        }
    }
}
