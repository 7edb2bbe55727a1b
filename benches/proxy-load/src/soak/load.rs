//! The mixed load: for each class some workers, each of which asks, waits for what it is owed, and rests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::book::{Book, Class, Failure, Faults};
use super::client::{Answer, Http1, Http2, Way, request, tcp};
use super::rude;
use super::wire::{chunked, pattern, sum};

/// How long a request may take: as long as Envoy's own limit lets it, and a little more.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a rude client goes on at most.
const RUDE_PATIENCE: Duration = Duration::from_secs(10);

/// Workers of a class, and how often in a second they ask, together.
const LOAD: [(Class, u32, f64); 18] = [
    (Class::Kept, 8, 90.0),
    (Class::Fresh, 2, 25.0),
    (Class::Idle, 20, 1.0),
    (Class::Post, 4, 30.0),
    (Class::Chunked, 3, 20.0),
    (Class::WebSocket, 3, 3.0),
    (Class::Http2, 4, 50.0),
    (Class::Grpc, 4, 50.0),
    (Class::Secure, 4, 40.0),
    (Class::SecureFresh, 1, 3.0),
    (Class::Tcp, 3, 5.0),
    (Class::Stale, 4, 30.0),
    (Class::Retried, 4, 30.0),
    (Class::Mortal, 4, 20.0),
    (Class::CutHead, 1, 2.0),
    (Class::CutBody, 1, 2.0),
    (Class::Fickle, 2, 10.0),
    (Class::Rude, 6, 5.0),
];

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) book: Mutex<Book>,
    pub(crate) faults: Mutex<Faults>,
    /// Where each class goes.
    pub(crate) ways: Box<dyn Fn(Class) -> Way + Send + Sync>,
}

impl Shared {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts all workers; they end after what they are at when they are told to stop.
pub(crate) fn start(shared: &Arc<Shared>, seed: u64, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
    let mut workers = Vec::new();
    for (class, count, rate) in LOAD {
        for _ in 0..count {
            let worker = Worker {
                shared: Arc::clone(shared),
                class,
                way: (shared.ways)(class),
                rng: SmallRng::seed_from_u64(seed ^ ((workers.len() as u64 + 1) << 32)),
                kept: None,
                kept_h2: None,
            };
            workers.push(tokio::spawn(worker.run(f64::from(count) / rate, stop.clone())));
        }
    }
    workers
}

struct Worker {
    shared: Arc<Shared>,
    class: Class,
    way: Way,
    rng: SmallRng,
    kept: Option<Http1>,
    kept_h2: Option<Http2>,
}

impl Worker {
    async fn run(mut self, interval: f64, mut stop: watch::Receiver<bool>) {
        loop {
            let rest = Duration::from_secs_f64(interval * self.rng.random_range(0.2..1.8));
            tokio::select! {
                () = sleep(rest) => {}
                _ = stop.changed() => return,
            }
            let since = Instant::now();
            if self.class == Class::Rude {
                self.shared.book().asked(self.class);
                let turn = rude::turn(self.way.port, &mut self.rng);
                let _ = timeout(RUDE_PATIENCE, turn).await;
                self.shared.book().ended(self.class, Ok(()), &Faults::default(), since);
                continue;
            }
            let result = timeout(PATIENCE, Box::pin(self.turn())).await.unwrap_or(Err(Failure::Late));
            if result.is_err() {
                (self.kept, self.kept_h2) = (None, None);
            }
            let faults = self.shared.faults();
            self.shared.book().ended(self.class, result, &faults, since);
        }
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        match self.class {
            Class::Kept | Class::Idle | Class::Fresh => self.get("/steady/small", b"well").await,
            Class::Secure | Class::SecureFresh => self.get("/secure/small", b"well").await,
            Class::Retried => self.get("/retried/small", b"well").await,
            Class::Fickle => self.get("/fickle/small", b"well").await,
            Class::Stale => {
                let path = format!("/stale/close/{}", self.rng.random_range(0..40));
                self.get(&path, b"well").await
            }
            Class::Chunked => {
                let length = self.rng.random_range(0..100_000);
                self.get(&format!("/steady/chunked/{length}"), &pattern(length)).await
            }
            Class::Post => self.post("/steady/sum").await,
            Class::Mortal => self.post("/mortal/sum").await,
            Class::CutHead => {
                let failure = self.get("/cut/cut-head", b"").await;
                expected(failure, &Failure::Status(503, "connection termination".to_owned()))
            }
            Class::CutBody => {
                let path = format!("/cut/cut-body/{}", self.rng.random_range(0..2));
                expected(self.get(&path, b"").await, &Failure::Cut(200))
            }
            Class::WebSocket => self.web_socket().await,
            Class::Http2 => self.http2().await,
            Class::Grpc => self.grpc().await,
            Class::Tcp => self.tcp().await,
            Class::Rude => Ok(()),
        }
    }

    async fn open(&mut self) -> Result<Http1, Failure> {
        if let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        let connection = Http1::open(&self.way).await?;
        self.shared.book().connected(self.class.door());
        Ok(connection)
    }

