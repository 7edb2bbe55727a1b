//! Every input that is kept, played to its target as a plain test.

use std::path::{Path, PathBuf};

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

/// The seeds, and what once crashed.
#[test]
fn what_is_kept_crashes_nothing() {
    fuzz::prepare();
    let mut played = 0;
    for target in fuzz::TARGETS {
        (target.run)(&[]);
        let seeds = inputs(&folder("corpus").join(target.name));
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for input in seeds.iter().chain(&inputs(&folder("crashes").join(target.name))) {
            let data = std::fs::read(input).unwrap();
            // Who fails is known by this line.
            println!("{}", input.display());
            (target.run)(&data);
            played += 1;
        }
    }
    println!("{played} inputs played to {} targets", fuzz::TARGETS.len());
}

/// What is kept is for a target that there is.
#[test]
fn every_folder_has_its_target() {
    for kind in ["corpus", "crashes"] {
        for entry in std::fs::read_dir(folder(kind)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(fuzz::find(&name).is_some(), "{kind}/{name} is for no target");
        }
    }
}
