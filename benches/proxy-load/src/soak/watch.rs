//! What the proxy takes of the machine, and what it says of itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::client::{Http1, Way, request};

/// A reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Resident memory that is backed by no file, in kilobytes.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

impl Sample {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the proxy has gone")?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let field = |name: &str| field(&status, name).with_context(|| format!("no {name}"));
        Ok(Self { memory: field("RssAnon:")?, threads: field("Threads:")?, descriptors })
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Counters and gauges by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats(BTreeMap<String, u64>);

/// Connections and requests that are under way.
const ACTIVE: [&str; 5] = [
    ".downstream_cx_active",
    ".downstream_rq_active",
    ".upstream_cx_active",
    ".upstream_rq_active",
    ".upstream_rq_pending_active",
];

impl Stats {
    pub(crate) async fn read(admin: u16) -> Result<Self> {
        Ok(Self::parse(&get(admin, "/stats").await?))
    }

    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What was never counted is nothing.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Gauges of what is under way, those apart that belong to whoever reads them.
    pub(crate) fn active(&self) -> impl Iterator<Item = (&str, u64)> {
        let is_active = |name: &str| ACTIVE.iter().any(|end| name.ends_with(end)) && !name.contains("admin");
        self.0.iter().filter(move |(name, _)| is_active(name)).map(|(name, value)| (name.as_str(), *value))
    }

    pub(crate) fn sum(&self, end: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.ends_with(end)).map(|(_, value)| value).sum()
    }
}

/// A page of the admin port.
pub(crate) async fn get(admin: u16, path: &str) -> Result<String> {
    let failed = |failure| anyhow::anyhow!("the admin port: {failure}");
    let mut connection = Http1::open(&Way { port: admin, tls: None }).await.map_err(failed)?;
    connection.send(&request("GET", path, "connection: close\r\n")).await;
    let head = connection.head().await.map_err(failed)?;
    let answer = connection.finish(&head).await.map_err(failed)?;
    ensure!(answer.status == 200, "the admin port answers {} to {path}", answer.status);
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_files_are_read() {
        let status = "Name:\tproxy\nRssAnon:\t   10544 kB\nThreads:\t5\n";
        assert_eq!((field(status, "RssAnon:"), field(status, "Threads:")), (Some(10_544), Some(5)));
        assert_eq!(field(status, "Nothing:"), None);
    }

    #[test]
    fn stats_are_read_and_summed() {
        let stats = Stats::parse(
            "cluster.a: b.upstream_cx_active: 2\nhttp.admin.downstream_cx_active: 1\nx.update_rejected: 1\n\
             y.update_rejected: 3\nhistogram: P0(nan,1)\n",
        );
        assert_eq!(stats.active().collect::<Vec<_>>(), [("cluster.a: b.upstream_cx_active", 2)]);
        assert_eq!((stats.sum(".update_rejected"), stats.get("nothing")), (4, 0));
    }
}
