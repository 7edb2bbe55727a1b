//! Telemetry.

use super::rules;
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
        for (name, tag) in &tracing.custom_tags {
            custom_tag(name, tag, &path.field("customTags").key(name), out);
        }
    }
    for (index, logging) in it.access_logging.iter().enumerate() {
        let path = spec.field("accessLogging").index(index).field("filter").field("expression");
        if logging.filter.as_ref().is_some_and(|filter| filter.expression.trim().is_empty()) {
            let error = FieldError::required(&path, "a CEL expression");
            out.error(error.hint("such as \"response.code >= 400\""));
        }
    }
}

fn custom_tag(name: &str, tag: &CustomTag, path: &Path, out: &mut Validation) {
    if name.is_empty() {
        out.error(FieldError::invalid(path, name, "must have a name"));
    }
    if *tag == CustomTag::default() {
        out.error(FieldError::required(path, "one of literal, environment and header"));
    }
}
