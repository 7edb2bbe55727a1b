//! One request: which document or which verb, and the answer.

use super::Api;
use super::access::{Attributes, User};
use super::request::{Form, Query, ResourcePath, form};
use super::respond::{self, Body};
use super::{discovery, openapi_v2, request, watch};
use crate::engine::{
    DeleteOptions, Deleted, FieldValidation, ListOptions, Part, Patch, Propagation, Target, VersionMatch,
    WatchOptions, WriteOptions,
};
use crate::kinds::{Core, Resource};
use crate::patch::PatchKind;
use crate::selector::{Fields, Labels};
use crate::status::{Result, Status};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Answers a request; refusals become `Status` bodies here and nowhere else.
pub(super) async fn handle(api: Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    match route(&api, request).await {
        Ok(response) => response,
        Err(status) => {
            if status.code >= 500 {
                tracing::warn!(code = status.code, message = %status.message, "request failed");
            }
            respond::status(&status)
        }
    }
}

/// A request with what was found out about it.
pub(super) struct Call<'a> {
    pub(super) api: &'a Arc<Api>,
    user: User,
    method: Method,
    headers: HeaderMap,
    query: Query,
    form: Form,
}

async fn route(api: &Arc<Api>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if matches!(path.as_str(), "/healthz" | "/livez" | "/readyz") {
        return Ok(respond::text(200, "ok"));
    }
    if path == "/version" {
        return Ok(respond::json_value(200, &version()));
    }
    let user = api.user(&head.headers)?;
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if let Some(response) = documents(api, &path, accept, &head.method)? {
        return Ok(response);
    }
    let Some(place) = ResourcePath::parse(&path) else {
        return Ok(respond::text(404, "404 page not found\n"));
    };
    let call = Call {
        api,
        user,
        method: head.method,
        query: Query::parse(head.uri.query()),
        form: form(accept)?,
        headers: head.headers,
    };
    call.resource(place, body).await
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": format!("v1.37.2+mizzen-{}", crate::VERSION),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of an oversized body is read before the answer.
const THROWN_AWAY: usize = 64 << 20;
/// The API group of policies: who writes one is put on record.
const POLICIES: &str = "security.istio.io";

/// What kubectl writes some core kinds in.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The documents that are no resources.
fn documents(api: &Arc<Api>, path: &str, accept: &str, method: &Method) -> Result<Option<Response<Body>>> {
    let kinds = &api.engine.kinds;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let plain = |value: Value| Ok(Some(respond::json_value(200, &value)));
    let known = matches!(
        parts.as_slice(),
        [""] | ["api" | "apis"]
            | ["api" | "apis", _]
            | ["apis", _, _]
            | ["openapi", ..]
            | ["openid", ..]
            | [".well-known", ..]
    );
    if !known {
        return Ok(None);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::method_not_allowed());
    }
    match parts.as_slice() {
        [""] => plain(
            json!({ "paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3",
            "/openid/v1/jwks", "/readyz", "/version"] }),
        ),
        [top @ ("api" | "apis")] => {
            if form(accept)? == Form::Discovery {
                let value = discovery::aggregated(kinds, *top == "api");
                let bytes = serde_json::to_vec(&value).unwrap_or_default();
                return Ok(Some(respond::json_bytes(200, bytes, DISCOVERY)));
            }
            plain(if *top == "api" { discovery::api_versions("") } else { discovery::groups(kinds) })
        }
        ["api", version] => found(discovery::resources(kinds, "", version)),
        ["apis", group] => found(discovery::group(kinds, group)),
        ["apis", group, version] => found(discovery::resources(kinds, group, version)),
        ["openapi", "v3"] => plain(openapi(api).index()),
        ["openapi", "v3", rest @ ..] => match openapi(api).get(&rest.join("/")) {
            Some(bytes) => Ok(Some(respond::json_bytes(200, bytes, "application/json"))),
            None => Ok(Some(respond::text(404, "404 page not found\n"))),
        },
        ["openapi", "v2"] => {
            if accept
                .split([',', ';'])
                .any(|media| [openapi_v2::ASKED, openapi_v2::ANSWERED].contains(&media.trim()))
            {
                let bytes = openapi(api).v2_protobuf.clone();
                return Ok(Some(respond::json_bytes(200, bytes, openapi_v2::ANSWERED)));
            }
            form(accept)?;
            Ok(Some(respond::json_bytes(200, openapi(api).v2.clone(), "application/json")))
        }
        ["openid", "v1", "jwks"] => plain(api.keys.jwks()),
        [".well-known", "openid-configuration"] => plain(json!({
            "issuer": crate::keys::ISSUER, "jwks_uri": format!("{}/openid/v1/jwks", crate::keys::ISSUER),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })),
        _ => Ok(None),
    }
}

