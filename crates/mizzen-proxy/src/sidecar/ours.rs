//! Our own proxy, in the agent's process: certificates by shared sources, one stream to the control plane for both.

use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::dns::Resolvers;
use agent::egress::Egress;
use agent::sidecar::Agent;
use agent::status::Action;
use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::{SidecarArgs, tell_ready};

/// Serves until it is told to end.
pub(super) async fn run(
    args: &SidecarArgs,
    agent: &Agent,
    mut actions: mpsc::Receiver<Action>,
    mut end: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> anyhow::Result<ExitCode> {
    let overrides = proxy::bootstrap::Overrides {
        concurrency: args.concurrency,
        stdout: args.access_log.clone(),
        drain_time: Some(Duration::from_secs(args.drain_time)),
        last_good: args.last_good.clone(),
        ..proxy::bootstrap::Overrides::default()
    };
    let mut settings = proxy::bootstrap::settings(agent.bootstrap(), &overrides)?;
    let certificates = agent.certificates();
    settings.secrets.provide_identity("default", certificates.identity.clone());
    settings.secrets.provide_bundle("ROOTCA", certificates.bundle.clone());
    let mut all = settings.ads.take().map(|ads| ads.all).unwrap_or_default();
    all.extend(agent.wanted());
    settings.ads = Some(agent.ads(all)?);
    settings.outside = args.egress_fd.map(|_| outside(&agent.options().egress));
    settings.look_up = args.egress_fd.map(|_| look_up(&agent.options().resolvers));
    let (sender, mut others) = mpsc::channel(16);
    settings.others = Some(sender);
    let handle = proxy::start(settings).await?;

    let mut told = args.ready_fd;
    let mut listening = true;
    loop {
        tokio::select! {
            delta = others.recv(), if listening => match delta {
                Some(delta) => agent.take(&delta),
                None => listening = false,
            },
            () = handle.ready(), if told.is_some() => {
                crate::memory::give_back();
                if let Some(fd) = told.take() {
                    tell_ready(fd).context("--ready-fd")?;
                }
            }
            () = handle.stopped() => bail!("the proxy ended"),
            ended = &mut end => {
                ended?;
                break;
            }
            Some(action) = actions.recv() => match action {
                Action::Quit => break,
                Action::Drain => {
                    agent.set_draining();
                    handle.drain_inbound().await;
                }
            },
        }
    }
    agent.set_draining();
    if !handle.drain().await {
        tracing::warn!(seconds = args.drain_time, "requests were still open at the end of the drain time");
    }
    handle.flush_logs().await;
    handle.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Names as the host knows them: the workload's own resolver answers for the mesh, with addresses that lead back here.
fn look_up(resolvers: &Resolvers) -> proxy::LookUp {
    let resolvers = resolvers.clone();
    Arc::new(move |question: proxy::Question| {
        let resolvers = resolvers.clone();
        Box::pin(async move {
            let found = resolvers.look_up(&question.host, question.v4, question.v6).await?;
            Ok(proxy::Found { addresses: found.addresses, ttl: found.ttl })
        })
    })
}

/// Connections of the proxy by sockets that are exempt from capture and, beyond the mesh's networks, come from the host.
fn outside(egress: &Egress) -> proxy::Outside {
    let egress = egress.clone();
    Arc::new(move |to| {
        let egress = egress.clone();
        Some(Box::pin(async move {
            let stream = egress.connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }))
    })
}
