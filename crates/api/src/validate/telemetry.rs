//! Telemetry.

use std::collections::BTreeMap;

use super::{note, rules};
use crate::error::{FieldError, Path, Validation};
use crate::telemetry::{CustomTag, Telemetry};

pub(super) fn check(it: &Telemetry, spec: &Path, out: &mut Validation) {
    rules::label_selector(it.selector.as_ref(), spec, out);
    if it.tracing.len() > 1 {
        out.warn(&spec.field("tracing").index(1), "only the first entry acts");
    }
    for (index, tracing) in it.tracing.iter().enumerate() {
        let path = spec.field("tracing").index(index);
        if tracing.providers.len() > 1 {
            out.warn(&path.field("providers").index(1), "only the first provider gets spans");
        }
        custom_tags(&tracing.custom_tags, &path.field("customTags"), out);
    }
    for (index, logging) in it.access_logging.iter().enumerate() {
        let path = spec.field("accessLogging").index(index).field("filter").field("expression");
        if let Some(filter) = &logging.filter {
            note(out, rules::expression(&path, &filter.expression));
        }
    }
}

/// Tags added to spans, by name; MeshConfig has some too.
pub(super) fn custom_tags(tags: &BTreeMap<String, CustomTag>, path: &Path, out: &mut Validation) {
    for (name, tag) in tags {
        custom_tag(name, tag, &path.key(name), out);
    }
}

fn custom_tag(name: &str, tag: &CustomTag, path: &Path, out: &mut Validation) {
    if name.is_empty() {
        out.error(FieldError::invalid(path, name, "must have a name"));
    }
    if *tag == CustomTag::default() {
        out.error(FieldError::required(path, "one of literal, environment, header and formatter"));
    }
    if let Some(header) = &tag.header {
        note(out, rules::header_name(&path.field("header").field("name"), &header.name));
    }
    if let Some(formatter) = &tag.formatter {
        note(out, rules::format(&path.field("formatter").field("value"), &formatter.value));
    }
}
