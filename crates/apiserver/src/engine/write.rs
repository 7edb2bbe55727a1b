//! Create, update, patch and apply.

use super::meta::{self, arrange, finalizers, metadata, name_of, namespace_of, text, uid_of};
use super::{Engine, Part, Target, WriteOptions, stored, strategy};
use crate::fields::{self, Request};
use crate::kinds::Core;
use crate::patch::{PatchKind, patch};
use crate::status::{Cause, Result, Status};
use crate::store::{Compare, Op, Outcome, Record};
use serde_json::{Value, json};

/// How often a write is tried again when somebody else was faster and the caller named no version.
const TRIES: usize = 10;

/// What a write came to.
#[derive(Debug)]
pub struct Written {
    pub object: Value,
    pub created: bool,
    pub warnings: Vec<String>,
}

/// A patch as it came.
#[derive(Clone, Debug)]
pub struct Patch {
    pub kind: PatchKind,
    pub body: Value,
    pub duplicates: Vec<String>,
}

/// What an update turns the current object into.
enum Change<'a> {
    Replace(&'a Value),
    Patch(&'a Patch),
}

impl Engine {
    fn request<'a>(
        &self,
        target: &'a Target,
        options: &'a WriteOptions,
        api: &'a str,
        now: &'a str,
    ) -> Request<'a> {
        Request {
            manager: &options.manager,
            api_version: api,
            subresource: if target.part == Part::Status { "status" } else { "" },
            now,
            status_apart: target.resource.status,
        }
    }

    /// Stores a new object.
    pub async fn create(
        &self,
        target: &Target,
        body: Value,
        duplicates: &[String],
        options: &WriteOptions,
    ) -> Result<Written> {
        let mut warnings = Vec::new();
        let mut object = self.decode(target, body, options.validation, duplicates, &mut warnings)?;
        self.place(target, &mut object)?;
        if !text(&object, "/metadata/resourceVersion").is_empty() {
            return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        for attempt in 0..TRIES {
            let mut object = object.clone();
            let namespace = self.open_namespace(target, &object)?;
            if name_of(&object).is_empty() && !text(&object, "/metadata/generateName").is_empty() {
                let base: String = text(&object, "/metadata/generateName").chars().take(58).collect();
                metadata(&mut object).insert("name".into(), json!(format!("{base}{}", meta::suffix())));
            }
            self.fill(target, &mut object);
            let (api, now) = (target.api_version(), self.timestamp());
            let zero = strategy::zero(&target.resource);
            let request = self.request(target, options, &api, &now);
            fields::update(&self.kinds.schemas, target.resource.schema, &zero, &mut object, &request);
            self.prepare_create(target, &mut object);
            self.validate(target, &object, None, &mut warnings)?;
            let last = attempt + 1 == TRIES;
            if let Some(object) = self.insert(target, object, namespace.as_ref(), options, last).await? {
                return Ok(Written { object, created: true, warnings });
            }
        }
        Err(Status::modified(target.resource.about(name_of(&object))))
    }

    /// The namespace and name of the path go into the object, or must agree with it.
    fn place(&self, target: &Target, object: &mut Value) -> Result<()> {
        metadata(object);
        let given = namespace_of(object).to_owned();
        match &target.namespace {
            Some(namespace) if target.resource.namespaced => {
                if !given.is_empty() && given != *namespace {
                    return Err(Status::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
                metadata(object).insert("namespace".into(), json!(namespace));
            }
            _ => {
                metadata(object).shift_remove("namespace");
            }
        }
        if let Some(name) = &target.name {
            let given = name_of(object).to_owned();
            if given.is_empty() {
                metadata(object).insert("name".into(), json!(name));
            } else if given != *name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({given}) does not match the name on the URL ({name})"
                )));
            }
        }
        Ok(())
    }

    /// The record of the namespace that an object goes into; it must exist and not be on its way out.
    fn open_namespace(&self, target: &Target, object: &Value) -> Result<Option<Record>> {
        let Some(namespace) = target.namespace.as_deref().filter(|_| target.resource.namespaced) else {
            return Ok(None);
        };
        let namespaces = Target::of(self.kinds.core(Core::Namespace), None, namespace);
        let Some(record) = self.record(&namespaces, namespace)? else {
            return Err(Self::not_found(&namespaces, namespace));
        };
        let current = self.show_record(&namespaces, &record)?;
        if current.pointer("/metadata/deletionTimestamp").is_some() {
            let about = target.resource.about(name_of(object));
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut status = Status::forbidden(about, why);
            status.causes.push(Cause {
                reason: "NamespaceTerminating",
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            return Err(status);
        }
        Ok(Some(record))
    }

    /// What is filled in by default, before it is known who owns which field.
    fn fill(&self, target: &Target, object: &mut Value) {
        if target.resource.core.is_none() {
            self.kinds.schemas.fill_defaults(target.resource.schema, object);
        }
        strategy::defaults(&target.resource, object);
    }

    /// What only the server says of a new object.
    fn prepare_create(&self, target: &Target, object: &mut Value) {
        let now = self.timestamp();
        let meta = metadata(object);
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            meta.shift_remove(key);
        }
        meta.insert("uid".into(), json!(meta::new_uid()));
        meta.insert("creationTimestamp".into(), json!(now));
        if target.resource.counts_generations() {
            meta.insert("generation".into(), json!(1));
        }
        if target.resource.status
            && let Some(map) = object.as_object_mut()
        {
            map.shift_remove("status");
        }
        strategy::prepare_create(&target.resource, object);
        arrange(object);
    }

    fn validate(
        &self,
        target: &Target,
        object: &Value,
        old: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let mut causes = Vec::new();
        meta::validate(&target.resource, object, &mut causes);
        if target.part == Part::Whole {
            if target.resource.core.is_none() {
                let root = crate::schema::Path::Root;
                self.kinds.schemas.judge(target.resource.schema, object, &root, &mut causes);
                strategy::hint(&target.resource, object, &mut causes);
            }
            if causes.is_empty() || target.resource.core.is_some() {
                strategy::validate(&target.resource, object, old, &mut causes, warnings);
            }
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(target.resource.about_kind(name_of(object)), causes))
    }

    /// Writes a new object. `None` when it lost a race and should be made anew.
    async fn insert(
        &self,
        target: &Target,
        mut object: Value,
        namespace: Option<&Record>,
        options: &WriteOptions,
        last: bool,
    ) -> Result<Option<Value>> {
        let name = name_of(&object).to_owned();
        let key = target.key(&name);
        let mut compare = vec![Compare { key: key.clone(), modified: 0 }];
        compare.extend(
            namespace.map(|record| Compare { key: record.key.to_string(), modified: record.modified }),
        );
        let mut then = Vec::new();
        self.allocate(target, None, &mut object, &mut compare, &mut then)?;
        let exists = || Status::already_exists(target.resource.about(&name));
        if options.dry_run {
            if self.record(target, &name)?.is_some() {
                return Err(exists());
            }
            return Ok(Some(object));
        }
        let value = stored(&object);
        then.push(Op::Put(key.clone(), value.clone()));
        match self.commit(compare, then).await? {
            Outcome::Done(revision) => {
                Ok(Some(self.show(&target.resource, &target.version, &value, revision)?))
            }
            Outcome::Differs { key: other, .. } if other != key && !last => Ok(None),
            Outcome::Differs { .. } if text(&object, "/metadata/generateName").is_empty() || last => {
                Err(exists())
            }
            Outcome::Differs { .. } => Ok(None),
        }
    }

    /// Replaces an object.
    pub async fn update(
        &self,
        target: &Target,
        body: Value,
        duplicates: &[String],
        options: &WriteOptions,
    ) -> Result<Written> {
        let mut warnings = Vec::new();
        let mut object = self.decode(target, body, options.validation, duplicates, &mut warnings)?;
        self.place(target, &mut object)?;
        let change = Change::Replace(&object);
        self.change(target, &change, options, warnings).await
    }

    /// Patches an object; an apply makes it when it is not there.
    pub async fn patch(&self, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written> {
        if patch.kind == PatchKind::Apply && target.part == Part::Whole && self.find(target)?.is_none() {
            return match self.apply_new(target, patch, options).await {
                Err(status) if status.reason == "AlreadyExists" => {
                    self.change(target, &Change::Patch(patch), options, Vec::new()).await
                }
                other => other,
            };
        }
        self.change(target, &Change::Patch(patch), options, Vec::new()).await
    }

    async fn apply_new(&self, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Written> {
        let mut warnings = Vec::new();
        let config = self.configuration(target, patch, options, &mut warnings)?;
        for attempt in 0..TRIES {
            let namespace = self.open_namespace(target, &config)?;
            let (api, now) = (target.api_version(), self.timestamp());
            let request = self.request(target, options, &api, &now);
            let zero = json!({ "metadata": {} });
            let ready = |object: &mut Value| {
                self.fill(target, object);
                self.prepare_create(target, object);
            };
            let schema = target.resource.schema;
            let applied =
                fields::apply(&self.kinds.schemas, schema, &zero, &config, &request, options.force, ready)?;
            let mut object = applied.object.clone();
            self.validate(target, &object, None, &mut warnings)?;
            applied.finish(&mut object);
            let last = attempt + 1 == TRIES;
            if let Some(object) = self.insert(target, object, namespace.as_ref(), options, last).await? {
                return Ok(Written { object, created: true, warnings });
            }
        }
        Err(Status::modified(target.resource.about(name_of(&config))))
    }

    /// The body of an apply, checked.
    fn configuration(
        &self,
        target: &Target,
        patch: &Patch,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value> {
        let given = |key: &str| patch.body.get(key).and_then(Value::as_str).unwrap_or("");
        if given("apiVersion").is_empty() || given("kind").is_empty() {
            let missing = if given("kind").is_empty() { "Kind" } else { "apiVersion" };
            return Err(Status::bad_request(format!(
                "Object '{missing}' is missing in the applied configuration"
            )));
        }
        if patch.body.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let mut unknown = Vec::new();
        let mut config =
            self.decode(target, patch.body.clone(), options.validation, &patch.duplicates, &mut unknown)?;
        if let Some(field) = unknown.iter().find_map(|warning| warning.strip_prefix("unknown field ")) {
            let (group, name) = (&target.resource.group, name_of(&config));
            return Err(Status::new(
                500,
                "",
                format!(
                    "failed to create typed patch object ({}/{name}; {group}/{}, Kind={}): .{}: field not declared in schema",
                    namespace_of(&config),
                    target.version,
                    target.resource.kind,
                    field.split('"').nth(1).unwrap_or(field)
                ),
            ));
        }
        warnings.extend(unknown);
        self.place(target, &mut config)?;
        Ok(config)
    }

    async fn change(
        &self,
        target: &Target,
        change: &Change<'_>,
        options: &WriteOptions,
        warnings: Vec<String>,
    ) -> Result<Written> {
        let name = target.named()?;
        for _ in 0..TRIES {
            let mut warnings = warnings.clone();
            let record = self.record(target, name)?.ok_or_else(|| Self::not_found(target, name))?;
            let current = self.show_record(target, &record)?;
            let (mut new, pinned) = self.changed(target, change, &current, options, &mut warnings)?;
            arrange(&mut new);
            if new == current {
                return Ok(Written { object: current, created: false, warnings });
            }
            let mut compare = vec![Compare { key: record.key.to_string(), modified: record.modified }];
            let mut then = Vec::new();
            self.allocate(target, Some(&current), &mut new, &mut compare, &mut then)?;
            if options.dry_run {
                return Ok(Written { object: new, created: false, warnings });
            }
            let value = stored(&new);
            if finished(target, &new) {
                self.release(target, &new, &mut then);
                then.push(Op::Delete(record.key.to_string()));
            } else {
                then.push(Op::Put(record.key.to_string(), value.clone()));
            }
            match self.commit(compare, then).await? {
                Outcome::Done(revision) => {
                    let object = self.show(&target.resource, &target.version, &value, revision)?;
                    return Ok(Written { object, created: false, warnings });
                }
                Outcome::Differs { .. } if pinned => break,
                Outcome::Differs { .. } => {}
            }
        }
        Err(Status::modified(target.resource.about(name)))
    }

    /// The object as it is to be stored, and whether the caller named the version it changes.
    fn changed(
        &self,
        target: &Target,
        change: &Change<'_>,
        current: &Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(Value, bool)> {
        let (api, now) = (target.api_version(), self.timestamp());
        let request = self.request(target, options, &api, &now);
        let (schemas, schema) = (&self.kinds.schemas, target.resource.schema);
        if let Change::Patch(apply) = change
            && apply.kind == PatchKind::Apply
        {
            let config = self.configuration(target, apply, options, warnings)?;
            let pinned = self.preconditions(target, current, &config, true)?;
            let ready = |object: &mut Value| self.prepare_update(target, current, object);
            let applied = fields::apply(schemas, schema, current, &config, &request, options.force, ready)?;
            let mut new = applied.object.clone();
            self.validate(target, &new, Some(current), warnings)?;
            applied.finish(&mut new);
            return Ok((new, pinned));
        }
        let mut new = match change {
            Change::Replace(object) => (*object).clone(),
            Change::Patch(given) => {
                let patched = patch(given.kind, schemas, schema, current, &given.body)?;
                let mut object =
                    self.decode(target, patched, options.validation, &given.duplicates, warnings)?;
                self.place(target, &mut object)?;
                object
            }
        };
        let pinned = self.preconditions(target, current, &new, matches!(change, Change::Patch(_)))?;
        self.prepare_update(target, current, &mut new);
        self.validate(target, &new, Some(current), warnings)?;
        fields::update(schemas, schema, current, &mut new, &request);
        Ok((new, pinned))
    }

    /// A version or UID that the caller names must be the current one.
    fn preconditions(&self, target: &Target, current: &Value, new: &Value, patched: bool) -> Result<bool> {
        let name = name_of(current);
        let version = text(new, "/metadata/resourceVersion");
        let pinned = !version.is_empty() && version != "0";
        if pinned && version != text(current, "/metadata/resourceVersion") {
            return Err(Status::modified(target.resource.about(name)));
        }
        let uid = uid_of(new);
        if !uid.is_empty() && uid != uid_of(current) && patched {
            let cause = Cause::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(Status::invalid(target.resource.about_kind(name), vec![cause]));
        }
        if !uid.is_empty() && uid != uid_of(current) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                uid_of(current)
            );
            return Err(Status::conflict(target.resource.about(name), why));
        }
        Ok(pinned)
    }

    /// What an update may not touch is taken from the current object.
    fn prepare_update(&self, target: &Target, current: &Value, new: &mut Value) {
        let resource = &target.resource;
        if target.part == Part::Status {
            let status = new.get("status").cloned();
            let managed = new.pointer("/metadata/managedFields").cloned();
            *new = current.clone();
            set_or_remove(new, "status", status);
            if let Some(managed) = managed {
                metadata(new).insert("managedFields".into(), managed);
            }
        } else if target.part == Part::Finalize {
            let finalizers = new.pointer("/spec/finalizers").cloned();
            *new = current.clone();
            if !new.get("spec").is_some_and(Value::is_object) {
                new["spec"] = json!({});
            }
            set_or_remove(&mut new["spec"], "finalizers", finalizers);
        } else if resource.status {
            set_or_remove(new, "status", current.get("status").cloned());
        }
        let old = current.get("metadata").cloned().unwrap_or_default();
        let meta = metadata(new);
        for key in [
            "name",
            "generateName",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "selfLink",
        ] {
            match old.get(key) {
                Some(value) => meta.insert(key.into(), value.clone()),
                None => meta.shift_remove(key),
            };
        }
        if target.part == Part::Whole {
            strategy::prepare_update(resource, current, new);
            self.fill(target, new);
            strategy::settle(resource, new);
        }
        if resource.counts_generations()
            && specified(resource.status, current) != specified(resource.status, new)
        {
            let generation = current.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(new).insert("generation".into(), json!(generation + 1));
        }
        arrange(new);
    }
}

fn set_or_remove(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.shift_remove(key),
    };
}

/// What counts for the generation: all but metadata, and status where that is a subresource.
fn specified(status_apart: bool, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.retain(|key, _| !matches!(key.as_str(), "metadata" | "apiVersion" | "kind"));
        if status_apart {
            map.shift_remove("status");
        }
    }
    object
}

/// Whether nothing holds an object back any more that is being deleted.
fn finished(target: &Target, object: &Value) -> bool {
    let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
    let held = !finalizers(object).is_empty()
        || object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|l| !l.is_empty())
            && target.resource.core == Some(Core::Namespace);
    deleting && !held
}
