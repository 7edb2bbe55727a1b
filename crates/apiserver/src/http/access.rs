//! Who is asking, and may they.

use super::Api;
use crate::engine::{Target, uid_of};
use crate::keys::{Claims, ISSUER};
use crate::kinds::Core;
use crate::status::{About, Result, Status};
use http::HeaderMap;
use std::time::UNIX_EPOCH;

/// Somebody whose token was checked.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    /// May do everything.
    pub(super) admin: bool,
    /// Name of a token's own id, for reviews.
    pub(super) token_id: String,
}

impl Api {
    pub(super) fn seconds(&self) -> u64 {
        self.engine.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// The user of a request's bearer token; nobody is anonymous here.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<User> {
        let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = token.ok_or_else(Status::unauthorized)?;
        let (user, _) = self.review(token.trim(), &[]).map_err(|_| Status::unauthorized())?;
        Ok(user)
    }

    /// Whose token that is, and for which of the wanted audiences it is good.
    pub(super) fn review(
        &self,
        token: &str,
        wanted: &[String],
    ) -> std::result::Result<(User, Vec<String>), String> {
        let own = [ISSUER.to_owned()];
        let wanted = if wanted.is_empty() { &own[..] } else { wanted };
        let admin = aws_lc_rs::constant_time::verify_slices_are_equal(
            token.as_bytes(),
            self.keys.admin_token.as_bytes(),
        );
        if admin.is_ok() {
            let good: Vec<String> = wanted.iter().filter(|a| *a == ISSUER).cloned().collect();
            if good.is_empty() {
                return Err("the token is not meant for these audiences".into());
            }
            let user = User {
                name: "admin".into(),
                uid: String::new(),
                groups: vec!["system:masters".into(), "system:authenticated".into()],
                admin: true,
                token_id: String::new(),
            };
            return Ok((user, good));
        }
        let claims = self.keys.verify(token, self.seconds())?;
        let good: Vec<String> = wanted.iter().filter(|a| claims.audiences.contains(a)).cloned().collect();
        if good.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.audiences
            ));
        }
        self.account_lives(&claims)?;
        let Claims { namespace, account, uid, id, .. } = claims;
        let groups = vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".into(),
        ];
        let name = format!("system:serviceaccount:{namespace}:{account}");
        Ok((User { name, uid, groups, admin: false, token_id: id }, good))
    }

    /// A token dies with its account, also when another of that name is made.
    fn account_lives(&self, claims: &Claims) -> std::result::Result<(), String> {
        let accounts = self.engine.kinds.core(Core::ServiceAccount);
        let target = Target::of(accounts, Some(&claims.namespace), &claims.account);
        let found = self.engine.find(&target).map_err(|status| status.message)?;
        match found {
            Some(account) if uid_of(&account) == claims.uid => Ok(()),
            Some(_) => Err("the service account's UID does not match the token's".into()),
            None => Err("the token's service account has been deleted".into()),
        }
    }
}

/// What somebody wants to do, in the words of authorization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    pub(super) verb: &'a str,
    pub(super) group: &'a str,
    pub(super) resource: &'a str,
    pub(super) part: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

impl User {
    /// The administrator may do everything. A service account may only ask about itself.
    pub(super) fn may(&self, what: &Attributes<'_>) -> bool {
        let itself = matches!(
            (what.group, what.resource),
            ("authentication.k8s.io", "selfsubjectreviews")
                | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
        );
        self.admin || (itself && what.verb == "create")
    }

    pub(super) fn authorize(&self, what: &Attributes<'_>) -> Result<()> {
        if self.may(what) {
            return Ok(());
        }
        let part = if what.part.is_empty() { String::new() } else { format!("/{}", what.part) };
        let place = match what.namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".into(),
        };
        let why = format!(
            "User \"{}\" cannot {} resource \"{}{part}\" in API group \"{}\" {place}",
            self.name, what.verb, what.resource, what.group
        );
        let about = About {
            group: what.group.into(),
            kind: what.resource.into(),
            name: what.name.into(),
            uid: String::new(),
        };
        Err(Status::forbidden(about, why))
    }
}
