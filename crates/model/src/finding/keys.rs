//! Keys of tokens that could not be fetched.

use api::security::RequestAuthentication;

use super::{Finding, Severity, about};
use crate::source::KeySet;
use crate::{Config, Kind, Snapshot};

impl Snapshot {
    pub(super) fn check_keys(&self, config: &Config<RequestAuthentication>, found: &mut Vec<Finding>) {
        for (i, rule) in config.spec.jwt_rules.iter().enumerate() {
            let Some(set) = KeySet::name_for(rule).and_then(|name| self.key_set(&name)) else { continue };
            let Some(fault) = &set.fault else { continue };
            let (severity, effect) = match set.keys {
                None => (Severity::Error, "every token of this issuer is refused"),
                Some(_) => (Severity::Warning, "those that were fetched before still count"),
            };
            found.push(Finding {
                about: about(Kind::RequestAuthentication, config),
                severity,
                code: "KeysNotFetched",
                field: format!("spec.jwtRules[{i}].{}", set.name.namespace),
                message: format!("the keys could not be fetched: {fault}; {effect}"),
                hint: "see that the control plane reaches the address, or write the keys into jwks".into(),
            });
        }
    }
}
