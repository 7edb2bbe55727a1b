//! `cargo xtask bench control`: the control plane under simulated sidecars, beside what istiod was measured to need.

use anyhow::Result;

use crate::shell;

const ISTIOD: &str = "
istiod, main of August 2026, the same kind of machine (2 cores), delta:
  1000 services x 10 endpoints, 1000 sidecars
    first sync: 51 s, CPU 66 to 91 s; 3.8 MB a sidecar; memory peak 2900 MB, after 700 to 1100 MB
    endpoint: last 0.30 s; CPU 0.16 s
    route: p50 1.9 s, p99 3.4 s; CPU 5.4 s
  10000 services x 10 endpoints, 100 sidecars
    first sync: 54 s, CPU 38 s; 38 MB a sidecar; memory peak 3900 MB, after 1400 to 2200 MB
    endpoint: last 0.31 s; CPU 0.15 s
    route: p50 5 s, p99 6 to 11 s; CPU 9 to 10 s
";

/// Builds the load with the profile and runs each mesh with each protocol.
pub(crate) fn run(profile: &str) -> Result<()> {
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--profile", profile, "-p", "control-load"]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let program = shell::root().join("target").join(folder).join("control-load");
    for mesh in [
        &["--services", "1000", "--sidecars", "1000"][..],
        &["--services", "1000", "--sidecars", "1000", "--sotw"],
        &["--services", "1000", "--sidecars", "1000", "--scoped", "10"],
        &["--services", "10000", "--sidecars", "100"],
    ] {
        shell::run(shell::command(&program).arg("run").args(mesh))?;
    }
    println!("{ISTIOD}");
    Ok(())
}
