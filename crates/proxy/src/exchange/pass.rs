//! An answer that stands goes to the client: its head, its body, and what becomes of it when either side breaks off.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use decide::{Decision, Forward, Known, ResponseFlags};
use upstream::Host;

use super::answer::Origin;
use super::attempt::Begun;
use super::deciding::finish_response;
use super::failure::TryError;
use super::forward::{Exchange, charge};
use super::pump::{GrpcCounter, Interrupt, Passed, RequestBody, pass_body};
use super::timers::Timers;
use crate::cluster::Cluster;
use crate::wire::{BodyLength, Downstream, RequestHead, Reset, ResponseHead, Upstream};

impl Exchange<'_, '_> {
    /// Passes the answer on.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn pass(
        &mut self,
        decision: &Decision,
        forward: &Forward,
        head: &RequestHead,
        (of, cluster): (&Rc<Cluster>, &Rc<Cluster>),
        begun: Begun,
        host: &Host,
        body: &mut RequestBody,
        timers: &mut Timers,
        grpc: bool,
    ) -> Result<(), Interrupt> {
        let _active = host.start_request();
        let Begun { mut upstream, held, head: mut answer, info: _, sent_at } = begun;
        body.forget();
        let took: Duration = sent_at.elapsed();
        cluster.stats().observe(took.as_secs_f64() * 1000.0);
        let started = self.record.started;
        self.record.sent_at = Some(sent_at.duration_since(started));
        self.record.first_byte = Some(started.elapsed());
        // HTTP/2 accepts with a 2xx, and HTTP/1 accepts CONNECT so; an upgrade it accepts by 101 alone.
        let by_success = head.request.is_connect() || matches!(upstream, Upstream::H2(_));
        let accepted = answer.response.status == 101
            || head.request.upgrade.is_some() && by_success && answer.response.status / 100 == 2
            || head.request.is_connect() && answer.response.status / 100 == 2;
        let tunnel = forward.upgrade && accepted;
        if tunnel && head.request.upgrade.is_some() {
            // What HTTP/2 says by 200.
            answer.response.status = 101;
        }
        let keep = answer.response.headers.clone();
        charge(of, answer.response.status);
        // How long an upstream took is known where it had the whole request.
        let told = (body.complete && !forward.upgrade).then_some(took);
        self.record.upstream_peer =
            finish_response(self, decision, &head.request, &mut answer.response, told);
        self.record.details = "via_upstream".into();
        let wanted = head.request.upgrade.as_deref().unwrap_or_default().as_bytes();
        let upgrade = tunnel.then(|| answer.upgrade.take().map_or_else(|| wanted.to_vec(), |u| u.to_vec()));
        self.settle_tunnel(head, &mut answer, tunnel);
        let mut passed = Passed { messages: GrpcCounter::enabled(grpc), ..Passed::default() };
        let bodiless = tunnel || head.request.method == decide::Method::Head;
        let mut origin = Origin::Upstream { upstream: &mut upstream, body: &mut *body, timers: &mut *timers };
        self.filter(decision, head, &mut answer, bodiless, &mut origin, &mut passed).await?;
        decision.finish(self.hcm, &mut answer.response);
        if !answer.response.headers.contains(Known::Date) {
            answer.response.headers.set(Known::Date, crate::clock::http_date());
        }
        self.record.code = answer.response.status;
        let upgrade_header = upgrade.as_deref().filter(|u| !u.is_empty() && answer.response.status == 101);
        let close = self.close
            || self.connection.worker.is_draining(self.connection.direction)
            || (!body.complete && !tunnel)
            || (forward.upgrade && !tunnel);
        self.down.send_head(&answer, upgrade_header, close).map_err(|_| Interrupt::DownstreamGone)?;
        self.head_sent = true;
        self.record.response_headers = Some(answer.response.headers);
        if tunnel {
            timers.disarm();
            self.down.become_tunnel();
            upstream.become_tunnel();
            body.reopen();
        }
        let result = pass_body(self.down, &mut upstream, body, timers, tunnel, &mut passed).await;
        self.record.bytes_sent = passed.bytes;
        self.record.upstream_wire = upstream.wire_bytes();
        self.record.response_messages = passed.messages.count;
        self.record.response_trailers = passed.trailers;
        self.record.last_byte = Some(started.elapsed());
        result?;
        if passed.left && matches!(self.down, Downstream::H1(_)) {
            self.record.client_left(&Interrupt::DownstreamGone);
        }
        if forward.upgrade && !tunnel && matches!(upstream, Upstream::H2(_)) {
            cluster.stats().rq_tx_reset.inc();
        }
        held.release(upstream, &keep);
        Ok(())
    }

    /// An upgrade between versions: HTTP/1 says 101 where HTTP/2 says 200.
    fn settle_tunnel(&self, head: &RequestHead, answer: &mut ResponseHead, tunnel: bool) {
        if !tunnel {
            return;
        }
        answer.body = BodyLength::Unknown;
        answer.response.headers.remove_known(Known::ContentLength);
        let upgrade = head.request.upgrade.is_some();
        match self.down {
            Downstream::H1(_) if upgrade => {
                answer.response.status = 101;
                answer.body = BodyLength::None;
            }
            Downstream::H1(_) => answer.body = BodyLength::None,
            Downstream::H2(_) => answer.response.status = 200,
        }
    }

    /// The answer broke off: the client must be able to tell, or gets another where its head was not sent.
    pub(super) async fn broken(
        &mut self,
        decision: &Decision,
        cluster: &Cluster,
        interrupt: &Interrupt,
        head: &RequestHead,
    ) {
        use ResponseFlags as F;
        let (flag, details) = match interrupt {
            Interrupt::DownstreamGone => {
                (F::DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect")
            }
            Interrupt::DownstreamReset => (F::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
            Interrupt::DownstreamBad(_) => (F::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error"),
            Interrupt::Upstream(crate::wire::Reset::Protocol(_)) => {
                (F::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_after_response_started{protocol_error}")
            }
            Interrupt::Upstream(crate::wire::Reset::ConnectionTermination) => (
                F::UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_after_response_started{connection_termination}",
            ),
            Interrupt::Upstream(_) => {
                (F::UPSTREAM_REMOTE_RESET, "upstream_reset_after_response_started{remote_reset}")
            }
            Interrupt::Reply(_) => (F::NONE, ""),
            Interrupt::RequestTimeout | Interrupt::PerTryTimeout => {
                (F::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
            }
            Interrupt::PerTryIdle => (F::UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_idle_timeout"),
            Interrupt::StreamIdle => (F::STREAM_IDLE_TIMEOUT, "stream_idle_timeout"),
            Interrupt::MaxDuration => (F::DURATION_TIMEOUT, "max_duration_timeout"),
            Interrupt::UpstreamMaxDuration => {
                (F::UPSTREAM_MAX_STREAM_DURATION, "upstream_max_stream_duration_reached")
            }
        };
        self.record.flags.insert(flag);
        self.record.details = match interrupt {
            Interrupt::Reply(reply) => reply.0.details.clone(),
            _ => details.into(),
        };
        match interrupt {
            Interrupt::DownstreamGone | Interrupt::DownstreamReset => {
                cluster.stats().rq_cancelled.inc();
                self.connection.stats.rq_rx_reset.inc();
            }
            Interrupt::Upstream(Reset::Remote | Reset::Refused) => cluster.stats().rq_rx_reset.inc(),
            Interrupt::RequestTimeout => cluster.stats().rq_timeout.inc(),
            Interrupt::StreamIdle => self.connection.stats.rq_idle_timeout.inc(),
            Interrupt::MaxDuration => self.connection.stats.rq_max_duration.inc(),
            _ => {}
        }
        if self.record.upstream_protocol == Some(decide::Version::Http2) && interrupt.resets_upstream() {
            cluster.stats().rq_tx_reset.inc();
        }
        if !self.head_sent
            && let Some(reply) = TryError::from(interrupt.clone()).reply(false, true)
        {
            // Filters have had their say.
            let details = self.record.details.clone();
            self.filtered = true;
            self.reply(reply, Some(decision), head).await;
            self.record.details = details;
            return;
        }
        if matches!(self.down, Downstream::H2(_)) {
            // A reset would overtake what the client is to get of the answer.
            let _ = poll_fn(|cx| Poll::Ready(self.down.poll_flush(cx).is_ready())).await;
            tokio::task::yield_now().await;
        }
        self.down.abort();
    }
}
