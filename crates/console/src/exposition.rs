//! Reads Prometheus' text format, as far as counters and histograms of proxies go.
//!
//! The format: Prometheus' exposition formats, text-based, version 0.0.4. Lines that are not understood are skipped:
//! a proxy of another version must not take the graph down.

use std::borrow::Cow;

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// One line: a metric's name, its labels and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: Labels<'a>,
    pub(crate) value: f64,
}

impl Sample<'_> {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// The samples of a text whose names start with `prefix`.
pub(crate) fn samples<'a>(text: &'a str, prefix: &str) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter(move |line| line.starts_with(prefix)).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name, value));
        rest = after;
    }
}

/// A value up to its closing quote, its escapes undone.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_owned();
    let mut chars = text[end..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[end + at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_labels_and_a_value() {
        let text = "# HELP a b\nistio_x{a=\"1\",b=\"q\\\"\\\\\\n\"} 3.5 1700000000\nistio_y 2\nother 1\nistio_bad{a=\"\n";
        let found: Vec<_> = samples(text, "istio_").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].label("a"), found[0].label("b"), found[0].value), ("1", "q\"\\\n", 3.5));
        assert_eq!((found[1].name, found[1].value), ("istio_y", 2.0));
    }
}
