//! The embedded store: a redb file behind an in-memory copy of the present.
//!
//! One thread writes. It takes all transactions that wait, runs them in order, commits them together
//! with one fsync, and only then shows and acknowledges them. Reads never touch the disk, so a full or
//! failing disk refuses writes and nothing else.

use super::window::{Cursor, Window};
use super::{Compare, Event, Op, Outcome, Page, Range, Record, Revision, Sealer, Store, StoreError, Txn};
use bytes::Bytes;
use futures::future::BoxFuture;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, mpsc};
use tokio::sync::oneshot;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// How many transactions share one fsync at most.
const BATCH: usize = 512;

/// How the store behaves.
pub struct DiskOptions {
    pub path: PathBuf,
    /// Seals the values of the keys that `sealed` names.
    pub sealer: Sealer,
    pub sealed: fn(&str) -> bool,
    /// How many events are kept for watches.
    pub window_events: usize,
    /// How many bytes of events are kept for watches.
    pub window_bytes: usize,
}

/// The present, in memory.
#[derive(Default)]
struct State {
    records: BTreeMap<Arc<str>, (Revision, Bytes)>,
    revision: Revision,
}

type Job = (Txn, oneshot::Sender<Result<Outcome, StoreError>>);

/// A store in one file.
pub struct DiskStore {
    state: Arc<RwLock<State>>,
    window: Arc<Window>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl DiskStore {
    /// Opens or makes the file and reads it into memory.
    pub fn open(options: DiskOptions) -> io::Result<Self> {
        let mut file = File { options, database: None };
        let loaded = file.load().map_err(|error| io::Error::other(error.to_string()))?;
        let window = Window::new(loaded.revision, file.options.window_events, file.options.window_bytes);
        let state = Arc::new(RwLock::new(loaded));
        let (jobs, queue) = mpsc::channel();
        let writer = Writer { file, state: state.clone(), window: window.clone() };
        let writer = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&queue))?;
        Ok(Self { state, window, jobs: Some(jobs), writer: Some(writer) })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        // The writer ends when nobody can send any more, after it has answered all that waits.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for DiskStore {
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send((txn, answer)).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(StoreError::Closed);
            }
            answered.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.read().get(key))
    }

    fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let state = self.read();
        match range.at {
            None => Ok(state.page(range, state.revision)),
            Some(at) if at > state.revision => Err(StoreError::Future { asked: at, current: state.revision }),
            Some(at) => {
                let events = self.window.events(&range.prefix, at, state.revision)?;
                if events.is_empty() {
                    return Ok(state.page(range, at));
                }
                Ok(state.undone(range, &events).page(range, at))
            }
        }
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Cursor, StoreError> {
        self.window.cursor(prefix, after)
    }

    fn compact(&self, upto: Revision) {
        self.window.compact(upto);
    }

    fn revision(&self) -> Revision {
        self.read().revision
    }
}

impl State {
    fn get(&self, key: &str) -> Option<Record> {
        let (key, (modified, value)) = self.records.get_key_value(key)?;
        Some(Record { key: key.clone(), value: value.clone(), modified: *modified })
    }

    fn under<'a>(
        &'a self,
        range: &'a Range,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a (Revision, Bytes))> + 'a {
        let start = match &range.after {
            Some(after) if after.as_str() >= range.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(range.prefix.as_str()),
        };
        let found = self.records.range::<str, _>((start, Bound::Unbounded));
        found.take_while(|(key, _)| key.starts_with(&range.prefix))
    }

    fn page(&self, range: &Range, revision: Revision) -> Page {
        let mut found = self.under(range);
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        let record = |(key, (modified, value)): (&Arc<str>, &(Revision, Bytes))| Record {
            key: key.clone(),
            value: value.clone(),
            modified: *modified,
        };
        let records: Vec<Record> = found.by_ref().take(limit).map(record).collect();
        Page { records, remaining: found.count(), revision }
    }

