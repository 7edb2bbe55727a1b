//! Where the real servers and clients are that tests run against.
//!
//! `cargo xtask peers` installs them; this module only looks them up.

use std::path::PathBuf;

/// The folder that `cargo xtask peers` fills: `$MIZZEN_PEERS`, else `~/.cache/mizzen/peers`.
pub fn folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    std::env::var_os("MIZZEN_PEERS").map_or_else(|| home().join(".cache/mizzen/peers"), PathBuf::from)
}

/// The program of that name: among the installed peers first, then on the `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let folder = folder();
    let path = std::env::var_os("PATH").unwrap_or_default();
    [folder.join("venv/bin"), folder.join("bin"), folder.join("jar")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The program, or a line saying that the test is skipped; under `CI=true` a missing peer is a failure.
pub fn need(program: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "needs {program}: run `cargo xtask peers`"
        );
        println!("skipped: needs {program}");
    }
    found
}

/// Envoy's own program: what the Python package has on its path is a script, which only its owner may be able to run.
pub fn envoy() -> Option<PathBuf> {
    let script = need("envoy")?;
    let packages = std::fs::read_dir(folder().join("venv/lib")).into_iter().flatten().flatten();
    packages
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|file| file.is_file())
        .or(Some(script))
}
