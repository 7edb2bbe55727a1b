//! The clocks of a request. A connection's requests have them one after the other, and setting one costs no more than
//! writing the moment down.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::pump::Interrupt;

/// A clock that is set again and again. The runtime's own timer is touched only where it would go off too late; one that
/// goes off too early is set then.
#[derive(Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Instant>,
}

impl Alarm {
    pub fn set(&mut self, now: Instant, after: Duration) {
        // What lies beyond the end of time never comes.
        self.at = now.checked_add(after);
        let Some(at) = self.at else { return };
        match &mut self.sleep {
            None => self.sleep = Some(Box::pin(sleep_until(at))),
            Some(sleep) if at < sleep.deadline() => sleep.as_mut().reset(at),
            Some(_) => {}
        }
    }

    pub fn clear(&mut self) {
        self.at = None;
    }

    /// Ready once its moment has come, for as long as it is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(at), Some(sleep)) = (self.at, &mut self.sleep) else { return Poll::Pending };
        loop {
            ready!(sleep.as_mut().poll(cx));
            if at <= sleep.deadline() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

/// One that starts anew whenever something moves.
#[derive(Default)]
struct Idle {
    length: Option<Duration>,
    alarm: Alarm,
}

impl Idle {
    fn set(&mut self, length: Option<Duration>) {
        self.length = length;
        self.restart();
    }

    fn restart(&mut self) {
        match self.length {
            Some(length) => self.alarm.set(Instant::now(), length),
            None => self.alarm.clear(),
        }
    }
}

/// All clocks of one request; those that are not configured cost nothing.
#[derive(Default)]
pub struct Timers {
    timeout: Option<Duration>,
    deadline: Alarm,
    /// Of the try that is under way, for when the request was received whole.
    try_timeout: Option<Duration>,
    per_try: Alarm,
    per_try_idle: Idle,
    idle: Idle,
    max: Alarm,
    upstream_max: Alarm,
}

fn set(alarm: &mut Alarm, after: Option<Duration>) {
    match after {
        Some(after) => alarm.set(Instant::now(), after),
        None => alarm.clear(),
    }
}

impl Timers {
    /// A request begins.
    pub fn begin(
        &mut self,
        timeout: Option<Duration>,
        idle: Option<Duration>,
        max: Option<Duration>,
        upstream_max: Option<Duration>,
    ) {
        self.disarm();
        self.timeout = timeout;
        self.idle.set(idle);
        set(&mut self.max, max);
        set(&mut self.upstream_max, upstream_max);
    }

    /// The request was received whole: its time-out begins, and that of its try.
    pub fn start(&mut self) {
        if let Some(timeout) = self.timeout.take() {
            self.deadline.set(Instant::now(), timeout);
        }
        if let Some(timeout) = self.try_timeout.take() {
            self.per_try.set(Instant::now(), timeout);
        }
    }

    /// Of the whole request's time; nothing where that has no end, or has not begun.
    pub fn left(&self) -> Option<Duration> {
        Some(self.deadline.at?.saturating_duration_since(Instant::now()))
    }

    /// A try has its connection. Its time begins when the request was received whole.
    pub fn start_try(&mut self, per_try: Option<Duration>, idle: Option<Duration>) {
        self.try_timeout = per_try;
        self.per_try.clear();
        self.per_try_idle.set(idle);
    }

    /// The try has its answer's head: what is left may take its time, but not stand still.
    pub fn settle_try(&mut self) {
        self.try_timeout = None;
        self.per_try.clear();
    }

    pub fn end_try(&mut self) {
        self.settle_try();
        self.per_try_idle.set(None);
    }

    /// After an upgrade or the head of a long answer only idleness counts.
    pub fn disarm(&mut self) {
        self.timeout = None;
        self.deadline.clear();
        self.end_try();
    }

    pub fn progress(&mut self) {
        self.idle.restart();
        self.per_try_idle.restart();
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let all = [
            (&mut self.deadline, Interrupt::RequestTimeout),
            (&mut self.per_try, Interrupt::PerTryTimeout),
            (&mut self.max, Interrupt::MaxDuration),
            (&mut self.upstream_max, Interrupt::UpstreamMaxDuration),
            (&mut self.per_try_idle.alarm, Interrupt::PerTryIdle),
            (&mut self.idle.alarm, Interrupt::StreamIdle),
        ];
        for (alarm, interrupt) in all {
            if alarm.poll(cx).is_ready() {
                return Poll::Ready(interrupt);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};

    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LATE: Duration = Duration::from_secs(3600);

    /// Whether this comes while nothing else does.
    async fn comes(work: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(20 * SOON, work).await.is_ok()
    }

    #[tokio::test]
    async fn an_alarm_goes_off_when_it_was_last_set_for() {
        let mut alarm = Alarm::default();
        // Sooner than before, later, never, and once more: the same alarm.
        let settings = [(LATE, Some(SOON)), (SOON, Some(LATE)), (SOON, Some(Duration::MAX)), (SOON, None)];
        for (first, then) in settings {
            alarm.set(Instant::now(), first);
            assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx).is_pending())).await);
            match then {
                Some(then) => alarm.set(Instant::now(), then),
                None => alarm.clear(),
            }
            assert_eq!(comes(poll_fn(|cx| alarm.poll(cx))).await, then == Some(SOON), "{first:?}, {then:?}");
        }
        alarm.set(Instant::now(), SOON);
        assert!(comes(poll_fn(|cx| alarm.poll(cx))).await);
    }

    #[tokio::test]
    async fn each_request_has_its_own_time() {
        let mut timers = Timers::default();
        let first = async |timers: &mut Timers| {
            let interrupt = tokio::time::timeout(20 * SOON, poll_fn(|cx| timers.poll(cx))).await;
            interrupt.ok()
        };
        timers.begin(Some(SOON), Some(LATE), None, None);
        assert_eq!(first(&mut timers).await, None, "the request was not received whole");
        timers.start();
        assert_eq!(first(&mut timers).await, Some(Interrupt::RequestTimeout));
        timers.begin(Some(LATE), Some(SOON), None, Some(LATE));
        timers.start();
        timers.start_try(Some(LATE), None);
        assert_eq!(first(&mut timers).await, Some(Interrupt::StreamIdle));
        timers.progress();
        timers.start_try(Some(SOON), Some(LATE));
        assert_eq!(first(&mut timers).await, Some(Interrupt::StreamIdle), "nor has the try begun its time");
        timers.progress();
        timers.start_try(Some(SOON), Some(LATE));
        timers.start();
        assert_eq!(first(&mut timers).await, Some(Interrupt::PerTryTimeout));
        timers.start_try(Some(SOON), Some(LATE));
        timers.start();
        timers.settle_try();
        assert_eq!(first(&mut timers).await, Some(Interrupt::StreamIdle));
        timers.begin(None, None, None, None);
        assert_eq!(first(&mut timers).await, None, "nothing is left of the request before");
    }
}
