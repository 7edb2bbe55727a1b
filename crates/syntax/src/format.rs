//! Envoy's format strings: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):12%`, `%%`.

mod operator;

pub use operator::{Field, GrpcForm, Operator, Point, Side, TlsField, Unit, Whose, names};

/// A part of a format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    Value { operator: Operator, limit: Option<usize> },
}

/// What is wrong with a format string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    pub reason: String,
    /// The operator, where it is one that nobody knows.
    pub unknown: Option<String>,
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self { reason, unknown: None }
    }
}

/// Literals and operators in turn. An operator that is not known, or that is used wrongly, is refused by name.
pub fn parse(text: &str) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (piece, after) = operator(rest)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Whether an operator is used that Envoy has in access logs alone.
pub fn is_for_logs(text: &str) -> bool {
    text.contains("%REQ_WITHOUT_QUERY(")
}

/// After the opening percent sign; gives what follows the closing one.
fn operator(text: &str) -> Result<(Piece, &str), Fault> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return Err("a percent sign begins no operator; write %% for a percent sign".to_owned().into());
    }
    let wrong = |what: &str| Fault::from(format!("%{name}: {what}"));
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        // The argument may hold parentheses and percent signs (time formats): it ends at ")%" or "):".
        let close = inside
            .match_indices(')')
            .map(|(i, _)| i)
            .find(|i| matches!(inside.as_bytes().get(i + 1), Some(b'%' | b':')))
            .ok_or_else(|| wrong("the parenthesis is not closed"))?;
        argument = Some(&inside[..close]);
        rest = &inside[close + 1..];
    }
    let mut limit = None;
    if let Some(after) = rest.strip_prefix(':') {
        let digits = after.find('%').ok_or_else(|| wrong("the percent sign is not closed"))?;
        limit = Some(after[..digits].parse().map_err(|_| wrong("the length must be a number"))?);
        rest = &after[digits..];
    }
    let rest = rest
        .strip_prefix('%')
        .ok_or_else(|| wrong("the percent sign is not closed; write %% for a percent sign"))?;
    let operator = Operator::parse(name, argument)?;
    if limit.is_some() && !operator.takes_length() {
        return Err(wrong("it takes no length"));
    }
    Ok((Piece::Value { operator, limit }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_operator_is_refused_by_name() {
        for (format, reason) in [
            ("%NONSENSE%", "%NONSENSE% is no operator that this proxy knows"),
            ("%REQ%", "%REQ% needs an argument in parentheses"),
            ("100%", "a percent sign begins no operator; write %% for a percent sign"),
            ("100% sure%", "a percent sign begins no operator; write %% for a percent sign"),
            ("%REQ(X", "%REQ: the parenthesis is not closed"),
            ("%REQ(X):y%", "%REQ: the length must be a number"),
            ("%REQ(X Y)%", "%REQ(X Y)%: \"X Y\" is no header name"),
            ("%REQ(A?B?C)%", "%REQ(A?B?C)%: one alternative is taken, no more"),
            ("%PROTOCOL(x)%", "%PROTOCOL% takes no argument"),
            ("%PROTOCOL:5%", "%PROTOCOL: it takes no length"),
            ("%QUERY_PARAMS(ORIG)%", "%QUERY_PARAMS% takes no argument"),
            ("%START_TIME(%F%n)%", "%START_TIME(%F%n)%: a time holds no line feed"),
            ("%ENVIRONMENT(HOME)%", "%ENVIRONMENT% is not supported: deciding reads no environment"),
        ] {
            assert_eq!(parse(format).unwrap_err().reason, reason, "{format}");
        }
        assert_eq!(parse("%NONSENSE%").unwrap_err().unknown.as_deref(), Some("NONSENSE"));
    }

    #[test]
    fn every_name_is_an_operator() {
        for name in names() {
            let fault = parse(&format!("%{name}%")).err();
            assert!(fault.is_none_or(|fault| fault.reason.contains("needs an argument")), "{name}");
        }
    }
}
