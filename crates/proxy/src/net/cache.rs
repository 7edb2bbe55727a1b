//! Names that requests bring: looked up once for all workers, kept while they are used, and no more of them than allowed.
//!
//! Workers read without a lock; one task, on the control thread, looks names up and changes what is known.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use decide::NameCache;
use tokio::sync::{mpsc, oneshot};

use super::{Found, LookUp, Question};

pub type Choose = fn(Vec<IpAddr>, decide::DnsFamily) -> Vec<IpAddr>;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// As many names are known as may be.
    Full,
    /// As many requests wait as may.
    Overflow,
    Failed(String),
}

type Answer = Result<IpAddr, NameError>;
type Ask = (Arc<str>, oneshot::Sender<Answer>);

struct Entry {
    address: IpAddr,
    /// Milliseconds since the cache began.
    used: AtomicU64,
    again: Instant,
}

pub struct DnsCache {
    settings: NameCache,
    known: ArcSwap<HashMap<Arc<str>, Arc<Entry>>>,
    pending: AtomicU32,
    asks: mpsc::UnboundedSender<Ask>,
    origin: Instant,
}

/// One request that waits.
struct Pending<'a>(&'a AtomicU32);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl DnsCache {
    /// Its task runs on this thread's `LocalSet` as long as somebody holds the cache.
    pub fn start(settings: NameCache, look_up: LookUp, choose: Choose) -> Arc<Self> {
        let (asks, inbox) = mpsc::unbounded_channel();
        let cache = Arc::new(Self {
            settings,
            known: ArcSwap::default(),
            pending: AtomicU32::new(0),
            asks,
            origin: Instant::now(),
        });
        let keeper = Keeper { cache: Arc::downgrade(&cache), look_up, choose, waiting: HashMap::new() };
        tokio::task::spawn_local(keeper.run(inbox));
        cache
    }

    pub fn settings(&self) -> &NameCache {
        &self.settings
    }

    /// The address of a name; an address stands for itself.
    pub async fn resolve(&self, host: &str) -> Answer {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(address);
        }
        let host: Arc<str> = host.to_ascii_lowercase().into();
        {
            let known = self.known.load();
            if let Some(entry) = known.get(&host) {
                entry.used.store(self.millis(Instant::now()), Relaxed);
                return Ok(entry.address);
            }
            if known.len() >= self.settings.max_hosts {
                return Err(NameError::Full);
            }
        }
        // Bounded by this count, whatever the channel holds.
        let before = self.pending.fetch_add(1, Relaxed);
        let _pending = Pending(&self.pending);
        if before >= self.settings.max_pending {
            return Err(NameError::Overflow);
        }
        let (reply, answer) = oneshot::channel();
        let gone = || NameError::Failed("the cache is gone".into());
        self.asks.send((host, reply)).map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_millis() as u64
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Arc<str>, Arc<Entry>>)) {
        let mut known = HashMap::clone(&self.known.load());
        change(&mut known);
        self.known.store(Arc::new(known));
    }

    /// What a look-up found; whether there was room for it.
    fn learn(&self, host: &Arc<str>, address: IpAddr, ttl: Option<Duration>, now: Instant) -> bool {
        let known = self.known.load_full();
        let old = known.get(host);
        if old.is_none() && known.len() >= self.settings.max_hosts {
            return false;
        }
        let used = old.map_or_else(|| self.millis(now), |old| old.used.load(Relaxed));
        let wait = ttl.unwrap_or(self.settings.refresh).max(self.settings.least_refresh);
        let entry = Entry { address, used: AtomicU64::new(used), again: now + wait };
        self.change(|known| _ = known.insert(host.clone(), Arc::new(entry)));
        true
    }

    /// A name that was known could not be looked up again: what was known holds.
    fn keep(&self, host: &Arc<str>, now: Instant) {
        let known = self.known.load_full();
        let Some(old) = known.get(host) else { return };
        let (address, used) = (old.address, AtomicU64::new(old.used.load(Relaxed)));
        let again = now + self.settings.failure_refresh.max(Duration::from_secs(1));
        self.change(|known| _ = known.insert(host.clone(), Arc::new(Entry { address, used, again })));
    }

    /// Forgets what nobody asked for lately; which names are to be looked up again.
    fn sweep(&self, now: Instant) -> Vec<Arc<str>> {
        let unused = self.settings.unused.as_millis() as u64;
        let millis = self.millis(now);
        let stale = |entry: &Entry| millis.saturating_sub(entry.used.load(Relaxed)) > unused;
        let known = self.known.load_full();
        if known.values().any(|entry| stale(entry)) {
            self.change(|known| known.retain(|_, entry| !stale(entry)));
        }
        let due = |entry: &Entry| entry.again <= now && !stale(entry);
        known.iter().filter(|(_, entry)| due(entry)).map(|(host, _)| host.clone()).collect()
    }
}

