//! The filter that verifies tokens: it may need keys first.

use base::Random;

use super::{Context, Deciding, Passed};
use crate::ask::{Answer, Ask};
use crate::decision::LocalReply;
use crate::explain::{Note, Recorder};
use crate::jwt::{self, JwtAuthn, Moment};
use crate::request::Request;
use crate::route::MatchSubject;

impl Deciding {
    pub(super) fn jwt<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        jwt: &JwtAuthn,
        own: Option<&jwt::PerRoute>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        if let (Some(Answer::Called(called)), Some(provider)) = (self.answer.take(), self.fetching.take()) {
            let fetched = jwt.fetched(provider, called, cx.now);
            let counts = &mut self.state.jwt;
            *if fetched { &mut counts.fetched } else { &mut counts.not_fetched } += 1;
            if !fetched {
                self.unfetched.push(provider);
            }
        }
        let mut subject = MatchSubject {
            request,
            connection: cx.connection,
            draw: rng.next_u64(),
            ignore_path_parameters: false,
        };
        let moment = Moment { time: cx.start, now: cx.now, failed: &self.unfetched };
        let (verdict, learned) = jwt.judge(&mut subject, own, moment);
        if let jwt::Verdict::Fetch(provider) = verdict
            && let Some(call) = jwt.call(provider)
        {
            recorder.note(|| Note::new("token", &*call.cluster, "is asked for the keys"));
            self.fetching = Some(provider);
            return Passed::Ask(Ask::Call(Box::new(call)));
        }
        let state = &mut self.state;
        state.jwt.add(learned.counts(&verdict));
        let reroutes = learned.reroutes();
        learned.apply(request);
        match verdict {
            jwt::Verdict::Pass if reroutes => state.choose_again(cx, request, rng, recorder),
            jwt::Verdict::Pass => Passed::Next,
            jwt::Verdict::Unknown(name) => {
                let text = format!("Failed JWT authentication: Wrong requirement_name: {name}");
                Passed::Reply(Box::new(LocalReply::new(403, text, "jwt_authn_access_denied")))
            }
            jwt::Verdict::Deny { fault, strip } => {
                recorder.note(|| Note::new("token", "refused", fault.text()));
                Passed::Reply(Box::new(refusal(request, fault, strip)))
            }
            // Only those that fetch are to be fetched for.
            jwt::Verdict::Fetch(_) => {
                Passed::Reply(Box::new(refusal(request, jwt::Fault::NotFetched, false)))
            }
        }
    }
}

fn refusal(request: &Request, fault: jwt::Fault, strip: bool) -> LocalReply {
    let body = if strip { "" } else { fault.text() };
    let mut reply = LocalReply::new(fault.status(), body, "");
    let reason = fault.text().replace(' ', "_");
    reply.details = format!("jwt_authn_access_denied{{{reason}}}").into();
    if !strip {
        let error = if fault == jwt::Fault::Missing { "" } else { ", error=\"invalid_token\"" };
        let value = format!("Bearer realm=\"{}\"{error}", jwt::realm(request));
        reply.headers.append("www-authenticate", value);
    }
    reply
}
