//! Statistics: each worker counts in its own cells, and what is read is a merged snapshot.
//!
//! Counting takes no lock and no atomic: a [`Counter`] belongs to one thread. Workers answer a message with a
//! [`Snapshot`]; the control thread merges and renders them.

mod cells;
mod histogram;
mod istio;
mod render;
mod snapshot;

pub use cells::{ClusterStats, HttpStats, ListenerStats, TcpStats, WorkerStats};
pub use histogram::Histogram;
pub use istio::{
    IstioSnapshot, IstioStats, Reporter, RequestKey, RequestProtocol, RequestSample, RequestSeries, Security,
    Service, TcpKey, TcpSeries, Workload,
};
pub use render::{Wanted, json, prometheus, text};
pub use snapshot::{Kind, Sample, Snapshot, StatName};

#[cfg(test)]
mod tests;
