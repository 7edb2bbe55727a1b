//! What a process has cost so far, from `/proc`.

use anyhow::{Context, Result};

/// A reading.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds in user and system mode.
    pub(crate) cpu: f64,
    /// Megabytes.
    pub(crate) resident: f64,
    pub(crate) peak: f64,
}

impl Cost {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server has gone")?;
        let after_name = stat.rsplit_once(')').context("an unreadable stat line")?.1;
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kilobytes.unwrap_or(0.0) / 1024.0
        };
        // A hundred ticks a second on every Linux that people run.
        let cpu = (ticks(11) + ticks(12)) / 100.0;
        Ok(Self { cpu, resident: megabytes("VmRSS:"), peak: megabytes("VmHWM:") })
    }
}

/// The machine's load over the last minute: who else works on it.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
