//! TCP through a whole proxy: both directions, half-close, servers that speak first.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{cluster, echo_upstream, get, listener, start, stat, status, upstream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "statPrefix": "t", "cluster": cluster}})
}

/// A listener that looks for HTTP and has a TCP chain for everything else.
fn detecting(http: Value, tcp: Value) -> Value {
    json!({
        "name": "l",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "listenerFilters": [{"name": "envoy.filters.listener.http_inspector", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}}],
        "listenerFiltersTimeout": "0s",
        "filterChains": [{
            "filterChainMatch": {"transportProtocol": "raw_buffer", "applicationProtocols": ["http/1.1", "h2c"]},
            "filters": [http]}],
        "defaultFilterChain": {"filters": [tcp]},
    })
}

async fn reads(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn bytes_flow_both_ways_and_each_end_is_passed_on() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        seen.push(String::from_utf8(all.clone()).unwrap());
        // Still answers after the client has ended its side.
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let handle = start(vec![listener("l", json!([tcp_proxy("up")]))], vec![cluster("up", &[up])], 1).await;
    let mut stream = reads(handle.address("l").await.unwrap()).await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hello");
    assert_eq!(seen.all(), ["hello"]);
    while stat(&handle, "tcp.t.downstream_cx_rx_bytes_total").await != 5 {
        tokio::task::yield_now().await;
    }
    handle.stop().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_http_is_still_found() {
    let (greeter, _) = upstream(|mut stream, _| async move {
        stream.write_all(b"5.5.5-greeting").await.unwrap();
        let mut byte = [0; 4];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.unwrap();
        }
    })
    .await;
    let (web, _) = echo_upstream().await;
    let http = common::hcm(common::route(json!({"cluster": "web"})));
    let handle = start(
        vec![detecting(http, tcp_proxy("greeter"))],
        vec![cluster("web", &[web]), cluster("greeter", &[greeter])],
        1,
    )
    .await;
    let address = handle.address("l").await.unwrap();
    let mut stream = reads(address).await;
    let mut greeting = [0; 14];
    let heard = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut greeting)).await;
    heard.expect("the greeting").unwrap();
    assert_eq!(&greeting, b"5.5.5-greeting");
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong, b"ping");
    // A client that speaks is looked at, on the same port, at once and after a while.
    assert_eq!(status(&get(address, "/x").await), "200");
    let mut late = reads(address).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    late.write_all(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"/late") && !answer.starts_with(b"5.5.5") {
        assert!(late.read_buf(&mut answer).await.unwrap() > 0);
    }
    handle.stop().await;
}

#[tokio::test]
async fn nobody_at_the_other_end_closes_the_connection() {
    let handle = start(vec![listener("l", json!([tcp_proxy("up")]))], vec![cluster("up", &[])], 1).await;
    let mut stream = reads(handle.address("l").await.unwrap()).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
    handle.stop().await;
}

