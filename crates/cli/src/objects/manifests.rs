//! Manifests: files, folders and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

/// All objects of the files, in order. `-` is standard input; of a folder, its YAML and JSON files.
pub(crate) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        for source in sources(file)? {
            let text = text(&source)?;
            let found = api::yaml::documents(&text).with_context(|| source.display().to_string())?;
            objects.extend(found);
        }
    }
    ensure!(!objects.is_empty(), "no objects in what was given with --filename");
    Ok(objects)
}

fn sources(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !file.is_dir() {
        return Ok(vec![file.to_path_buf()]);
    }
    let entries = std::fs::read_dir(file).with_context(|| file.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"));
    files.sort();
    Ok(files)
}

/// A file's text, or standard input's.
pub(crate) fn text(source: &Path) -> anyhow::Result<String> {
    if source == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))
}
