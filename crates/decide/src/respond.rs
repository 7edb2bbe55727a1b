//! What the decision says for the response, the upstream's or our own.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Decision, Outcome};
use crate::filters::{Answering, BodyFilter};
use crate::hcm::Hcm;
use crate::headers::Known;
use crate::log::LogEntry;
use crate::machine::NodeFacts;
use crate::metadata::PeerMetadata;
use crate::request::Response;

impl Decision {
    /// Makes the upstream's response (or a local one, once finished) what the client gets. `entry` is for formats in
    /// header values; `tries` for `x-envoy-attempt-count`; `service_time` is the upstream's, where it answered.
    pub fn respond(
        &self,
        hcm: &Hcm,
        node: &NodeFacts,
        entry: &LogEntry<'_>,
        service_time: Option<Duration>,
        tries: u32,
        response: &mut Response,
    ) {
        let local = matches!(&self.outcome, Outcome::Reply(_));
        if let (Some(time), false) = (service_time, hcm.router.suppress_envoy_headers) {
            response.headers.set(Known::XEnvoyUpstreamServiceTime, time.as_millis().to_string());
        }
        if let Some(matched) = &self.matched {
            if matched.virtual_host.attempt_count_in_response && !local {
                response.headers.set(Known::XEnvoyAttemptCount, tries.to_string());
            }
            let levels = matched.levels(self.weighted);
            if !levels.spare_responses() {
                let seen = response.headers.clone();
                let entry = LogEntry {
                    response_headers: Some(&seen),
                    route_name: self.route_name(),
                    downstream_remote: self.remote,
                    ..entry.clone()
                };
                levels.apply_to_response(&mut response.headers, &entry);
            }
        }
        for cookie in &self.set_cookies {
            response.headers.append(Known::SetCookie, cookie.clone());
        }
        if let Some(cors) = &self.cors {
            cors.policy.mark(&cors.origin, &mut response.headers);
        }
        // The last filter sees an answer first.
        for change in self.answers.iter().rev().flatten() {
            change.to_response(&mut response.headers);
        }
        if self.peer_wants_answer && !node.metadata.is_empty() {
            response.headers.set(Known::XEnvoyPeerMetadataId, node.id.clone());
            response.headers.set(Known::XEnvoyPeerMetadata, node.metadata.clone());
        }
    }

    /// What the connection manager does when filters have had the answer, the last of all.
    pub fn finish(&self, hcm: &Hcm, response: &mut Response) {
        let upgrade = self.forward().is_some_and(|f| f.upgrade);
        hcm.finish_response(response, &self.request_id, upgrade);
    }

    /// The next filter that changes the answer's body, on its way back: the head says so then. To be called after
    /// [`Self::respond`], until there is none.
    pub fn next_filter(
        &self,
        at: &mut Answering,
        hcm: &Hcm,
        response: &mut Response,
        has_body: bool,
    ) -> Option<BodyFilter> {
        let upgrade = self.forward().is_some_and(|f| f.upgrade);
        self.bodies.next(at, &hcm.stat_prefix, response, has_body, upgrade)
    }

    /// Whether filters change answers.
    pub fn filters_answers(&self) -> bool {
        !self.bodies.passes.is_empty()
    }

    /// Takes what the upstream says of itself out of its response; to be called before [`Self::respond`].
    pub fn take_upstream_peer(&self, hcm: &Hcm, response: &mut Response) -> Option<Arc<PeerMetadata>> {
        if !hcm.asks_upstream_peer() {
            return None;
        }
        let id = response.headers.known_str(Known::XEnvoyPeerMetadataId).unwrap_or_default().to_owned();
        let metadata = response.headers.known(Known::XEnvoyPeerMetadata).cloned();
        response.headers.remove_known(Known::XEnvoyPeerMetadata);
        response.headers.remove_known(Known::XEnvoyPeerMetadataId);
        PeerMetadata::from_headers(&metadata?, &id).map(Arc::new)
    }
}
