//! Matchers of strings, headers and values: compiled once, matched without allocation.

mod header;
mod string;
mod value;

pub use header::HeaderMatcher;
pub use string::StringMatcher;
pub use value::{MetadataMatcher, ValueMatcher};

pub(crate) use string::{RegexRewrite, uri_template, whole};
