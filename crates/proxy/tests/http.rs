//! HTTP through a whole proxy, on real sockets.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{
    change, cluster, echo_upstream, exchange, get, hcm, http_proxy, listener, read_message, route, stat,
    status, upstream,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn requests_go_through_and_connections_are_kept_on_both_sides() {
    let (up, seen) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for path in ["/a", "/b?c=d", "/e"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: svc\r\nX-Own: 1\r\nConnection: x-drop\r\nX-Drop: 1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert_eq!(status(&answer), "200", "{answer}");
        assert!(answer.ends_with(path), "{answer}");
        assert!(
            answer.contains("\r\nserver: ") && answer.contains("\r\nx-envoy-upstream-service-time: "),
            "{answer}"
        );
    }
    let first = &seen.all()[0];
    assert!(first.starts_with("GET /a HTTP/1.1\r\nhost: svc\r\n"), "{first}");
    assert!(
        first.contains("x-own: 1") && first.contains("x-request-id: ") && !first.contains("x-drop"),
        "{first}"
    );
    assert_eq!(stat(&handle, "cluster.up.upstream_cx_total").await, 1);
    assert_eq!(stat(&handle, "http.in.downstream_rq_200").await, 3);
    handle.stop().await;
}

#[tokio::test]
async fn bodies_pass_in_every_framing() {
    let (up, seen) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let sized = exchange(address, "POST /s HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!(status(&sized), "200");
    assert!(seen.all()[0].ends_with("\r\n\r\nhello"));
    let head = exchange(address, "HEAD /h HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(head.is_empty() || status(&head) == "200");
    handle.stop().await;
}

#[tokio::test]
async fn smuggling_is_answered_with_400_and_the_upstream_sees_nothing() {
    let (up, seen) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    for request in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\nhost: a\n\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let answer = exchange(address, request).await;
        assert_eq!(status(&answer), "400", "{request:?} got {answer:?}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(seen.len(), 0);
    handle.stop().await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_and_named_when_nobody_is_left() {
    let (up, _) = echo_upstream().await;
    let dead = nobody().await;
    let action = json!({"cluster": "up", "retryPolicy": {"retryOn": "connect-failure", "numRetries": 3,
        "retryHostPredicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
        "hostSelectionRetryMaxAttempts": "5"}});
    let (handle, address) = http_proxy(action, cluster("up", &[dead, up]), 1).await;
    for _ in 0..4 {
        assert_eq!(status(&get(address, "/").await), "200");
    }
    handle.stop().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[dead]), 1).await;
    let answer = get(address, "/").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"), "{answer}");
    handle.stop().await;
}

#[tokio::test]
async fn nobody_to_ask_and_no_such_cluster_have_their_own_answers() {
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[]), 1).await;
    let answer = get(address, "/").await;
    assert_eq!((status(&answer), answer.ends_with("no healthy upstream")), ("503", true), "{answer}");
    handle.stop().await;
}

#[tokio::test]
async fn a_slow_upstream_is_504_and_is_let_go() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        let _ = read_message(&mut stream).await;
        // The proxy closes: the call is cancelled.
        let n = stream.read(&mut [0; 1]).await;
        seen.push(format!("{:?}", n.map_err(|e| e.kind())));
    })
    .await;
    let (handle, address) =
        http_proxy(json!({"cluster": "up", "timeout": "0.2s"}), cluster("up", &[up]), 1).await;
    let answer = get(address, "/").await;
    assert_eq!((status(&answer), answer.ends_with("upstream request timeout")), ("504", true), "{answer}");
    while seen.len() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stat(&handle, "cluster.up.upstream_rq_timeout").await, 1);
    handle.stop().await;
}

