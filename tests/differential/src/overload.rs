//! The overload manager in Envoy and in the proxy: the same pressure, told by a file, and the same requests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::contestant::{Contestant, Kind, Place};

const FIRST: u16 = 21_910;
const SECOND: u16 = 21_911;
const LIMIT: Duration = Duration::from_secs(20);

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn bootstrap(host: &str, folder: &Path) -> Value {
    let listener = |name: &str, port: u16| {
        json!({
            "name": name, "address": socket(host, port), "stat_prefix": name,
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "access_log": [{"name": "log", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": folder.join("access.log"),
                    "log_format": {"text_format_source": {"inline_string":
                        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}}}],
                "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                    {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "well"}}}]}]},
                "http_filters": [{"name": "router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]}],
        })
    };
    let injected = |name: &str| {
        json!({"name": format!("envoy.resource_monitors.{name}"), "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
            "filename": folder.join(name)}})
    };
    let action = |name: &str, monitor: &str| {
        json!({"name": format!("envoy.overload_actions.{name}"), "triggers": [
            {"name": format!("envoy.resource_monitors.{monitor}"), "threshold": {"value": 0.9}}]})
    };
    json!({
        "node": {"id": "overload", "cluster": "overload"},
        "admin": {"address": socket(host, crate::bootstrap::admin_port())},
        "static_resources": {"listeners": [listener("first", FIRST), listener("second", SECOND)]},
        "overload_manager": {
            "refresh_interval": "0.02s",
            "resource_monitors": [injected("requests"), injected("keepalive"), injected("accepts"), injected("rejects"), {
                "name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 3}}],
            "actions": [
                action("stop_accepting_requests", "requests"),
                action("disable_http_keepalive", "keepalive"),
                action("stop_accepting_connections", "accepts"),
                action("reject_incoming_connections", "rejects"),
            ],
        },
    })
}

/// Moved into place: Envoy looks for that.
fn press(folder: &Path, name: &str, pressure: &str) -> anyhow::Result<()> {
    let beside = folder.join("new");
    std::fs::write(&beside, pressure)?;
    std::fs::rename(beside, folder.join(name))?;
    Ok(())
}

async fn stat(proxy: &Contestant, name: &str, wanted: i64) -> anyhow::Result<()> {
    let mut last = None;
    let reached = async {
        loop {
            last = proxy.stats().await?.get(name).copied();
            if last == Some(wanted) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LIMIT, reached).await {
        Ok(done) => done,
        Err(_) => anyhow::bail!("{:?} {name} is {last:?}, not {wanted}", proxy.kind),
    }
}

/// One request on a connection of its own; what came back, without the date, or how it ended.
async fn ask(host: &str, port: u16, wait: Duration) -> String {
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut bytes = Vec::new();
        // To the end of the body, or of the connection.
        while !bytes.ends_with(b"well") && !bytes.ends_with(b"overloaded") {
            if stream.read_buf(&mut bytes).await? == 0 {
                break;
            }
        }
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match tokio::time::timeout(wait, asked).await {
        Ok(Ok(text)) if text.is_empty() => "closed".into(),
        Ok(Ok(text)) => {
            let mut lines: Vec<_> = text.split("\r\n").filter(|l| !l.starts_with("date: ")).collect();
            lines.sort_unstable();
            lines.join("\n")
        }
        Ok(Err(_)) => "closed".into(),
        Err(_) => "waits".into(),
    }
}

async fn play(
    kind: Kind,
    envoy: &Path,
    place: Place,
) -> anyhow::Result<(Vec<String>, BTreeMap<String, i64>, String)> {
    let folder = tempfile::tempdir()?;
    for name in ["requests", "keepalive", "accepts", "rejects"] {
        std::fs::write(folder.path().join(name), "0")?;
    }
    let host = place.proxy(kind).to_string();
    let config = bootstrap(&host, folder.path());
    let proxy = Contestant::start(kind, envoy, place, &config, folder.path(), &[]).await?;
    let short = Duration::from_millis(500);
    let mut seen = vec![ask(&host, FIRST, LIMIT).await];
    for (monitor, action) in [
        ("requests", "stop_accepting_requests"),
        ("keepalive", "disable_http_keepalive"),
        ("rejects", "reject_incoming_connections"),
    ] {
        let active = format!("overload.envoy.overload_actions.{action}.active");
        press(folder.path(), monitor, "0.95")?;
        stat(&proxy, &active, 1).await?;
        seen.push(format!("{monitor}: {}", ask(&host, FIRST, LIMIT).await));
        press(folder.path(), monitor, "0.1")?;
        stat(&proxy, &active, 0).await?;
        seen.push(format!("{monitor} over: {}", ask(&host, FIRST, LIMIT).await));
    }
    let active = "overload.envoy.overload_actions.stop_accepting_connections.active";
    press(folder.path(), "accepts", "1")?;
    stat(&proxy, active, 1).await?;
    seen.push(format!("accepts: {}", ask(&host, SECOND, short).await));
    press(folder.path(), "accepts", "0")?;
    stat(&proxy, active, 0).await?;
    seen.push(format!("accepts over: {}", ask(&host, SECOND, LIMIT).await));

    // Three connections are held, and a fourth is one too many.
    stat(&proxy, "http.first.downstream_cx_active", 0).await?;
    stat(&proxy, "http.second.downstream_cx_active", 0).await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect((&*host, FIRST)).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"well") {
            ensure!(stream.read_buf(&mut bytes).await? > 0, "a connection within the limit is closed");
        }
        held.push(stream);
    }
    seen.push(format!("a fourth connection: {}", ask(&host, SECOND, LIMIT).await));
    drop(held);
    stat(&proxy, "http.first.downstream_cx_active", 0).await?;
    seen.push(format!("a connection after them: {}", ask(&host, SECOND, LIMIT).await));
    let mut counted = proxy.stats().await?;
    let compared = |name: &str| {
        let of_overload = name.starts_with("overload.envoy.") && !name.ends_with("pressure");
        let others = ["overload", "global_cx_overflow", "downstream_rq_5xx", "downstream_rq_2xx"];
        of_overload || others.iter().any(|part| name.contains(part)) && !name.starts_with("overload.")
    };
    counted.retain(|name, value| {
        let name = name.replace(&host, "HOST");
        // Ours has no counters of the admin port, and none that are of a listener and of its connection manager at once.
        let only_envoy = name.contains("admin") || (name.starts_with("listener.") && name.contains(".http."));
        compared(&name) && !only_envoy && *value != 0
    });
    let counted = counted.into_iter().map(|(name, value)| (name.replace(&host, "HOST"), value)).collect();
    Ok((seen, counted, proxy.stop().await?))
}

/// Plays all of it to both, one after the other, and compares.
pub async fn compare() -> anyhow::Result<()> {
    let Some(envoy) = testkit::peers::envoy() else { return Ok(()) };
    let place = Place::of_this_process();
    let theirs = play(Kind::Envoy, &envoy, place).await?;
    let ours = play(Kind::Mizzen, &envoy, place).await?;
    for (envoy, mizzen) in theirs.0.iter().zip(&ours.0) {
        ensure!(envoy == mizzen, "answered differently:\nenvoy  {envoy}\nmizzen {mizzen}");
    }
    ensure!(theirs.1 == ours.1, "counted differently:\nenvoy  {:#?}\nmizzen {:#?}", theirs.1, ours.1);
    ensure!(theirs.2 == ours.2, "logged differently:\nenvoy\n{}\nmizzen\n{}", theirs.2, ours.2);
    Ok(())
}
