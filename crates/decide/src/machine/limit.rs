//! The filters that count requests: by buckets of the proxy's own, or by asking a service.

use std::sync::Arc;

use base::Random;

use super::{Context, Count, CountScope, Deciding, Passed, State};
use crate::ask::{Answer, Ask};
use crate::decision::LocalReply;
use crate::explain::{Note, Recorder};
use crate::flags::ResponseFlags;
use crate::limit::{
    Descriptor, GlobalPerRoute, GlobalRateLimit, LocalRateLimit, METADATA, OfHost, Origin, RateLimits,
    Subject, Verdict,
};
use crate::log::LogEntry;
use crate::request::Request;
use crate::route::Mutations;

impl Deciding {
    pub(super) fn local_limit<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        limit: &LocalRateLimit,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let state = &mut self.state;
        if !limit.enabled.draw(rng) {
            return Passed::Next;
        }
        let stats = &limit.stats;
        state.count_own(&stats.owner, &stats.enabled);
        let mut described = Vec::new();
        if limit.has_descriptors() {
            if limit.own.is_empty() {
                state.described(cx, limit.stage, limit.of_host, request, &mut described);
            } else {
                state.describe(cx, &limit.own, limit.stage, request, &mut described);
            }
        }
        let counted = limit.take(&described, cx.now);
        if !counted.headers.is_empty() {
            state.answers.push(counted.headers);
        }
        if counted.allowed {
            state.count_own(&stats.owner, &stats.ok);
            recorder.note(|| Note::new("rate limit", &*stats.owner, "within the limit"));
            return Passed::Next;
        }
        state.count_own(&stats.owner, &stats.rate_limited);
        if !limit.enforced.draw(rng) {
            recorder.note(|| Note::new("rate limit", &*stats.owner, "over the limit, which is not enforced"));
            state.add_headers(cx, &limit.unenforced, request);
            return Passed::Next;
        }
        state.count_own(&stats.owner, &stats.enforced);
        recorder.note(|| Note::new("rate limit", &*stats.owner, "over the limit"));
        let mut reply = LocalReply::new(limit.status, "local_rate_limited", "local_rate_limited")
            .with_flags(ResponseFlags::RATE_LIMITED);
        reply.grpc_status = limit.grpc_status;
        limit.answer.apply_simply(&mut reply.headers, &state.entry(cx, request));
        Passed::Reply(Box::new(reply))
    }

    pub(super) fn global_limit<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        limit: &GlobalRateLimit,
        own: Option<&GlobalPerRoute>,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        if let Some(Answer::Called(called)) = self.answer.take() {
            let verdict = limit.conclude(called);
            return self.state.limited(cx, limit, verdict, request, rng, recorder);
        }
        let state = &mut self.state;
        let other = if state.internal { Origin::External } else { Origin::Internal };
        if !limit.enabled.draw(rng) || limit.only == Some(other) || state.cluster(cx, request).is_none() {
            return Passed::Next;
        }
        let mut described = Vec::new();
        match own.map(|own| &own.own).filter(|limits| !limits.is_empty()) {
            Some(limits) => state.describe(cx, limits, limit.stage, request, &mut described),
            None if !limit.own.is_empty() => {
                state.describe(cx, &limit.own, limit.stage, request, &mut described);
            }
            None => {
                let of_host = own.map_or(OfHost::Override, |own| own.of_host);
                state.described(cx, limit.stage, of_host, request, &mut described);
            }
        }
        if described.is_empty() {
            return Passed::Next;
        }
        recorder.note(|| Note::new("rate limit", limit.cluster(), "is asked"));
        Passed::Ask(Ask::Call(Box::new(limit.call(own, described))))
    }
}

impl State {
    fn count_own(&mut self, owner: &Arc<str>, stat: &Arc<str>) {
        let (owner, stat) = (Arc::clone(owner), Arc::clone(stat));
        self.counts.push(Count { scope: CountScope::Requests, owner, stat });
    }

    fn entry<'a>(&self, cx: &Context<'a>, request: &'a Request) -> LogEntry<'a> {
        let mut entry = LogEntry::new(cx.connection, cx.start);
        entry.request = Some(request);
        entry.downstream_remote = self.remote;
        entry
    }

    fn add_headers(&self, cx: &Context<'_>, mutations: &Mutations, request: &mut Request) {
        let seen = request.clone();
        mutations.apply_simply(&mut request.headers, &self.entry(cx, &seen));
    }

    fn describe(
        &self,
        cx: &Context<'_>,
        limits: &RateLimits,
        stage: u32,
        request: &Request,
        into: &mut Vec<Descriptor>,
    ) {
        let destination = self.cluster_name(request);
        let subject = Subject {
            request,
            remote: self.remote,
            source: &cx.node.cluster,
            destination: destination.as_deref(),
        };
        limits.describe(stage, &subject, into);
    }

    /// By the limits of the route and of its virtual host.
    fn described(
        &self,
        cx: &Context<'_>,
        stage: u32,
        of_host: OfHost,
        request: &Request,
        into: &mut Vec<Descriptor>,
    ) {
        let Some(matched) = &self.matched else { return };
        let Some(action) = matched.route().action.forward() else { return };
        self.describe(cx, &action.rate_limits, stage, request, into);
        let of_host = if action.include_host_limits { OfHost::Include } else { of_host };
        if of_host == OfHost::Include || of_host == OfHost::Override && action.rate_limits.is_empty() {
            self.describe(cx, &matched.virtual_host.rate_limits, stage, request, into);
        }
    }

    fn limited<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        limit: &GlobalRateLimit,
        verdict: Verdict,
        request: &mut Request,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        let stats = &limit.stats;
        let learn = |request: &mut Request, metadata: serde_json::Map<String, serde_json::Value>| {
            metadata.into_iter().for_each(|(key, value)| request.metadata.set(METADATA, &key, value));
        };
        match verdict {
            Verdict::Ok { request: changes, response, metadata } => {
                self.count_cluster(cx, request, &stats.ok);
                learn(request, metadata);
                changes.iter().for_each(|change| change.to_request(request));
                self.answers.push(response);
                Passed::Next
            }
            Verdict::Over { response, body, metadata } => {
                self.count_cluster(cx, request, &stats.over_limit);
                learn(request, metadata);
                self.charged = Some(limit.status);
                let enforced = limit.enforced.draw(rng);
                recorder.note(|| Note::new("rate limit", limit.cluster(), "over the limit"));
                if !enforced {
                    self.answers.push(response);
                    return Passed::Next;
                }
                let mut reply = LocalReply::new(limit.status, body, "request_rate_limited")
                    .with_flags(ResponseFlags::RATE_LIMITED);
                reply.grpc_status = limit.grpc_status;
                response.iter().for_each(|change| change.to_response(&mut reply.headers));
                limit.answer.apply_simply(&mut reply.headers, &self.entry(cx, request));
                Passed::Reply(Box::new(reply))
            }
            Verdict::Error(reason) => {
                self.count_cluster(cx, request, &stats.error);
                recorder.note(|| Note::new("rate limit", limit.cluster(), format!("fails: {reason}")));
                if !limit.failure_denies {
                    self.count_cluster(cx, request, &stats.failure_mode_allowed);
                    return Passed::Next;
                }
                let reply = LocalReply::new(limit.status_on_error, "", "rate_limiter_error")
                    .with_flags(ResponseFlags::RATELIMIT_SERVICE_ERROR);
                Passed::Reply(Box::new(reply))
            }
            Verdict::Explaining => Passed::Next,
        }
    }
}