    /// Sends one request and judges its answer.
    async fn ask(&mut self, request: &[u8], body: &[u8]) -> Result<(), Failure> {
        let mut connection = self.open().await?;
        self.shared.book().asked(self.class);
        connection.send(request).await;
        let head = connection.head().await?;
        self.shared.book().answered(self.class, head.status());
        let answer = connection.finish(&head).await?;
        let is_fresh = matches!(self.class, Class::Fresh | Class::SecureFresh | Class::Fickle);
        if answer.is_kept && !is_fresh {
            self.kept = Some(connection);
        }
        judge(&answer, body)
    }

    async fn get(&mut self, path: &str, body: &[u8]) -> Result<(), Failure> {
        self.ask(&request("GET", path, ""), body).await
    }

    async fn post(&mut self, path: &str) -> Result<(), Failure> {
        let length = self.rng.random_range(0..64 * 1024);
        let mut body = vec![0; length];
        self.rng.fill(body.as_mut_slice());
        let text = if self.rng.random_bool(0.5) {
            let lengths: Vec<usize> = (0..6).map(|_| self.rng.random_range(1..12_000)).collect();
            [request("POST", path, "transfer-encoding: chunked\r\n"), chunked(&body, lengths)].concat()
        } else {
            [request("POST", path, &format!("content-length: {length}\r\n")), body.clone()].concat()
        };
        self.ask(&text, sum(&body).as_bytes()).await
    }

    async fn web_socket(&mut self) -> Result<(), Failure> {
        let mut connection = self.open().await?;
        self.shared.book().asked(self.class);
        let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        connection.send(&request("GET", "/steady/ws", upgrade)).await;
        let head = connection.head().await?;
        self.shared.book().answered(self.class, head.status());
        if head.status() != 101 {
            return Err(Failure::answered(head.status(), b""));
        }
        for _ in 0..self.rng.random_range(2..15) {
            let message = pattern(self.rng.random_range(1..4000));
            connection.send(&message).await;
            if connection.take(message.len()).await? != message {
                return Err(Failure::Wrong("echo"));
            }
            sleep(Duration::from_millis(self.rng.random_range(0..100))).await;
        }
        Ok(())
    }

    async fn open_h2(&mut self) -> Result<Http2, Failure> {
        if let Some(kept) = self.kept_h2.take() {
            return Ok(kept);
        }
        let connection = Http2::open(self.way.port).await?;
        self.shared.book().connected(self.class.door());
        Ok(connection)
    }

    async fn http2(&mut self) -> Result<(), Failure> {
        let mut connection = self.open_h2().await?;
        self.shared.book().asked(self.class);
        let (shared, class) = (Arc::clone(&self.shared), self.class);
        let told = |status| shared.book().answered(class, status);
        let (status, body, _) = connection.ask("/steady/small", None, told).await?;
        // Now and then a new connection.
        self.kept_h2 = (!self.rng.random_ratio(1, 200)).then_some(connection);
        judge(&Answer { status, body: body.to_vec(), is_kept: true }, b"well")
    }

    async fn grpc(&mut self) -> Result<(), Failure> {
        let mut connection = self.open_h2().await?;
        self.shared.book().asked(self.class);
        let (shared, class) = (Arc::clone(&self.shared), self.class);
        let told = |status| shared.book().answered(class, status);
        let length = self.rng.random_range(0..20_000);
        let message = [&[0][..], &(length as u32).to_be_bytes(), &pattern(length)].concat();
        let message = Bytes::from(message);
        let (status, body, trailers) =
            connection.ask("/soak.Echo/Unary", Some(message.clone()), told).await?;
        self.kept_h2 = Some(connection);
        if trailers.and_then(|it| it.get("grpc-status").cloned()).is_none_or(|it| it != "0") {
            return Err(Failure::Wrong("trailers"));
        }
        judge(&Answer { status, body: body.to_vec(), is_kept: true }, &message)
    }

    async fn tcp(&mut self) -> Result<(), Failure> {
        let mut stream = tcp(self.way.port).await?;
        self.shared.book().connected(self.class.door());
        self.shared.book().asked(self.class);
        let cut = |_| Failure::Cut(0);
        for _ in 0..self.rng.random_range(1..8) {
            let sent = pattern(self.rng.random_range(1..32_000));
            let mut back = vec![0; sent.len()];
            let (mut read, mut write) = stream.split();
            let (written, had) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
            written.map_err(cut)?;
            had.map_err(cut)?;
            if back != sent {
                return Err(Failure::Wrong("echo"));
            }
            sleep(Duration::from_millis(self.rng.random_range(0..50))).await;
        }
        stream.shutdown().await.map_err(cut)?;
        match stream.read(&mut [0]).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(Failure::Wrong("end")),
            Err(error) => Err(cut(error)),
        }
    }
}

fn judge(answer: &Answer, body: &[u8]) -> Result<(), Failure> {
    match answer.status {
        200 if answer.body == body => Ok(()),
        200 => Err(Failure::Wrong("body")),
        status => Err(Failure::answered(status, &answer.body)),
    }
}

/// The failure that was asked for is what succeeds.
fn expected(result: Result<(), Failure>, failure: &Failure) -> Result<(), Failure> {
    match result {
        Err(it) if it == *failure => Ok(()),
        Err(other) => Err(other),
        Ok(()) => Err(Failure::Wrong("success")),
    }
}
