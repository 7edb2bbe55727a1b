//! `mizzen-proxy sidecar` and `router`: the agent and the proxy in one process.
//!
//! The order is: bind every port, get a certificate, start the proxy, tell readiness, serve; at SIGTERM say "not ready", let
//! requests end, and go. With `--envoy` a stock Envoy is started in the proxy's place, with its keys from our SDS socket.

mod envoy;
mod ours;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use agent::authority::Token;
use agent::bootstrap::{BootstrapOptions, Discovery, Node};
use agent::capture::{Cidr, MARK, RELAY_PORT};
use agent::dns::{ResolvConf, Resolvers};
use agent::egress::Egress;
use agent::host::passed;
use agent::sidecar::{Agent, AgentOptions, DnsOptions, sds_socket};
use agent::status::{AppMetrics, probes_from_json};
use anyhow::{Context as _, bail};
use base::{Locality, TrustDomain};
use tls::TrustBundle;

/// What a sidecar and a router are told alike.
#[derive(Debug, clap::Args)]
pub(crate) struct SidecarArgs {
    /// Who this is: sidecar~IP~NAME.NAMESPACE~NAMESPACE.svc.cluster.local
    #[arg(long, env = "MIZZEN_NODE_ID")]
    node_id: String,
    /// A file with the node's metadata as JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    metadata_json: Option<PathBuf>,
    /// The control plane's xDS and CA over TLS
    #[arg(long, value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    control_plane: String,
    /// A name that the control plane's certificate must bear; several: one of them
    #[arg(long, value_name = "NAME", default_values_t = default_names())]
    control_plane_name: Vec<String>,
    /// The roots that the control plane is trusted by at first, in PEM
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/istio/root-cert.pem")]
    root_cert: PathBuf,
    /// A join token, or a service account's token of audience istio-ca
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The trust domain that our certificate must be of [default: what the control plane says]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// How long certificates are asked for, in seconds; 0 leaves it to the control plane
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    certificate_ttl: u64,
    /// region/zone/subzone
    #[arg(long, default_value = "")]
    locality: String,
    /// Worker threads; all cores if absent
    #[arg(long)]
    concurrency: Option<usize>,
    #[arg(long, default_value_t = 15000)]
    admin_port: u16,
    /// Where the agent's status and merged metrics are
    #[arg(long, default_value = "0.0.0.0:15020")]
    status: SocketAddr,
    #[arg(long, default_value_t = 15021)]
    health_port: u16,
    #[arg(long, default_value_t = 15090)]
    metrics_port: u16,
    /// How the control plane is asked: delta, sotw (state of the world) or, by a stock Envoy, rest
    #[arg(long, value_name = "WAY", default_value_t)]
    xds: Discovery,
    /// A port for DNS; 0 for none. By default on if the metadata's DNS_CAPTURE is true
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
    /// The resolvers to ask for names outside the mesh are in this file
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Names below this domain that the mesh does not know do not exist
    #[arg(long, value_name = "DOMAIN")]
    dns_authoritative: Vec<String>,
    /// A descriptor by which sockets to the outside are asked for
    #[arg(long, value_name = "N")]
    egress_fd: Option<RawFd>,
    /// Networks that are reached without it
    #[arg(long, value_name = "CIDR")]
    inside: Vec<Cidr>,
    /// One byte is written to this descriptor when the proxy is ready
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,
    /// How long requests may take to end after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    drain_time: u64,
    /// The port and path of the application's own metrics
    #[arg(long, value_name = "PORT/PATH")]
    app_metrics: Option<String>,
    /// Kubelet's probes of the application, as JSON
    #[arg(long, env = "ISTIO_KUBE_APP_PROBERS", value_name = "JSON")]
    app_probes: Option<String>,
    /// Keep what the control plane sends in this file, without secrets, and start from it when it does not answer
    #[arg(long, value_name = "FILE", conflicts_with = "envoy")]
    last_good: Option<PathBuf>,
    /// Start this Envoy instead of our own proxy
    #[arg(long, value_name = "PROGRAM")]
    envoy: Option<PathBuf>,
    /// Where that Envoy gets its certificates
    #[arg(long, value_name = "FILE")]
    sds_socket: Option<PathBuf>,
    /// Where the access log goes that is meant for standard output
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

/// How long the first certificate is waited for where there is a configuration to start from.
const PATIENCE: Duration = Duration::from_secs(2);

fn default_names() -> Vec<String> {
    ["istiod", "istiod-remote", "istio-pilot"].map(|name| format!("{name}.istio-system.svc")).to_vec()
}

/// Runs until it is told to end.
pub(crate) fn run(args: &SidecarArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &SidecarArgs) -> anyhow::Result<ExitCode> {
    // One listener for the whole life, so that no signal falls between two.
    let mut end = pin!(runtime::shutdown::requested());
    let (mut agent, actions) = Agent::start(agent_options(args)?).await?;
    // Keys are never kept: what is served without a control plane is what needs none, until there is one.
    let may_go_on = args.last_good.as_ref().is_some_and(|file| file.exists());
    tokio::select! {
        () = tokio::time::sleep(PATIENCE), if may_go_on => {
            tracing::warn!("no certificate from the control plane yet: starting from the last good configuration");
        }
        first = agent.first_certificate() => {
            first.context("no certificate from the control plane")?;
        }
        ended = &mut end => {
            ended?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    match &args.envoy {
        Some(program) => {
            agent.follow()?;
            envoy::run(args, &agent, program, actions, end).await
        }
        None => ours::run(args, &agent, actions, end).await,
    }
}

fn agent_options(args: &SidecarArgs) -> anyhow::Result<AgentOptions> {
    if args.xds == Discovery::Rest && args.envoy.is_none() {
        bail!("--xds rest: our own proxy does not poll; leave it out, or name a stock Envoy with --envoy");
    }
    let node = node(args)?;
    let (host, port) = host_and_port(&args.control_plane)?;
    let root = std::fs::read(&args.root_cert)
        .with_context(|| format!("--root-cert {}", args.root_cert.display()))?;
    let egress = match args.egress_fd {
        Some(fd) => {
            passed(fd).and_then(|fd| Egress::brokered(fd, args.inside.clone())).context("--egress-fd")?
        }
        None => Egress::direct(),
    };
    let dns = dns_options(args, &node);
    let stock = args.envoy.is_some();
    // Ours looks names up through the agent itself.
    let resolver = dns.as_ref().filter(|_| stock).and_then(|dns| dns.listen.first().copied());
    Ok(AgentOptions {
        dns,
        resolvers: resolvers(args, &egress),
        trust_domain: args.trust_domain.clone(),
        root: TrustBundle::any_from_pem("--root-cert", &root)?,
        token: args.token_file.clone().map_or(Token::None, Token::File),
        validity: Duration::from_secs(args.certificate_ttl),
        egress,
        serve_sds: stock,
        relay: (stock && args.egress_fd.is_some()).then_some(RELAY_PORT),
        app_metrics: args.app_metrics.as_deref().map(app_metrics).transpose()?,
        probes: args.app_probes.as_deref().map(probes_from_json).transpose()?.unwrap_or_default(),
        app_address: Ipv4Addr::LOCALHOST.into(),
        bootstrap: BootstrapOptions {
            node,
            control_plane: (host, port),
            server_names: args.control_plane_name.clone(),
            sds_socket: sds_socket(args.sds_socket.clone()),
            admin_port: args.admin_port,
            status: args.status,
            health_port: args.health_port,
            metrics_port: args.metrics_port,
            discovery: args.xds,
            // Our own proxy is given its sockets from outside of the namespace.
            mark: args.egress_fd.filter(|_| stock).map(|_| MARK),
            resolver,
            stock,
        },
    })
}

fn node(args: &SidecarArgs) -> anyhow::Result<Node> {
    let text = match &args.metadata_json {
        None => "{}".to_owned(),
        Some(path) if path.as_os_str() == "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("read metadata from standard input")?;
            text
        }
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("--metadata-json {}", path.display()))?
        }
    };
    let metadata = serde_json::from_str(&text).context("--metadata-json is not a JSON object")?;
    Ok(Node::new(&args.node_id, metadata, Locality::parse(&args.locality))?)
}

