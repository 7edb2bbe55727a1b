//! Questions about tokens and rights: TokenRequest, TokenReview, SelfSubjectReview, the access reviews.

use super::Api;
use super::access::{Attributes, User};
use crate::engine::{Target, text, uid_of};
use crate::keys::{Claims, ISSUER};
use crate::kinds::Core;
use crate::status::{Cause, Result, Status};
use serde_json::{Value, json};

const SHORTEST: u64 = 600;
const LONGEST: u64 = 48 * 3600;

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn user_info(user: &User) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups });
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.token_id.is_empty() {
        let id = format!("JTI={}", user.token_id);
        info["extra"] = json!({ "authentication.kubernetes.io/credential-id": [id] });
    }
    info
}

impl Api {
    /// `POST …/serviceaccounts/NAME/token`.
    pub(super) fn token_request(&self, namespace: &str, name: &str, body: &Value) -> Result<Value> {
        let accounts = self.engine.kinds.core(Core::ServiceAccount);
        let account = self.engine.get(&Target::of(accounts, Some(namespace), name))?;
        let mut audiences = strings(body.pointer("/spec/audiences"));
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let seconds = body.pointer("/spec/expirationSeconds").and_then(Value::as_u64).unwrap_or(3600);
        if seconds < SHORTEST {
            let why = "may not specify a duration less than 10 minutes";
            let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), why);
            let about = crate::status::About {
                group: "authentication.k8s.io".into(),
                kind: "TokenRequest".into(),
                name: name.to_owned(),
                uid: String::new(),
            };
            return Err(Status::invalid(about, vec![cause]));
        }
        let seconds = seconds.min(LONGEST);
        let claims = Claims {
            namespace: namespace.to_owned(),
            account: name.to_owned(),
            uid: uid_of(&account).to_owned(),
            audiences: audiences.clone(),
            id: crate::engine::new_uid(),
        };
        let now = self.seconds();
        let token =
            self.keys.issue(&claims, now, seconds).ok_or_else(|| Status::internal("signing failed"))?;
        let end = jiff::Timestamp::from_second(i64::try_from(now + seconds).unwrap_or(0)).unwrap_or_default();
        tracing::info!(target: "audit", namespace, account = name, ?audiences, seconds, "token issued");
        Ok(json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": { "name": name, "namespace": namespace, "creationTimestamp": self.engine.timestamp() },
            "spec": { "audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": null },
            "status": { "token": token, "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() },
        }))
    }

    /// One of the resources that are only asked.
    pub(super) fn answer(&self, kind: &str, user: &User, mut body: Value) -> Result<Value> {
        if !body.is_object() {
            return Err(Status::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind})"
            )));
        }
        let group = if kind.contains("Access") || kind.contains("Rules") {
            "authorization.k8s.io/v1"
        } else {
            "authentication.k8s.io/v1"
        };
        let status = match kind {
            "TokenReview" => self.token_review(&body)?,
            "SelfSubjectReview" => json!({ "userInfo": user_info(user) }),
            "SelfSubjectAccessReview" => access(user, &body),
            "SubjectAccessReview" => {
                let name = text(&body, "/spec/user").to_owned();
                let groups = strings(body.pointer("/spec/groups"));
                let admin = name == "admin" || groups.iter().any(|g| g == "system:masters");
                access(&User { name, uid: String::new(), groups, admin, token_id: String::new() }, &body)
            }
            _ => {
                let everything = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
                let rules = if user.admin { everything } else { json!([]) };
                json!({ "resourceRules": rules, "nonResourceRules": [], "incomplete": false })
            }
        };
        body["kind"] = json!(kind);
        body["apiVersion"] = json!(group);
        if !body.get("metadata").is_some_and(Value::is_object) {
            body["metadata"] = json!({});
        }
        body["status"] = status;
        Ok(body)
    }

    fn token_review(&self, body: &Value) -> Result<Value> {
        let token = text(body, "/spec/token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = strings(body.pointer("/spec/audiences"));
        Ok(match self.review(token, &audiences) {
            Ok((user, good)) => json!({ "authenticated": true, "user": user_info(&user), "audiences": good }),
            Err(why) => json!({ "user": {}, "error": why }),
        })
    }
}

fn access(user: &User, body: &Value) -> Value {
    let at = |key: &str| text(body, &format!("/spec/resourceAttributes/{key}"));
    let namespace = Some(at("namespace")).filter(|namespace| !namespace.is_empty());
    let what = Attributes {
        verb: at("verb"),
        group: at("group"),
        resource: at("resource"),
        part: at("subresource"),
        namespace,
        name: at("name"),
    };
    json!({ "allowed": user.may(&what) })
}
