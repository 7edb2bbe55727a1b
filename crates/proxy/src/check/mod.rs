//! Active health checks at work: one task for each host, on the control thread, for the whole proxy.
//!
//! What a result means and when the next check is due is `upstream`'s; what is asked and what an answer means, `decide`'s.
//! A host's task outlives changes of configuration as long as the host is there.

mod probe;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use base::ThreadRandom;
use decide::HealthCheck;
use tokio::sync::Notify;
use upstream::{Address, CheckConfig, CheckResult, ClusterState, EndpointSet, Host, HostCheck};

use crate::cluster::Target;
use probe::Probe;

/// How the hosts of a cluster are checked now.
struct Terms {
    check: Arc<HealthCheck>,
    config: Arc<CheckConfig>,
    target: Arc<Target>,
}

/// What a cluster's tasks share.
struct Common {
    state: Arc<ClusterState>,
    terms: RefCell<Rc<Terms>>,
    /// The times between checks are others now.
    changed: Notify,
    first: Rc<FirstRound>,
}

/// Whoever waits for the first results of hosts that are new.
#[derive(Default)]
pub struct FirstRound {
    waiting: Cell<usize>,
    over: Notify,
}

impl FirstRound {
    /// Waits until every host that is checked now has been checked once.
    pub async fn over(&self) {
        loop {
            let over = self.over.notified();
            if self.waiting.get() == 0 {
                return;
            }
            over.await;
        }
    }

    fn begin(self: &Rc<Self>) -> First {
        self.waiting.set(self.waiting.get() + 1);
        First(Rc::clone(self))
    }
}

/// A host that has no result yet.
struct First(Rc<FirstRound>);

impl Drop for First {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
        if self.0.waiting.get() == 0 {
            self.0.over.notify_waiters();
        }
    }
}

/// The checks of one cluster. Dropping it ends them.
pub struct Checker {
    common: Rc<Common>,
    hosts: HashMap<Address, Watched>,
}

/// Dropping it ends the host's checks.
struct Watched {
    host: Host,
    task: tokio::task::AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// Checks as the target says, going on with what `old` knows; nothing where it says nothing of checks.
    pub fn renewed(
        old: Option<Self>,
        target: &Arc<Target>,
        state: &Arc<ClusterState>,
        first: &Rc<FirstRound>,
    ) -> Option<Self> {
        let check = target.config.health_check.clone()?;
        let config = target.config.settings.check.clone()?;
        let terms = Rc::new(Terms { check, config, target: Arc::clone(target) });
        Some(match old {
            Some(old) => {
                let before = old.common.terms.replace(Rc::clone(&terms));
                if before.config != terms.config {
                    old.common.changed.notify_waiters();
                }
                old
            }
            None => Self {
                common: Rc::new(Common {
                    state: Arc::clone(state),
                    terms: RefCell::new(terms),
                    changed: Notify::new(),
                    first: Rc::clone(first),
                }),
                hosts: HashMap::new(),
            },
        })
    }

    /// Checks these hosts from now on, and no others.
    pub fn watch(&mut self, set: &EndpointSet) {
        let mut before = std::mem::take(&mut self.hosts);
        for host in set.hosts().filter(|host| !host.endpoint.check.disabled) {
            let known = before.remove(host.address());
            let same = known.filter(|w| w.host == *host && w.host.endpoint == host.endpoint);
            let watched = same.unwrap_or_else(|| {
                let task = keep_checking(Rc::clone(&self.common), host.clone(), self.common.first.begin());
                Watched { host: host.clone(), task: tokio::task::spawn_local(task).abort_handle() }
            });
            self.hosts.insert(host.address().clone(), watched);
        }
    }
}

async fn keep_checking(common: Rc<Common>, host: Host, first: First) {
    let mut rng = ThreadRandom;
    let mut known = HostCheck::default();
    let mut probe = Probe::default();
    let mut first = Some(first);
    let initial = common.terms.borrow().config.initial_wait(&mut rng);
    if let Some(wait) = initial {
        tokio::time::sleep(wait).await;
    }
    loop {
        let terms = Rc::clone(&*common.terms.borrow());
        let counts = &common.state.checks;
        counts.attempt.fetch_add(1, Relaxed);
        let asked = probe.ask(&terms.check, &terms.target, &host.endpoint, terms.config.timeout);
        let result = match tokio::time::timeout(terms.config.timeout, asked).await {
            Ok(answer) => {
                counts.verify_cluster.fetch_add(u64::from(answer.verified), Relaxed);
                answer.result
            }
            Err(_) => {
                probe.close();
                CheckResult::Timeout
            }
        };
        let failed = host.fails_checks();
        let wait = common.state.checked((&host, &mut known), &terms.config, result, Instant::now(), &mut rng);
        if host.fails_checks() != failed {
            let now = if failed { "healthy" } else { "unhealthy" };
            tracing::info!(cluster = %terms.target.name, %host, ?result, "health check: host is {now}");
        }
        first.take();
        drop(terms);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = common.changed.notified() => {}
        }
    }
}
