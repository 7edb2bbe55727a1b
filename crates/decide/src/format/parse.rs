//! From text to pieces: `%NAME%`, `%NAME(argument)%`, `%NAME(argument):12%`, `%%`.

use super::Piece;
use super::operator::Operator;
use crate::refusal::{Refusal, Taken};

pub(super) fn pieces(text: &str) -> Taken<Vec<Piece>> {
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
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(piece);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// After the opening percent sign; gives what follows the closing one.
fn operator(text: &str) -> Taken<(Piece, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    let wrong = |what: &str| Refusal::new(format_args!("%{name}: {what}"));
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
    Ok((Piece::Value { operator, limit }, rest))
}
