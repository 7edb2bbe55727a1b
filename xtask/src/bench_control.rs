//! `cargo xtask bench control`: the control plane under simulated sidecars, beside what istiod was measured to need.

use anyhow::Result;

use crate::shell;

/// The meshes, as the load is told them.
const MESHES: [&[&str]; 7] = [
    &["--services", "1000", "--sidecars", "1000"],
    &["--services", "1000", "--sidecars", "1000", "--embedded"],
    &["--services", "1000", "--sidecars", "1000", "--sotw"],
    &["--services", "1000", "--sidecars", "1000", "--tls", "--connections", "1000"],
    &["--services", "1000", "--sidecars", "1000", "--scoped", "10"],
    &["--services", "10000", "--sidecars", "100"],
    &["--services", "10000", "--sidecars", "100", "--sotw"],
];

const NOTE: &str = "\
istiod: its main branch of August 2026 on the same kind of machine (2 cores), against a real kube-apiserver, over delta.
Times run from the change to the acknowledgement. A change is a write to the embedded API, which runs in the same process,
where the title says so; elsewhere it is what a registry says, without the API server's share, which is in istiod's times.
CPU is the control plane's, and beside it that of the sidecars, which share the machine's cores. docs/PERFORMANCE.md says
more.";

/// Builds the load with the profile and plays each mesh.
pub(crate) fn run(profile: &str) -> Result<()> {
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--profile", profile, "-p", "control-load"]))?;
    let program = shell::built(profile, "control-load");
    for mesh in MESHES {
        shell::run(shell::command(&program).arg("run").args(mesh))?;
    }
    println!("{NOTE}");
    Ok(())
}
