//! The documentation of every field: what it is, and what becomes of it. Markdown, made from the types and the table.

use std::fmt::Write;

use crate::support::{Row, Support, table};

/// One section per kind: first what is refused or warned about, then every field.
pub fn markdown() -> String {
    let table = table();
    let mut kinds: Vec<&str> = table.iter().map(|row| row.kind).collect();
    kinds.dedup();
    let mut text = String::from(HEAD);
    // Rows of one kind need not stand together.
    let mut written = std::collections::HashSet::new();
    for kind in kinds.into_iter().filter(|kind| written.insert(*kind)) {
        let rows: Vec<_> = table.iter().filter(|row| row.kind == kind).collect();
        section(kind, &rows, &mut text);
    }
    text
}

const HEAD: &str = "# What each field does here\n\n\
    Made from the types by `api::docs::markdown`; do not edit. A field that is *refused* makes `apply` fail with the \
    reason below, so nothing is ignored in silence. `[]` stands for the entries of a list, `{}` for those of a map, \
    `=VALUE` for a single value of a field.\n";

fn section(kind: &str, rows: &[&Row], text: &mut String) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n## {kind}\n");
    if let [Row { path, support: Support::Refused(reason), .. }] = rows
        && path.is_empty()
    {
        let _ = writeln!(text, "Not a kind here: {}.", cell(reason));
        return;
    }
    let _ = writeln!(text, "| field | type | |\n|---|---|---|");
    for row in rows {
        let what = match row.support {
            Support::Honoured => cell(&row.description),
            Support::Refused(reason) => format!("**refused**: {}", cell(reason)),
            Support::Warned(reason) => format!("*warned about*: {}", cell(reason)),
        };
        let _ = writeln!(text, "| `{}` | {} | {what} |", cell(&row.path), row.kind_of_value);
    }
}

/// Text that may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_section_and_every_field_its_line() {
        let text = markdown();
        for kind in crate::Kind::all() {
            assert_eq!(text.matches(&format!("\n## {kind}\n")).count(), 1, "{kind}");
        }
        assert!(
            text.contains("| `http[].timeout` | string | How long the whole request may take;"),
            "{text}"
        );
        assert!(text.contains("\n## EnvoyFilter\n\nNot a kind here:"));
    }
}
