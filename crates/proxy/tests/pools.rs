//! Connections to upstreams: shared, bounded, waited for, retired. On real sockets.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{
    Seen, add_clusters, apply, cluster, echo_upstream, endpoint, get, http_proxy, read_message, stat, status,
    upstream,
};
use proto::{Delta, Resource, ResourceType};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// An upstream that speaks HTTP/2, works so long on each request, and knows how many it had at once.
async fn slow_h2(work: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, now) = (Arc::clone(&most), Arc::new(AtomicUsize::new(0)));
    let serve = move |stream: TcpStream, _: Seen| {
        let (most, now) = (Arc::clone(&counted), Arc::clone(&now));
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let (most, now) = (Arc::clone(&most), Arc::clone(&now));
                tokio::spawn(async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(work).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    let _ = respond.send_response(http::Response::new(()), true);
                });
            }
        }
    };
    (upstream(serve).await.0, most)
}

fn h2_cluster(up: SocketAddr, options: &Value, thresholds: &Value) -> Value {
    let mut cluster = cluster("up", &[up]);
    cluster["circuitBreakers"] = json!({"thresholds": [thresholds]});
    cluster["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicitHttpConfig": {"http2ProtocolOptions": options},
    }});
    cluster
}

/// The statuses of requests that are sent at once.
async fn at_once(address: SocketAddr, count: usize) -> Vec<String> {
    let all: Vec<_> = (0..count).map(|_| tokio::spawn(async move { get(address, "/").await })).collect();
    let mut statuses = Vec::new();
    for one in all {
        statuses.push(status(&one.await.unwrap()).to_owned());
    }
    statuses
}

#[tokio::test]
async fn many_at_once_share_one_connection_of_http2() {
    let (up, _) = slow_h2(Duration::from_millis(20)).await;
    let cluster = h2_cluster(up, &json!({}), &json!({}));
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let statuses = at_once(address, 40).await;
    assert!(statuses.iter().all(|status| status == "200"), "{statuses:?}");
    assert_eq!(stat(&handle, "cluster.up.upstream_cx_http2_total").await, 1);
    handle.stop().await;
}

#[tokio::test]
async fn streams_that_have_no_room_wait_for_one_that_ends() {
    let (up, most) = slow_h2(Duration::from_millis(20)).await;
    let cluster = h2_cluster(up, &json!({"maxConcurrentStreams": 2}), &json!({"maxConnections": 1}));
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let statuses = at_once(address, 12).await;
    assert!(statuses.iter().all(|status| status == "200"), "{statuses:?}");
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert_eq!(stat(&handle, "cluster.up.upstream_cx_http2_total").await, 1);
    handle.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_host_that_is_gone_is_told() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut cluster = cluster("up", &[nobody]);
    cluster["circuitBreakers"] = json!({"thresholds": [{"maxConnections": 1}]});
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let statuses = at_once(address, 10).await;
    assert!(statuses.iter().all(|status| status == "503"), "{statuses:?}");
    handle.stop().await;
}

#[tokio::test]
async fn one_connection_serves_those_in_line_one_after_the_other() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        while let Some(request) = read_message(&mut stream).await {
            seen.push(request);
            tokio::time::sleep(Duration::from_millis(5)).await;
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut cluster = cluster("up", &[up]);
    cluster["circuitBreakers"] = json!({"thresholds": [{"maxConnections": 1}]});
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let statuses = at_once(address, 20).await;
    assert!(statuses.iter().all(|status| status == "200"), "{statuses:?}");
    assert_eq!((seen.len(), stat(&handle, "cluster.up.upstream_cx_total").await), (20, 1));
    handle.stop().await;
}

#[tokio::test]
async fn a_connection_of_its_age_takes_no_more_requests() {
    let (up, _) = common::echo_upstream().await;
    let mut cluster = cluster("up", &[up]);
    cluster["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "commonHttpProtocolOptions": {"maxConnectionDuration": "0.05s"},
        "explicitHttpConfig": {"httpProtocolOptions": {}},
    }});
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    for connections in 1..=3 {
        assert_eq!(status(&get(address, "/").await), "200");
        assert_eq!(stat(&handle, "cluster.up.upstream_cx_total").await, connections);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    handle.stop().await;
}

