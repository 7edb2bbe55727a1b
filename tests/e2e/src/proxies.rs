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
#[derive(Debug, Clone, Copy, Default)]
pub struct Proxies {
    /// Beside whoever sends load.
    pub caller: Proxy,
    /// Beside those that serve: the first replica, the second, and in turn again.
    pub callees: [Proxy; 2],
}

static CHOSEN: OnceLock<Proxies> = OnceLock::new();
static SERVING: AtomicUsize = AtomicUsize::new(0);

impl Proxies {
    /// From now on these stand beside the workloads of this process; without a word all are ours.
    pub fn choose(self) -> anyhow::Result<()> {
        CHOSEN.set(self).ok().context("the proxies are chosen already")
    }

    fn chosen() -> Self {
        CHOSEN.get().copied().unwrap_or_default()
    }

    /// Whether a stock Envoy decides about what callers send.
    pub fn caller_is_stock() -> bool {
        matches!(Self::chosen().caller, Proxy::Envoy(_))
    }

    /// What `mizzen run` of a caller is told.
    pub fn of_caller() -> anyhow::Result<Vec<OsString>> {
        Self::chosen().caller.arguments()
    }

    /// What `mizzen run` of the next replica is told.
    pub fn of_next_callee() -> anyhow::Result<Vec<OsString>> {
        let callees = Self::chosen().callees;
        callees[SERVING.fetch_add(1, Ordering::Relaxed) % callees.len()].arguments()
    }
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
