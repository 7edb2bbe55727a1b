//! A resource's status: what it should say, and whether it says so already.

use api::FieldError;
use jiff::Timestamp;
use model::{Finding, Severity};
use serde_json::{Value, json};

use crate::judge::text;

/// Istio's condition.
const RECONCILED: &str = "Reconciled";
/// Conditions are for people: what is more than this is in `mizzen analyze`.
const MOST: usize = 20;

/// What is to be said about a resource.
pub(super) struct Verdict {
    good: bool,
    reason: String,
    message: String,
    messages: Vec<Value>,
}

impl Verdict {
    /// It is in force, with these findings.
    pub(super) fn accepted(findings: &[Finding]) -> Self {
        let worst = findings.iter().find(|finding| finding.severity == Severity::Error);
        let lines: Vec<String> = findings.iter().take(MOST).map(text).collect();
        Self {
            good: worst.is_none(),
            reason: worst.map_or("Accepted", |finding| finding.code).to_owned(),
            message: lines.join("; "),
            messages: findings.iter().take(MOST).map(|f| message(f.code, level(f.severity))).collect(),
        }
    }

    /// It is not in force; what was accepted before it is.
    pub(super) fn refused(errors: &[FieldError]) -> Self {
        let lines: Vec<String> = errors.iter().take(MOST).map(ToString::to_string).collect();
        let message_of = |error: &FieldError| message(error.reason.as_str(), "ERROR");
        Self {
            good: false,
            reason: "Refused".into(),
            message: format!("not in force; what was accepted before still is: {}", lines.join("; ")),
            messages: errors.iter().take(MOST).map(message_of).collect(),
        }
    }

    /// The status to write, with what others have said in it; `None` if the current one says all of it.
    pub(super) fn status(&self, current: &Value, generation: i64, now: Timestamp) -> Option<Value> {
        let mut status = if current.is_object() { current.clone() } else { json!({}) };
        let conditions = current["conditions"].as_array().cloned().unwrap_or_default();
        let (ours, mut others): (Vec<Value>, Vec<Value>) =
            conditions.into_iter().partition(|condition| condition["type"] == RECONCILED);
        let holds = if self.good { "True" } else { "False" };
        let since = ours.first().filter(|ours| ours["status"] == holds);
        let since = since.and_then(|ours| ours["lastTransitionTime"].as_str()).map(str::to_owned);
        others.insert(
            0,
            json!({
                "type": RECONCILED,
                "status": holds,
                "reason": self.reason,
                "message": self.message,
                "lastTransitionTime": since.unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
                "observedGeneration": generation,
            }),
        );
        status["conditions"] = others.into();
        status["observedGeneration"] = json!(generation);
        match status.as_object_mut() {
            Some(status) if self.messages.is_empty() => drop(status.shift_remove("validationMessages")),
            _ => status["validationMessages"] = json!(self.messages),
        }
        (status != *current).then_some(status)
    }
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
        Severity::Info => "INFO",
    }
}

fn message(code: &str, level: &str) -> Value {
    json!({ "type": { "name": code, "code": code }, "level": level })
}

#[cfg(test)]
mod tests {
    use base::NamespacedName;
    use model::{Kind, ObjectRef};

    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding {
            about: ObjectRef { kind: Kind::VirtualService, name: NamespacedName::new("a", "b") },
            severity,
            code: "DanglingSubset",
            field: "spec.http[0]".into(),
            message: "no such subset".into(),
            hint: "write another".into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_status_is_written_once_and_keeps_what_others_say() {
        let others = json!({"conditions": [{"type": "Theirs", "status": "True"}], "more": 1});
        let bad = Verdict::accepted(&[finding(Severity::Error)]);
        let first = bad.status(&others, 3, at(0)).unwrap();
        assert_eq!(first["conditions"][1]["type"], "Theirs");
        assert_eq!((&first["more"], &first["observedGeneration"]), (&json!(1), &json!(3)));
        let ours = &first["conditions"][0];
        assert_eq!((&ours["status"], &ours["reason"]), (&json!("False"), &json!("DanglingSubset")));
        assert_eq!(ours["message"], "spec.http[0]: no such subset (write another)");
        assert_eq!(first["validationMessages"][0]["level"], "ERROR");
        assert_eq!(bad.status(&first, 3, at(100)), None, "a second look writes nothing");

        let next = bad.status(&first, 4, at(100)).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], ours["lastTransitionTime"]);
        let good = Verdict::accepted(&[]).status(&next, 5, at(100)).unwrap();
        assert_eq!(good["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(good.get("validationMessages"), None);
    }

    #[test]
    fn warnings_do_not_make_a_resource_bad() {
        let status = Verdict::accepted(&[finding(Severity::Warning)]).status(&Value::Null, 1, at(0)).unwrap();
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["validationMessages"][0]["level"], "WARNING");
    }
}
