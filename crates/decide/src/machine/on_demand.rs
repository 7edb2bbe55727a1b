//! The on-demand filter: a request whose virtual host is not there waits until the table's source has said what there is.

use std::sync::Arc;

use super::{Context, Deciding, Passed};
use crate::ask::{Answer, Ask};
use crate::explain::{Note, Recorder};
use crate::request::Request;

impl Deciding {
    /// With the virtual host the request begins again, as in Envoy: filters before this one are to judge it by what that
    /// says. What has a body that filters have seen goes on as it is.
    pub(super) fn on_demand<E: Recorder>(
        &mut self,
        cx: &Context<'_>,
        request: &Request,
        recorder: &mut E,
    ) -> Passed {
        if self.state.matched.is_some() {
            return Passed::Next;
        }
        match self.answer.take() {
            Some(Answer::VirtualHost(true)) if !self.told_of_body => {
                self.begin_again(cx);
                return Passed::Again;
            }
            Some(_) => return Passed::Next,
            None if self.demanded => return Passed::Next,
            None => {}
        }
        let wanted = self.state.table.as_ref().and_then(|table| Some((table, table.wanted_host(request)?)));
        let Some((table, name)) = wanted else { return Passed::Next };
        recorder.note(|| Note::new("virtual host", &*name, "is asked for on demand"));
        self.demanded = true;
        Passed::Ask(Ask::VirtualHost { table: Arc::clone(table), name })
    }

    fn begin_again(&mut self, cx: &Context<'_>) {
        let state = &self.state;
        let again = Self::of_known(cx.connection, state.remote, state.internal, &state.request_id);
        *self = Self { demanded: true, ..again.with_body(self.has_body) };
    }
}
