//! The filters that shed load.

use std::sync::Arc;

use base::Random;

use super::{Context, Passed, State};
use crate::decision::LocalReply;
use crate::explain::{Note, Recorder};
use crate::shed::{Admission, Gradient, Permit};

impl State {
    pub(super) fn admission<R: Random + ?Sized, E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        admission: &Arc<Admission>,
        rng: &mut R,
        recorder: &mut E,
    ) -> Passed {
        if !admission.enabled {
            return Passed::Next;
        }
        if admission.rejects(cx.now, rng) {
            recorder.note(|| Note::new("admission control", "", "turned away"));
            self.count(cx, &admission.stats.rejected);
            return Passed::Reply(Box::new(LocalReply::new(503, "", "denied_by_admission_control")));
        }
        self.permits.push(Permit::admitted(admission, cx.now, &cx.hcm.stat_prefix));
        Passed::Next
    }

    pub(super) fn concurrency<E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        gradient: &Arc<Gradient>,
        recorder: &mut E,
    ) -> Passed {
        if !gradient.enabled {
            return Passed::Next;
        }
        if !gradient.begin(cx.now) {
            recorder.note(|| Note::new("adaptive concurrency", "", "at the limit"));
            self.count(cx, &gradient.blocked);
            let details = "reached_concurrency_limit";
            return Passed::Reply(Box::new(LocalReply::new(
                gradient.status,
                "reached concurrency limit",
                details,
            )));
        }
        self.permits.push(Permit::within(gradient, cx.now, &cx.hcm.stat_prefix));
        Passed::Next
    }
}