fn openapi(api: &Arc<Api>) -> &super::openapi::Documents {
    api.documents.get_or_init(|| super::openapi::Documents::new(&api.engine.kinds))
}

fn found(document: Option<Value>) -> Result<Option<Response<Body>>> {
    Ok(Some(match document {
        Some(value) => respond::json_value(200, &value),
        None => respond::text(404, "404 page not found\n"),
    }))
}

/// What is wrong with the options of a write.
fn bad_option(options: &str, field: &str, given: &Value, allowed: &[&str]) -> Box<Status> {
    Status::invalid(options_about(options), vec![crate::status::Cause::unsupported(field, given, allowed)])
}

fn dry_run(text: &str, options: &str) -> Result<bool> {
    match text {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(bad_option(options, "dryRun", &json!([other]), &["All"])),
    }
}

impl Call<'_> {
    fn now(&self) -> i64 {
        i64::try_from(self.api.seconds()).unwrap_or(0)
    }

    pub(super) fn is(&self, method: &Method) -> bool {
        self.method == method
    }

    fn verb(&self, place: &ResourcePath) -> &'static str {
        let named = place.name.is_some();
        match self.method {
            Method::GET | Method::HEAD if self.query.flag("watch") => "watch",
            Method::GET | Method::HEAD if named => "get",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            _ => "deletecollection",
        }
    }

    async fn resource(&self, place: ResourcePath, body: Incoming) -> Result<Response<Body>> {
        let verb = self.verb(&place);
        self.user.authorize(&Attributes {
            verb,
            group: &place.group,
            resource: &place.plural,
            part: place.part.as_deref().unwrap_or(""),
            namespace: place.namespace.as_deref(),
            name: place.name.as_deref().unwrap_or(""),
        })?;
        let kinds = &self.api.engine.kinds;
        let Some(resource) = kinds.find(&place.group, &place.version, &place.plural).cloned() else {
            return self.unstored(&place, body).await;
        };
        let part = match (place.part.as_deref(), resource.core) {
            (None, _) => Part::Whole,
            (Some("status"), _) if resource.status => Part::Status,
            (Some("finalize"), Some(Core::Namespace)) => Part::Finalize,
            (Some("token"), Some(Core::ServiceAccount)) => return self.token(&place, body).await,
            (Some("scale"), _) if resource.scales() => {
                let target = Target {
                    resource,
                    version: place.version,
                    namespace: place.namespace,
                    name: place.name,
                    part: Part::Whole,
                };
                return self.scale(&target, body).await;
            }
            _ => return Err(Status::no_such_resource()),
        };
        if resource.namespaced != place.namespace.is_some() && (place.name.is_some() || !resource.namespaced)
        {
            return Err(Status::no_such_resource());
        }
        let target =
            Target { resource, version: place.version, namespace: place.namespace, name: place.name, part };
        let answer = match verb {
            "watch" => self.watch(&target),
            "list" => self.list(&target),
            "get" => {
                let object = self.api.engine.get(&target)?;
                Ok(self.object(200, &target.resource, object))
            }
            "create"
                if target.name.is_none() && !(target.resource.namespaced && target.namespace.is_none()) =>
            {
                self.create(&target, body).await
            }
            "update" if target.name.is_some() => self.update(&target, body).await,
            "patch" if target.name.is_some() => self.patch(&target, body).await,
            "delete" if part == Part::Whole => self.delete(&target, body).await,
            "deletecollection" if self.is(&Method::DELETE) => self.delete_collection(&target, body).await,
            _ => Err(Status::method_not_allowed()),
        };
        if !matches!(verb, "watch" | "list" | "get") && part == Part::Whole {
            self.audit(verb, &target, answer.as_ref().err().map(|status| status.as_ref()));
        }
        answer
    }

    /// Who wrote a policy, or tried to. What came of it for proxies is the control plane's to say.
    fn audit(&self, verb: &str, target: &Target, refused: Option<&Status>) {
        if target.resource.group != POLICIES {
            return;
        }
        tracing::info!(
            target: "audit",
            event = if refused.is_some() { "policy.write-refused" } else { "policy.written" },
            user = self.user.name,
            verb,
            kind = %target.resource.kind,
            namespace = target.namespace.as_deref().unwrap_or_default(),
            name = target.name.as_deref().unwrap_or_default(),
        );
    }

    fn object(&self, code: u16, resource: &Resource, object: Value) -> Response<Body> {
        respond::object(code, resource, object, self.form, &self.query, self.now())
    }

    /// Resources that are only asked.
    async fn unstored(&self, place: &ResourcePath, body: Incoming) -> Result<Response<Body>> {
        let review = discovery::REVIEWS.iter().find(|(group, plural, ..)| {
            *group == place.group && *plural == place.plural && place.version == "v1"
        });
        match review {
            Some((_, _, kind, _)) if self.is(&Method::POST) && place.name.is_none() => {
                let (body, _) = self.body(body, kind).await?;
                Ok(respond::json_value(201, &self.api.answer(kind, &self.user, body)?))
            }
            Some(_) => Err(Status::method_not_allowed()),
            None if self
                .api
                .engine
                .kinds
                .groups()
                .get(&place.group)
                .is_some_and(|v| v.contains(&place.version))
                || (place.group.is_empty() && place.version == "v1") =>
            {
                Err(Status::no_such_resource())
            }
            None => Ok(respond::text(404, "404 page not found\n")),
        }
    }

    async fn token(&self, place: &ResourcePath, body: Incoming) -> Result<Response<Body>> {
        if !self.is(&Method::POST) {
            return Err(Status::method_not_allowed());
        }
        let (body, _) = self.body(body, "TokenRequest").await?;
        let (namespace, name) =
            (place.namespace.as_deref().unwrap_or(""), place.name.as_deref().unwrap_or(""));
        Ok(respond::json_value(201, &self.api.token_request(namespace, name, &body)?))
    }

    pub(super) async fn bytes(&self, body: Incoming) -> Result<Bytes> {
        read(body, self.api.max_body).await
    }

    pub(super) fn content_type(&self) -> String {
        let value =
            self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    /// A body in JSON or YAML, and its duplicate fields.
    pub(super) async fn body(&self, body: Incoming, kind: &str) -> Result<(Value, Vec<String>)> {
        let content_type = self.content_type();
        let yaml = match content_type.as_str() {
            "application/json" | "" => false,
            "application/yaml" => true,
            PROTOBUF => return Ok((super::protobuf::decode(&self.bytes(body).await?, kind)?, Vec::new())),
            _ => {
                return Err(Status::unsupported_media_type(&[
                    "application/json",
                    "application/yaml",
                    PROTOBUF,
                ]));
            }
        };
        let bytes = self.bytes(body).await?;
        parse(&bytes, yaml, kind)
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions> {
        let options = match self.method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            _ => "PatchOptions",
        };
        let validation = self.query.get("fieldValidation");
        let given = self.query.get("fieldManager");
        if given.len() > 128 || given.chars().any(char::is_control) {
            return Err(Status::bad_request(
                "fieldManager: Invalid value: may be at most 128 printable characters",
            ));
        }
        let agent = self.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let agent: String = agent.split('/').next().unwrap_or("").chars().take(128).collect();
        let manager = match (given, agent.is_empty()) {
            ("", true) => "unknown".to_owned(),
            ("", false) => agent,
            (given, _) => given.to_owned(),
        };
        Ok(WriteOptions {
            dry_run: dry_run(self.query.get("dryRun"), options)?,
            manager,
            validation: FieldValidation::parse(validation).ok_or_else(|| {
                bad_option(options, "fieldValidation", &json!(validation), &["", "Ignore", "Strict", "Warn"])
            })?,
            force: self.query.flag("force"),
        })
    }

    async fn written(
        &self,
        target: &Target,
        mut written: crate::engine::Written,
        created: u16,
    ) -> Response<Body> {
        let code = if written.created { created } else { 200 };
        if let Some(advisor) = self.api.advisor.get()
            && matches!(target.resource.core, None | Some(Core::ConfigMap))
            && target.part == Part::Whole
        {
            written.warnings.extend(advisor.advise(&written.object).await);
        }
        let mut response = self.object(code, &target.resource, written.object);
        respond::warn(&mut response, &written.warnings);
        response
    }

    async fn create(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        let options = self.write_options()?;
        let (body, duplicates) = self.body(body, &target.resource.kind).await?;
        let written = self.api.engine.create(target, body, &duplicates, &options).await?;
        Ok(self.written(target, written, 201).await)
    }

    async fn update(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        let options = self.write_options()?;
        let (body, duplicates) = self.body(body, &target.resource.kind).await?;
        let written = self.api.engine.update(target, body, &duplicates, &options).await?;
        Ok(self.written(target, written, 201).await)
    }

    async fn patch(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        let content_type = self.content_type();
        let custom = target.resource.core.is_none();
        let kind = PatchKind::of(&content_type).filter(|kind| !(custom && *kind == PatchKind::Strategic));
        let Some(kind) = kind else {
            let mut accepted = vec!["application/json-patch+json", "application/merge-patch+json"];
            if !custom {
                accepted.push("application/strategic-merge-patch+json");
            }
            accepted.push("application/apply-patch+yaml");
            return Err(Status::unsupported_media_type(&accepted));
        };
        let options = self.write_options()?;
        if kind == PatchKind::Apply && self.query.get("fieldManager").is_empty() {
            return Err(patch_options(
                "fieldManager",
                "Required value: is required for apply patch",
                "FieldValueRequired",
            ));
        }
        if kind != PatchKind::Apply && self.query.optional_flag("force").is_some() {
            return Err(patch_options(
                "force",
                "Forbidden: may not be specified for non-apply patch",
                "FieldValueForbidden",
            ));
        }
        let bytes = self.bytes(body).await?;
        let (body, duplicates) = match kind {
            PatchKind::Apply => parse(&bytes, true, &target.resource.kind)?,
            _ => request::json(&bytes)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?,
        };
        let patch = Patch { kind, body, duplicates };
        let written = self.api.engine.patch(target, &patch, &options).await?;
        Ok(self.written(target, written, 201).await)
    }

    fn selectors(&self, target: &Target) -> Result<(Labels, Fields)> {
        let labels = Labels::parse(self.query.get("labelSelector"))?;
        let mut fields = Fields::parse(self.query.get("fieldSelector"), &target.resource)?;
        if let Some(name) = &target.name {
            fields = Fields::parse(&format!("metadata.name={name}"), &target.resource)?;
        }
        Ok((labels, fields))
    }

    fn list_options(&self, target: &Target) -> Result<ListOptions> {
        let (labels, fields) = self.selectors(target)?;
        let version_match = match self.query.get("resourceVersionMatch") {
            "" => None,
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            other => {
                let allowed = ["Exact", "NotOlderThan", ""];
                let cause =
                    crate::status::Cause::unsupported("resourceVersionMatch", &json!(other), &allowed);
                return Err(Status::invalid(options_about("ListOptions"), vec![cause]));
            }
        };
        Ok(ListOptions {
            labels,
            fields,
            limit: self.query.number("limit")?.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            continue_token: self.query.get("continue").to_owned(),
            resource_version: self.query.get("resourceVersion").to_owned(),
            version_match,
        })
    }

    fn list(&self, target: &Target) -> Result<Response<Body>> {
        let list = self.api.engine.list(target, &self.list_options(target)?)?;
        Ok(respond::list(&target.resource, &target.version, list, self.form, &self.query, self.now()))
    }

    fn watch(&self, target: &Target) -> Result<Response<Body>> {
        let (labels, fields) = self.selectors(target)?;
        let options = WatchOptions {
            labels,
            fields,
            resource_version: self.query.get("resourceVersion").to_owned(),
            send_initial: self.query.optional_flag("sendInitialEvents"),
            bookmarks: self.query.flag("allowWatchBookmarks"),
            not_older: self.query.get("resourceVersionMatch") == "NotOlderThan",
        };
        let watcher = match self.api.engine.watch(target, &options) {
            // Clients look for it in the stream, and list anew.
            Err(status) if status.code == 410 => return Ok(watch::expired(&status)),
            watcher => watcher?,
        };
        Ok(watch::response(self.api, watcher, &target.resource, &target.version, self.form, &self.query))
    }

    async fn delete_options(&self, body: Incoming) -> Result<DeleteOptions> {
        let bytes = self.bytes(body).await?;
        let body = if bytes.is_empty() {
            Value::Null
        } else if self.content_type() == PROTOBUF {
            super::protobuf::decode(&bytes, "DeleteOptions")?
        } else {
            parse(&bytes, self.content_type() == "application/yaml", "DeleteOptions")?.0
        };
        let policy = match self.query.get("propagationPolicy") {
            "" => body["propagationPolicy"].as_str().unwrap_or(""),
            policy => policy,
        };
        let orphan = body["orphanDependents"].as_bool() == Some(true) || self.query.flag("orphanDependents");
        let propagation = match policy {
            "" if orphan => Propagation::Orphan,
            "" | "Background" => Propagation::Background,
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            other => {
                let allowed = ["Background", "Foreground", "Orphan"];
                let cause = crate::status::Cause::unsupported("propagationPolicy", &json!(other), &allowed);
                return Err(Status::invalid(options_about("DeleteOptions"), vec![cause]));
            }
        };
        let dry =
            body["dryRun"].as_array().and_then(|list| list.first()).and_then(Value::as_str).unwrap_or("");
        let text = |key: &str| body["preconditions"][key].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            dry_run: dry_run(self.query.get("dryRun"), "DeleteOptions")? || dry_run(dry, "DeleteOptions")?,
            propagation,
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        })
    }

    async fn delete(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        let options = self.delete_options(body).await?;
        let deleted = self.api.engine.delete(target, &options).await?;
        let returns_object =
            matches!(target.resource.core, Some(Core::Pod | Core::Service | Core::ServiceAccount));
        Ok(match deleted {
            Deleted::Gone(object) if !returns_object => {
                let resource = &target.resource;
                let mut details = json!({ "name": target.name });
                if !resource.group.is_empty() {
                    details["group"] = json!(resource.group);
                }
                details["kind"] = json!(resource.plural);
                details["uid"] = object["metadata"]["uid"].clone();
                respond::json_value(
                    200,
                    &json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "details": details }),
                )
            }
            Deleted::Gone(object) | Deleted::Held(object) => self.object(200, &target.resource, object),
        })
    }

    async fn delete_collection(&self, target: &Target, body: Incoming) -> Result<Response<Body>> {
        if target.resource.namespaced && target.namespace.is_none() {
            return Err(Status::method_not_allowed());
        }
        let options = self.delete_options(body).await?;
        let found = self.api.engine.delete_collection(target, &self.list_options(target)?, &options).await?;
        Ok(respond::list(&target.resource, &target.version, found, self.form, &self.query, self.now()))
    }
}

