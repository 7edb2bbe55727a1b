//! A worker's thread and its loops: messages, accepting, reaping, flushing.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ahash::AHashMap;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{AbortHandle, LocalSet};

use super::message::{Config, Message};
use super::state::{Node, Shared, Worker};
use crate::listen;
use crate::log::Batch;

/// Messages that may wait for a worker.
const QUEUE: usize = 1024;
const REAP_EVERY: Duration = Duration::from_secs(1);
const FLUSH_EVERY: Duration = Duration::from_millis(100);
const SPANS_EVERY: Duration = Duration::from_secs(1);
/// For the spans of the last requests before a proxy ends.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The control thread's grip on a worker.
pub struct WorkerHandle {
    pub messages: Sender<Message>,
    pub thread: Option<std::thread::JoinHandle<()>>,
}

/// The worker with this index among `count`.
pub fn start(
    (index, count): (usize, usize),
    node: Arc<Node>,
    config: Config,
    shared: Shared,
) -> std::io::Result<WorkerHandle> {
    let (messages, inbox) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        pin_to_core(index, count);
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "worker cannot start");
                return;
            }
        };
        let local = LocalSet::new();
        let worker = Worker::new(index, node, config, shared);
        local.block_on(&runtime, run(worker, inbox));
    })?;
    Ok(WorkerHandle { messages, thread: Some(thread) })
}

/// One worker per core, where there is one for each that we may use. Fewer would crowd the first cores, where those of
/// other proxies are.
fn pin_to_core(index: usize, count: usize) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    let me = nix::unistd::Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(me) else { return };
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|c| allowed.is_set(*c).unwrap_or(false)).collect();
    if cores.len() < 2 || cores.len() != count {
        return;
    }
    let mut set = CpuSet::new();
    if cores.get(index).is_some_and(|core| set.set(*core).is_ok()) {
        let _ = sched_setaffinity(me, &set);
    }
}

async fn run(worker: Rc<Worker>, mut inbox: Receiver<Message>) {
    let mut sockets: AHashMap<u64, Vec<AbortHandle>> = AHashMap::new();
    tokio::task::spawn_local(reap(worker.clone()));
    tokio::task::spawn_local(flush(worker.clone()));
    tokio::task::spawn_local(send_spans(worker.clone()));
    tokio::task::spawn_local(send_records(worker.clone()));
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Change { upserted, config, removed } => worker.apply(&upserted, *config, &removed),
            Message::Endpoints(name, set) => worker.replace_endpoints(&name, set),
            Message::Listen { name, key, socket } => match TcpListener::from_std(socket) {
                Ok(socket) => {
                    let task = tokio::task::spawn_local(listen::accept_tcp(worker.clone(), name, socket));
                    sockets.entry(key).or_default().push(task.abort_handle());
                }
                Err(error) => tracing::error!(%error, listener = %name, "cannot accept"),
            },
            Message::ListenUnix { name, key, socket } => match UnixListener::from_std(socket) {
                Ok(socket) => {
                    let task = tokio::task::spawn_local(listen::accept_unix(worker.clone(), name, socket));
                    sockets.entry(key).or_default().push(task.abort_handle());
                }
                Err(error) => tracing::error!(%error, listener = %name, "cannot accept"),
            },
            Message::Unlisten { key } => {
                sockets.remove(&key).into_iter().flatten().for_each(|task| task.abort());
            }
            Message::Demanded { found, reply } => _ = reply.send(found),
            Message::Stats(reply) => _ = reply.send(worker.snapshot()),
            Message::FlushLogs(done) => {
                worker.log.flush();
                let _ = done.send(());
            }
            Message::Drain(done) => {
                sockets.drain().flat_map(|(_, tasks)| tasks).for_each(|task| task.abort());
                worker.start_drain();
                tokio::task::spawn_local(when_empty(worker.clone(), done));
            }
            Message::DrainGently(done) => {
                sockets.drain().flat_map(|(_, tasks)| tasks).for_each(|task| task.abort());
                worker.start_gentle_drain();
                tokio::task::spawn_local(when_empty(worker.clone(), done));
            }
            Message::CutIdle => worker.start_drain(),
            Message::DrainInbound => worker.start_inbound_drain(),
            Message::Stop => break,
        }
    }
    worker.log.flush();
}

async fn when_empty(worker: Rc<Worker>, done: tokio::sync::oneshot::Sender<()>) {
    worker.empty().await;
    worker.log.flush();
    let last = async {
        let records = worker.last_records().into_iter().map(|batch| send_batch(&worker, batch));
        futures::join!(crate::exchange::send_spans(&worker), futures::future::join_all(records))
    };
    let _ = tokio::time::timeout(LAST_SPANS, last).await;
    let _ = done.send(());
}

async fn reap(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        poll_fn(|cx| {
            worker.reap(cx);
            Poll::Ready(())
        })
        .await;
    }
}

async fn flush(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        worker.log.flush();
    }
}

async fn send_spans(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(SPANS_EVERY).await;
        crate::exchange::send_spans(&worker).await;
    }
}

async fn send_records(worker: Rc<Worker>) {
    loop {
        for batch in worker.due_records().await {
            let worker = worker.clone();
            tokio::task::spawn_local(async move { send_batch(&worker, batch).await });
        }
    }
}

async fn send_batch(worker: &Worker, batch: Batch) {
    crate::exchange::send_records(worker, batch).await;
    worker.records_sent();
}
