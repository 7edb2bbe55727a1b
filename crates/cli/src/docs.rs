//! Keeps `docs/` true: what is generated is up to date, and every manifest in it is accepted.
//!
//! `MIZZEN_WRITE_DOCS=1 cargo test -p cli docs` writes the generated pages anew.

use std::fmt::Write;
use std::path::PathBuf;

use clap::CommandFactory;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn current(page: &str, expected: &str) {
    let file = folder().join(page);
    if std::env::var_os("MIZZEN_WRITE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
    }
    let stored = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        stored == expected,
        "docs/{page} is stale; write it anew with MIZZEN_WRITE_DOCS=1 cargo test -p cli docs"
    );
}

fn section(command: &mut clap::Command, path: &str, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {path}\n\n```text\n");
    for line in command.render_long_help().to_string().lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push_str("```\n");
    for inner in command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name());
        section(inner, &path, text);
    }
}

#[test]
fn the_page_of_commands_is_what_help_says() {
    let mut command = crate::Cli::command().term_width(100);
    command.build();
    let mut text =
        "# The command line\n\nMade from the commands' own help by a test of crate `cli`; do not edit. \
        `mizzen completion SHELL` prints a completion script.\n"
            .to_owned();
    section(&mut command, "mizzen", &mut text);
    current("cli.md", &text);
}

#[test]
fn the_page_of_fields_is_what_the_types_say() {
    current("supported-fields.md", &api::docs::markdown());
}

#[test]
fn every_manifest_in_the_pages_is_accepted() {
    let mut seen = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|end| end != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let manifest = block.split("```").next().unwrap_or_default();
            for mut object in api::yaml::documents(manifest).unwrap() {
                object["metadata"]["namespace"] = "default".into();
                let read = registry::manifest::object(&object);
                let place = format!("{}: {} {}", file.display(), object["kind"], object["metadata"]["name"]);
                assert!(read.is_ok(), "{place}: {read:?}");
                seen.insert(object["kind"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(seen.contains("ConfigMap"), "docs/resources.md shows no MeshConfig");
    for kind in api::Kind::all() {
        // JWT is not built, so that there is nothing to show of it.
        let kind = kind.to_string();
        assert!(seen.contains(&kind) || kind == "RequestAuthentication", "docs/resources.md shows no {kind}");
    }
}
