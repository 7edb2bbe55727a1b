//! What a real istiod says of a mesh of Bookinfo's size: a record that is made once and kept among the peers.
//!
//! `mizzen-e2e istiod` makes it, from the mesh in `tests/peers/istiod`; `cargo xtask test` runs that before the tests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use crate::peers;

/// Namespaces, nodes, accounts, Services and their endpoints.
pub const WORKLOADS: &str = include_str!("../../../tests/peers/istiod/workloads.yaml");
/// The pods, with their status.
pub const PODS: &str = include_str!("../../../tests/peers/istiod/pods.yaml");
/// One rule of everything.
pub const RULES: &str = concat!(
    include_str!("../../translate/tests/bookinfo/resources.yaml"),
    "\n---\n",
    include_str!("../../../tests/peers/istiod/rules.yaml")
);
/// The mesh's configuration.
pub const MESH: &str = include_str!("../../../tests/peers/istiod/mesh.yaml");
/// The modules that istiod is built from: its version.
const MODULES: &str = include_str!("../../../tests/peers/istiod/go.mod");

/// Whose configuration is in the record, and the pods that are asked for it: `NAME.json` are clusters, listeners and
/// routes, `NAME.endpoints.json` the load assignments.
pub const RECORDED: [(&str, &str); 6] = [
    ("productpage-v1", "productpage-v1-6c4bf9-a"),
    ("details-v1", "details-v1-6c4bf9-a"),
    ("reviews-v1", "reviews-v1-6c4bf9-a"),
    ("ratings-v1", "ratings-v1-6c4bf9-a"),
    ("mysqldb-v1", "mysqldb-v1-6c4bf9-a"),
    ("istio-ingressgateway-0", "istio-ingressgateway-0"),
];

/// Where the record is, or will be: another one for each mesh and each version of istiod.
pub fn record() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (WORKLOADS, PODS, RULES, MESH, MODULES).hash(&mut hasher);
    peers::folder().join(format!("istiod-xds-{:016x}", hasher.finish()))
}

/// The folder of the record, or of the one that `MIZZEN_ISTIOD_XDS` names. Without one a line says that the test is
/// skipped; under `CI=true` that is a failure.
pub fn need_record() -> Option<PathBuf> {
    let told = std::env::var_os("MIZZEN_ISTIOD_XDS").map(PathBuf::from);
    let folder = told.unwrap_or_else(record);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "needs the record of an istiod: run `cargo xtask test` or, where all is built, `mizzen-e2e istiod`"
    );
    println!("skipped: needs the record of an istiod (cargo xtask test makes it)");
    None
}
