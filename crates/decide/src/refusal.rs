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

/// Refuses a message that sets one of the fields named: what is not honoured is not accepted.
macro_rules! refuse {
    ($message:expr, $($field:ident),+ $(,)?) => {
        $(if $crate::refusal::is_set(&$message.$field) {
            return Err($crate::refusal::Refusal::unsupported(&$crate::refusal::json_name(stringify!($field))));
        })+
    };
}

pub(crate) use refuse;

pub(crate) fn is_set<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// `request_headers_to_add` as `requestHeadersToAdd`.
pub(crate) fn json_name(field: &str) -> String {
    let mut name = String::with_capacity(field.len());
    let mut upper = false;
    for c in field.trim_start_matches("r#").chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                name.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => name.push(c),
        }
    }
    name
}

/// Compiles each element of a repeated field, naming the one at fault.
pub(crate) fn each<T, U>(items: &[T], field: &str, mut compile: impl FnMut(&T) -> Taken<U>) -> Taken<Vec<U>> {
    items.iter().enumerate().map(|(i, item)| compile(item).at(field, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_reads_from_the_outside() {
        let fault =
            Refusal::new("no").under("prefix").under("match").under("routes[2]").under("virtualHosts[0]");
        assert_eq!(fault.field(), "virtualHosts[0].routes[2].match.prefix");
        assert_eq!(json_name("request_headers_to_add"), "requestHeadersToAdd");
        assert_eq!(json_name("r#match"), "match");
    }
}