#[tokio::test]
async fn an_http2_connection_that_answers_no_ping_is_given_up() {
    // It answers the first request, and hears nothing any more.
    let (up, _) = upstream(|stream, _| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        if let Some(Ok((_, mut respond))) = connection.accept().await {
            let _ = respond.send_response(http::Response::new(()), true);
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    })
    .await;
    let options = json!({"connectionKeepalive": {"interval": "0.2s", "timeout": "0.1s"}});
    let (handle, address) =
        http_proxy(json!({"cluster": "up"}), h2_cluster(up, &options, &json!({})), 1).await;
    assert_eq!(status(&get(address, "/").await), "200");
    let deadline = Instant::now() + Duration::from_secs(10);
    while stat(&handle, "cluster.up.upstream_cx_active").await > 0 {
        assert!(Instant::now() < deadline, "the dead connection is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status(&get(address, "/").await), "200");
    handle.stop().await;
}

#[tokio::test]
async fn each_try_has_its_own_idle_time_and_the_upstream_says_when_to_come_again() {
    // The first request stands still, the second asks for patience, the third is answered.
    let (up, seen) = upstream(|mut stream, seen| async move {
        while let Some(request) = read_message(&mut stream).await {
            seen.push(request);
            let answer: &[u8] = match seen.len() {
                1 => return tokio::time::sleep(Duration::from_secs(30)).await,
                2 => b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let retry = json!({
        "retryOn": "5xx", "numRetries": 2, "perTryIdleTimeout": "0.1s",
        "rateLimitedRetryBackOff": {"resetHeaders": [{"name": "Retry-After", "format": "SECONDS"}]},
    });
    let (handle, address) =
        http_proxy(json!({"cluster": "up", "retryPolicy": retry}), cluster("up", &[up]), 1).await;
    let start = Instant::now();
    assert_eq!(status(&get(address, "/").await), "200");
    assert!(start.elapsed() >= Duration::from_millis(1100), "{:?}", start.elapsed());
    assert_eq!(seen.len(), 3);
    handle.stop().await;
}

#[tokio::test]
async fn a_cluster_bounds_the_time_of_a_stream() {
    let (up, _) = upstream(|stream, _| async move {
        let _open = stream;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let mut cluster = cluster("up", &[up]);
    cluster["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "commonHttpProtocolOptions": {"maxStreamDuration": "0.1s"},
        "explicitHttpConfig": {"httpProtocolOptions": {}},
    }});
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let answer = get(address, "/").await;
    assert!(status(&answer) == "504" && answer.ends_with("upstream max stream duration reached"), "{answer}");
    handle.stop().await;
}

/// As in Envoy: who ends a cluster takes the cluster back, and routes may lead there until then.
#[tokio::test]
async fn endpoints_that_are_taken_back_serve_until_there_are_others() {
    let (up, _) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "eds"}), cluster("up", &[up]), 1).await;
    let eds = json!({"name": "eds", "type": "EDS", "connectTimeout": "1s", "edsClusterConfig": {"edsConfig": {"ads": {}}}});
    add_clusters(&handle, vec![eds]).await;
    assert_eq!(status(&get(address, "/").await), "503", "there are none yet");
    let said = |endpoints: Value| {
        let body = json!({"clusterName": "eds", "endpoints": endpoints});
        let body = proto::json::from_value(ResourceType::Endpoint.url(), &body).unwrap();
        let version = body.len() as u64;
        let resource = Resource { name: "eds".into(), version, body: body.into() };
        vec![Delta { resource_type: ResourceType::Endpoint, changed: vec![resource], removed: Vec::new() }]
    };
    apply(&handle, said(json!([{"lbEndpoints": [endpoint(up)]}]))).await;
    assert_eq!(status(&get(address, "/").await), "200");
    let removed = vec!["eds".into()];
    let back = Delta { resource_type: ResourceType::Endpoint, changed: Vec::new(), removed };
    apply(&handle, vec![back]).await;
    assert_eq!(status(&get(address, "/").await), "200");
    apply(&handle, said(json!([]))).await;
    assert_eq!(status(&get(address, "/").await), "503", "an assignment that is empty is one");
    handle.stop().await;
}