fn dns_options(args: &SidecarArgs, node: &Node) -> Option<DnsOptions> {
    let captured = node.metadata.get("DNS_CAPTURE").and_then(|v| v.as_str()) == Some("true");
    let port = args.dns_port.or_else(|| captured.then_some(15053)).filter(|port| *port != 0)?;
    let mut authoritative = args.dns_authoritative.clone();
    if authoritative.is_empty() && args.egress_fd.is_some() {
        authoritative.push("cluster.local".into());
    }
    let mut listen = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)];
    if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        listen.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port));
    }
    // What the application sees names the search domains; what the machine had names the resolvers.
    let mut search = read_resolv_conf(Path::new("/etc/resolv.conf")).search;
    if search.is_empty() {
        search = read_resolv_conf(&args.resolv_conf).search;
    }
    Some(DnsOptions { listen, service_domain: "svc.cluster.local".into(), search, authoritative })
}

fn resolvers(args: &SidecarArgs, egress: &Egress) -> Resolvers {
    let mut servers = read_resolv_conf(&args.resolv_conf).nameservers;
    if args.egress_fd.is_none() {
        // A resolver of the workload's own loopback would be ourselves.
        servers.retain(|address| !address.ip().is_loopback());
    }
    if servers.is_empty() {
        tracing::warn!(file = %args.resolv_conf.display(), "no resolver for names outside the mesh");
    }
    // Behind a broker they are meant as the host sees them, which may have one on its own loopback.
    Resolvers::new(servers, egress.of_host())
}

