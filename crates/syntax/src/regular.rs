//! Regular expressions in RE2's syntax, as far as the `regex` crate has it, with a bound on what they compile to;
//! RE2's substitutions; Envoy's path templates.

use regex::bytes::{Regex, RegexBuilder};

/// The most that a compiled expression may take up, in bytes.
pub const LARGEST: usize = 1 << 20;

/// Over bytes; Unicode where the expression allows it. What RE2 reads otherwise, or not at all, is refused: every proxy
/// must read the same.
pub fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    re2(pattern).map_err(|reason| regex::Error::Syntax(reason.into()))?;
    let build = |unicode| RegexBuilder::new(pattern).unicode(unicode).size_limit(LARGEST).build();
    build(true).or_else(|first| build(false).map_err(|_| first))
}

/// An expression for the whole of a text. A dot matches a line feed too, so that nothing hides behind one.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    regex(pattern)?;
    regex(&format!("\\A(?s:{pattern})\\z"))
}

/// Over text, as in CEL.
pub(crate) fn text(pattern: &str) -> Result<regex::Regex, regex::Error> {
    re2(pattern).map_err(|reason| regex::Error::Syntax(reason.into()))?;
    regex::RegexBuilder::new(pattern).size_limit(LARGEST).build()
}

/// RE2's limit on repetitions, within each other too.
const MOST_REPEATED: u32 = 1000;

/// What the `regex` crate takes and RE2 does not, or reads otherwise.
fn re2(pattern: &str) -> Result<(), &'static str> {
    let mut rest = pattern;
    // How often something is repeated at most in each group that is open, and in what came last.
    let mut open = vec![1u32];
    let mut last = 1;
    // Whether a repetition came last: a question mark may follow, nothing more.
    let mut repeated = 0;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        let mut times = None;
        match c {
            '\\' => {
                let escaped = rest[1..].chars().next();
                match escaped {
                    Some('<' | '>') => return Err("\\< and \\> are no word boundaries in RE2; write \\b"),
                    Some('b' | 'B') if rest[2..].starts_with('{') => {
                        return Err("\\b{…} is unknown to RE2; write \\b");
                    }
                    Some('u' | 'U') => return Err("\\u is unknown to RE2; write \\x{…}"),
                    _ => {}
                }
                length += escaped.map_or(0, char::len_utf8);
                last = 1;
            }
            '[' => {
                length = class(rest)?;
                last = 1;
            }
            '(' => {
                let flags =
                    rest[1..].strip_prefix('?').filter(|flags| !flags.starts_with(['P', '<', '=', '!']));
                if let Some(flags) = flags {
                    let end = flags.find([':', ')']).unwrap_or(flags.len());
                    if !flags[..end].chars().all(|flag| "imsU-".contains(flag)) {
                        return Err("RE2 knows the flags i, m, s and U");
                    }
                    // Up to the colon, which is no question of its own.
                    length += 1 + end;
                }
                open.push(1);
                last = 1;
            }
            ')' => {
                last = if open.len() > 1 { open.pop().unwrap_or(1) } else { 1 };
                if let Some(around) = open.last_mut() {
                    *around = (*around).max(last);
                }
            }
            '*' | '+' | '?' => times = Some(1),
            '{' => {
                if let Some(end) = rest.find('}') {
                    if rest[1..end].starts_with(',') {
                        return Err("RE2 reads {,n} as characters; write {0,n}");
                    }
                    let numbers: Vec<u32> = rest[1..end]
                        .split(',')
                        .filter(|bound| !bound.is_empty())
                        .map(|bound| bound.parse().unwrap_or(u32::MAX))
                        .collect();
                    let is_bound = |b: u8| b.is_ascii_digit() || b == b',';
                    if rest[1..end].bytes().all(is_bound) && !numbers.is_empty() {
                        length = end + 1;
                        times = numbers.into_iter().max();
                    }
                }
                last = if times.is_none() { 1 } else { last };
            }
            _ => last = 1,
        }
        repeated = match (times, repeated) {
            (None, _) => 0,
            (Some(_), 0) => 1,
            (Some(_), 1) if c == '?' => 2,
            _ => return Err("RE2 takes no repetition of a repetition; put it in parentheses"),
        };
        if let Some(times) = times {
            last = last.saturating_mul(times.max(1));
            if last > MOST_REPEATED {
                return Err("RE2 repeats at most 1000 times, also within each other");
            }
            if let Some(around) = open.last_mut() {
                *around = (*around).max(last);
            }
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// The length of a class in brackets.
fn class(text: &str) -> Result<usize, &'static str> {
    let mut at = 1 + usize::from(text[1..].starts_with('^'));
    // In front a closing bracket is a character like any other.
    at += usize::from(text[at..].starts_with(']'));
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        at += match c {
            ']' => return Ok(at + 1),
            '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' if rest.starts_with("[:") => rest.find(":]").map_or(1, |end| end + 2),
            '[' => return Err("RE2 has no brackets within brackets; write \\[ for the character"),
            '&' | '-' | '~' if rest[1..].starts_with(c) => {
                return Err("RE2 has no operations on classes; write the character once, or escaped");
            }
            c => c.len_utf8(),
        };
    }
    Ok(text.len())
}