struct Keeper {
    cache: Weak<DnsCache>,
    look_up: LookUp,
    choose: Choose,
    /// Who waits for a name that is looked up.
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<Answer>>>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        let (done, mut results) = mpsc::unbounded_channel();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                ask = inbox.recv() => {
                    let Some((host, reply)) = ask else { return };
                    self.begin(&host, &done);
                    if let Some(waiting) = self.waiting.get_mut(&host) {
                        waiting.push(reply);
                    }
                }
                Some((host, result)) = results.recv() => self.end(&host, result),
                _ = tick.tick() => {
                    let Some(cache) = self.cache.upgrade() else { return };
                    for host in cache.sweep(Instant::now()) {
                        self.begin(&host, &done);
                    }
                }
            }
        }
    }

    /// Looks a name up, unless that is under way.
    fn begin(&mut self, host: &Arc<str>, done: &mpsc::UnboundedSender<(Arc<str>, Result<Found, String>)>) {
        let Some(cache) = self.cache.upgrade() else { return };
        if self.waiting.contains_key(host) {
            return;
        }
        self.waiting.insert(host.clone(), Vec::new());
        let family = cache.settings.family;
        let only = |wanted| family != wanted;
        let question = Question {
            host: host.clone(),
            v4: only(decide::DnsFamily::V6Only),
            v6: only(decide::DnsFamily::V4Only),
        };
        let (looking, limit) = ((self.look_up)(question), cache.settings.timeout);
        let (host, done, choose) = (host.clone(), done.clone(), self.choose);
        tokio::task::spawn_local(async move {
            let found = match tokio::time::timeout(limit, looking).await {
                Ok(Ok(found)) => Ok(Found { addresses: choose(found.addresses, family), ..found }),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".into()),
            };
            let _ = done.send((host, found));
        });
    }

    fn end(&mut self, host: &Arc<str>, result: Result<Found, String>) {
        let waiting = self.waiting.remove(host).unwrap_or_default();
        let Some(cache) = self.cache.upgrade() else { return };
        let now = Instant::now();
        let answer = match result {
            Ok(Found { addresses, ttl }) => match addresses.first() {
                Some(address) if cache.learn(host, *address, ttl, now) => Ok(*address),
                Some(_) => Err(NameError::Full),
                None => Err(NameError::Failed("no address of the wanted family".into())),
            },
            Err(reason) => Err(NameError::Failed(reason)),
        };
        if answer.is_err() {
            cache.keep(host, now);
        }
        for reply in waiting {
            let _ = reply.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn settings() -> NameCache {
        NameCache {
            name: "c".into(),
            family: decide::DnsFamily::V4Only,
            refresh: Duration::from_secs(60),
            least_refresh: Duration::from_secs(5),
            failure_refresh: Duration::from_secs(60),
            unused: Duration::from_secs(300),
            max_hosts: 2,
            max_pending: 3,
            timeout: Duration::from_secs(1),
        }
    }

    /// Knows every name but those of `.invalid`; counts.
    fn look_up(count: &Arc<AtomicUsize>) -> LookUp {
        let count = count.clone();
        Arc::new(move |question| {
            count.fetch_add(1, Relaxed);
            Box::pin(async move {
                tokio::task::yield_now().await;
                if question.host.ends_with(".invalid") {
                    return Err(std::io::Error::other("no such name"));
                }
                Ok(Found { addresses: vec!["192.0.2.1".parse().unwrap()], ttl: None })
            })
        })
    }

    #[tokio::test]
    async fn names_are_looked_up_once_and_no_more_of_them_than_allowed() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let count = Arc::default();
                let cache = DnsCache::start(settings(), look_up(&count), |all, _| all);
                let address: IpAddr = "192.0.2.1".parse().unwrap();
                let both = tokio::join!(cache.resolve("a.example"), cache.resolve("A.example"));
                assert_eq!(both, (Ok(address), Ok(address)));
                assert_eq!(cache.resolve("a.example").await, Ok(address));
                assert_eq!(count.load(Relaxed), 1);
                assert_eq!(cache.resolve("[::1]").await, Ok("::1".parse().unwrap()));
                assert!(matches!(cache.resolve("x.invalid").await, Err(NameError::Failed(_))));
                assert_eq!(cache.resolve("b.example").await, Ok(address));
                assert_eq!(cache.resolve("c.example").await, Err(NameError::Full));
                let later = Instant::now() + Duration::from_secs(70);
                assert_eq!(cache.sweep(later).len(), 2);
                assert!(cache.sweep(later + Duration::from_secs(300)).is_empty());
                assert_eq!(cache.known.load().len(), 0);
            })
            .await;
    }

    #[tokio::test]
    async fn no_more_requests_wait_than_may() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let never: LookUp = Arc::new(|_| Box::pin(std::future::pending()));
                let cache = DnsCache::start(settings(), never, |all, _| all);
                let waiting = futures::future::join_all((0..4).map(|_| cache.resolve("slow.example")));
                let overflown = waiting.await.iter().filter(|a| **a == Err(NameError::Overflow)).count();
                assert_eq!(overflown, 1);
            })
            .await;
    }
}
