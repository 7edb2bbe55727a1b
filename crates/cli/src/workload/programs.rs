//! The programs beside this one: found next to it, or built when it runs from cargo's target folder.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// The programs of these packages. Each package's program has the package's name.
pub(crate) fn find(packages: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let own = env::current_exe().and_then(|path| path.canonicalize()).context("where this program is")?;
    let folder = own.parent().context("where this program is")?;
    let paths: Vec<PathBuf> = packages.iter().map(|package| folder.join(package)).collect();
    let missing = paths.iter().any(|path| !path.is_file());
    // `cargo run` builds this program only, so the others may be older.
    let by_cargo = env::var_os("CARGO").is_some();
    if let Some(workspace) = workspace_of(folder).filter(|_| missing || by_cargo) {
        build(&workspace, folder, packages)?;
    }
    match paths.iter().zip(packages).find(|(path, _)| !path.is_file()) {
        Some((path, package)) => bail!("{package} is not at {}: install it beside mizzen", path.display()),
        None => Ok(paths),
    }
}

/// The workspace whose target folder this is.
fn workspace_of(folder: &Path) -> Option<PathBuf> {
    let target = folder.parent().filter(|target| target.join("CACHEDIR.TAG").is_file())?;
    let workspace = target.parent()?;
    workspace.join("crates/mizzen/Cargo.toml").is_file().then(|| workspace.to_owned())
}

fn build(workspace: &Path, folder: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.arg("build").args(["--profile", profile]).current_dir(workspace);
    // Beside this program's own package, so that what they share is built with the same features, and so only once.
    for package in packages.iter().chain(&["mizzen"]) {
        command.args(["--package", package]);
    }
    // Its progress is shown on the error stream.
    let status = command.stdout(std::io::stderr()).status().context("cannot run cargo")?;
    if status.success() { Ok(()) } else { bail!("cargo could not build {}", packages.join(" and ")) }
}
