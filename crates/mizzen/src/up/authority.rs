//! The certificate authority of a control plane, and the certificate it serves with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base::{Clock, SystemClock};
use ca::{Authority, OwnRoot, PluggedFolder, Policy, RootLife};
use tls::IdentitySource;
use tls::seal::SealKey;

/// How often rotations and plugged-in files are looked after.
const TICK: Duration = Duration::from_secs(2);

/// An intermediate where one is plugged in (files as in Istio's `cacerts`), else a root of our own, both in the data
/// folder.
pub(super) fn open(data_dir: &Path, policy: Policy) -> anyhow::Result<Arc<Authority>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let Some(folder) = PluggedFolder::at(&data_dir.join("cacerts")) {
        let authority = Authority::with_plugged(policy, clock, folder).context("the plugged-in authority")?;
        return Ok(Arc::new(authority));
    }
    let folder = data_dir.join("ca");
    let life = RootLife::for_leaves(policy.max_ttl);
    let seal = SealKey::load_or_create(&data_dir.join("ca.key")).context("the authority's key file")?;
    let organization = policy.trust_domain.to_string();
    let root = OwnRoot::load_or_create(&folder, seal, &organization, &life, clock.wall())
        .context("the authority")?;
    Ok(Arc::new(Authority::with_own_root(policy, clock, root, life).context("the authority")?))
}

/// Keeps the authority's rotations going.
pub(super) async fn look_after(authority: Arc<Authority>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        if let Err(error) = authority.tick() {
            tracing::error!(%error, "the certificate authority could not be looked after");
        }
    }
}

/// The control plane's own certificate, renewed at half of its life for as long as it runs.
pub(super) async fn serving(
    authority: &Arc<Authority>,
    advertised: Option<IpAddr>,
) -> anyhow::Result<IdentitySource> {
    let source = IdentitySource::new(issue(authority, advertised).await?);
    let (authority, renewed) = (Arc::clone(authority), source.clone());
    tokio::spawn(async move {
        let mut roots = authority.bundle().watch();
        loop {
            let half_life = authority.policy().default_ttl / 2;
            // New roots mean a new signer: its certificate must lead to them.
            tokio::select! {
                () = tokio::time::sleep(half_life) => {}
                Ok(()) = roots.changed() => {}
            }
            match issue(&authority, advertised).await {
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

async fn issue(authority: &Authority, advertised: Option<IpAddr>) -> anyhow::Result<tls::Identity> {
    let mut names = ca::control_plane_names("istio-system", "default");
    names.push("localhost".into());
    let own: [IpAddr; 4] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        agent::host::GATEWAY.into(),
        agent::host::GATEWAY_6.into(),
    ];
    let addresses = own.into_iter().chain(advertised).collect();
    Ok(authority.issue_server(names, addresses).await?)
}
