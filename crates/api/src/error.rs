//! What is wrong with a resource, and where: Kubernetes' causes, with a hint on how to mend it.

use std::fmt;

use serde_json::Value;

/// Where a value stands in a resource, as Kubernetes writes it: `spec.http[0].match[1].headers[end-user]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn root(name: &str) -> Self {
        Self(name.into())
    }

    pub fn field(&self, name: &str) -> Self {
        Self(if self.0.is_empty() { name.into() } else { format!("{}.{name}", self.0) })
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kind of a cause, as `metav1.CauseType` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Invalid,
    TypeInvalid,
    Required,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    /// No cause in Kubernetes, which refuses the whole request: `strict decoding error: unknown field`.
    UnknownField,
}

impl Reason {
    /// Kubernetes' name for the `reason` of a cause.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Invalid | Reason::UnknownField => "FieldValueInvalid",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::Required => "FieldValueRequired",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
        }
    }
}

/// One thing that is wrong. `message` begins as Kubernetes' do: `Invalid value: -1: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub path: String,
    pub reason: Reason,
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl FieldError {
    fn new(path: &Path, reason: Reason, message: String) -> Self {
        Self { path: path.0.clone(), reason, message, hint: None }
    }

    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl fmt::Display) -> Self {
        Self::new(path, Reason::Invalid, format!("Invalid value: {}: {detail}", value.into()))
    }

    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl fmt::Display) -> Self {
        Self::new(path, Reason::TypeInvalid, format!("Invalid value: {}: {detail}", value.into()))
    }

    pub fn required(path: &Path, detail: &str) -> Self {
        let colon = if detail.is_empty() { "" } else { ": " };
        Self::new(path, Reason::Required, format!("Required value{colon}{detail}"))
    }

    pub fn not_supported(path: &Path, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let list: Vec<_> = allowed.iter().map(|one| format!("{one:?}")).collect();
        let value = value.into();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        let error = Self::new(path, Reason::NotSupported, message);
        let near = value.as_str().and_then(|text| nearest(text, allowed.iter().copied()));
        error.maybe_hint(near.map(|near| format!("did you mean {near:?}?")))
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(path, Reason::Duplicate, format!("Duplicate value: {}", value.into()))
    }

    pub fn forbidden(path: &Path, detail: impl fmt::Display) -> Self {
        Self::new(path, Reason::Forbidden, format!("Forbidden: {detail}"))
    }

    pub fn too_many(path: &Path, count: usize, max: u64) -> Self {
        let message = format!("Too many: {count}: must have at most {max} items");
        Self::new(path, Reason::TooMany, message)
    }

    pub fn too_long(path: &Path, max: u64) -> Self {
        Self::new(path, Reason::TooLong, format!("Too long: may not be more than {max} bytes"))
    }

    /// `path` is the unknown field's own.
    pub fn unknown_field(path: &Path, name: &str, known: impl Iterator<Item: AsRef<str>>) -> Self {
        let known: Vec<_> = known.map(|one| one.as_ref().to_string()).collect();
        let near = nearest(name, known.iter().map(String::as_str));
        let hint = near.map(|near| format!("did you mean {near:?}?")).or_else(|| {
            let few = !known.is_empty() && known.len() <= 12;
            few.then(|| format!("the fields here are {}", known.join(", ")))
        });
        Self::new(path, Reason::UnknownField, format!("unknown field {:?}", path.0)).maybe_hint(hint)
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.maybe_hint(Some(hint.into()))
    }

    fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }
}

/// `spec.http[0].route[1].weight: Invalid value: -1: must be 0 or more; write 0 to send nothing`.
impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == Reason::UnknownField {
            f.write_str(&self.message)?;
        } else {
            write!(f, "{}: {}", self.path, self.message)?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for FieldError {}

/// What checking a resource found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validation {
    /// The resource is refused.
    pub errors: Vec<FieldError>,
    /// The resource is accepted, but somebody should know.
    pub warnings: Vec<String>,
}

impl Validation {
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn error(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    pub(crate) fn warn(&mut self, path: &Path, text: impl fmt::Display) {
        self.warnings.push(format!("{path}: {text}"));
    }
}

/// The candidate that a misspelt word most likely means: same letters in another case or notation first, else at
/// most a third of the letters wrong.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = fold(word);
    let limit = (plain.chars().count() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (distance(&plain, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Lower case without separators, so that `max_connections` is near `maxConnections`.
fn fold(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_what_was_meant() {
        let fields = ["maxConnections", "connectTimeout", "tcpKeepalive", "idleTimeout"];
        for (word, meant) in [
            ("max_connections", Some("maxConnections")),
            ("maxConections", Some("maxConnections")),
            ("connecttimeout", Some("connectTimeout")),
            ("weight", None),
        ] {
            assert_eq!(nearest(word, fields.into_iter()), meant, "{word}");
        }
    }

    #[test]
    fn errors_read_as_kubernetes_writes_them() {
        let path = Path::root("spec").field("http").index(0).field("headers").key("x");
        assert_eq!(
            FieldError::invalid(&path, -1, "must be 0 or more").hint("write 0").to_string(),
            "spec.http[0].headers[x]: Invalid value: -1: must be 0 or more; write 0"
        );
        assert_eq!(
            FieldError::not_supported(&path, "STRICTT", &["STRICT", "DISABLE"]).to_string(),
            "spec.http[0].headers[x]: Unsupported value: \"STRICTT\": supported values: \"STRICT\", \
             \"DISABLE\"; did you mean \"STRICT\"?"
        );
    }
}
