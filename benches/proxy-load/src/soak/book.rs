//! What was asked and what became of it; which failures a planned fault excuses.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// HTTP/1.1: on kept connections, on fresh ones, and on such as are idle most of the time.
    Kept,
    Fresh,
    Idle,
    /// Bodies of random size, by length or in chunks, which the upstream sums up.
    Post,
    /// Answers in chunks of random sizes.
    Chunked,
    WebSocket,
    Http2,
    /// Unary calls with trailers.
    Grpc,
    /// Mutual TLS on both sides, on kept and on fresh connections.
    Secure,
    SecureFresh,
    Tcp,
    /// The upstream closes its connections after answers, without saying so before. With retries.
    Stale,
    /// Upstreams are killed. With retries, and without.
    Retried,
    Mortal,
    /// The upstream cuts the connection before its answer, and in the middle of it.
    CutHead,
    CutBody,
    /// The listener is changed, goes and comes.
    Fickle,
    /// Clients that hang up, are slow, or say what is no HTTP. Nothing is owed to them.
    Rude,
}

/// By the prefix of their counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Edge,
    Tls,
    Tcp,
    Rude,
    Fickle,
}

impl Door {
    /// Those of which every request is counted. A listener that goes may take its counters along, and of what rude clients
    /// said it cannot be known what had arrived.
    pub(crate) const COUNTED: [Self; 2] = [Self::Edge, Self::Tls];
    pub(crate) const ALL: [Self; 5] = [Self::Edge, Self::Tls, Self::Tcp, Self::Rude, Self::Fickle];

    pub(crate) fn stats(self) -> &'static str {
        match self {
            Self::Edge => "http.edge",
            Self::Tls => "http.tls",
            Self::Tcp => "tcp.tcp",
            Self::Rude => "http.rude",
            Self::Fickle => "http.fickle",
        }
    }
}

/// What may be broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Backend,
    Listener,
}

impl Class {
    pub(crate) fn door(self) -> Door {
        match self {
            Self::Secure | Self::SecureFresh => Door::Tls,
            Self::Tcp => Door::Tcp,
            Self::Rude => Door::Rude,
            Self::Fickle => Door::Fickle,
            _ => Door::Edge,
        }
    }

    pub(crate) fn cluster(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Secure | Self::SecureFresh => "secure",
            Self::Tcp => "tcp",
            Self::Stale => "stale",
            Self::Retried | Self::Mortal => "mortal",
            Self::CutHead | Self::CutBody => "cut",
            Self::Rude => "rude",
            Self::Fickle => "fickle",
            _ => "steady",
        }
    }

    fn fault(self) -> Option<Fault> {
        match self {
            Self::Retried | Self::Mortal => Some(Fault::Backend),
            Self::Fickle => Some(Fault::Listener),
            _ => None,
        }
    }

    /// Whether Envoy would lose this request as well, given that something it needs was broken meanwhile.
    fn excuses(self, failure: &Failure) -> bool {
        match (self, failure) {
            // Its answer had begun: nobody can ask again.
            (Self::Retried | Self::Mortal, Failure::Cut(_)) => true,
            (Self::Mortal, Failure::Status(503, reason)) => UPSTREAM_REASONS.contains(&reason.as_str()),
            // The 503 to half a body, lost since the connection is reset with the other half unread.
            (Self::Mortal, Failure::Closed) => true,
            (Self::Fickle, Failure::Refused | Failure::Closed | Failure::Cut(_)) => true,
            _ => false,
        }
    }
}

/// The flags UC, UF and UH, as the body of the 503 tells them.
const UPSTREAM_REASONS: [&str; 4] = [
    "connection termination",
    "remote connection failure",
    "delayed connect error: Connection refused",
    "no healthy upstream",
];

/// How a request failed, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There was no connection.
    Refused,
    /// The connection ended without an answer.
    Closed,
    /// The connection ended in the middle of an answer of this status.
    Cut(u16),
    /// With the reason that its body gives.
    Status(u16, String),
    Late,
    /// Not what was sent.
    Wrong(&'static str),
}

impl Failure {
    /// By status and body of an answer that is none of the upstream's.
    pub(crate) fn answered(status: u16, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let reason = body.split_once("reset reason: ").map_or(&*body, |(_, reason)| reason);
        let reason = match reason.split_once(", transport failure reason: ") {
            Some((reason, _)) => reason,
            None => reason,
        };
        Self::Status(status, reason.trim().chars().take(60).collect())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("no connection"),
            Self::Closed => f.write_str("closed without an answer"),
            Self::Cut(status) => write!(f, "{status}, then cut"),
            Self::Status(status, reason) => write!(f, "{status} {reason}"),
            Self::Late => f.write_str("no answer in time"),
            Self::Wrong(what) => write!(f, "wrong {what}"),
        }
    }
}

/// What was broken, and when.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(Fault, Instant, Option<Instant>)>);

/// How long after a mend a request may still meet the fault: until health checks have seen it, and others drained.
const SLACK: Duration = Duration::from_secs(2);

impl Faults {
    pub(crate) fn begin(&mut self, fault: Fault, now: Instant) {
        self.0.push((fault, now, None));
    }

    pub(crate) fn end(&mut self, fault: Fault, now: Instant) {
        for (_, _, end) in self.0.iter_mut().filter(|it| it.0 == fault && it.2.is_none()) {
            *end = Some(now);
        }
    }