    /// The records of the range as they were before these events.
    fn undone(&self, range: &Range, events: &[Arc<Event>]) -> State {
        let whole = Range { prefix: range.prefix.clone(), ..Range::default() };
        let mut records: BTreeMap<_, _> = self.under(&whole).map(|(k, v)| (k.clone(), v.clone())).collect();
        for event in events.iter().rev() {
            match &event.previous {
                Some(value) => {
                    records.insert(event.key.clone(), (event.previous_modified, value.clone()));
                }
                None => {
                    records.remove(&event.key);
                }
            }
        }
        State { records, revision: self.revision }
    }
}

/// The file, which may have to be opened anew after an error.
struct File {
    options: DiskOptions,
    database: Option<Database>,
}

impl File {
    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            let mut builder = Database::builder();
            builder.set_cache_size(8 << 20);
            let database = builder.create(&self.options.path).map_err(|e| failure(&e.into()))?;
            owner_only(&self.options.path);
            self.database = Some(database);
        }
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    /// Everything that is on the disk.
    fn load(&mut self) -> Result<State, StoreError> {
        self.database()?;
        let Some(database) = self.database.as_ref() else { return Err(StoreError::Closed) };
        self.read(database).map_err(|error| failure(&error))?
    }

    fn read(&self, database: &Database) -> Result<Result<State, StoreError>, redb::Error> {
        let write = database.begin_write()?;
        write.open_table(RECORDS)?;
        write.open_table(META)?;
        write.commit()?;
        let read = database.begin_read()?;
        let revision = read.open_table(META)?.get(REVISION)?.map_or(1, |value| value.value());
        let mut records = BTreeMap::new();
        for row in read.open_table(RECORDS)?.iter()? {
            let (key, value) = row?;
            let key: Arc<str> = key.value().into();
            let Some(decoded) = self.decode(&key, value.value()) else {
                let hint = format!("{key}: sealed with another key than that of the key file");
                return Ok(Err(StoreError::Failed(hint)));
            };
            records.insert(key, decoded);
        }
        Ok(Ok(State { records, revision }))
    }

    fn encode(&self, key: &str, modified: Revision, value: &[u8]) -> Vec<u8> {
        let mut row = modified.to_le_bytes().to_vec();
        if (self.options.sealed)(key) {
            row.extend_from_slice(&self.options.sealer.seal(key, value));
        } else {
            row.extend_from_slice(value);
        }
        row
    }

    fn decode(&self, key: &str, row: &[u8]) -> Option<(Revision, Bytes)> {
        let (modified, value) = row.split_first_chunk::<8>()?;
        let value = match (self.options.sealed)(key) {
            true => self.options.sealer.unseal(key, value)?.into(),
            false => Bytes::copy_from_slice(value),
        };
        Some((Revision::from_le_bytes(*modified), value))
    }

    fn commit(&mut self, events: &[Event], revision: Revision) -> Result<(), StoreError> {
        self.database()?;
        let Some(database) = self.database.as_ref() else { return Err(StoreError::Closed) };
        self.write(database, events, revision).map_err(|error| failure(&error))
    }

    fn write(&self, database: &Database, events: &[Event], revision: Revision) -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        {
            let mut records = write.open_table(RECORDS)?;
            for event in events {
                match &event.value {
                    Some(value) => {
                        records.insert(&*event.key, &*self.encode(&event.key, event.revision, value))?;
                    }
                    None => {
                        records.remove(&*event.key)?;
                    }
                }
            }
            write.open_table(META)?.insert(REVISION, revision)?;
        }
        write.commit()?;
        Ok(())
    }
}

fn owner_only(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, path = %path.display(), "cannot restrict the store's file to its owner");
    }
}

fn failure(error: &redb::Error) -> StoreError {
    let full = |kind| {
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    };
    match error {
        redb::Error::Io(io) if full(io.kind()) => StoreError::Full(io.to_string()),
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Failed("it is in use: another control plane runs on this data folder".into())
        }
        other => StoreError::Failed(other.to_string()),
    }
}

