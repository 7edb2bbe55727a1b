//! Names of STRICT_DNS and LOGICAL_DNS clusters turned into addresses, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Random, ThreadRandom};
use decide::{DnsFamily, DnsSettings};
use upstream::{Address, Assignment, Endpoint};

/// How long to wait before a name that failed is asked for again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One pass over an assignment: every name replaced by its addresses (`all`) or by its first one.
///
/// A name that cannot be resolved is an error; the caller then keeps what it had.
pub async fn resolve(assignment: &Assignment, family: DnsFamily, all: bool) -> Result<Assignment, String> {
    let mut resolved = assignment.clone();
    for group in &mut resolved.groups {
        let mut endpoints = Vec::with_capacity(group.endpoints.len());
        for endpoint in &group.endpoints {
            match &endpoint.address {
                Address::Name(host, port) => {
                    let found = look_up(host, *port, family).await?;
                    let taken = if all { found.len() } else { 1 };
                    endpoints.extend(found.into_iter().take(taken).map(|a| placed(endpoint, host, a)));
                }
                _ => endpoints.push(endpoint.clone()),
            }
        }
        group.endpoints = endpoints;
    }
    Ok(resolved)
}

fn placed(endpoint: &Endpoint, host: &Arc<str>, address: SocketAddr) -> Arc<Endpoint> {
    let hostname = if endpoint.hostname.is_empty() { host.clone() } else { endpoint.hostname.clone() };
    Arc::new(Endpoint { address: Address::Socket(address), hostname, ..endpoint.clone() })
}

async fn look_up(host: &str, port: u16, family: DnsFamily) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await.map_err(|e| format!("{host}: {e}"))?;
    let mut all: Vec<SocketAddr> = found.collect();
    all.sort();
    all.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = all.iter().copied().partition(SocketAddr::is_ipv4);
    let chosen = match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::All => all,
        DnsFamily::V4Preferred if !v4.is_empty() => v4,
        DnsFamily::Auto if v6.is_empty() => v4,
        // As Envoy's AUTO, but an address family without a route is of no use: loopback names are taken as IPv4.
        DnsFamily::Auto if v6.iter().all(|a| a.ip().is_loopback()) && !v4.is_empty() => v4,
        DnsFamily::V4Preferred | DnsFamily::Auto => v6,
    };
    if chosen.is_empty() { Err(format!("{host}: no address of the wanted family")) } else { Ok(chosen) }
}

/// The next time, later by up to the jitter, so that proxies do not ask all at once.
fn jittered(settings: DnsSettings) -> Duration {
    let jitter = u64::try_from(settings.jitter.as_millis()).unwrap_or(u64::MAX);
    let extra = if jitter == 0 { 0 } else { ThreadRandom.next_u64() % jitter };
    settings.refresh.max(AFTER_FAILURE) + Duration::from_millis(extra)
}

/// Resolves until it is dropped; tells of every change.
pub async fn keep_resolved(
    name: Arc<str>,
    assignment: Arc<Assignment>,
    settings: DnsSettings,
    all: bool,
    tell: tokio::sync::mpsc::Sender<(Arc<str>, Assignment)>,
) {
    let mut last: Option<Assignment> = None;
    loop {
        let pause = match resolve(&assignment, settings.family, all).await {
            Ok(resolved) => {
                if last.as_ref() != Some(&resolved) {
                    last = Some(resolved.clone());
                    if tell.send((name.clone(), resolved)).await.is_err() {
                        return;
                    }
                }
                jittered(settings)
            }
            Err(error) => {
                tracing::debug!(cluster = %name, %error, "name not resolved");
                AFTER_FAILURE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_become_addresses_and_keep_what_else_is_known() {
        let mut named = Endpoint::new(Address::parse("localhost", 80));
        named.weight = 7;
        let fixed = Endpoint::new(Address::parse("10.0.0.1", 81));
        let assignment = Assignment::of(vec![named, fixed]);
        let resolved = resolve(&assignment, DnsFamily::V4Preferred, true).await.unwrap();
        let all: Vec<_> = resolved.endpoints().collect();
        assert_eq!(all[0].address, Address::parse("127.0.0.1", 80));
        assert_eq!((all[0].weight, &*all[0].hostname), (7, "localhost"));
        assert_eq!(all[1].address, Address::parse("10.0.0.1", 81));
        let absent = Assignment::of(vec![Endpoint::new(Address::parse("nothing.invalid", 80))]);
        assert!(resolve(&absent, DnsFamily::Auto, true).await.is_err());
    }
}
