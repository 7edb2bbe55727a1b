//! Get and list.

use super::{Engine, Target, store_error};
use crate::selector::{Fields, Labels};
use crate::status::{Cause, Result, Status};
use crate::store::{Range, Revision};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// How `resourceVersion` binds a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub labels: Labels,
    pub fields: Fields,
    /// 0 for no limit.
    pub limit: usize,
    pub continue_token: String,
    /// As the client wrote it.
    pub resource_version: String,
    pub version_match: Option<VersionMatch>,
}

/// A page of objects.
#[derive(Debug)]
pub struct List {
    pub items: Vec<Value>,
    pub revision: Revision,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl ListOptions {
    pub(crate) fn revision(&self) -> Result<Option<Revision>> {
        parse_revision(&self.resource_version)
            .map_err(|why| Status::bad_request(format!("invalid resource version: resourceVersion: {why}")))
    }

    /// What the real server refuses about the combination of options.
    pub(crate) fn validate(&self, resource: &super::Resource) -> Result<()> {
        let mut causes = Vec::new();
        if self.version_match.is_some() && self.resource_version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            causes.push(Cause::forbidden("resourceVersionMatch", why));
        }
        if self.version_match.is_some() && !self.continue_token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            causes.push(Cause::forbidden("resourceVersionMatch", why));
        }
        if self.version_match == Some(VersionMatch::Exact) && self.resource_version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.push(Cause::forbidden("resourceVersionMatch", why));
        }
        if causes.is_empty() {
            return Ok(());
        }
        let mut about = resource.about_kind("");
        about.group = "meta.k8s.io".into();
        about.kind = "ListOptions".into();
        Err(Status::invalid(about, causes))
    }
}

pub(crate) fn parse_revision(text: &str) -> Result<Option<Revision>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(revision) => Ok(Some(revision)),
        Err(_) => {
            Err(format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
        }
    }
}

/// Where a list goes on.
struct Token {
    /// `None` goes on with the present.
    revision: Option<Revision>,
    after: String,
}

impl Token {
    fn encode(&self) -> String {
        let revision = self.revision.map_or(-1, Revision::cast_signed);
        let token = json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": self.after });
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("it is not base64"))?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        let revision = token["rv"].as_i64().ok_or_else(|| bad("it has no revision"))?;
        let after = token["start"].as_str().ok_or_else(|| bad("it has no start"))?;
        if token["v"] != "meta.k8s.io/v1" || after.contains("..") {
            return Err(bad("the server does not recognize its version or start"));
        }
        Ok(Self { revision: Revision::try_from(revision).ok(), after: after.to_owned() })
    }
}

impl Engine {
    pub fn get(&self, target: &Target) -> Result<Value> {
        let name = target.named()?;
        let record = self.record(target, name)?.ok_or_else(|| Self::not_found(target, name))?;
        self.show_record(target, &record)
    }

    /// The same, or `None`.
    pub fn find(&self, target: &Target) -> Result<Option<Value>> {
        let name = target.named()?;
        self.record(target, name)?.map(|record| self.show_record(target, &record)).transpose()
    }

    pub fn list(&self, target: &Target, options: &ListOptions) -> Result<List> {
        options.validate(&target.resource)?;
        let token = match options.continue_token.as_str() {
            "" => None,
            text => Some(Token::decode(text)?),
        };
        let prefix = target.resource.prefix(target.namespace.as_deref());
        let mut range = Range { prefix: prefix.clone(), ..Range::default() };
        let asked = if token.is_some() { None } else { options.revision()? };
        match &token {
            Some(token) => {
                range.at = token.revision;
                range.after = Some(format!("{prefix}{}", token.after));
            }
            None => range.at = self.read_at(options, asked)?,
        }
        if let Some(name) = options.fields.name()
            && (target.namespace.is_some() || !target.resource.namespaced)
        {
            range.prefix = format!("{prefix}{name}");
        }
        self.pages(target, options, range, &prefix).map_err(|mut status| {
            if status.code == 410 && token.is_some() {
                status.message = EXPIRED_TOKEN.into();
                let after = token.map(|token| token.after).unwrap_or_default();
                status.continue_token = Some(Token { revision: None, after }.encode());
            }
            status
        })
    }

    /// The revision to read: `None` for the present.
    fn read_at(&self, options: &ListOptions, asked: Option<Revision>) -> Result<Option<Revision>> {
        let Some(asked) = asked.filter(|asked| *asked != 0) else { return Ok(None) };
        let exact = match options.version_match {
            Some(rule) => rule == VersionMatch::Exact,
            None => options.limit > 0,
        };
        if exact {
            return Ok(Some(asked));
        }
        let current = self.store.revision();
        if asked > current { Err(Status::revision_too_large(asked, current)) } else { Ok(None) }
    }

    fn pages(&self, target: &Target, options: &ListOptions, mut range: Range, prefix: &str) -> Result<List> {
        let selecting = !options.labels.is_empty() || !options.fields.is_empty();
        let mut items = Vec::new();
        loop {
            range.limit = if options.limit == 0 { 0 } else { options.limit - items.len() };
            if selecting && range.limit > 0 {
                range.limit = range.limit.max(100);
            }
            let page = self.store.range(&range).map_err(store_error)?;
            range.at.get_or_insert(page.revision);
            let total = page.records.len();
            for (index, record) in page.records.iter().enumerate() {
                let object = self.show_record(target, record)?;
                if options.labels.matches(&object) && options.fields.matches(&object) {
                    items.push(object);
                }
                let remaining = page.remaining + total - index - 1;
                if options.limit > 0 && items.len() == options.limit && remaining > 0 {
                    let after = record.key.strip_prefix(prefix).unwrap_or_default().to_owned();
                    let token = Token { revision: Some(page.revision), after };
                    return Ok(List {
                        items,
                        revision: page.revision,
                        continue_token: Some(token.encode()),
                        remaining: (!selecting).then_some(remaining),
                    });
                }
            }
            if page.remaining == 0 {
                let revision = page.revision;
                return Ok(List { items, revision, continue_token: None, remaining: None });
            }
            range.after = page.records.last().map(|record| record.key.to_string());
        }
    }
}

const EXPIRED_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. You \
                             can start a new list without the continue parameter, or use the continue token in this \
                             response to retrieve the remainder of the results. Continuing with the provided token \
                             results in an inconsistent list - objects that were created, modified, or deleted \
                             between the time the first chunk was returned and now may show up in the list.";
