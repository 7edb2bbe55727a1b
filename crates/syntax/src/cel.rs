//! The part of CEL that access-log filters use: Envoy's attributes, comparisons, logic, membership and the string
//! functions. No macros (`all`, `exists`), no arithmetic, no maps or lists built by programs: refused when parsed.

mod attribute;
mod parse;

use regex::Regex;
use serde_json::Value;

pub use attribute::{Attribute, Field, Headers};

/// A parsed expression, over attributes as they are written or as somebody looks them up.
#[derive(Debug, Clone)]
pub enum Node<A = Attribute> {
    Constant(Value),
    List(Vec<Self>),
    Attribute(A),
    Has(A),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Compare(Op, Box<Self>, Box<Self>),
    In(Box<Self>, Box<Self>),
    If(Box<Self>, Box<Self>, Box<Self>),
    Call(Function, Box<Self>, Box<Self>),
    Matches(Box<Self>, Regex),
    Size(Box<Self>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    StartsWith,
    EndsWith,
    Contains,
}

/// Fails with the reason and the place.
pub fn parse(text: &str) -> Result<Node, String> {
    parse::parse(text)
}

impl<A> Node<A> {
    /// The same expression over other attributes.
    pub fn map<B>(self, of: &impl Fn(A) -> B) -> Node<B> {
        let next = |node: Box<Self>| Box::new(node.map(of));
        match self {
            Self::Constant(value) => Node::Constant(value),
            Self::List(items) => Node::List(items.into_iter().map(|item| item.map(of)).collect()),
            Self::Attribute(attribute) => Node::Attribute(of(attribute)),
            Self::Has(attribute) => Node::Has(of(attribute)),
            Self::Not(inner) => Node::Not(next(inner)),
            Self::And(a, b) => Node::And(next(a), next(b)),
            Self::Or(a, b) => Node::Or(next(a), next(b)),
            Self::Compare(op, a, b) => Node::Compare(op, next(a), next(b)),
            Self::In(a, b) => Node::In(next(a), next(b)),
            Self::If(condition, then, other) => Node::If(next(condition), next(then), next(other)),
            Self::Call(function, a, b) => Node::Call(function, next(a), next(b)),
            Self::Matches(text, regex) => Node::Matches(next(text), regex),
            Self::Size(inner) => Node::Size(next(inner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        for text in [
            "",
            "response.cod > 1",
            "a +",
            "1 + 1",
            "request.headers.exists(h, true)",
            "'abc",
            "(true",
            "true)",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        let large = format!("request.path.matches('{}')", r"\\w{1000}".repeat(12));
        assert!(parse(&large).unwrap_err().contains("size limit"), "{large}");
        assert!(parse(&"(".repeat(200)).unwrap_err().contains("nested deeper"));
        assert!(parse(&vec!["true"; 5_000].join("||")).unwrap_err().contains("more than 1024"));
    }
}
