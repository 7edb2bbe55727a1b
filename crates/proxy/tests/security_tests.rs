//! What `docs/security-tests.md` names is there.

use std::path::Path;

#[test]
fn every_test_that_the_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = std::fs::read_to_string(root.join("docs/security-tests.md")).unwrap();
    let mut sources = String::new();
    for folder in [
        "crates/proxy",
        "fuzz",
        "crates/mizzen-proxy/tests",
        "crates/decide",
        "crates/syntax",
        "crates/base",
        "crates/control",
        "crates/translate",
    ] {
        read(&root.join(folder), &mut sources);
    }
    let rows =
        document.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split('|').nth(3));
    let named: Vec<&str> =
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|name| name.contains('_')).collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// All Rust below a folder, one after the other.
fn read(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}
