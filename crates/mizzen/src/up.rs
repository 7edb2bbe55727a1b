//! `mizzen up`: the control plane, assembled.
//!
//! The embedded API (or a cluster's) is read through the same client; what it says becomes changes, changes become
//! snapshots, snapshots become configuration that is pushed. The certificate authority, the console and the status
//! pages stand beside.

mod authority;
mod console;
mod control;
mod ephemeral;
mod join;
mod registrar;
mod roots;
mod secrets;
mod token_review;
mod trust;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::console::Collector;
use agent::host::{Hub, Launcher};
use anyhow::Context;
use ca::{Authenticators, Policy};
use cli::{ServerArgs, UpArgs};
use tokio::net::TcpListener;

/// Where the mesh's own configuration and keys are.
const ROOT_NAMESPACE: &str = "istio-system";
/// How long the last words to an API server may take.
const FAREWELL: Duration = Duration::from_secs(3);

pub(crate) fn execute(args: &UpArgs) -> anyhow::Result<ExitCode> {
    tls::install_provider();
    runtime::logging::init(runtime::logging::Format::Text, "warn,audit=info");
    // The hub is joined before threads exist: its process is started from this one.
    let hub = if args.no_hub { None } else { join_hub() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(args, hub));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The network that workloads of `mizzen run` hang on; a control plane for clusters alone does without.
fn join_hub() -> Option<Arc<Hub>> {
    match Hub::join(&Launcher::default()) {
        Ok(hub) => Some(Arc::new(hub)),
        Err(error) => {
            eprintln!("`mizzen run` will not work on this machine: {error}\n`mizzen check` says more");
            None
        }
    }
}

async fn run(args: &UpArgs, hub: Option<Arc<Hub>>) -> anyhow::Result<()> {
    let data_dir = args.data_dir.clone().unwrap_or_else(cli::default_data_dir);
    let api = Api::open(args, &data_dir).await?;
    let client = kube::Client::try_from(api.config.clone()).context("a client for the API server")?;

    let trust_domains = trust::read(&client).await.context("the mesh's configuration")?;
    let mut policy = Policy { trust_domains: trust_domains.clone(), ..Policy::default() };
    if let Some(ttl) = args.workload_cert_ttl {
        policy.default_ttl = ttl;
    }
    let cluster = api.embedded.is_none().then(|| client.clone());
    let authority = authority::open(&data_dir, cluster, policy).await?;
    tokio::spawn(authority::look_after(Arc::clone(&authority)));
    tokio::spawn(roots::publish(client.clone(), authority.bundle()));

    if let Some(network) = &args.network {
        join::name_network(&client, network).await.context("the network's name")?;
    }
    let tokens = join::KubeTokens(client.clone());
    tokio::spawn(tokens.clone().sweep());
    let authenticators = Authenticators {
        trust_domains,
        join: Arc::new(tokens.clone()),
        reviewer: Some(Arc::new(token_review::KubeReviewer(client.clone()))),
    };
    let serving =
        authority::serving(&authority, &args.revision, [Some(args.address), args.advertise]).await?;
    let control = control::start(args, &api, &client, &authority, serving, authenticators, hub.as_deref())?;
    let control = Arc::new(control);
    serve_console(args, &api, hub, &control).await?;

    let webhook = api.embedded.is_none().then(|| control::registration(args, &client, &authority));
    let kept = webhook.clone().map(|webhook| tokio::spawn(webhook.keep()));

    control.ready().await;
    let entries = ephemeral::look_after(client, Arc::clone(&control), args.workload_grace);
    let entries = tokio::spawn(entries);
    announce(args, &api);
    runtime::shutdown::requested().await?;
    // All proxies are lost from now on, and that means nothing.
    entries.abort();
    let _ = entries.await;
    if let (Some(webhook), Some(kept)) = (webhook, kept) {
        kept.abort();
        if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, webhook.withdraw()).await {
            tracing::warn!(%error, "the webhook stays registered");
        }
    }
    drop(control);
    if let Some(embedded) = api.embedded {
        embedded.shutdown().await;
    }
    Ok(())
}

/// The API server: the embedded one, or a cluster's.
struct Api {
    embedded: Option<apiserver::Handle>,
    config: kube::Config,
    kubeconfig: PathBuf,
}

impl Api {
    async fn open(args: &UpArgs, data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(kubeconfig) = &args.kubeconfig {
            let server = ServerArgs { kubeconfig: Some(kubeconfig.clone()) };
            let config = server.client_config().await?;
            make_private(data_dir)?;
            return Ok(Self { embedded: None, config, kubeconfig: kubeconfig.clone() });
        }
        let mut settings = apiserver::Config::new(data_dir);
        settings.listen = SocketAddr::new(args.address, args.api_port);
        let embedded = apiserver::Server::start(settings).await.context(
            "the embedded API does not start (does another `mizzen up` or `mizzen demo` run already? --api-port chooses \
             another port)",
        )?;
        let kubeconfig = embedded.kubeconfig_path().to_path_buf();
        let read = kube::config::Kubeconfig::read_from(&kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(read, &Default::default()).await?;
        Ok(Self { embedded: Some(embedded), config, kubeconfig })
    }
}

fn make_private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))
}

async fn serve_console(
    args: &UpArgs,
    api: &Api,
    hub: Option<Arc<Hub>>,
    control: &Arc<::control::Handle>,
) -> anyhow::Result<()> {
    let collector = Collector::default();
    let reach = console::Reach(hub);
    let control = Arc::downgrade(control);
    let of_proxies = std::sync::Weak::clone(&control);
    let status: ::console::MeshStatus = Arc::new(move || {
        let status = of_proxies.upgrade().map(|control| control.status());
        status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default()
    });
    let scrape: ::console::Scrape = Arc::new(move || {
        let addresses = control.upgrade().map(|control| control::proxies(&control)).unwrap_or_default();
        let reach = reach.clone();
        Box::pin(async move { reach.scrape(addresses).await })
    });
    tokio::spawn(collector.clone().run(scrape));
    let door = Arc::new(console::Door::new(api.config.clone())?);
    let address = SocketAddr::new(args.address, args.console_port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let router = ::console::router(collector, door, status);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the console ended");
        }
    });
    Ok(())
}

/// What a person needs next, on standard output.
fn announce(args: &UpArgs, api: &Api) {
    let console = SocketAddr::new(args.address, args.console_port);
    println!("The control plane is ready. Its API: {}", api.config.cluster_url);
    println!("  export KUBECONFIG={}", api.kubeconfig.display());
    println!("  console: http://{console}/ (`mizzen dashboard` opens it with your token)");
}
