//! What of a resource is used, as a part of what there may be.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Monitor {
    /// Resident memory.
    Heap { most: u64 },
    /// Memory of the control group, of its own limit or of a lower one.
    Cgroup { most: Option<u64> },
    /// A file that says so, for tests and for whoever measures something else.
    Injected(PathBuf),
}

impl Monitor {
    pub(super) fn read(&self) -> Result<f64, String> {
        match self {
            Self::Heap { most } => Ok(resident()? as f64 / *most as f64),
            Self::Cgroup { most } => cgroup(Path::new("/sys/fs/cgroup"), *most),
            Self::Injected(path) => {
                let text = text(path)?;
                let pressure: f64 =
                    text.parse().map_err(|_| format!("{}: {text:?} is no number", path.display()))?;
                let is_part = (0.0..=1.0).contains(&pressure);
                if is_part {
                    Ok(pressure)
                } else {
                    Err(format!("{}: {pressure} is not from 0 to 1", path.display()))
                }
            }
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn resident() -> Result<u64, String> {
    let status = text(Path::new("/proc/self/status"))?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kilobytes: Option<u64> = kilobytes.and_then(|n| n.parse().ok());
    kilobytes.map(|n| n * 1024).ok_or_else(|| "/proc/self/status does not tell VmRSS".into())
}

/// Version 2 of control groups, or version 1.
fn cgroup(root: &Path, most: Option<u64>) -> Result<f64, String> {
    let (used, limit) =
        [("memory.current", "memory.max"), ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes")]
            .into_iter()
            .find_map(|(used, limit)| Some((text(&root.join(used)).ok()?, text(&root.join(limit)).ok()?)))
            .ok_or("no control group has a limit of memory here")?;
    let used: u64 = used.parse().map_err(|_| format!("{used:?} is no number of bytes"))?;
    // `max`: there is none.
    let limit = limit.parse::<u64>().ok().into_iter().chain(most).min();
    let limit = limit
        .filter(|limit| *limit > 0)
        .ok_or("the control group has no limit, and maxMemoryBytes is not set")?;
    Ok(used as f64 / limit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_as_a_part_of_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(cgroup(folder.path(), None).is_err());
        write("memory/memory.usage_in_bytes", "10\n");
        write("memory/memory.limit_in_bytes", "40\n");
        assert_eq!(cgroup(folder.path(), None), Ok(0.25));
        write("memory.current", "50\n");
        write("memory.max", "max\n");
        assert!(cgroup(folder.path(), None).unwrap_err().contains("no limit"));
        assert_eq!(cgroup(folder.path(), Some(100)), Ok(0.5));
        write("memory.max", "200\n");
        assert_eq!((cgroup(folder.path(), None), cgroup(folder.path(), Some(100))), (Ok(0.25), Ok(0.5)));
        let used = Monitor::Heap { most: 1 << 40 }.read().unwrap();
        assert!(used > 0.0 && used < 1.0, "{used}");
        for (said, wanted) in [("0.5\n", Ok(0.5)), ("much", Err(())), ("1.5", Err(()))] {
            write("pressure", said);
            let path = folder.path().join("pressure");
            assert_eq!(Monitor::Injected(path).read().map_err(|_| ()), wanted, "{said}");
        }
    }
}
