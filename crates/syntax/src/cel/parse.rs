//! CEL's grammar, as far as [`super`] goes: a recursive descent with a bound on depth.

use serde_json::Value;

use super::{Attribute, Function, Node, Op};
use crate::regular;

const DEEPEST: usize = 64;
/// Words, values and signs: long chains of `||` are as deep as they are long.
const LONGEST: usize = 1024;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(f64),
    Text(String),
    Word(String),
    Sign(&'static str),
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    end: usize,
    depth: usize,
}

const SIGNS: [&str; 20] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", ".", "?", ":", "+", "-", "*",
];

pub(super) fn parse(text: &str) -> Result<Node, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, end: text.len(), depth: 0 };
    let node = parser.conditional()?;
    match parser.tokens.get(parser.at) {
        None => Ok(node),
        Some((token, at)) => Err(format!("nothing was expected at {at}, where {token:?} is")),
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c.is_ascii_digit() {
            let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number = rest[..length].parse().map_err(|_| format!("a number was expected at {at}"))?;
            (Token::Number(number), length + usize::from(rest[length..].starts_with('u')))
        } else if c == '\'' || c == '"' {
            string(rest, c).ok_or_else(|| format!("the text at {at} does not end"))?
        } else if c.is_ascii_alphabetic() || c == '_' {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Token::Word(rest[..length].to_owned()), length)
        } else {
            let sign = SIGNS.into_iter().find(|s| rest.starts_with(s));
            let sign = sign.ok_or_else(|| format!("{c:?} at {at} is not understood"))?;
            (Token::Sign(sign), sign.len())
        };
        tokens.push((token, at));
        if tokens.len() > LONGEST {
            return Err(format!("the expression has more than {LONGEST} words and signs"));
        }
        at += length;
    }
    Ok(tokens)
}

/// A quoted text with backslash escapes, and its length with the quotes.
fn string(text: &str, quote: char) -> Option<(Token, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            c if c == quote => return Some((Token::Text(out), at + 1)),
            c => out.push(c),
        }
    }
    None
}

