//! Records of access logs that wait to be sent to collectors.

use std::sync::Arc;
use std::time::Instant;

use decide::{LogExport, LogRecord};

/// Batches of one worker that may be under way at once. Of a collector that does not keep up, what comes then is lost.
const UNDER_WAY: usize = 16;

/// What is kept for one collector until it is sent.
#[derive(Debug)]
pub struct Batch {
    pub to: Arc<LogExport>,
    pub records: Vec<LogRecord>,
    bytes: usize,
    due: Instant,
}

/// The batches of one worker.
#[derive(Debug, Default)]
pub struct Batches {
    waiting: Vec<Batch>,
    under_way: usize,
}

impl Batch {
    fn is_due(&self, now: Instant) -> bool {
        self.bytes >= self.to.flush_at || self.due <= now
    }
}

impl Batches {
    /// Keeps a record. True where something has become due, or will be sooner than was known.
    pub fn keep(&mut self, to: &Arc<LogExport>, record: LogRecord, now: Instant) -> bool {
        let bytes = record.size();
        let is_same = |batch: &&mut Batch| Arc::ptr_eq(&batch.to, to) || *batch.to == **to;
        match self.waiting.iter_mut().find(is_same) {
            Some(batch) => {
                batch.records.push(record);
                batch.bytes += bytes;
                batch.is_due(now)
            }
            None => {
                let due = now + to.flush_every;
                self.waiting.push(Batch { to: to.clone(), records: vec![record], bytes, due });
                true
            }
        }
    }

    /// When the next batch is to be taken.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|batch| batch.due).min()
    }

    /// The batches that are to be sent now, each until [`sent`](Self::sent) is said, and those that are lost.
    pub fn take(&mut self, now: Instant) -> (Vec<Batch>, Vec<Batch>) {
        let mut due: Vec<_> = self.waiting.extract_if(.., |batch| batch.is_due(now)).collect();
        let lost = due.split_off(due.len().min(UNDER_WAY - self.under_way.min(UNDER_WAY)));
        self.under_way += due.len();
        (due, lost)
    }

    /// All that wait, at the end.
    pub fn take_all(&mut self) -> Vec<Batch> {
        self.under_way += self.waiting.len();
        std::mem::take(&mut self.waiting)
    }

    pub fn sent(&mut self) {
        self.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use decide::Plan;
    use proto::{Delta, Resource, ResourceType};

    use super::*;

    /// Two logs to one collector, as two filters would have them.
    fn exports() -> [Arc<LogExport>; 2] {
        [(); 2].map(|()| {
            let log = serde_json::json!({
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
                "commonConfig": {
                    "logName": "log", "bufferSizeBytes": 100, "bufferFlushInterval": "2s",
                    "grpcService": {"envoyGrpc": {"clusterName": "collector"}},
                },
            });
            let listener = serde_json::json!({
                "name": "l", "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 1}},
                "filterChains": [{"filters": []}],
                "accessLog": [{"name": "log", "typedConfig": log}],
            });
            let body = proto::json::from_value("envoy.config.listener.v3.Listener", &listener).unwrap();
            let resource = Resource { name: "l".into(), version: 1, body: body.into() };
            let delta =
                Delta { resource_type: ResourceType::Listener, changed: vec![resource], removed: Vec::new() };
            let (plan, refused) = Plan::new().apply(&delta);
            assert!(refused.is_empty(), "{refused:?}");
            let listener = plan.listener("l").unwrap();
            let connection =
                decide::Connection::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
            let entry = decide::LogEntry::new(&connection, std::time::SystemTime::now());
            match listener.access_log[0].log(&entry, &mut String::new()) {
                decide::Logged::Record(to, _) => to.clone(),
                decide::Logged::Line(_) => unreachable!(),
            }
        })
    }

    fn record(bytes: u64) -> LogRecord {
        let mut entry = proto::pb::envoy::data::accesslog::v3::TcpAccessLogEntry::default();
        entry.common_properties.get_or_insert_default().route_name = "x".repeat(bytes as usize);
        LogRecord::Tcp(Box::new(entry))
    }

    #[test]
    fn a_batch_goes_when_it_is_old_or_large_and_loggers_alike_share_one() {
        let [one, other] = exports();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut batches = Batches::default();
        assert!(batches.keep(&one, record(1), start), "somebody has to wait for it");
        assert!(!batches.keep(&other, record(1), after(1)));
        assert_eq!(batches.due(), Some(after(2)));
        assert!(batches.take(after(1)).0.is_empty());
        let (due, lost) = batches.take(after(2));
        assert_eq!((due.len(), due[0].records.len(), lost.len()), (1, 2, 0));
        batches.sent();
        batches.keep(&one, record(1), after(3));
        assert!(batches.keep(&other, record(200), after(3)), "it is full");
        assert_eq!(batches.take(after(3)).0[0].records.len(), 2);
        assert_eq!(batches.due(), None);
    }

    #[test]
    fn of_a_collector_that_does_not_keep_up_no_more_is_kept_than_is_under_way() {
        let [one, _] = exports();
        let now = Instant::now();
        let mut batches = Batches::default();
        for n in 0..UNDER_WAY + 2 {
            batches.keep(&one, record(200), now);
            let (due, lost) = batches.take(now);
            assert_eq!((due.len(), lost.len()), if n < UNDER_WAY { (1, 0) } else { (0, 1) });
        }
        batches.sent();
        batches.keep(&one, record(1), now);
        assert_eq!(batches.take_all().len(), 1);
    }
}
