//! Which proxy stands beside which workload: ours, or a stock Envoy.
//!
//! A scenario says it once, before it starts its mesh: it has a process of its own. The same body so plays with any
//! proxies, and [`crate::Mesh`] starts its workloads accordingly.

use std::ffi::OsString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;

use crate::processes;

/// The proxy beside a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proxy {
    #[default]
    Mizzen,
    /// With how it asks the control plane: `delta`, `sotw` or `rest`.
    Envoy(&'static str),
}

/// The proxies of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Beside whoever sends load: the first client, the second, and in turn again.
    pub callers: Vec<Proxy>,
    /// Beside those that serve, in turn as well.
    pub callees: Vec<Proxy>,
}

static CHOSEN: OnceLock<Proxies> = OnceLock::new();
static CALLING: AtomicUsize = AtomicUsize::new(0);
static SERVING: AtomicUsize = AtomicUsize::new(0);

impl Proxies {
    /// From now on these stand beside the workloads of this process; without a word all are ours.
    pub fn choose(self) -> anyhow::Result<()> {
        CHOSEN.set(self).ok().context("the proxies are chosen already")
    }

    /// Whether a stock Envoy decides about what callers send.
    pub fn caller_is_stock() -> bool {
        let is_stock = |proxy: &Proxy| matches!(proxy, Proxy::Envoy(_));
        CHOSEN.get().is_some_and(|chosen| chosen.callers.iter().all(is_stock))
    }

    /// The proxy beside the first caller.
    pub fn of_caller() -> Proxy {
        CHOSEN.get().and_then(|chosen| chosen.callers.first().copied()).unwrap_or_default()
    }

    /// What `mizzen run` of the next caller is told.
    pub fn of_next_caller() -> anyhow::Result<Vec<OsString>> {
        CHOSEN.get().map_or(Ok(Vec::new()), |chosen| next(&chosen.callers, &CALLING))
    }

    /// What `mizzen run` of the next replica is told.
    pub fn of_next_callee() -> anyhow::Result<Vec<OsString>> {
        CHOSEN.get().map_or(Ok(Vec::new()), |chosen| next(&chosen.callees, &SERVING))
    }
}

fn next(proxies: &[Proxy], turn: &AtomicUsize) -> anyhow::Result<Vec<OsString>> {
    let at = turn.fetch_add(1, Ordering::Relaxed);
    proxies.iter().cycle().nth(at).copied().unwrap_or_default().arguments()
}

impl Proxy {
    fn arguments(self) -> anyhow::Result<Vec<OsString>> {
        let Self::Envoy(xds) = self else { return Ok(Vec::new()) };
        let envoy = testkit::peers::envoy().context("needs envoy")?;
        Ok(vec!["--envoy".into(), envoy.into(), "--xds".into(), xds.into()])
    }
}

/// The stock Envoys among a process's descendants.
pub fn envoys_below(pid: u32) -> Vec<u32> {
    let below = processes::descendants(pid).into_iter();
    below.filter(|pid| processes::program_of(*pid).is_some_and(|name| name == "envoy")).collect()
}
