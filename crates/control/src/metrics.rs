//! Counters under the names that istiod's dashboards read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::{Action, Change, Diff};
use proto::ResourceType;

/// Upper bounds of times in seconds.
const SECONDS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 5.0, 10.0, 30.0];
/// Upper bounds of sizes in bytes.
const BYTES: [f64; 6] = [1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    inner: Mutex<Inner>,
    /// What the API server's doors say of resources that were checked.
    validation_passed: AtomicU64,
    validation_failed: AtomicU64,
    keys_fetched: AtomicU64,
    keys_not_fetched: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    pushes: BTreeMap<&'static str, u64>,
    rejects: BTreeMap<&'static str, u64>,
    sent_bytes: u64,
    push_time: BTreeMap<&'static str, Histogram<11>>,
    config_size: BTreeMap<&'static str, Histogram<6>>,
    convergence: Histogram<11>,
    triggers: BTreeMap<&'static str, u64>,
    config_events: BTreeMap<(String, &'static str), u64>,
    registry_events: BTreeMap<(String, &'static str), u64>,
    internal_errors: u64,
}

#[derive(Debug, Default, Clone)]
struct Histogram<const N: usize> {
    buckets: [u64; 32],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, value: f64, bounds: &[f64; N]) {
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            if value <= *bound {
                *bucket += 1;
            }
        }
        self.count += 1;
        self.sum += value;
    }

    fn write(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64; N]) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count);
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{braces} {}\n{name}_count{braces} {}", self.sum, self.count);
    }
}

impl Metrics {
    pub(crate) fn events(&self, changes: &[Change]) {
        let mut inner = self.lock();
        for change in changes {
            let (kind, event) = match &change.action {
                Action::Upsert(object) => (object.reference().kind, "update"),
                Action::Delete(at) => (at.kind, "delete"),
            };
            use model::Kind as K;
            let map = match kind {
                K::Service | K::Slice | K::Pod | K::WorkloadEntry | K::Namespace | K::Node | K::Secret => {
                    &mut inner.registry_events
                }
                _ => &mut inner.config_events,
            };
            *map.entry((format!("{kind:?}"), event)).or_default() += 1;
        }
    }

    pub(crate) fn published(&self, diff: &Diff, took: Duration) {
        let trigger = if diff.only_endpoints() { "endpoint" } else { "config" };
        let mut inner = self.lock();
        *inner.triggers.entry(trigger).or_default() += 1;
        inner.convergence.observe(took.as_secs_f64(), &SECONDS);
    }

    pub(crate) fn pushed(&self, of: ResourceType, bytes: usize, took: Duration) {
        let mut inner = self.lock();
        let short = short(of);
        *inner.pushes.entry(short).or_default() += 1;
        inner.sent_bytes += bytes as u64;
        inner.config_size.entry(of.url()).or_default().observe(bytes as f64, &BYTES);
        inner.push_time.entry(short).or_default().observe(took.as_secs_f64(), &SECONDS);
    }

    pub(crate) fn rejected(&self, of: ResourceType) {
        *self.lock().rejects.entry(short(of)).or_default() += 1;
    }

    pub(crate) fn internal_error(&self) {
        self.lock().internal_errors += 1;
    }

    pub(crate) fn validated(&self, passed: bool) {
        let counter = if passed { &self.validation_passed } else { &self.validation_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The keys of tokens.
    pub(crate) fn fetched_keys(&self, succeeded: bool) {
        let counter = if succeeded { &self.keys_fetched } else { &self.keys_not_fetched };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Prometheus' text format.
    pub(crate) fn render(&self, version: &str, connected: &BTreeMap<String, u64>, services: usize) -> String {
        let inner = self.lock();
        let mut out = String::with_capacity(8192);
        let o = &mut out;
        let _ =
            writeln!(o, "# TYPE istio_build gauge\nistio_build{{component=\"pilot\",tag=\"{version}\"}} 1");
        let _ = writeln!(o, "# TYPE pilot_info gauge\npilot_info{{version=\"{version}\"}} 1");
        let _ = writeln!(o, "# TYPE pilot_services gauge\npilot_services {services}");
        let _ = writeln!(o, "# TYPE pilot_xds gauge");
        for (proxy, count) in connected {
            let _ = writeln!(o, "pilot_xds{{version=\"{proxy}\"}} {count}");
        }
        counter(o, "pilot_xds_pushes", "type", inner.pushes.iter().map(|(k, v)| (*k, *v)));
        let _ = writeln!(o, "# TYPE pilot_xds_push_time histogram");
        for (of, histogram) in &inner.push_time {
            histogram.write(o, "pilot_xds_push_time", &format!("type=\"{of}\""), &SECONDS);
        }
        let _ = writeln!(o, "# TYPE pilot_xds_config_size_bytes histogram");
        for (of, histogram) in &inner.config_size {
            histogram.write(o, "pilot_xds_config_size_bytes", &format!("type=\"{of}\""), &BYTES);
        }
        let _ = writeln!(o, "# TYPE pilot_proxy_convergence_time histogram");
        inner.convergence.write(o, "pilot_proxy_convergence_time", "", &SECONDS);
        counter(o, "pilot_push_triggers", "type", inner.triggers.iter().map(|(k, v)| (*k, *v)));
        for (name, events) in
            [("pilot_k8s_cfg_events", &inner.config_events), ("pilot_k8s_reg_events", &inner.registry_events)]
        {
            let _ = writeln!(o, "# TYPE {name} counter");
            for ((kind, event), count) in events {
                let _ = writeln!(o, "{name}{{type=\"{kind}\",event=\"{event}\"}} {count}");
            }
        }
        for of in ["cds", "eds", "lds", "rds"] {
            let count = inner.rejects.get(of).copied().unwrap_or(0);
            let _ = writeln!(o, "# TYPE pilot_xds_{of}_reject counter\npilot_xds_{of}_reject {count}");
        }
        for (name, value) in [
            ("pilot_total_xds_rejects", inner.rejects.values().sum()),
            ("pilot_total_xds_internal_errors", inner.internal_errors),
            ("mizzen_xds_sent_bytes_total", inner.sent_bytes),
            ("pilot_jwks_resolver_network_fetch_success_total", self.keys_fetched.load(Ordering::Relaxed)),
            ("pilot_jwks_resolver_network_fetch_fail_total", self.keys_not_fetched.load(Ordering::Relaxed)),
            ("galley_validation_passed", self.validation_passed.load(Ordering::Relaxed)),
            ("galley_validation_failed", self.validation_failed.load(Ordering::Relaxed)),
        ] {
            let _ = writeln!(o, "# TYPE {name} counter\n{name} {value}");
        }
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counter<'a>(out: &mut String, name: &str, label: &str, values: impl Iterator<Item = (&'a str, u64)>) {
    let _ = writeln!(out, "# TYPE {name} counter");
    for (value, count) in values {
        let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {count}");
    }
}

/// istiod's short names of types.
fn short(of: ResourceType) -> &'static str {
    match of {
        ResourceType::Cluster => "cds",
        ResourceType::Endpoint => "eds",
        ResourceType::Listener => "lds",
        ResourceType::Route | ResourceType::VirtualHost | ResourceType::ScopedRoute => "rds",
        ResourceType::Secret => "sds",
        ResourceType::ExtensionConfig => "ecds",
        ResourceType::NameTable => "nds",
        ResourceType::ProxyConfig => "pcds",
        ResourceType::HealthInformation => "hds",
        ResourceType::Address => "wds",
        ResourceType::Authorization => "wads",
    }
}