fn read_resolv_conf(path: &Path) -> ResolvConf {
    ResolvConf::read(path).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "resolvers are not known");
        ResolvConf::default()
    })
}

fn host_and_port(text: &str) -> anyhow::Result<(String, u16)> {
    let wrong = || format!("--control-plane {text:?} is not HOST:PORT");
    let (host, port) = text.rsplit_once(':').with_context(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
        bail!(wrong());
    }
    Ok((host.to_owned(), port.parse().with_context(wrong)?))
}

fn app_metrics(text: &str) -> anyhow::Result<AppMetrics> {
    let (port, path) = text.split_once('/').unwrap_or((text, "metrics"));
    let port = port.parse().with_context(|| format!("--app-metrics {text:?} is not PORT/PATH"))?;
    Ok(AppMetrics { port, path: format!("/{path}") })
}

fn tell_ready(fd: RawFd) -> anyhow::Result<()> {
    let mut file = std::fs::File::from(passed(fd)?);
    file.write_all(b"1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: SidecarArgs,
    }

    fn parse(more: &[&str]) -> SidecarArgs {
        let id = "sidecar~10.44.0.5~reviews-v2-abcde.shop~shop.svc.cluster.local";
        let all = ["x", "--node-id", id].into_iter().chain(more.iter().copied());
        Whole::parse_from(all).args
    }

    #[test]
    fn a_control_plane_is_a_host_and_a_port() {
        for (text, host) in
            [("istiod.x.svc:15012", "istiod.x.svc"), ("10.44.0.1:1", "10.44.0.1"), ("[fd44::1]:2", "fd44::1")]
        {
            assert_eq!(host_and_port(text).unwrap().0, host);
        }
        for bad in ["istiod", ":1", "a:b", "a:b:1", "a:99999"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dns_is_on_where_the_metadata_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metadata");
        std::fs::write(&file, r#"{"DNS_CAPTURE": "true", "SERVICE_ACCOUNT": "reviews"}"#).unwrap();
        let with = parse(&["--metadata-json", file.to_str().unwrap()]);
        let node = node(&with).unwrap();
        assert_eq!((node.namespace(), node.service_account()), ("shop", "reviews"));
        assert_eq!(dns_options(&with, &node).unwrap().listen[0].port(), 15053);
        let off = parse(&["--metadata-json", file.to_str().unwrap(), "--dns-port", "0"]);
        assert!(dns_options(&off, &node).is_none());
        let without = parse(&[]);
        assert!(dns_options(&without, &super::node(&without).unwrap()).is_none());
    }

    #[test]
    fn descriptors_that_were_not_passed_are_refused() {
        for fd in [-1, 1, 9999] {
            assert!(tell_ready(fd).is_err(), "{fd}");
        }
    }
}
