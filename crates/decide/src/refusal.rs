//! Why a resource is not taken: the field at fault, by its path in protobuf's JSON names, and the reason.

use std::fmt::Display;

/// A fault on its way out of a message: each level adds its own part of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    path: Vec<String>,
    pub(crate) reason: String,
}

pub(crate) type Taken<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(reason: impl Display) -> Self {
        Self { path: Vec::new(), reason: reason.to_string() }
    }

    /// A field that is known and not built.
    pub(crate) fn unsupported(field: &str) -> Self {
        Self::new("not supported by this proxy; remove it").under(field)
    }

    pub(crate) fn under(mut self, segment: impl Display) -> Self {
        self.path.push(segment.to_string());
        self
    }

    /// `virtualHosts[3].routes[0].match`.
    pub(crate) fn field(&self) -> String {
        let mut text = String::new();
        for segment in self.path.iter().rev() {
            if !text.is_empty() && !segment.starts_with('[') {
                text.push('.');
            }
            text.push_str(segment);
        }
        text
    }
}

/// Adds the path of a field to a fault.
pub(crate) trait Within<T> {
    fn within(self, field: &str) -> Taken<T>;
    fn at(self, field: &str, index: usize) -> Taken<T>;
    fn keyed(self, field: &str, key: &str) -> Taken<T>;
}

impl<T> Within<T> for Taken<T> {
    fn within(self, field: &str) -> Taken<T> {
        self.map_err(|r| r.under(field))
    }

    fn at(self, field: &str, index: usize) -> Taken<T> {
        self.map_err(|r| r.under(format_args!("{field}[{index}]")))
    }

    fn keyed(self, field: &str, key: &str) -> Taken<T> {
        self.map_err(|r| r.under(format_args!("{field}[{key:?}]")))
    }
}

/// Compiles each element of a repeated field, naming the one at fault.
pub(crate) fn each<T, U>(items: &[T], field: &str, mut compile: impl FnMut(&T) -> Taken<U>) -> Taken<Vec<U>> {
    // As long as it has to be and no longer: a plan has thousands of these, most with one element.
    let mut compiled = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        compiled.push(compile(item).at(field, i)?);
    }
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_reads_from_the_outside() {
        let fault =
            Refusal::new("no").under("prefix").under("match").under("routes[2]").under("virtualHosts[0]");
        assert_eq!(fault.field(), "virtualHosts[0].routes[2].match.prefix");
    }
}
