//! How results are shown: tables for people, JSON and YAML for programs, colours on a terminal only.

use std::io::IsTerminal;

use serde::Serialize;

/// Formats for programs; without one, a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Yaml,
}

impl Format {
    pub(crate) fn print(self, value: &impl Serialize) -> anyhow::Result<()> {
        print!("{}", self.text(value)?);
        Ok(())
    }

    pub(crate) fn text(self, value: &impl Serialize) -> anyhow::Result<String> {
        Ok(match self {
            Self::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
            // By way of JSON, so that both say the same: on its own YAML writes choices as tags.
            Self::Yaml => serde_yaml_ng::to_string(&serde_json::to_value(value)?)?,
        })
    }
}

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
}

/// The text in that colour, where colours are wanted.
pub(crate) fn paint(wanted: bool, colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Cyan => 36,
    };
    if wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The states of a table, coloured after it was aligned.
pub(crate) fn paint_states(wanted: bool, table: &str) -> String {
    if !wanted {
        return table.to_owned();
    }
    [("SYNCED", Colour::Green), ("STALE", Colour::Yellow), ("NACK", Colour::Red)]
        .iter()
        .fold(table.to_owned(), |text, (word, colour)| text.replace(word, &paint(true, *colour, word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_says_what_json_says() {
        #[derive(Serialize)]
        #[serde(rename_all = "lowercase")]
        enum Choice {
            Works(&'static str),
        }
        assert_eq!(Format::Yaml.text(&Choice::Works("well")).unwrap(), "works: well\n");
        assert_eq!(Format::Json.text(&Choice::Works("well")).unwrap(), "{\n  \"works\": \"well\"\n}\n");
    }
}
