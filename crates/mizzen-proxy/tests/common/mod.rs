//! The program in front of one upstream, and an address of its own for it.
#![allow(dead_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// A loopback address that no other test of this machine has, for this process' `which`th proxy.
pub fn own_address(which: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 32 + high % 32, low, 1 + which), 18080))
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// One listener of HTTP before one cluster; TLS with a certificate that is made in a folder, where one is given.
pub fn bootstrap(host: SocketAddr, upstream: SocketAddr, tls: Option<&Path>, http2_upstream: bool) -> Value {
    let mut chain = json!({"filters": [{
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "http_protocol_options": {"accept_http_10": true},
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s",
                    "max_stream_duration": {"grpc_timeout_header_max": "0s"}}}]}]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        },
    }]});
    if let Some(folder) = tls {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let file = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            json!({"filename": path})
        };
        let certificate = file("cert.pem", made.cert.pem());
        let key = file("key.pem", made.signing_key.serialize_pem());
        chain["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{"certificate_chain": certificate, "private_key": key}],
            },
        }});
    }
    let mut cluster = json!({"name": "up", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "up",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(upstream)}}]}]}});
    if http2_upstream {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    json!({
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [{"name": "l", "address": socket(host), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    })
}

/// The program, ended with the test.
pub struct Proxy(Child);

impl Proxy {
    pub fn start(host: SocketAddr, bootstrap: &Value, folder: &Path) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_mizzen-proxy")), host, bootstrap, folder)
    }

    /// One that may have no more than so many descriptors.
    pub fn start_with_descriptors(most: u32, host: SocketAddr, bootstrap: &Value, folder: &Path) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_mizzen-proxy")]);
        Self::run(shell, host, bootstrap, folder)
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn run(mut command: Command, host: SocketAddr, bootstrap: &Value, folder: &Path) -> Self {
        let config = folder.join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        command.args(["--concurrency", "1", "--config"]).arg(config).stdin(Stdio::null());
        let mut proxy = Self(command.env("MIZZEN_LOG", "error").spawn().unwrap());
        for _ in 0..300 {
            if TcpStream::connect(host).is_ok() {
                return proxy;
            }
            assert!(proxy.0.try_wait().unwrap().is_none(), "the proxy ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the proxy does not serve");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
