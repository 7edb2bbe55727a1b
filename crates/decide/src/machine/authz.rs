//! The external authorization filter: first the body, where it is to be seen, then the question, then what is answered.

use std::collections::HashMap;
use std::sync::Arc;

use base::Random;
use bytes::Bytes;

use super::{Context, Deciding, Passed, State};
use crate::ask::{Answer, Ask, ReceivedBody};
use crate::decision::LocalReply;
use crate::explain::{Note, Recorder};
use crate::ext_authz::{BodySettings, ExtAuthz, METADATA, PerRoute, Verdict};
use crate::filters::Override;
use crate::flags::ResponseFlags;
use crate::request::Request;

impl Deciding {
    pub(super) fn ext_authz<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        authz: &ExtAuthz,
        filter: &str,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let own = self.state.authz_of_route(filter);
        let settings = authz.body(own.first().map(|own| &**own));
        let body = match self.answer.take() {
            Some(Answer::Called(called)) => {
                let took = called.as_ref().map(|answer| answer.took).unwrap_or_default();
                return match authz.conclude(called) {
                    Verdict::Ok(mut changes) => {
                        if !changes.metadata.is_empty() {
                            let took = u64::try_from(took.as_millis()).unwrap_or_default();
                            changes.metadata.insert("ext_authz_duration".to_owned(), took.into());
                        }
                        self.allowed(cx, authz, &changes, request, rng, recorder)
                    }
                    verdict => self.state.not_allowed(cx, authz, verdict, request, recorder),
                };
            }
            Some(Answer::Body(body)) => body.zip(settings),
            Some(Answer::Processed(_) | Answer::VirtualHost(_)) | None => {
                if self.state.matched.is_none() || own.first().is_some_and(|own| own.disabled) {
                    return Passed::Next;
                }
                if !authz.is_enabled(&request.metadata, rng) {
                    self.state.count(cx, &authz.stats.disabled);
                    if authz.deny_at_disable {
                        recorder.note(|| Note::new("authorization", authz.cluster(), "off: all is denied"));
                        return refusal(authz.status_on_error, Bytes::new(), "ext_authz_error");
                    }
                    recorder.note(|| Note::new("authorization", authz.cluster(), "is not asked"));
                    return Passed::Next;
                }
                if let Some(settings) = settings.filter(|_| request.upgrade.is_none()) {
                    return self.ask_body(settings.enough());
                }
                None
            }
        };
        if let Some((body, settings)) = &body
            && settings.refuses(body)
        {
            let mut reply = LocalReply::new(413, "Payload Too Large", "request_payload_too_large");
            reply.close = true;
            return Passed::Reply(Box::new(reply));
        }
        let mut extensions = HashMap::new();
        for own in own.iter().rev() {
            extensions.extend(own.extensions.iter().cloned());
        }
        recorder.note(|| Note::new("authorization", authz.cluster(), "is asked"));
        Passed::Ask(Ask::Call(Box::new(authz.call(cx, request, body, extensions))))
    }

    fn allowed<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        authz: &ExtAuthz,
        changes: &crate::ext_authz::Changes,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let state = &mut self.state;
        state.count_with_cluster(cx, request, &authz.stats.ok);
        state.learn(cx, authz, &changes.metadata, request);
        changes.apply(request);
        if !changes.response.is_empty() {
            state.answers.push(changes.response.clone());
        }
        if authz.clear_route_cache && changes.touch_the_request() {
            state.matched = None;
            state.weighted = None;
            if let Err(reply) = state.choose_route(cx, request, rng, recorder) {
                return Passed::Reply(reply);
            }
        }
        Passed::Next
    }
}

impl State {
    /// What the route says, the most specific first.
    fn authz_of_route(&self, filter: &str) -> Vec<Arc<PerRoute>> {
        self.overrides_of(filter)
            .filter_map(|own| match own {
                Override::ExtAuthz(own) => Some(Arc::clone(own)),
                _ => None,
            })
            .collect()
    }

    fn learn(
        &mut self,
        cx: &Context<'_>,
        authz: &ExtAuthz,
        metadata: &serde_json::Map<String, serde_json::Value>,
        request: &mut Request,
    ) {
        if metadata.is_empty() {
            return;
        }
        if !authz.takes_metadata {
            self.count(cx, &authz.stats.ignored_dynamic_metadata);
            return;
        }
        for (key, value) in metadata {
            request.metadata.set(METADATA, key, value.clone());
        }
    }

    fn not_allowed<E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        authz: &ExtAuthz,
        verdict: Verdict,
        request: &mut Request,
        recorder: &mut E,
    ) -> Passed {
        match verdict {
            Verdict::Denied { status, headers, body, metadata } => {
                self.count_with_cluster(cx, request, &authz.stats.denied);
                self.learn(cx, authz, &metadata, request);
                self.charged = authz.charges_cluster.then_some(status);
                recorder.note(|| Note::new("authorization", authz.cluster(), format!("denies: {status}")));
                let Passed::Reply(mut reply) = refusal(status, authz.cut(body), "ext_authz_denied") else {
                    return Passed::Next;
                };
                headers.iter().for_each(|change| change.to_response(&mut reply.headers));
                Passed::Reply(reply)
            }
            Verdict::Error { reason, status, headers, body } => {
                self.count_with_cluster(cx, request, &authz.stats.error);
                recorder.note(|| Note::new("authorization", authz.cluster(), format!("fails: {reason}")));
                if authz.failure_allows {
                    self.count_with_cluster(cx, request, &authz.stats.failure_mode_allowed);
                    if authz.failure_header {
                        request.headers.append("x-envoy-auth-failure-mode-allowed", "true");
                    }
                    return Passed::Next;
                }
                let status = status.unwrap_or(authz.status_on_error);
                let Passed::Reply(mut reply) = refusal(status, authz.cut(body), "ext_authz_error") else {
                    return Passed::Next;
                };
                headers.iter().for_each(|change| change.to_response(&mut reply.headers));
                Passed::Reply(reply)
            }
            Verdict::Invalid(name) => {
                recorder.note(|| Note::new("authorization", authz.cluster(), format!("writes {name:?}")));
                self.count_with_cluster(cx, request, &authz.stats.error);
                refusal(500, Bytes::new(), "ext_authz_invalid")
            }
            // As if it had let the request through.
            Verdict::Explaining | Verdict::Ok(_) => Passed::Next,
        }
    }
}

fn refusal(status: u16, body: Bytes, details: &'static str) -> Passed {
    let reply =
        LocalReply::new(status, body, details).with_flags(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
    Passed::Reply(Box::new(reply))
}

impl BodySettings {
    /// How much is waited for: what is more is cut off, or too much.
    fn enough(&self) -> u64 {
        if self.allow_partial { self.max_bytes.saturating_sub(1) } else { self.max_bytes }
    }

    fn refuses(&self, body: &ReceivedBody) -> bool {
        !self.allow_partial && body.data.len() as u64 > self.max_bytes
    }
}
