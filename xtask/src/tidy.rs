//! What the compiler does not check: the direction of dependencies, bans, open marks, open doors.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::shell;

/// Modules in which `unsafe` is allowed; each says why at its top.
const UNSAFE_MODULES: &[&str] = &["crates/agent/src/host/process.rs", "crates/mizzen-proxy/src/memory.rs"];

/// Packages that must not be linked, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("ring", "one TLS provider, aws-lc-rs: rustls panics when two are compiled in and none is chosen"),
    ("openssl-sys", "one TLS provider, aws-lc-rs"),
    ("native-tls", "one TLS provider, aws-lc-rs"),
];

/// How long a source file may be before it needs a map of its own.
const LONGEST_FILE: usize = 900;

pub fn run() -> anyhow::Result<()> {
    let metadata = shell::output(shell::cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let mut faults = floors(&metadata);
    faults.extend(banned(&metadata));
    faults.extend(sources()?);
    if faults.is_empty() {
        println!("tidy: nothing to mend");
        return Ok(());
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    anyhow::bail!("{} things to mend", faults.len())
}

/// A crate depends only on crates of lower floors; crates without a floor are for tests, samples and tasks.
fn floors(metadata: &Value) -> Vec<String> {
    let packages = members(metadata);
    let floor: BTreeMap<&str, u64> = packages
        .iter()
        .filter_map(|p| Some((p["name"].as_str()?, p["metadata"]["mizzen"]["floor"].as_u64()?)))
        .collect();
    let ours: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut faults = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = floor.get(name) else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let is_ours = ours.contains(&other) && dependency["path"].is_string();
            if !is_ours || dependency["kind"] == "dev" {
                continue;
            }
            match floor.get(other) {
                Some(theirs) if theirs < own => {}
                Some(theirs) => faults.push(format!(
                    "{name} (floor {own}) depends on {other} (floor {theirs}): depend on lower floors only"
                )),
                None => faults.push(format!("{name} depends on {other}, which is a dev-dependency only")),
            }
        }
    }
    faults
}

fn members(metadata: &Value) -> Vec<&Value> {
    let members = metadata["workspace_members"].as_array().cloned().unwrap_or_default();
    metadata["packages"].as_array().into_iter().flatten().filter(|p| members.contains(&p["id"])).collect()
}

fn banned(metadata: &Value) -> Vec<String> {
    let resolved = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let ids: Vec<&str> = resolved.filter_map(|node| node["id"].as_str()).collect();
    BANNED
        .iter()
        .filter(|(name, _)| {
            // A package may stand in the graph for a platform or feature that we never build; `cargo tree` knows.
            ids.iter().any(|id| id.contains(&format!("#{name}@")) || id.contains(&format!("/{name}#")))
                && shell::output(shell::cargo().args(["tree", "--workspace", "--quiet", "--invert", name]))
                    .is_ok_and(|tree| tree.starts_with(name))
        })
        .map(|(name, reason)| format!("{name} is linked: {reason}"))
        .collect()
}

fn sources() -> anyhow::Result<Vec<String>> {
    let files = shell::output(shell::command("git").args(["ls-files", "*.rs"]))?;
    let mut faults = Vec::new();
    for file in files.lines() {
        let path = shell::root().join(file);
        if path.is_file() {
            faults.extend(source(file, &path)?);
        }
    }
    Ok(faults)
}

fn source(file: &str, path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| file.to_owned())?;
    let mut faults = Vec::new();
    let generated = text.starts_with("// @generated");
    let is_test = file.contains("/tests/") || file.ends_with("tests.rs");
    if !generated && !is_test && !text.starts_with("//!") {
        faults.push(format!("{file}: start with `//!`: what the module does, and what it does not"));
    }
    if !generated && text.lines().count() > LONGEST_FILE {
        faults.push(format!("{file}: {} lines; split it by reasons to change", text.lines().count()));
    }
    if text.contains("allow(unsafe_code)") && !UNSAFE_MODULES.contains(&file) && !file.starts_with("xtask/") {
        faults.push(format!(
            "{file}: `unsafe` is allowed in named modules only (xtask/src/tidy.rs lists them)"
        ));
    }
    for (index, line) in text.lines().enumerate() {
        for mark in MARKS {
            if line.contains(&mark.concat()) {
                faults.push(format!("{file}:{}: {} is an open mark", index + 1, mark.concat()));
            }
        }
    }
    Ok(faults)
}

/// Open marks, in halves, so that this file does not carry them.
const MARKS: &[[&str; 2]] =
    &[["todo", "!("], ["unimplem", "ented!("], ["#[ign", "ore"], ["FIX", "ME"], ["XX", "X:"]];
