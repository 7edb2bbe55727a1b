//! The table of known differences: `expected.yaml`, and the document that shows it.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::case::Many;
use crate::observe::Difference;

/// A difference that is known, and why it stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// `group/case`, with `*` for anything; one or several.
    pub case: Many,
    /// Names of the facts that differ, with `*`; `refused` where the configuration is not taken.
    pub what: Vec<String>,
    pub why: String,
    /// It differs in some runs alone, by who is faster.
    #[serde(default)]
    pub sometimes: bool,
}

/// What a case that is not taken differs in.
pub const REFUSED: &str = "refused";

pub fn load(file: &Path) -> anyhow::Result<Vec<Listed>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_yaml_ng::from_str(&text).with_context(|| file.display().to_string())
}

impl Listed {
    fn covers(&self, case: &str, what: &str) -> bool {
        self.case.iter().any(|c| matches(c, case)) && self.what.iter().any(|w| matches(w, what))
    }
}

/// The table while it is used: what no case needs any more is a fault, too.
pub struct Table {
    rows: Vec<(Listed, bool)>,
}

impl Table {
    pub fn new(rows: Vec<Listed>) -> Self {
        Self { rows: rows.into_iter().map(|row| (row, false)).collect() }
    }

    /// Those differences that no row explains.
    pub fn unexplained(&mut self, case: &str, differences: Vec<Difference>) -> Vec<Difference> {
        let explained = |d: &Difference, rows: &mut Vec<(Listed, bool)>| {
            let row = rows.iter_mut().find(|(row, _)| row.covers(case, &d.what));
            row.map(|(_, used)| *used = true).is_some()
        };
        differences.into_iter().filter(|d| !explained(d, &mut self.rows)).collect()
    }

    /// Rows that explained nothing.
    pub fn stale(&self) -> impl Iterator<Item = &Listed> {
        self.rows.iter().filter(|(row, used)| !used && !row.sometimes).map(|(row, _)| row)
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// `docs/differential.md`.
pub fn document(rows: &[Listed]) -> String {
    let mut text = INTRODUCTION.to_owned();
    for (title, refused) in [("Answered differently", false), ("Refused by name", true)] {
        text.push_str(&format!("\n## {title}\n\n| cases | what differs | why |\n|---|---|---|\n"));
        for row in rows.iter().filter(|row| (row.what == [REFUSED]) == refused) {
            let case: Vec<String> = row.case.iter().map(|c| format!("`{}`", printable(c))).collect();
            let what: Vec<String> = row.what.iter().map(|w| format!("`{w}`")).collect();
            let sometimes = if row.sometimes { "In some runs: " } else { "" };
            let why = row.why.trim().replace('|', "\\|").replace('\n', " ");
            text.push_str(&format!("| {} | {} | {sometimes}{why} |\n", case.join("<br>"), what.join(" ")));
        }
    }
    text
}

/// Bytes that cases send are shown as they are written there.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

const INTRODUCTION: &str = "# Where mizzen-proxy and Envoy differ

`cargo test -p differential` starts Envoy 1.40 and `mizzen-proxy` on the same bootstrap, in front of the same recording
upstream, and sends both the same bytes. Compared are the answer (status, headers, body, trailers, interim responses),
whether the connection is kept, what the upstream saw (request line, headers, body, trailers, TLS), the access log (flags,
details, sizes, route, cluster, attempts and whatever else a case asks for) and the counters of the admin port.

A case is a row in one of the files of `tests/differential/cases`: a group says what is configured, its cases say what is
sent (`send` with the usual left out, `raw` to the byte) and what the upstream does. `each` makes a table of it;
`http2: true` plays all of a group's cases over HTTP/2, too. `tests/differential/src/case.rs` has every field. Route tables
and requests are generated beside them from a seed (`MIZZEN_DIFFERENTIAL_SEED` for another one). To play some groups only,
build the workspace and give their names to the test's program: `target/debug/deps/differential-* cors rbac`.

This page is generated from `tests/differential/expected.yaml` (by the test with `MIZZEN_WRITE_DOCS=1`), which the test
reads: a difference that is not listed fails it, and so does a row that no case needs any more. `*` stands for anything.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_read() {
        for (pattern, text, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/bc", true),
            ("*", "", true),
            ("*.header.server", "1.header.server", true),
            ("log.*.details", "log.12.details", true),
            ("log.*.details", "log.12.flags", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
