//! Hosts made of namespaces: the hub that a user's workloads hang on, and the namespaces of each workload.
//!
//! ```text
//!   host                      hub (network 10.44.0.0/16, fd44::/64)        workload
//!   control plane ──fd──────► 10.44.0.1 ═══ bridge ═══ veth ═════════════► 10.44.0.5  rules, proxy, application
//!   `mizzen run`  ◄─fd── sockets to the outside, asked for by the proxy ── (no route between hub and host)
//! ```
//!
//! Works as root and as an ordinary user. Nothing here has a name in the file system: when the processes end, by
//! whatever signal, the namespaces, links and rules end with them. Each helper process is this program started again
//! with a hidden command, because namespaces are entered by processes of one thread.

mod hub;
mod mounts;
pub mod probe;
mod process;
mod spaces;
pub(crate) mod wire;
mod workload;

use std::{ffi::OsString, fmt, io, path::PathBuf};

pub use hub::{GATEWAY, GATEWAY_6, Hub, NETWORK, NETWORK_6, networks};
pub use process::{end_by, end_with_starter, entry, passed};
pub use spaces::Privilege;
pub use workload::{AppOptions, Event, ExitStatus, ProxyOptions, Streams, Target, Workload, WorkloadOptions};

/// How this program is started again as a helper: by default itself, with the hidden command `hub`.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Which of the user's hubs; people have one, tests have their own.
    pub hub: String,
}

impl Default for Launcher {
    fn default() -> Self {
        let default = || nix::unistd::Uid::effective().to_string();
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec!["hub".into()],
            hub: std::env::var("MIZZEN_HUB").unwrap_or_else(|_| default()),
        }
    }
}

/// What could not be done, and what to do about it.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: Option<io::Error>,
    cure: Option<String>,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { what: what.into(), cause: Some(cause.into()), cure: None }
    }

    pub(crate) fn plain(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, cure: None }
    }

    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// The number of the system's refusal, if it was one.
    pub fn errno(&self) -> Option<i32> {
        self.cause.as_ref().and_then(io::Error::raw_os_error)
    }

    /// What to write or paste, where that is known.
    pub fn remedy(&self) -> Option<&str> {
        self.cure.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        match &self.cure {
            Some(cure) => write!(f, "\n{cure}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::netlink::Error> for Error {
    fn from(error: crate::netlink::Error) -> Self {
        Self::new(error.what, error.cause)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match (&error.cause, &error.cure) {
            (Some(cause), None) if cause.raw_os_error().is_some() => {
                Self::new(cause.kind(), error.to_string())
            }
            _ => Self::other(error.to_string()),
        }
    }
}