struct Writer {
    file: File,
    state: Arc<RwLock<State>>,
    window: Arc<Window>,
}

/// What a batch is about to change.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    /// What the batch left at a key so far.
    overlay: HashMap<Arc<str>, Option<(Revision, Bytes)>>,
    answers: Vec<(oneshot::Sender<Result<Outcome, StoreError>>, Outcome)>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            jobs.extend(queue.try_iter().take(BATCH - 1));
            self.batch(jobs);
        }
    }

    fn batch(&mut self, jobs: Vec<Job>) {
        let state = self.state.clone();
        let state = state.read().unwrap_or_else(PoisonError::into_inner);
        let mut revision = state.revision;
        let mut batch = Batch::default();
        for (txn, answer) in jobs {
            let outcome = batch.run(&state, txn, &mut revision);
            batch.answers.push((answer, outcome));
        }
        drop(state);
        let stored = match batch.events.is_empty() {
            true => Ok(()),
            false => self.file.commit(&batch.events, revision),
        };
        match stored {
            Ok(()) => self.show(batch, revision),
            Err(error) => self.refuse(batch, &error),
        }
    }

    fn show(&self, batch: Batch, revision: Revision) {
        if !batch.events.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.revision = revision;
            for (key, now) in batch.overlay {
                match now {
                    Some(record) => state.records.insert(key, record),
                    None => state.records.remove(&key),
                };
            }
            self.window.publish(batch.events, revision);
        }
        for (answer, outcome) in batch.answers {
            let _ = answer.send(Ok(outcome));
        }
    }

    /// Nothing of the batch is stored. The file is opened anew; should the failed commit have reached
    /// the disk after all, memory follows the disk and watchers have to list again.
    fn refuse(&mut self, batch: Batch, error: &StoreError) {
        tracing::error!(%error, writes = batch.events.len(), "the store refused to write");
        self.file.database = None;
        if let Ok(loaded) = self.file.load() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if loaded.revision != state.revision {
                let revision = loaded.revision;
                *state = loaded;
                self.window.publish(Vec::new(), revision);
                self.window.compact(revision);
            }
        }
        for (answer, outcome) in batch.answers {
            let _ = answer.send(match outcome {
                Outcome::Done(_) => Err(error.clone()),
                differs @ Outcome::Differs { .. } => Ok(differs),
            });
        }
    }
}

impl Batch {
    fn run(&mut self, state: &State, txn: Txn, revision: &mut Revision) -> Outcome {
        for Compare { key, modified } in &txn.compare {
            let now = self.get(state, key);
            if now.as_ref().map_or(0, |record| record.modified) != *modified {
                return Outcome::Differs { key: key.clone(), now };
            }
        }
        if txn.then.is_empty() {
            return Outcome::Done(*revision);
        }
        *revision += 1;
        for op in txn.then {
            self.apply(state, op, *revision);
        }
        Outcome::Done(*revision)
    }

    fn get(&self, state: &State, key: &str) -> Option<Record> {
        match self.overlay.get_key_value(key) {
            Some((key, now)) => now.as_ref().map(|(modified, value)| Record {
                key: key.clone(),
                value: value.clone(),
                modified: *modified,
            }),
            None => state.get(key),
        }
    }

    fn apply(&mut self, state: &State, op: Op, revision: Revision) {
        let (key, value) = match op {
            Op::Put(key, value) => (key, Some(value)),
            Op::Delete(key) => (key, None),
        };
        let before = self.get(state, &key);
        if before.is_none() && value.is_none() {
            return;
        }
        let key: Arc<str> = before.as_ref().map_or_else(|| key.into(), |record| record.key.clone());
        let previous_modified = before.as_ref().map_or(0, |record| record.modified);
        self.overlay.insert(key.clone(), value.clone().map(|value| (revision, value)));
        let previous = before.map(|record| record.value);
        self.events.push(Event { revision, key, value, previous, previous_modified });
    }
}
