//! What the kernel says of processes: which there are and what they run, who descends from whom, what they hold open; and
//! work in their networks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};

/// All that there are.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All processes that a process started, by whatever steps.
pub fn descendants(of: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![of];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            found.push(*child);
            open.push(*child);
        }
    }
    found
}

/// State, parent, and so on.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    Some(stat.rsplit_once(')')?.1.trim_start().to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.split_whitespace().nth(1)?.parse().ok()
}

/// Whether it runs, and does not only wait for its parent to take note of its end.
pub fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !stat.starts_with('Z'))
}

/// The program that a process runs.
pub fn program_of(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The words that a process was started with.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.split_terminator('\0').map(str::to_owned).collect()
}

/// The process of that program among a process's descendants.
pub fn below(pid: u32, program: &str) -> anyhow::Result<u32> {
    let found = descendants(pid).into_iter().find(|pid| program_of(*pid).is_some_and(|name| name == program));
    found.with_context(|| format!("process {pid} runs no {program}"))
}

/// The regular files that a process has open, those that were deleted included.
pub fn open_files(pid: u32) -> Vec<(PathBuf, File)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = fs::read_link(entry.path()).ok()?;
            if name.to_string_lossy().starts_with("/memfd:") {
                return None;
            }
            let is_file = fs::metadata(entry.path()).ok()?.is_file();
            is_file.then(|| Some((name, File::open(entry.path()).ok()?))).flatten()
        })
        .collect()
}

/// Does something in the network namespace of a process.
pub fn inside<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).context("the network namespace")?;
    // A namespace is entered by a thread, which ends with the work.
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| -> anyhow::Result<T> {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            Ok(work())
        });
        entered.join().map_err(|_| anyhow!("the work in the network namespace panicked"))?
    })
}