/// Reads a body of at most `limit` bytes. One that is longer is read on for a while and thrown away: who still writes
/// would see a broken pipe instead of the answer.
async fn read(mut body: Incoming, limit: usize) -> Result<Bytes> {
    let mut held = Vec::new();
    let mut length = 0_usize;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) if length <= limit => return Ok(held.into()),
            Ok(Some(Err(error))) if length <= limit => {
                return Err(Status::bad_request(format!("the body could not be read: {error}")));
            }
            Err(_) if length <= limit => return Err(Status::bad_request("the body took too long to come")),
            _ => return Err(Status::too_large(limit)),
        };
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            held.extend_from_slice(&data);
        } else {
            held = Vec::new();
            if length > THROWN_AWAY.max(limit) {
                return Err(Status::too_large(limit));
            }
        }
    }
}

fn options_about(kind: &str) -> crate::status::About {
    crate::status::About { group: "meta.k8s.io".into(), kind: kind.into(), ..Default::default() }
}

fn patch_options(field: &str, message: &str, reason: &'static str) -> Box<Status> {
    let cause = crate::status::Cause { reason, message: message.into(), field: field.into() };
    Status::invalid(options_about("PatchOptions"), vec![cause])
}

fn parse(bytes: &[u8], yaml: bool, kind: &str) -> Result<(Value, Vec<String>)> {
    let refuse = |format: &str, why: String| {
        let start: String = String::from_utf8_lossy(bytes).chars().take(30).collect();
        let dots = if bytes.len() > 30 { " ..." } else { "" };
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {format} parse \
             error: {why} ({start}{dots})"
        ))
    };
    match request::json(bytes) {
        Ok(parsed) => Ok(parsed),
        Err(error) if !yaml => Err(refuse("json", error.to_string())),
        Err(_) => {
            let value =
                serde_yaml_ng::from_slice(bytes).map_err(|error| refuse("yaml", error.to_string()))?;
            Ok((value, Vec::new()))
        }
    }
}
