//! The certificate authority of a control plane, and the certificate it serves with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base::{Clock as _, SystemClock};
use ca::{Authority, OwnRoot, PluggedFiles, Policy, RootLife, StoreError};
use tls::IdentitySource;
use tls::seal::SealKey;

use super::ROOT_NAMESPACE;
use super::secrets::Secrets;

/// How often rotations and plugged-in files are looked after.
const TICK: Duration = Duration::from_secs(2);

/// An intermediate where one is plugged in (files as in Istio's `cacerts`), else a root of our own: on a cluster in
/// Secrets, else in the data folder.
pub(super) async fn open(
    data_dir: &Path,
    cluster: Option<kube::Client>,
    policy: Policy,
) -> anyhow::Result<Arc<Authority>> {
    let Some(client) = cluster else { return in_folder(data_dir, policy) };
    let secrets = Secrets::new(client, ROOT_NAMESPACE);
    tokio::task::spawn_blocking(move || in_secrets(secrets, policy)).await?
}

fn in_folder(data_dir: &Path, policy: Policy) -> anyhow::Result<Arc<Authority>> {
    if let Some(files) = PluggedFiles::at(&data_dir.join("cacerts")) {
        return plugged(files, policy);
    }
    let folder = data_dir.join("ca");
    let seal = SealKey::load_or_create(&data_dir.join("ca.key")).context("the authority's key file")?;
    own(policy, |organization, life| {
        OwnRoot::load_or_create(&folder, seal, organization, life, SystemClock.wall())
    })
}

fn in_secrets(secrets: Secrets, policy: Policy) -> anyhow::Result<Arc<Authority>> {
    secrets.ensure_namespace()?;
    match secrets.plugged()? {
        Some(files) => plugged(files, policy),
        None => own(policy, |organization, life| {
            OwnRoot::open(Box::new(secrets), organization, life, SystemClock.wall())
        }),
    }
}

fn plugged(files: PluggedFiles, policy: Policy) -> anyhow::Result<Arc<Authority>> {
    let authority = Authority::with_plugged(policy, Arc::new(SystemClock), files);
    Ok(Arc::new(authority.context("the plugged-in authority")?))
}

fn own(
    policy: Policy,
    open: impl FnOnce(&str, &RootLife) -> Result<OwnRoot, StoreError>,
) -> anyhow::Result<Arc<Authority>> {
    let life = RootLife::for_leaves(policy.max_ttl);
    let root = open(policy.trust_domains.own().as_str(), &life).context("the authority")?;
    let authority = Authority::with_own_root(policy, Arc::new(SystemClock), root, life);
    Ok(Arc::new(authority.context("the authority")?))
}

/// Keeps the authority's rotations going.
pub(super) async fn look_after(authority: Arc<Authority>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        // It may have to ask an API server.
        let authority = Arc::clone(&authority);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || authority.tick()).await {
            tracing::error!(%error, "the certificate authority could not be looked after");
        }
    }
}

/// The control plane's own certificate, renewed at half of its life for as long as it runs.
pub(super) async fn serving(
    authority: &Arc<Authority>,
    revision: &str,
    reached_at: [Option<IpAddr>; 2],
) -> anyhow::Result<IdentitySource> {
    let source = IdentitySource::new(issue(authority, revision, reached_at).await?);
    let (authority, renewed, revision) = (Arc::clone(authority), source.clone(), revision.to_owned());
    tokio::spawn(async move {
        let mut roots = authority.bundle().watch();
        loop {
            let half_life = authority.policy().default_ttl / 2;
            // New roots mean a new signer: its certificate must lead to them.
            tokio::select! {
                () = tokio::time::sleep(half_life) => {}
                Ok(()) = roots.changed() => {}
            }
            match issue(&authority, &revision, reached_at).await {
                Ok(identity) => renewed.set(identity),
                Err(error) => {
                    tracing::error!(%error, "the control plane's certificate could not be renewed");
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    });
    Ok(source)
}

async fn issue(
    authority: &Authority,
    revision: &str,
    reached_at: [Option<IpAddr>; 2],
) -> anyhow::Result<tls::Identity> {
    let mut names = ca::control_plane_names(ROOT_NAMESPACE, revision);
    names.push("localhost".into());
    let mut addresses: Vec<IpAddr> = vec![
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        agent::host::GATEWAY.into(),
        agent::host::GATEWAY_6.into(),
    ];
    for address in reached_at.into_iter().flatten().filter(|address| !address.is_unspecified()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(authority.issue_server(names, addresses).await?)
}
