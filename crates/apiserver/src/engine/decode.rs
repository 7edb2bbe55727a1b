//! From a request's body to an object of the wanted kind: kind and version, unknown fields, types.

use super::{Engine, Target};
use crate::schema::{Decoding, Findings};
use crate::status::{Result, Status};
use serde_json::{Value, json};

/// What to do about fields that the schema does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            "Ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

impl Engine {
    /// Checks and cleans a body. `duplicates` are the duplicate fields that its parser saw.
    pub(crate) fn decode(
        &self,
        target: &Target,
        mut body: Value,
        validation: FieldValidation,
        duplicates: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<Value> {
        let resource = &target.resource;
        let kind = &resource.kind;
        if !body.is_object() {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): it is not a JSON object"
            )));
        }
        self.check_kind(target, &mut body)?;
        let how = if resource.core.is_some() { Decoding::Core } else { Decoding::Custom };
        let Findings { unknown, mismatches } = self.kinds.schemas.decode(resource.schema, &mut body, how);
        let version = &target.version;
        let handled = |why: String| {
            Status::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
            ))
        };
        let in_metadata = mismatches.iter().find(|m| m.path.starts_with("metadata"));
        if let Some(first) = in_metadata.or(mismatches.first())
            && (resource.core.is_some() || in_metadata.is_some())
        {
            return Err(handled(first.go.clone()));
        }
        if !unknown.is_empty() || !duplicates.is_empty() {
            let mut problems: Vec<String> =
                duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
            problems.extend(unknown.iter().map(|(path, meant)| match meant {
                Some(meant) => format!("unknown field {path:?} (did you mean {meant:?}?)"),
                None => format!("unknown field {path:?}"),
            }));
            match validation {
                FieldValidation::Strict => {
                    return Err(handled(format!("strict decoding error: {}", problems.join(", "))));
                }
                FieldValidation::Warn => warnings.extend(problems),
                FieldValidation::Ignore => {}
            }
        }
        if !mismatches.is_empty() {
            let name = super::meta::name_of(&body).to_owned();
            let causes = mismatches.iter().map(crate::schema::Mismatch::cause).collect();
            return Err(Status::invalid(resource.about_kind(&name), causes));
        }
        Ok(body)
    }

    /// The kind and version must be those of the path; a core object may leave them out.
    fn check_kind(&self, target: &Target, body: &mut Value) -> Result<()> {
        let resource = &target.resource;
        let wanted = target.api_version();
        let given = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let (api_version, kind) = (given("apiVersion"), given("kind"));
        if resource.core.is_none() && (kind.is_empty() || api_version.is_empty()) {
            let missing = if kind.is_empty() { "Kind" } else { "apiVersion" };
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): Object '{missing}' is missing",
                resource.kind
            )));
        }
        if !kind.is_empty() && kind != resource.kind {
            return Err(Status::bad_request(format!(
                "{kind} in version {api_version:?} cannot be handled as a {}: the kind in the data ({kind}) does \
                 not match the expected kind ({})",
                resource.kind, resource.kind
            )));
        }
        if !api_version.is_empty() && api_version != wanted {
            return Err(Status::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
            )));
        }
        body["apiVersion"] = json!(wanted);
        body["kind"] = json!(resource.kind);
        Ok(())
    }
}
