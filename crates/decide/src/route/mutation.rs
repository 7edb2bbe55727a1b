//! Headers to add and remove, by route, virtual host and table.

use bytes::Bytes;
use proto::pb::envoy::config::core::v3 as core;

use crate::format::Format;
use crate::headers::{HeaderName, Headers};
use crate::log::LogEntry;
use crate::refusal::{Refusal, Taken, Within, each};
use crate::request::Request;

/// What is done to the headers of requests and of responses.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    pub(crate) request: Mutations,
    pub(crate) response: Mutations,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Mutations {
    pub(crate) add: Vec<Addition>,
    pub(crate) remove: Vec<HeaderName>,
}

#[derive(Debug, Clone)]
pub(crate) struct Addition {
    name: HeaderName,
    value: Value,
    action: Action,
    keep_empty: bool,
}

#[derive(Debug, Clone)]
enum Value {
    Literal(Bytes),
    Format(Format),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

/// Mutations of all levels, in the order in which they apply.
pub struct MutationLevels<'a>(pub(crate) smallvec::SmallVec<[&'a HeaderMutations; 4]>);

impl MutationLevels<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|m| m.request.is_empty())
    }

    pub(crate) fn apply_to_request(&self, request: &mut Request, values: &[Option<Bytes>]) {
        let mut values = values.iter();
        for level in &self.0 {
            level.request.apply(&mut RequestTarget(request), &mut values);
        }
    }

    pub(crate) fn spare_responses(&self) -> bool {
        self.0.iter().all(|m| m.response.is_empty())
    }

    /// Values are rendered first, on the request as it came: adding must not change what is still to be read.
    pub(crate) fn request_values(&self, entry: &LogEntry<'_>) -> smallvec::SmallVec<[Option<Bytes>; 4]> {
        self.0.iter().flat_map(|l| &l.request.add).map(|a| a.render(entry)).collect()
    }

    pub(crate) fn apply_to_response(&self, headers: &mut Headers, entry: &LogEntry<'_>) {
        let values: Vec<_> = self.0.iter().flat_map(|l| &l.response.add).map(|a| a.render(entry)).collect();
        let mut values = values.iter();
        for level in &self.0 {
            level.response.apply(headers, &mut values);
        }
    }
}

trait Target {
    fn has(&self, name: &HeaderName) -> bool;
    fn put(&mut self, name: &HeaderName, value: Bytes);
    fn push(&mut self, name: &HeaderName, value: Bytes);
    fn drop(&mut self, name: &HeaderName);
}

impl Target for Headers {
    fn has(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    fn put(&mut self, name: &HeaderName, value: Bytes) {
        self.set(name.clone(), value);
    }

    fn push(&mut self, name: &HeaderName, value: Bytes) {
        self.append(name.clone(), value);
    }

    fn drop(&mut self, name: &HeaderName) {
        self.remove(name);
    }
}

/// Pseudo headers can be set, not appended to or removed.
struct RequestTarget<'a>(&'a mut Request);

impl Target for RequestTarget<'_> {
    fn has(&self, name: &HeaderName) -> bool {
        self.0.value(name).is_some()
    }

    fn put(&mut self, name: &HeaderName, value: Bytes) {
        self.0.set(name, value);
    }

    fn push(&mut self, name: &HeaderName, value: Bytes) {
        if name.is_pseudo() || name.known() == Some(crate::headers::Known::Host) {
            self.0.set(name, value);
        } else {
            self.0.headers.append(name.clone(), value);
        }
    }

    fn drop(&mut self, name: &HeaderName) {
        self.0.headers.remove(name);
    }
}

impl Mutations {
    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Removals first, then additions, as Envoy does.
    fn apply<'v>(&self, target: &mut impl Target, values: &mut impl Iterator<Item = &'v Option<Bytes>>) {
        for name in &self.remove {
            target.drop(name);
        }
        for (addition, value) in self.add.iter().zip(values) {
            let Some(value) = value.clone() else { continue };
            let exists = target.has(&addition.name);
            match addition.action {
                Action::Append => target.push(&addition.name, value),
                Action::AddIfAbsent if !exists => target.push(&addition.name, value),
                Action::OverwriteIfExists if exists => target.put(&addition.name, value),
                Action::Overwrite => target.put(&addition.name, value),
                Action::AddIfAbsent | Action::OverwriteIfExists => {}
            }
        }
    }

    /// Of a request that no route sends, with values rendered on it as it is.
    pub(crate) fn apply_to_request(&self, request: &mut Request, entry: &LogEntry<'_>) {
        let values: Vec<_> = self.add.iter().map(|a| a.render(entry)).collect();
        self.apply(&mut RequestTarget(request), &mut values.iter());
    }

    pub(crate) fn apply_simply(&self, headers: &mut Headers, entry: &LogEntry<'_>) {
        let values: Vec<_> = self.add.iter().map(|a| a.render(entry)).collect();
        self.apply(headers, &mut values.iter());
    }

    pub(crate) fn compile(
        add: &[core::HeaderValueOption],
        remove: &[String],
        (add_field, remove_field): (&str, &str),
    ) -> Taken<Self> {
        Ok(Self {
            add: each(add, add_field, Addition::compile)?,
            remove: each(remove, remove_field, |name| {
                if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                    return Err(Refusal::new(format_args!("{name:?} cannot be removed")));
                }
                Ok(HeaderName::from(name.as_str()))
            })?,
        })
    }
}

impl Addition {
    fn render(&self, entry: &LogEntry<'_>) -> Option<Bytes> {
        let value = match &self.value {
            Value::Literal(bytes) => bytes.clone(),
            Value::Format(format) => Bytes::from(clean(format.render_header(entry))),
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }

    fn compile(option: &core::HeaderValueOption) -> Taken<Self> {
        use core::header_value_option::HeaderAppendAction;
        let header = option.header.as_ref().ok_or_else(|| Refusal::new("is missing").under("header"))?;
        let name = HeaderName::from(header.key.as_str());
        if !is_header_name(&header.key) {
            return Err(Refusal::new(format_args!("{:?} is no header name", header.key))
                .under("key")
                .under("header"));
        }
        let format = Format::compile(&header.value, true).within("value").within("header")?;
        let value = match format.as_literal() {
            Some(text) if is_header_value(text) => Value::Literal(Bytes::copy_from_slice(text.as_bytes())),
            Some(_) => {
                return Err(Refusal::new("holds bytes that no header may").under("value").under("header"));
            }
            None => Value::Format(format),
        };
        let action = match (&option.append, HeaderAppendAction::try_from(option.append_action)) {
            (Some(append), _) if !append.value => Action::Overwrite,
            (Some(_), _) => Action::Append,
            (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => Action::Append,
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => Action::AddIfAbsent,
            (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => Action::Overwrite,
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => Action::OverwriteIfExists,
            (None, Err(_)) => return Err(Refusal::new("unknown").under("appendAction")),
        };
        Ok(Self { name, value, action, keep_empty: option.keep_empty_value })
    }
}

/// Values from requests may not smuggle line ends.
fn clean(text: String) -> String {
    if is_header_value(&text) {
        text
    } else {
        text.chars().filter(|c| !c.is_control() || *c == '\t').collect()
    }
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b >= 0x20 && b != 0x7f || b == b'\t')
}

fn is_header_name(text: &str) -> bool {
    let rest = text.strip_prefix(':').unwrap_or(text);
    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
