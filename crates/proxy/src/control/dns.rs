//! Names of STRICT_DNS and LOGICAL_DNS clusters turned into addresses, again and again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::{Random as _, ThreadRandom};
use decide::{DnsFamily, DnsSettings};
use runtime::backoff::Backoff;
use upstream::{Address, Assignment, Endpoint};

use crate::net::{LookUp, Question};

/// How long to wait before a name that failed is asked for again: at first, and at most.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// However short-lived a record is, it is not asked for more often than this.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// What is resolved, and how.
#[derive(Clone)]
pub struct Resolution {
    pub assignment: Arc<Assignment>,
    pub settings: DnsSettings,
    /// Every address of a name, or only its first.
    pub all: bool,
    pub look_up: LookUp,
}

/// An assignment whose names are addresses, and when to look again.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    pub assignment: Assignment,
    pub again: Duration,
}

impl Resolution {
    /// One pass: every name replaced by its addresses. A name that cannot be resolved is an error; the caller then keeps
    /// what it had.
    pub async fn resolve(&self) -> Result<Resolved, String> {
        let mut assignment = (*self.assignment).clone();
        let mut life: Option<Duration> = None;
        for group in &mut assignment.groups {
            let mut endpoints = Vec::with_capacity(group.endpoints.len());
            for endpoint in &group.endpoints {
                match &endpoint.address {
                    Address::Name(host, port) => {
                        let (found, ttl) = self.addresses(host).await?;
                        life = life.into_iter().chain(ttl).min();
                        let taken = if self.all { found.len() } else { 1 };
                        let place = |ip| placed(endpoint, host, SocketAddr::new(ip, *port));
                        endpoints.extend(found.into_iter().take(taken).map(place));
                    }
                    _ => endpoints.push(endpoint.clone()),
                }
            }
            group.endpoints = endpoints;
        }
        let again = life.filter(|_| self.settings.respect_ttl).unwrap_or(self.settings.refresh);
        Ok(Resolved { assignment, again: again.max(LEAST_PAUSE) })
    }

    async fn addresses(&self, host: &Arc<str>) -> Result<(Vec<IpAddr>, Option<Duration>), String> {
        let family = self.settings.family;
        let question =
            Question { host: host.clone(), v4: family != DnsFamily::V6Only, v6: family != DnsFamily::V4Only };
        let found = (self.look_up)(question).await.map_err(|e| format!("{host}: {e}"))?;
        let chosen = chosen(found.addresses, family);
        if chosen.is_empty() {
            return Err(format!("{host}: no address of the wanted family"));
        }
        Ok((chosen, found.ttl))
    }

    /// Resolves until it is dropped; tells of every change. `known` is what was resolved a moment ago.
    pub async fn keep(
        self,
        name: Arc<str>,
        known: Option<Resolved>,
        tell: tokio::sync::mpsc::Sender<(Arc<str>, Assignment)>,
    ) {
        let mut failures = Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1);
        let mut last = None;
        if let Some(known) = known {
            last = Some(known.assignment);
            tokio::time::sleep(self.spread(known.again)).await;
        }
        loop {
            let pause = match self.resolve().await {
                Ok(Resolved { assignment, again }) => {
                    failures.reset();
                    if last.as_ref() != Some(&assignment) {
                        last = Some(assignment.clone());
                        if tell.send((name.clone(), assignment)).await.is_err() {
                            return;
                        }
                    }
                    self.spread(again)
                }
                Err(error) => {
                    tracing::warn!(cluster = %name, %error, "name not resolved");
                    failures.pause(&mut ThreadRandom)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Many proxies that learned a name at once do not ask again at once.
    fn spread(&self, pause: Duration) -> Duration {
        let jitter = u64::try_from(self.settings.jitter.as_millis()).unwrap_or(u64::MAX);
        if jitter == 0 { pause } else { pause + Duration::from_millis(ThreadRandom.below(jitter)) }
    }
}

/// Those of the wanted family, in order.
pub fn chosen(mut all: Vec<IpAddr>, family: DnsFamily) -> Vec<IpAddr> {
    all.sort();
    all.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = all.iter().copied().partition(IpAddr::is_ipv4);
    match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::All => all,
        DnsFamily::V4Preferred if !v4.is_empty() => v4,
        DnsFamily::Auto if v6.is_empty() => v4,
        // As Envoy's AUTO, but an address family without a route is of no use: loopback names are taken as IPv4.
        DnsFamily::Auto if v6.iter().all(IpAddr::is_loopback) && !v4.is_empty() => v4,
        DnsFamily::V4Preferred | DnsFamily::Auto => v6,
    }
}

fn placed(endpoint: &Endpoint, host: &Arc<str>, address: SocketAddr) -> Arc<Endpoint> {
    let hostname = if endpoint.hostname.is_empty() { host.clone() } else { endpoint.hostname.clone() };
    let mut placed = Endpoint { address: Address::Socket(address), hostname, ..endpoint.clone() };
    if let Some(Address::Name(name, port)) = &endpoint.check.address
        && name == host
    {
        placed.check.address = Some(Address::Socket(SocketAddr::new(address.ip(), *port)));
    }
    Arc::new(placed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Found, look_up_here};

    fn resolution(endpoints: Vec<Endpoint>, look_up: LookUp) -> Resolution {
        let settings = DnsSettings {
            refresh: Duration::from_secs(60),
            jitter: Duration::ZERO,
            respect_ttl: true,
            family: DnsFamily::V4Preferred,
        };
        Resolution { assignment: Arc::new(Assignment::of(endpoints)), settings, all: true, look_up }
    }

    #[tokio::test]
    async fn names_become_addresses_and_keep_what_else_is_known() {
        let mut named = Endpoint::new(Address::parse("localhost", 80));
        named.weight = 7;
        let fixed = Endpoint::new(Address::parse("10.0.0.1", 81));
        let resolved = resolution(vec![named, fixed], look_up_here()).resolve().await.unwrap();
        let all: Vec<_> = resolved.assignment.endpoints().collect();
        assert_eq!(all[0].address, Address::parse("127.0.0.1", 80));
        assert_eq!((all[0].weight, &*all[0].hostname), (7, "localhost"));
        assert_eq!(all[1].address, Address::parse("10.0.0.1", 81));
        assert_eq!(resolved.again, Duration::from_secs(60));
        let absent = vec![Endpoint::new(Address::parse("nothing.invalid", 80))];
        assert!(resolution(absent, look_up_here()).resolve().await.is_err());
    }

    #[tokio::test]
    async fn whoever_knows_better_is_asked_and_heeded() {
        let look_up: LookUp = Arc::new(|question| {
            Box::pin(async move {
                assert_eq!((&*question.host, question.v4), ("api.example", true));
                let addresses = vec!["192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap()];
                Ok(Found { addresses, ttl: Some(Duration::from_secs(5)) })
            })
        });
        let named = || vec![Endpoint::new(Address::parse("api.example", 443))];
        let mut resolution = resolution(named(), look_up);
        let resolved = resolution.resolve().await.unwrap();
        assert_eq!((resolved.assignment.endpoints().count(), resolved.again), (2, Duration::from_secs(5)));
        resolution.all = false;
        resolution.settings.respect_ttl = false;
        let resolved = resolution.resolve().await.unwrap();
        assert_eq!((resolved.assignment.endpoints().count(), resolved.again), (1, Duration::from_secs(60)));
    }
}