    /// Whether there was such a fault at any time since.
    fn met(&self, fault: Fault, since: Instant) -> bool {
        self.0.iter().rev().any(|(of, _, end)| *of == fault && end.is_none_or(|end| end + SLACK >= since))
    }
}

/// Of one class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) succeeded: u64,
    /// By how they failed: those that a fault excuses, and those that nothing does.
    pub(crate) excused: BTreeMap<String, u64>,
    pub(crate) lost: BTreeMap<String, u64>,
}

/// Of one door.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    /// Answers by the first digit of their status.
    pub(crate) answers: [u64; 6],
    /// Requests that may have been answered or not, or not even have arrived.
    pub(crate) unknown: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    pub(crate) classes: BTreeMap<Class, Tally>,
    pub(crate) doors: BTreeMap<Door, Entries>,
}

impl Book {
    pub(crate) fn connected(&mut self, door: Door) {
        self.doors.entry(door).or_default().connections += 1;
    }

    pub(crate) fn asked(&mut self, class: Class) {
        self.classes.entry(class).or_default().asked += 1;
        self.doors.entry(class.door()).or_default().requests += 1;
    }

    /// The head of an answer is there.
    pub(crate) fn answered(&mut self, class: Class, status: u16) {
        let answers = &mut self.doors.entry(class.door()).or_default().answers;
        answers[usize::from(status / 100).min(5)] += 1;
    }

    pub(crate) fn ended(
        &mut self,
        class: Class,
        result: Result<(), Failure>,
        faults: &Faults,
        since: Instant,
    ) {
        let tally = self.classes.entry(class).or_default();
        let failure = match result {
            Ok(()) => {
                tally.succeeded += 1;
                return;
            }
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Closed | Failure::Late) {
            self.doors.entry(class.door()).or_default().unknown += 1;
        }
        let is_excused = class.excuses(&failure) && class.fault().is_some_and(|it| faults.met(it, since));
        let kinds = if is_excused { &mut tally.excused } else { &mut tally.lost };
        *kinds.entry(failure.to_string()).or_default() += 1;
    }

    pub(crate) fn all(&self) -> u64 {
        self.classes.values().map(|it| it.asked).sum()
    }

    /// Of a cluster's classes.
    pub(crate) fn of_cluster(&self, cluster: &str) -> u64 {
        self.classes.iter().filter(|(class, _)| class.cluster() == cluster).map(|(_, it)| it.asked).sum()
    }

    /// Failures of all classes by class and kind.
    pub(crate) fn failures(&self, of: fn(&Tally) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let named = |(class, tally): (&Class, &Tally)| -> Vec<(String, u64)> {
            of(tally).iter().map(|(kind, count)| (format!("{class:?}: {kind}"), *count)).collect()
        };
        self.classes.iter().flat_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str) -> Failure {
        Failure::Status(503, reason.to_owned())
    }

    #[test]
    fn reasons_are_read_from_envoys_bodies() {
        for (body, reason) in [
            (
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
                "connection termination",
            ),
            (
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                 remote connection failure, transport failure reason: delayed connect error: 111",
                "remote connection failure",
            ),
            ("no healthy upstream", "no healthy upstream"),
        ] {
            assert_eq!(Failure::answered(503, body.as_bytes()), status(reason));
        }
    }

    #[test]
    fn only_a_fault_that_was_met_excuses_and_only_what_envoy_would_lose() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut faults = Faults::default();
        faults.begin(Fault::Backend, after(10));
        faults.end(Fault::Backend, after(12));
        let termination = || status("connection termination");
        for (class, failure, since, is_excused) in [
            (Class::Mortal, termination(), 9, true),
            (Class::Mortal, termination(), 13, true),
            (Class::Mortal, termination(), 15, false),
            (Class::Mortal, status("what?"), 11, false),
            (Class::Retried, termination(), 11, false),
            (Class::Retried, Failure::Cut(200), 11, true),
            (Class::Kept, termination(), 11, false),
            (Class::Stale, Failure::Closed, 11, false),
            (Class::Fickle, Failure::Refused, 11, false),
        ] {
            let mut book = Book::default();
            book.ended(class, Err(failure.clone()), &faults, after(since));
            let tally = &book.classes[&class];
            assert_eq!(tally.excused.len() == 1, is_excused, "{class:?} {failure} at {since}");
            assert_eq!(tally.lost.len() == 1, !is_excused);
        }
        faults.begin(Fault::Listener, after(20));
        assert!(faults.met(Fault::Listener, after(100)), "it has not ended");
    }

    #[test]
    fn what_was_asked_and_answered_is_counted_at_its_door() {
        let mut book = Book::default();
        let faults = Faults::default();
        for (class, status) in [(Class::Kept, 200), (Class::CutHead, 503), (Class::WebSocket, 101)] {
            book.asked(class);
            book.answered(class, status);
            book.ended(class, Ok(()), &faults, Instant::now());
        }
        book.asked(Class::Secure);
        book.ended(Class::Secure, Err(Failure::Late), &faults, Instant::now());
        let edge = &book.doors[&Door::Edge];
        assert_eq!((edge.requests, edge.answers, edge.unknown), (3, [0, 1, 1, 0, 0, 1], 0));
        assert_eq!(book.doors[&Door::Tls].unknown, 1);
        assert_eq!((book.all(), book.of_cluster("steady"), book.of_cluster("secure")), (4, 2, 1));
        let lost = book.failures(|it| &it.lost);
        assert_eq!(lost.into_iter().collect::<Vec<_>>(), [("Secure: no answer in time".to_owned(), 1)]);
    }
}