impl Parser {
    fn take(&mut self, sign: &str) -> bool {
        let hit = matches!(self.tokens.get(self.at), Some((Token::Sign(s), _)) if *s == sign);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(format!("{sign:?} was expected at {}", self.place())) }
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(_, at)| *at)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("the expression is nested deeper than {DEEPEST}"));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn conditional(&mut self) -> Result<Node, String> {
        self.deeper(|p| {
            let condition = p.or()?;
            if !p.take("?") {
                return Ok(condition);
            }
            let then = p.conditional()?;
            p.expect(":")?;
            Ok(Node::If(Box::new(condition), Box::new(then), Box::new(p.conditional()?)))
        })
    }

    fn or(&mut self) -> Result<Node, String> {
        let mut node = self.and()?;
        while self.take("||") {
            node = Node::Or(Box::new(node), Box::new(self.and()?));
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<Node, String> {
        let mut node = self.relation()?;
        while self.take("&&") {
            node = Node::And(Box::new(node), Box::new(self.relation()?));
        }
        Ok(node)
    }

    fn relation(&mut self) -> Result<Node, String> {
        let left = self.unary()?;
        if matches!(self.tokens.get(self.at), Some((Token::Word(w), _)) if w == "in") {
            self.at += 1;
            return Ok(Node::In(Box::new(left), Box::new(self.unary()?)));
        }
        let signs =
            [("==", Op::Eq), ("!=", Op::Ne), ("<=", Op::Le), (">=", Op::Ge), ("<", Op::Lt), (">", Op::Gt)];
        for (sign, op) in signs {
            if self.take(sign) {
                return Ok(Node::Compare(op, Box::new(left), Box::new(self.unary()?)));
            }
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, String> {
        self.deeper(|p| {
            if p.take("!") {
                return Ok(Node::Not(Box::new(p.unary()?)));
            }
            if p.take("-") {
                return match p.unary()? {
                    Node::Constant(Value::Number(n)) => {
                        Ok(Node::Constant((-n.as_f64().unwrap_or(0.0)).into()))
                    }
                    _ => Err(format!("a number was expected before {}", p.place())),
                };
            }
            let node = p.primary()?;
            p.methods(node)
        })
    }

    /// `.startsWith(…)` and the like, after something that is no attribute.
    fn methods(&mut self, mut node: Node) -> Result<Node, String> {
        while self.take(".") {
            let name = self.word()?;
            self.expect("(")?;
            node = self.method(node, &name)?;
        }
        Ok(node)
    }

    fn method(&mut self, target: Node, name: &str) -> Result<Node, String> {
        let place = self.place();
        if name == "size" {
            self.expect(")")?;
            return Ok(Node::Size(Box::new(target)));
        }
        let argument = self.conditional()?;
        self.expect(")")?;
        let function = match name {
            "startsWith" => Function::StartsWith,
            "endsWith" => Function::EndsWith,
            "contains" => Function::Contains,
            "matches" => return matches(target, &argument, place),
            other => return Err(format!("{other} at {place} is no function that this proxy knows")),
        };
        Ok(Node::Call(function, Box::new(target), Box::new(argument)))
    }

    fn word(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some((Token::Word(word), _)) => {
                self.at += 1;
                Ok(word.clone())
            }
            _ => Err(format!("a name was expected at {}", self.place())),
        }
    }

    fn primary(&mut self) -> Result<Node, String> {
        if self.take("(") {
            let node = self.conditional()?;
            self.expect(")")?;
            return Ok(node);
        }
        if self.take("[") {
            let mut items = Vec::new();
            while !self.take("]") {
                items.push(self.conditional()?);
                if !self.take(",") {
                    self.expect("]")?;
                    break;
                }
            }
            return Ok(Node::List(items));
        }
        match self.tokens.get(self.at).cloned() {
            Some((Token::Number(n), _)) => {
                self.at += 1;
                Ok(Node::Constant(if n.fract() == 0.0 { Value::from(n as i64) } else { n.into() }))
            }
            Some((Token::Text(text), _)) => {
                self.at += 1;
                Ok(Node::Constant(text.into()))
            }
            Some((Token::Word(word), _)) => {
                self.at += 1;
                self.named(word)
            }
            _ => Err(format!("a value was expected at {}", self.place())),
        }
    }

    fn named(&mut self, word: String) -> Result<Node, String> {
        match word.as_str() {
            "true" => return Ok(Node::Constant(true.into())),
            "false" => return Ok(Node::Constant(false.into())),
            "null" => return Ok(Node::Constant(Value::Null)),
            "has" | "size" if self.take("(") => {
                let node = self.conditional()?;
                self.expect(")")?;
                return match (word.as_str(), node) {
                    ("size", node) => Ok(Node::Size(Box::new(node))),
                    (_, Node::Attribute(path)) => Ok(Node::Has(path)),
                    _ => Err("has() needs an attribute".to_owned()),
                };
            }
            // Conversions that change nothing here.
            "string" | "int" | "uint" | "double" if self.take("(") => {
                let node = self.conditional()?;
                self.expect(")")?;
                return Ok(node);
            }
            _ => {}
        }
        let mut segments = vec![word];
        loop {
            if self.take("[") {
                match self.tokens.get(self.at).cloned() {
                    Some((Token::Text(key), _)) => segments.push(key),
                    _ => return Err(format!("a text was expected at {}", self.place())),
                }
                self.at += 1;
                self.expect("]")?;
            } else if matches!(self.tokens.get(self.at + 2), Some((Token::Sign("("), _))) || !self.take(".") {
                // A method follows, or nothing.
                return Attribute::new(&segments).map(Node::Attribute);
            } else {
                segments.push(self.word()?);
            }
        }
    }
}

fn matches(target: Node, pattern: &Node, place: usize) -> Result<Node, String> {
    let Node::Constant(Value::String(pattern)) = pattern else {
        return Err(format!("matches() at {place} needs a literal pattern"));
    };
    let regex = regular::text(pattern).map_err(|error| format!("the pattern at {place}: {error}"))?;
    Ok(Node::Matches(Box::new(target), regex))
}
