//! What a process has cost so far, from `/proc`.

use anyhow::{Context, Result};

/// A reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Seconds in user and system mode.
    pub cpu: f64,
    /// Megabytes.
    pub resident: f64,
    pub peak: f64,
}

impl Cost {
    /// What the process itself has cost.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has gone"))?;
        let fields = Fields::of(&stat).context("an unreadable stat line")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kilobytes.unwrap_or(0.0) / 1024.0
        };
        // A hundred ticks a second on every Linux that people run.
        let cpu = fields.ticks as f64 / 100.0;
        Ok(Self { cpu, resident: megabytes("VmRSS:"), peak: megabytes("VmHWM:") })
    }

    /// What the process and its children have cost: some servers work in children. Pages that they share count twice.
    pub fn with_children(pid: u32) -> Result<Self> {
        let mut sum = Self::of(pid)?;
        for child in children(pid) {
            // One that ends meanwhile has nothing to say.
            if let Ok(one) = Self::of(child) {
                sum.cpu += one.cpu;
                sum.resident += one.resident;
                sum.peak += one.peak;
            }
        }
        Ok(sum)
    }
}

/// The processes that this one has started and that still run.
pub fn children(pid: u32) -> Vec<u32> {
    let parent_of = |child: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        Some(Fields::of(&stat)?.parent)
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&child| parent_of(child) == Some(pid))
        .collect()
}

/// The machine's load over the last minute: who else works on it.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// What is read of `/proc/PID/stat`.
struct Fields {
    parent: u32,
    /// In user and in system mode.
    ticks: u64,
}

impl Fields {
    fn of(stat: &str) -> Option<Self> {
        // The name may contain anything, also brackets.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_hide_what_stands_behind_them() {
        let stat = "7 (a) 9 (b)) S 3 7 7 0 -1 4194560 152 0 0 0 25 17 0 0 20 0 1 0 85 5 6";
        let fields = Fields::of(stat).unwrap();
        assert_eq!((fields.parent, fields.ticks), (3, 42));
    }
}