/// A substitution with RE2's `\0` to `\9` and `\\`, as the `regex` crate writes it, for a pattern with that many
/// groups, the whole match included.
pub fn substitution(text: &str, groups: usize) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(d) if d.is_ascii_digit() => {
                    let group = d as usize - '0' as usize;
                    if group >= groups {
                        return Err(format!("\\{d} names a group that the pattern does not have"));
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                _ => return Err("a backslash must be followed by a digit or a backslash".into()),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// A path template: `*` and `{name}` stand for one segment, `**` for any number of them, `{name=…}` for what is within.
/// A segment is whatever has no slash, an asterisk included.
pub fn template(pattern: &str) -> Result<Regex, String> {
    let wrong = |why: &str| format!("{pattern:?} {why}");
    if !pattern.starts_with('/') {
        return Err(wrong("must begin with a slash"));
    }
    let mut out = String::new();
    let mut rest = pattern;
    let mut after_any = false;
    while let Some(c) = rest.chars().next() {
        let (length, any) = match c {
            '{' => {
                let end = rest.find('}').ok_or_else(|| wrong("has a brace that is not closed"))?;
                let within = rest[1..end].split_once('=').map_or("*", |(_, inner)| inner);
                out.push_str(&wildcards(within));
                (end + 1, within.contains("**"))
            }
            '}' => return Err(wrong("closes a brace that is not open")),
            '*' if rest.starts_with("**") => {
                out.push_str(".*");
                (2, true)
            }
            '*' => {
                out.push_str("[^/]+");
                (1, false)
            }
            c => {
                out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                (c.len_utf8(), false)
            }
        };
        if after_any && any {
            return Err(wrong("may have ** once"));
        }
        after_any |= any;
        rest = &rest[length..];
    }
    whole(&out).map_err(|error| error.to_string())
}

fn wildcards(pattern: &str) -> String {
    let any: Vec<_> = pattern
        .split("**")
        .map(|part| part.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]+"))
        .collect();
    any.join(".*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_stand_for_segments() {
        for (pattern, path, expected) in [
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/*/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/a/*/c", "/a//c", false),
            ("/a/*", "/a/", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/ab", false),
            ("/a/**/c", "/a/b/b/c", true),
            ("/v.1/{name}/x", "/v.1/any/x", true),
            ("/v.1/{name}/x", "/v11/any/x", false),
            ("/{all=**}", "/a/b", true),
            ("/{all=**}.jpg", "/a/b.jpg", true),
            ("/{id=a/*}/z", "/a/b/z", true),
        ] {
            assert_eq!(template(pattern).unwrap().is_match(path.as_bytes()), expected, "{pattern} {path}");
        }
        for pattern in ["a", "/{a", "/a}", "/**/**"] {
            assert!(template(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn what_re2_reads_otherwise_is_refused() {
        for pattern in [
            "[a-z]{1001}",
            "(a{100}){100}",
            "((a{11}){10}b){10}",
            "(?x)a b",
            "(?R)a",
            "(?u:a)",
            "a**",
            "a{2}{3}",
            "a??*",
            r"\u{61}",
            r"\<a",
            r"\b{start}a",
            "[a&&b]",
            "[[a-z]--[m]]",
            "[+--]",
        ] {
            assert!(regex(pattern).is_err(), "{pattern}");
        }
        for pattern in [
            "[a-z]{1000}",
            "(a{30}|b){10}",
            "(?i)a(?:b)(?P<n>c)(?<m>d)(?s-i:.)",
            "a*?b+?c??d{2,3}?",
            "[]a-z[:digit:]-]",
            r"[\[\]&-]",
            r"\bword\b",
            "^/v[0-9]+(/.*)$",
            "(a|b{2})?c",
            "a{0}",
            r"\d{3}-\d{4}",
        ] {
            assert!(whole(pattern).is_ok(), "{pattern}: {:?}", whole(pattern));
        }
    }

    #[test]
    fn what_compiles_to_too_much_is_refused() {
        let error = whole(&r"\w{1000}".repeat(12)).unwrap_err().to_string();
        assert!(error.contains("size limit"), "{error}");
    }
}