#[tokio::test]
async fn a_stale_pooled_connection_costs_no_request() {
    // Answers as if it kept the connection, and closes it at once.
    let (up, seen) = upstream(|mut stream, seen| async move {
        if let Some(request) = read_message(&mut stream).await {
            seen.push(request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for n in 0..50 {
        let method = if n % 2 == 0 { "GET" } else { "POST" };
        stream.write_all(format!("{method} /{n} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert_eq!(status(&answer), "200", "{n}: {answer}");
    }
    assert_eq!(seen.len(), 50);
    handle.stop().await;
}

#[tokio::test]
async fn the_breaker_bounds_what_is_in_flight_over_two_workers() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let (up, seen) = upstream(move |mut stream, seen| {
        let gate = gate.clone();
        async move {
            while let Some(request) = read_message(&mut stream).await {
                seen.push(request);
                let _permit = gate.acquire().await.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let mut cluster = cluster("up", &[up]);
    cluster["circuitBreakers"] = json!({"thresholds": [{"maxRequests": 3}]});
    let (handle, address) = http_proxy(json!({"cluster": "up", "timeout": "0s"}), cluster, 2).await;
    let calls: Vec<_> =
        (0..20).map(|n| tokio::spawn(async move { get(address, &format!("/{n}")).await })).collect();
    let mut codes = Vec::new();
    let mut waiting = Vec::new();
    for call in calls {
        waiting.push(call);
    }
    // Those that overflow are answered at once; only then may the others go on.
    while stat(&handle, "http.in.downstream_rq_503").await < 17 {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.len(), 3);
    opened.add_permits(100);
    for call in waiting {
        codes.push(status(&call.await.unwrap()).to_owned());
    }
    assert_eq!(codes.iter().filter(|c| *c == "200").count(), 3);
    handle.stop().await;
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_until_both_ends_close() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        seen.push(read_message(&mut stream).await.unwrap());
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi",
            )
            .await
            .unwrap();
        let mut buffer = [0; 64];
        while let Ok(n) = stream.read(&mut buffer).await {
            if n == 0 {
                break;
            }
            stream.write_all(&buffer[..n]).await.unwrap();
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    let answer = read_message(&mut stream).await.unwrap();
    assert_eq!(status(&answer), "101", "{answer}");
    let mut said = answer.split("\r\n\r\n").nth(1).unwrap().to_owned().into_bytes();
    stream.write_all(b"ping").await.unwrap();
    while said.len() < 6 {
        assert!(stream.read_buf(&mut said).await.unwrap() > 0);
    }
    assert_eq!(said, b"hiping");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(seen.all()[0].contains("upgrade: websocket"));
    handle.stop().await;
}

#[tokio::test]
async fn a_wish_for_http_2_on_a_plain_connection_is_passed_over() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        while let Some(request) = read_message(&mut stream).await {
            seen.push(request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for connection in ["Upgrade, HTTP2-Settings", "Upgrade"] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_message(&mut stream).await.unwrap();
        assert_eq!(status(&answer), "200", "{answer}");
    }
    let forwarded = seen.all();
    assert_eq!(forwarded.len(), 2);
    assert!(forwarded.iter().all(|r| !r.contains("h2c") && !r.contains("http2-settings")), "{forwarded:?}");
    handle.stop().await;
}

#[tokio::test]
async fn draining_lets_a_request_end_and_closes_its_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let (up, seen) = upstream(move |mut stream, seen| {
        let gate = gate.clone();
        async move {
            while let Some(request) = read_message(&mut stream).await {
                seen.push(request);
                let _permit = gate.acquire().await.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let (handle, address) =
        http_proxy(json!({"cluster": "up", "timeout": "0s"}), cluster("up", &[up]), 1).await;
    let call = tokio::spawn(async move { get(address, "/").await });
    while seen.len() == 0 {
        tokio::task::yield_now().await;
    }
    let draining = handle.clone();
    let drained = tokio::spawn(async move { draining.drain().await });
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    opened.add_permits(10);
    let answer = call.await.unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(drained.await.unwrap(), "everything ended in time");
    handle.stop().await;
}

#[tokio::test]
async fn a_connection_that_no_filter_chain_takes_any_more_ends_with_its_next_answer() {
    let (up, _) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /before HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = read_message(&mut stream).await.unwrap();
    assert!(status(&answer) == "200" && !answer.contains("connection: close"), "{answer}");

    // From now on only TLS is taken, as when a mesh's mode becomes STRICT.
    let mut strict = listener("l", json!([hcm(route(json!({"cluster": "up"})))]));
    strict["filterChains"][0]["filterChainMatch"] = json!({"transportProtocol": "tls"});
    change(&handle, vec![strict]).await;
    stream.write_all(b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = read_message(&mut stream).await.unwrap();
    assert!(status(&answer) == "200" && answer.contains("connection: close"), "{answer}");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(get(address, "/new").await, "", "a new connection is let in");
    handle.stop().await;
}

#[tokio::test]
async fn who_connects_during_a_drain_is_answered_once() {
    let (up, _) = upstream(|mut stream, _| async move {
        while read_message(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    handle.drain_inbound().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The proxy has accepted it by now, and has nothing of the request.
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = read_message(&mut stream).await.unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    handle.stop().await;
}

#[tokio::test]
async fn http2_and_grpc_trailers_pass_to_an_http2_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let up = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.headers()["te"], "trailers");
                    let response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let mut body = respond.send_response(response, false).unwrap();
                    body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\x02hi"), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    let mut cluster = cluster("up", &[up]);
    cluster["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicitHttpConfig": {"http2ProtocolOptions": {}}}});
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster, 1).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::post(format!("http://{address}/s/m"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        send = send.ready().await.unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut data = Vec::new();
        while let Some(piece) = body.data().await {
            data.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(data, b"\0\0\0\0\x02hi");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    }
    assert_eq!(stat(&handle, "cluster.up.upstream_cx_http2_total").await, 1);
    handle.stop().await;
}

#[tokio::test]
async fn admin_answers_in_envoys_shapes_and_changes_by_post_only() {
    let (up, _) = echo_upstream().await;
    let (handle, address) = http_proxy(json!({"cluster": "up"}), cluster("up", &[up]), 1).await;
    get(address, "/").await;
    let admin = handle.admin_address().unwrap();
    assert_eq!(status(&get(admin, "/ready").await), "200");
    assert!(get(admin, "/clusters").await.contains(&format!("up::{up}::health_flags::healthy")));
    assert!(get(admin, "/stats").await.contains("cluster.up.upstream_rq_total: 1"));
    assert!(
        get(admin, "/stats/prometheus")
            .await
            .contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"up\"} 1")
    );
    let json = async |path: &str| -> serde_json::Value {
        let answer = get(admin, path).await;
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let dump = json("/config_dump").await;
    assert_eq!(dump["configs"][1]["static_clusters"][0]["cluster"]["name"], "up");
    let of = |dump: &serde_json::Value, kind: &str| {
        dump["configs"].as_array().unwrap().iter().any(|c| c["@type"].as_str().unwrap().ends_with(kind))
    };
    assert!(!of(&dump, "EndpointsConfigDump"));
    assert!(of(&json("/config_dump?include_eds").await, "EndpointsConfigDump"));
    let listeners = json("/listeners?format=json").await;
    assert_eq!(
        listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"],
        address.port()
    );
    let clusters = json("/clusters?format=json").await;
    let host = &clusters["cluster_statuses"][0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"]["port_value"], up.port(), "{clusters}");
    // A regex, as in Envoy; names of clusters are full of its signs.
    let some = get(admin, "/stats?filter=%5Ecluster%5C.up%5C.upstream_rq_(total|retry)$").await;
    assert!(some.contains("upstream_rq_total: 1\n") && some.contains("upstream_rq_retry: 0\n"), "{some}");
    assert!(!some.contains("upstream_rq_completed"), "{some}");
    let used = get(admin, "/stats?usedonly&filter=up.upstream_rq_").await;
    assert!(used.contains("upstream_rq_total: 1\n") && !used.contains("upstream_rq_retry:"), "{used}");
    assert!(used.contains("cluster.up.upstream_rq_time: P0(nan,"), "{used}");
    let stats = json("/stats?format=json&filter=up.upstream_rq_t").await;
    assert_eq!(stats["stats"][0], json!({"name": "cluster.up.upstream_rq_timeout", "value": 0}));
    let histograms = &stats["stats"].as_array().unwrap().last().unwrap()["histograms"];
    assert_eq!(histograms["computed_quantiles"][0]["name"], "cluster.up.upstream_rq_time");
    for (path, code) in [("/stats?filter=(", "400"), ("/stats?format=yaml", "400"), ("/nothing", "404")] {
        assert_eq!(status(&get(admin, path).await), code, "{path}");
    }
    for path in ["/quitquitquit", "/drain_listeners", "/logging"] {
        assert_eq!(status(&get(admin, path).await), "405", "{path}");
    }
    handle.stop().await;
}
