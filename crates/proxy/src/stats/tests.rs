use std::rc::Rc;
use std::sync::Arc;

use decide::{PeerMetadata, ResponseFlags};

use super::istio::RequestSample;
use super::*;

fn key(source: &str, code: u16) -> RequestKey {
    RequestKey {
        reporter: Reporter::Source,
        source: Rc::new(Workload { workload: source.into(), ..Workload::unknown() }),
        destination: Rc::new(Workload::unknown()),
        service: Rc::new(Service::all("reviews")),
        protocol: RequestProtocol::Http,
        code,
        flags: ResponseFlags::NONE,
        grpc_status: None,
        security: Security::Unknown,
    }
}

#[test]
fn workers_are_merged_and_families_stay_together() {
    let owner: Arc<str> = "outbound|80||a\"b".into();
    let mut all = Snapshot::default();
    for _ in 0..2 {
        let cluster = ClusterStats::default();
        cluster.rq_total.add(2);
        cluster.code(200);
        cluster.code(503);
        let mut istio = IstioStats::default();
        istio.record(key("a", 200), &RequestSample { millis: 3.0, ..RequestSample::default() });
        istio.heed_context(false);
        let mut one = Snapshot::default();
        cluster.collect(&owner, &mut one);
        one.istio = istio.snapshot(&PeerMetadata::default());
        all.merge(one);
    }
    let text = text(&all, &Wanted::default());
    assert!(text.contains("cluster.outbound|80||a\"b.upstream_rq_total: 4\n"), "{text}");
    assert!(text.contains("upstream_rq_503: 2\n") && text.contains("upstream_rq_5xx: 2\n"), "{text}");
    let page = prometheus(&all);
    assert!(
        page.contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||a\\\"b\"} 4"),
        "{page}"
    );
    assert!(page.contains("envoy_response_code_class=\"5\"} 2"));
    assert!(page.contains("istio_requests_total{reporter=\"source\",source_workload=\"a\""));
    assert!(page.contains("response_flags=\"-\""));
    assert!(
        page.contains("mizzen_trace_contexts_total{workload=\"unknown\"")
            && page.contains("context=\"lost\"} 2")
    );
    assert!(!page.contains("context=\"kept\""));
    let types = page.lines().filter(|l| *l == "# TYPE istio_requests_total counter").count();
    assert_eq!(types, 1);
    assert!(page.contains("le=\"5\"} 2") && page.contains("le=\"1\"} 0"));
}

#[test]
fn peers_cannot_fill_the_memory_with_series() {
    let mut istio = IstioStats::default();
    for n in 0..5000 {
        istio.record(key(&n.to_string(), 200), &RequestSample::default());
    }
    let snapshot = istio.snapshot(&PeerMetadata::default());
    assert!(snapshot.requests.len() <= 4097, "{}", snapshot.requests.len());
    assert_eq!(snapshot.requests.values().map(|s| s.requests).sum::<u64>(), 5000);
    assert!(istio.dropped() > 0);
}

/// GHSA-42mr-jpwh-m9rv: whatever peers say of themselves and answer, the number of series is bounded.
#[test]
fn peers_cannot_make_series_without_end() {
    let mut istio = IstioStats::default();
    for n in 0..20_000u32 {
        let grpc_status = (n % 2 == 0).then_some(n);
        let key =
            RequestKey { grpc_status, ..key(&format!("workload-{}", n % 7_000), 200 + (n % 700) as u16) };
        istio.record(key, &RequestSample::default());
    }
    let all = Snapshot { istio: istio.snapshot(&PeerMetadata::default()), ..Snapshot::default() };
    let page = prometheus(&all);
    let series = page.lines().filter(|l| l.starts_with("istio_requests_total{")).count();
    assert!((4096..4400).contains(&series), "{series}");
    assert!(page.contains("source_workload=\"overflow\""));
}
