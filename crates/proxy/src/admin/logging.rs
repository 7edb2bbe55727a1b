//! `POST /logging`: what this process logs, in Envoy's words.
//!
//! Loggers are our crates. The words of Envoy's levels stand for ours: `critical` is `error`.

use super::Answer;

const LEVELS: [(&str, &str); 8] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("warn", "warn"),
    ("error", "error"),
    ("critical", "error"),
    ("off", "off"),
];

const LOGGERS: [&str; 9] =
    ["agent", "decide", "mizzen_proxy", "proxy", "runtime", "tls", "upstream", "xds", "h2"];

/// What a query asks for: a level for all, or levels of single loggers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    Show,
    All(&'static str),
    Some(Vec<(&'static str, &'static str)>),
}

pub(super) fn answer(query: &str) -> Answer {
    match change(query) {
        Ok(text) => Answer::text(200, text),
        Err(usage) => Answer::text(400, format!("{usage}\n")),
    }
}

fn change(query: &str) -> Result<String, String> {
    let now = runtime::logging::filter().ok_or("this process does not log by itself")?;
    let next = match wish(query)? {
        Wish::Show => return Ok(shown(&now)),
        Wish::All(level) => level.to_owned(),
        Wish::Some(levels) => with(&now, &levels),
    };
    runtime::logging::set_filter(&next)?;
    Ok(shown(&next))
}

fn wish(query: &str) -> Result<Wish, String> {
    let mut levels = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(usage)?;
        match name {
            "level" if query.contains('&') => return Err(usage()),
            "level" => return Ok(Wish::All(level(value)?)),
            "paths" => {
                for one in value.split(',') {
                    let (name, value) = one.split_once(':').ok_or_else(usage)?;
                    levels.push((logger(name)?, level(value)?));
                }
            }
            name => levels.push((logger(name)?, level(value)?)),
        }
    }
    Ok(if levels.is_empty() { Wish::Show } else { Wish::Some(levels) })
}

fn usage() -> String {
    "usage: /logging?level=LEVEL for all, or /logging?paths=LOGGER:LEVEL,… for some".into()
}

fn level(text: &str) -> Result<&'static str, String> {
    let known = || LEVELS.map(|(name, _)| name).join(", ");
    let found = LEVELS.iter().find(|(name, _)| *name == text);
    found.map(|(_, ours)| *ours).ok_or_else(|| format!("{text:?} is no level; there are {}", known()))
}

fn logger(text: &str) -> Result<&'static str, String> {
    let found = LOGGERS.iter().find(|name| **name == text);
    found.copied().ok_or_else(|| format!("{text:?} is no logger; there are {}", LOGGERS.join(", ")))
}

/// The directives with single loggers set anew.
fn with(now: &str, levels: &[(&str, &str)]) -> String {
    let replaced = |directive: &str| {
        let name = directive.split_once('=').map(|(name, _)| name);
        levels.iter().any(|(logger, _)| name == Some(*logger))
    };
    let kept = now.split(',').filter(|directive| !replaced(directive)).map(str::to_owned);
    let set = levels.iter().map(|(name, level)| format!("{name}={level}"));
    kept.chain(set).collect::<Vec<_>>().join(",")
}

fn shown(directives: &str) -> String {
    let line = |directive: &str| {
        let (name, level) = directive.split_once('=').unwrap_or(("all", directive));
        format!("  {name}: {level}\n")
    };
    format!("active loggers:\n{}", directives.split(',').map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_understood_or_refused_by_name() {
        assert_eq!(wish(""), Ok(Wish::Show));
        assert_eq!(wish("level=critical"), Ok(Wish::All("error")));
        assert_eq!(
            wish("paths=proxy:debug,xds:off"),
            Ok(Wish::Some(vec![("proxy", "debug"), ("xds", "off")]))
        );
        assert_eq!(wish("proxy=trace"), Ok(Wish::Some(vec![("proxy", "trace")])));
        for (query, fault) in [
            ("level=loud", "\"loud\" is no level"),
            ("router=debug", "\"router\" is no logger"),
            ("paths=proxy", "usage"),
            ("level=info&proxy=debug", "usage"),
            ("debug", "usage"),
        ] {
            assert!(wish(query).unwrap_err().starts_with(fault), "{query}");
        }
    }

    #[test]
    fn single_loggers_are_set_anew_beside_the_rest() {
        assert_eq!(with("info,xds=debug", &[("xds", "off"), ("proxy", "trace")]), "info,xds=off,proxy=trace");
        assert_eq!(shown("info,xds=off"), "active loggers:\n  all: info\n  xds: off\n");
    }
}