/// Much at a time goes by another way than little, and what comes after it by that again.
#[tokio::test]
async fn streams_of_much_arrive_whole_among_little() {
    const MUCH: usize = 8 << 20;
    fn pattern(from: usize, length: usize) -> Vec<u8> {
        (from..from + length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
    }
    // Answers each message of a length before it with the same.
    let (up, _) = upstream(|mut stream, _| async move {
        while let Ok(length) = stream.read_u32().await {
            let mut all = vec![0; length as usize];
            stream.read_exact(&mut all).await.unwrap();
            stream.write_u32(length).await.unwrap();
            stream.write_all(&all).await.unwrap();
        }
    })
    .await;
    let handle = start(vec![listener("l", json!([tcp_proxy("up")]))], vec![cluster("up", &[up])], 1).await;
    let (mut read, mut write) = reads(handle.address("l").await.unwrap()).await.into_split();
    let lengths = [5, MUCH, 1, 70_000, 0, 3 * MUCH, 2];
    let writing = tokio::spawn(async move {
        for (i, length) in lengths.into_iter().enumerate() {
            write.write_u32(length as u32).await.unwrap();
            write.write_all(&pattern(i, length)).await.unwrap();
        }
        write.shutdown().await.unwrap();
    });
    for (i, length) in lengths.into_iter().enumerate() {
        assert_eq!(read.read_u32().await.unwrap() as usize, length);
        let mut all = vec![0; length];
        read.read_exact(&mut all).await.unwrap();
        assert!(all == pattern(i, length), "message {i} of {length} bytes came otherwise");
    }
    assert_eq!(read.read(&mut [0; 1]).await.unwrap(), 0, "the end is passed on");
    writing.await.unwrap();
    let sent = lengths.iter().map(|length| length + 4).sum::<usize>() as i64;
    while stat(&handle, "tcp.t.downstream_cx_rx_bytes_total").await != sent
        || stat(&handle, "tcp.t.downstream_cx_tx_bytes_total").await != sent
    {
        tokio::task::yield_now().await;
    }
    handle.stop().await;
}

/// The first record of TLS, with as little in it as may be, and a server name.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8], width: usize| {
        let length = (bytes.len() as u32).to_be_bytes();
        [&length[4 - width..], bytes].concat()
    };
    let server_name = sized(&[&[0][..], &sized(name.as_bytes(), 2)].concat(), 2);
    let extension = [&[0, 0][..], &sized(&server_name, 2)].concat();
    let hello =
        [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 0x01], 2), &[1, 0], &sized(&extension, 2)].concat();
    let handshake = [&[1][..], &sized(&hello, 3)].concat();
    [&[22, 3, 1][..], &sized(&handshake, 2)].concat()
}

#[tokio::test]
async fn the_server_name_of_a_connection_is_looked_up_and_called() {
    let (up, seen) = upstream(|mut stream, seen| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        seen.push(format!("{} bytes", all.len()));
    })
    .await;
    let cache = json!({"name": "names", "dnsLookupFamily": "V4_ONLY"});
    let sni = json!({"name": "envoy.filters.network.sni_dynamic_forward_proxy", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
        "dnsCacheConfig": cache, "portValue": up.port()}});
    let mut listener = listener("l", json!([sni, tcp_proxy("any")]));
    listener["listenerFilters"] = json!([{"name": "envoy.filters.listener.tls_inspector", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
    let any = json!({"name": "any", "lbPolicy": "CLUSTER_PROVIDED", "connectTimeout": "2s", "clusterType": {
        "name": "envoy.clusters.dynamic_forward_proxy", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
            "dnsCacheConfig": cache}}});
    let handle = start(vec![listener], vec![any], 1).await;
    let mut stream = reads(handle.address("l").await.unwrap()).await;
    let hello = client_hello("localhost");
    stream.write_all(&hello).await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(seen.all(), [format!("{} bytes", hello.len())]);
    handle.stop().await;
}

/// A connection keeps to the listener by which it came, its certificate included, though there is another by the time that
/// the client says hello.
#[tokio::test]
async fn a_handshake_is_that_of_the_listener_by_which_the_client_came() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let secure = |prefix: &str| {
        let mut hcm = common::hcm(json!([{"match": {"prefix": "/"}, "directResponse": {"status": 204}}]));
        hcm["typedConfig"]["statPrefix"] = prefix.into();
        let mut listener = listener("l", json!([hcm]));
        listener["listenerFilters"] = json!([{"name": "envoy.filters.listener.tls_inspector", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]);
        listener["filterChains"][0]["transportSocket"] = json!({
        "name": "envoy.transport_sockets.tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "commonTlsContext": {"tlsCertificates": [{
                "certificateChain": {"inlineString": certificate.pem()},
                "privateKey": {"inlineString": key.serialize_pem()},
            }]}}});
        listener
    };
    let handle = start(vec![secure("before")], Vec::new(), 1).await;
    let address = handle.address("l").await.unwrap();
    let stream = reads(address).await;
    while stat(&handle, "listener.127.0.0.1_0.downstream_cx_total").await != 1 {
        tokio::task::yield_now().await;
    }
    common::change(&handle, vec![secure("after")]).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(stat(&handle, "http.before.downstream_rq_total").await, 1);
    handle.stop().await;
}
