//! Delete: preconditions, finalizers, propagation.

use super::meta::{arrange, finalizers, metadata, name_of, text, uid_of};
use super::read::ListOptions;
use super::{Engine, Target, stored};
use crate::kinds::Core;
use crate::status::{Result, Status};
use crate::store::{Compare, Op, Outcome};
use serde_json::{Value, json};

/// What happens to the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Propagation {
    #[default]
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub propagation: Propagation,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// What a deletion came to.
#[derive(Debug)]
pub enum Deleted {
    /// Gone; this is what it was.
    Gone(Value),
    /// Marked; finalizers hold it.
    Held(Value),
}

impl Deleted {
    pub fn object(&self) -> &Value {
        match self {
            Deleted::Gone(object) | Deleted::Held(object) => object,
        }
    }
}

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

impl Engine {
    pub async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Deleted> {
        let name = target.named()?;
        for _ in 0..10 {
            let record = self.record(target, name)?.ok_or_else(|| Self::not_found(target, name))?;
            let current = self.show_record(target, &record)?;
            self.delete_allowed(target, &current, options)?;
            let marked = self.marked(target, &current, options);
            let held = !finalizers(&marked).is_empty()
                || target.resource.core == Some(Core::Namespace) && has_spec_finalizers(&marked);
            if held && marked == current || options.dry_run {
                return Ok(if held { Deleted::Held(marked) } else { Deleted::Gone(current) });
            }
            let compare = vec![Compare { key: record.key.to_string(), modified: record.modified }];
            let value = stored(&marked);
            let mut then = Vec::new();
            if held {
                then.push(Op::Put(record.key.to_string(), value.clone()));
            } else {
                self.release(target, &current, &mut then);
                then.push(Op::Delete(record.key.to_string()));
            }
            match self.commit(compare, then).await? {
                Outcome::Done(revision) if held => {
                    return Ok(Deleted::Held(self.show(
                        &target.resource,
                        &target.version,
                        &value,
                        revision,
                    )?));
                }
                Outcome::Done(_) => return Ok(Deleted::Gone(current)),
                Outcome::Differs { .. } => {}
            }
        }
        Err(Status::modified(target.resource.about(name)))
    }

    fn delete_allowed(&self, target: &Target, current: &Value, options: &DeleteOptions) -> Result<()> {
        let name = name_of(current);
        let about = || target.resource.about(name);
        if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != uid_of(current)) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                uid_of(current)
            );
            return Err(Status::conflict(about(), why));
        }
        let now = text(current, "/metadata/resourceVersion");
        if let Some(version) = options.resource_version.as_deref().filter(|version| *version != now) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {now}"
            );
            return Err(Status::conflict(about(), why));
        }
        let kept = ["default", "kube-system", "kube-public"];
        if target.resource.core == Some(Core::Namespace) && kept.contains(&name) {
            return Err(Status::forbidden(about(), "this namespace may not be deleted"));
        }
        Ok(())
    }

    /// The object with the marks of its deletion.
    fn marked(&self, target: &Target, current: &Value, options: &DeleteOptions) -> Value {
        let mut object = current.clone();
        let deleting = current.pointer("/metadata/deletionTimestamp").is_some();
        let now = self.timestamp();
        let generation = current.pointer("/metadata/generation").and_then(Value::as_i64);
        let mut held = finalizers(current);
        let wanted = match options.propagation {
            Propagation::Background => None,
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Orphan => Some(ORPHAN),
        };
        if let Some(wanted) = wanted.filter(|wanted| !held.iter().any(|f| f == wanted)) {
            held.push(wanted.to_owned());
        }
        let namespace = target.resource.core == Some(Core::Namespace);
        if held.is_empty() && !(namespace && has_spec_finalizers(current)) {
            return object;
        }
        let meta = metadata(&mut object);
        if !held.is_empty() {
            meta.insert("finalizers".into(), json!(held));
        }
        if !deleting {
            meta.insert("deletionTimestamp".into(), json!(now));
            if !namespace {
                meta.insert("deletionGracePeriodSeconds".into(), json!(0));
            }
            if let Some(generation) = generation {
                meta.insert("generation".into(), json!(generation + 1));
            }
        }
        if namespace {
            object["status"]["phase"] = json!("Terminating");
        }
        arrange(&mut object);
        object
    }

    /// Deletes everything that the list finds; the list as it was.
    pub async fn delete_collection(
        &self,
        target: &Target,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<super::List> {
        let found = self.list(target, list)?;
        for object in &found.items {
            let one = Target {
                name: Some(name_of(object).to_owned()),
                namespace: target.resource.namespaced.then(|| super::meta::namespace_of(object).to_owned()),
                ..target.clone()
            };
            match self.delete(&one, options).await {
                Err(status) if status.reason != "NotFound" => return Err(status),
                _ => {}
            }
        }
        Ok(found)
    }
}

fn has_spec_finalizers(object: &Value) -> bool {
    object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}
