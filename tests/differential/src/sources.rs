//! Envoy and the proxy beside each other, configured by files and by servers of single types, while requests go on.

mod on_demand;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use proto::ResourceType as T;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::contestant::{Contestant, Kind, Place};
use crate::management::Management;

pub use on_demand::on_demand;

const FIRST: u16 = 21_900;
const SECOND: u16 = 21_901;
const LIMIT: Duration = Duration::from_secs(20);

/// How a source is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    File,
    Grpc,
    Delta,
    Rest,
}

/// Where the resources of one proxy are put.
enum Publisher {
    Folder(PathBuf),
    Server(Management),
}

impl Publisher {
    async fn put(&self, t: T, file: &str, resources: &[Value]) -> anyhow::Result<()> {
        match self {
            Self::Server(server) => server.set(t, resources),
            Self::Folder(folder) => {
                replace(&folder.join(file), &json!({ "resources": resources }).to_string())
            }
        }
    }
}

/// Envoy's way: written beside, then moved into place.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)?;
    Ok(())
}

/// One of the two, with what configures it.
struct Side {
    proxy: Contestant,
    publisher: Publisher,
    make: Make,
    up: SocketAddr,
    other: SocketAddr,
    _folder: tempfile::TempDir,
}

/// Makes the resources of one proxy.
struct Make {
    form: Form,
    folder: PathBuf,
    host: String,
}

/// An upstream that answers every request with its name.
async fn upstream(name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while matches!(stream.read_buf(&mut bytes).await, Ok(n) if n > 0) {
                    if bytes.ends_with(b"\r\n\r\n") {
                        bytes.clear();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Status and body of one request; nothing where nobody listens. The path may have an authority before it.
async fn get(host: &str, port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((host, port)).await.ok()?;
    let (authority, path) = path.split_at(path.find('/')?);
    let authority = if authority.is_empty() { "a" } else { authority };
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.to_owned();
    let body = answer.split_once("\r\n\r\n")?.1.to_owned();
    Some(format!("{status} {body}"))
}

impl Make {
    fn source(&self, t: T) -> Value {
        source(self.form, &self.folder, t)
    }

    fn cluster(&self) -> Value {
        let mut cluster = json!({
            "@type": T::Cluster.url(), "name": "up", "type": "EDS", "connect_timeout": "2s",
            "eds_cluster_config": {"eds_config": self.source(T::Endpoint)},
        });
        if self.form == Form::File {
            cluster["lb_policy"] = json!("ROUND_ROBIN");
        }
        cluster
    }

    fn endpoints(&self, at: SocketAddr) -> Value {
        json!({
            "@type": T::Endpoint.url(), "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(&at.ip().to_string(), at.port())}}]}],
        })
    }

    fn listener(&self, name: &str, port: u16) -> Value {
        json!({
            "@type": T::Listener.url(), "name": name, "address": socket(&self.host, port),
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "in",
                "rds": {"route_config_name": "r", "config_source": self.source(T::Route)},
                "http_filters": [{"name": "router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]}],
        })
    }

    fn routes(&self, said: Option<&str>) -> Value {
        let mut routes = vec![json!({"match": {"prefix": "/"}, "route": {"cluster": "up"}})];
        if let Some(text) = said {
            let action = json!({"status": 200, "body": {"inline_string": text}});
            routes.insert(0, json!({"match": {"path": "/said"}, "direct_response": action}));
        }
        json!({
            "@type": T::Route.url(), "name": "r",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        })
    }
}

impl Side {
    async fn put(&self, t: T, resources: &[Value]) -> anyhow::Result<()> {
        self.publisher.put(t, file_of(t), resources).await
    }

    /// Asks until the answer is that one.
    async fn until(&self, port: u16, path: &str, wanted: Option<&str>) -> anyhow::Result<()> {
        let mut last = None;
        let asked = async {
            loop {
                last = get(&self.make.host, port, path).await;
                if last.as_deref() == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LIMIT, asked).await.is_ok() {
            return Ok(());
        }
        let kind = self.proxy.kind;
        anyhow::bail!("{kind:?} {path} answers {last:?}, not {wanted:?}: {}", self.proxy.output())
    }

    /// Waits until a counter has that value.
    async fn until_counted(&self, name: &str, wanted: i64) -> anyhow::Result<()> {
        let mut last = None;
        let counted = async {
            loop {
                last = self.proxy.stats().await?.get(name).copied();
                if last == Some(wanted) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(LIMIT, counted).await {
            Ok(done) => done,
            Err(_) => anyhow::bail!("{:?} {name} is {last:?}, not {wanted}", self.proxy.kind),
        }
    }

    /// What it counted of updates, apart from how often it asked.
    async fn updates(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let mut all = self.proxy.stats().await?;
        all.retain(|name, _| {
            [
                "cluster_manager.cds.",
                "listener_manager.lds.",
                "cluster.up.update_",
                "http.in.rds.r.update_",
                "sds.",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
                && ["update_success", "update_rejected", "update_failure"]
                    .iter()
                    .any(|stat| name.ends_with(stat))
        });
        Ok(all)
    }
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn file_of(t: T) -> &'static str {
    match t {
        T::Cluster => "cds.json",
        T::Endpoint => "eds.json",
        T::Listener => "lds.json",
        T::Route => "rds.json",
        _ => "sds.json",
    }
}

fn source(form: Form, folder: &Path, t: T) -> Value {
    let grpc = |api_type: &str| {
        json!({"resource_api_version": "V3", "api_config_source": {"api_type": api_type, "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "management"}}]}})
    };
    match form {
        Form::File => {
            json!({"resource_api_version": "V3", "path_config_source": {"path": folder.join(file_of(t))}})
        }
        Form::Grpc => grpc("GRPC"),
        Form::Delta => grpc("DELTA_GRPC"),
        Form::Rest => json!({"resource_api_version": "V3", "api_config_source": {"api_type": "REST",
            "transport_api_version": "V3", "cluster_names": ["management"], "refresh_delay": "0.05s"}}),
    }
}

fn bootstrap(form: Form, folder: &Path, server: Option<SocketAddr>, place: Place, kind: Kind) -> Value {
    let mut clusters = Vec::new();
    if let Some(at) = server {
        let mut cluster = json!({
            "name": "management", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "management", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(&at.ip().to_string(), at.port())}}]}]},
        });
        if form != Form::Rest {
            cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
        }
        clusters.push(cluster);
    }
    json!({
        "node": {"id": "sources", "cluster": "sources"},
        "admin": {"address": socket(&place.proxy(kind).to_string(), crate::bootstrap::admin_port())},
        "static_resources": {"clusters": clusters},
        "dynamic_resources": {"lds_config": source(form, folder, T::Listener), "cds_config": source(form, folder, T::Cluster)},
    })
}

/// Starts one proxy; its resources are there before it is.
async fn start(kind: Kind, envoy: &Path, place: Place, form: Form, flags: &[String]) -> anyhow::Result<Side> {
    let (up, other) = (upstream("one").await?, upstream("two").await?);
    let folder = tempfile::tempdir()?;
    let make = Make { form, folder: folder.path().to_owned(), host: place.proxy(kind).to_string() };
    let publisher = match form {
        Form::File => Publisher::Folder(folder.path().to_owned()),
        _ => Publisher::Server(Management::start(SocketAddr::from(([127, 0, 0, 1], 0))).await?),
    };
    let server = match &publisher {
        Publisher::Server(server) => Some(server.address),
        Publisher::Folder(_) => None,
    };
    for (t, resource) in [
        (T::Endpoint, make.endpoints(up)),
        (T::Route, make.routes(None)),
        (T::Cluster, make.cluster()),
        (T::Listener, make.listener("first", FIRST)),
    ] {
        publisher.put(t, file_of(t), &[resource]).await?;
    }
    let bootstrap = bootstrap(form, folder.path(), server, place, kind);
    let proxy = Contestant::start(kind, envoy, place, &bootstrap, folder.path(), flags).await?;
    Ok(Side { proxy, publisher, make, up, other, _folder: folder })
}

/// One proxy at a time has the addresses of this process.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Requests that go on while the configuration changes: all must be answered with 200.
async fn load(host: String, end: tokio::sync::oneshot::Receiver<()>) -> (usize, Vec<String>) {
    let (mut sent, mut lost, mut end) = (0, Vec::new(), end);
    // Some go on after the last change.
    let (mut over, mut after) = (false, 0);
    while after < 20 {
        over = over || end.try_recv().is_ok();
        after += usize::from(over);
        sent += 1;
        match get(&host, FIRST, "/").await {
            Some(answer) if answer.starts_with("200 ") => {}
            other => lost.push(format!("{other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (sent, lost)
}

/// Changes each kind of resource under live requests, in both proxies, and compares what they counted.
pub async fn changes(form: Form) -> anyhow::Result<()> {
    let Some(envoy) = testkit::peers::envoy() else { return Ok(()) };
    let _alone = ALONE.lock().await;
    let place = Place::of_this_process();
    let mut counted = Vec::new();
    for kind in [Kind::Envoy, Kind::Mizzen] {
        let side = start(kind, &envoy, place, form, &[]).await?;
        let went = change(&side).await.with_context(|| format!("{kind:?}, {form:?}"));
        if let Err(error) = went {
            anyhow::bail!("{error:#}\n{}", side.proxy.output());
        }
        counted.push(side.updates().await?);
        side.proxy.stop().await?;
    }
    // How often a poll or a stream is answered is not told by what changed.
    if form == Form::File {
        let [envoy, ours] = &counted[..] else { anyhow::bail!("two were asked") };
        ensure!(envoy == ours, "counted differently:\nenvoy  {envoy:#?}\nmizzen {ours:#?}");
    }
    Ok(())
}

async fn change(side: &Side) -> anyhow::Result<()> {
    let make = &side.make;
    side.until(FIRST, "/", Some("200 one")).await?;
    let (stop, end) = tokio::sync::oneshot::channel();
    let going = tokio::spawn(load(make.host.clone(), end));

    side.put(T::Route, &[make.routes(Some("said"))]).await?;
    side.until(FIRST, "/said", Some("200 said")).await?;
    side.put(T::Endpoint, &[make.endpoints(side.other)]).await?;
    side.until(FIRST, "/", Some("200 two")).await?;
    side.put(T::Listener, &[make.listener("first", FIRST), make.listener("second", SECOND)]).await?;
    side.until(SECOND, "/said", Some("200 said")).await?;

    // What is refused leaves the last good form, and all else of the same answer is taken.
    let mut bad = make.cluster();
    bad["connect_timeout"] = json!("-1s");
    side.put(T::Cluster, &[bad]).await?;
    side.until_counted("cluster_manager.cds.update_rejected", 1).await?;
    side.until(FIRST, "/", Some("200 two")).await?;
    side.put(T::Cluster, &[make.cluster()]).await?;

    side.put(T::Listener, &[make.listener("first", FIRST)]).await?;
    side.until(SECOND, "/said", None).await?;
    side.put(T::Endpoint, &[make.endpoints(side.up)]).await?;
    side.until(FIRST, "/", Some("200 one")).await?;

    if let Publisher::Folder(folder) = &side.publisher {
        replace(&folder.join("rds.json"), "{ this is no JSON")?;
        side.until_counted("http.in.rds.r.update_failure", 1).await?;
        side.until(FIRST, "/said", Some("200 said")).await?;
        let other = json!({"@type": T::Route.url(), "name": "another", "virtual_hosts": []});
        side.put(T::Route, &[other]).await?;
        side.until_counted("http.in.rds.r.update_rejected", 1).await?;
        side.until(FIRST, "/said", Some("200 said")).await?;
        side.put(T::Route, &[make.routes(Some("again"))]).await?;
        side.until(FIRST, "/said", Some("200 again")).await?;
    }
    let _ = stop.send(());
    let (sent, lost) = going.await?;
    ensure!(lost.is_empty(), "of {sent} requests {} were lost: {:?}", lost.len(), lost.first());
    Ok(())
}

/// The server of configuration dies, the proxy is started again, and requests are answered; then the server comes back and
/// says something else.
pub async fn last_good(form: Form) -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let place = Place::of_this_process();
    let kept = tempfile::tempdir()?;
    let file = kept.path().join("last");
    let flags = ["--last-good".to_owned(), file.to_string_lossy().into_owned()];
    let mut side = start(Kind::Mizzen, Path::new(""), place, form, &flags).await?;
    let make = &side.make;
    side.put(T::Listener, &[make.listener("first", FIRST), make.listener("second", SECOND)]).await?;
    side.until(SECOND, "/", Some("200 one")).await?;
    let Publisher::Server(server) = side.publisher else { anyhow::bail!("a file needs no server") };
    let address = server.address;
    drop(server);
    side.proxy.stop().await?;
    ensure!(file.exists(), "nothing was kept");

    let bootstrap = bootstrap(form, &side.make.folder, Some(address), place, Kind::Mizzen);
    let folder = side.make.folder.clone();
    side.proxy = Contestant::start(Kind::Mizzen, Path::new(""), place, &bootstrap, &folder, &flags).await?;
    side.publisher = Publisher::Folder(folder);
    for port in [FIRST, SECOND] {
        side.until(port, "/", Some("200 one")).await?;
    }
    side.until_counted("last_good.in_use", 1).await?;
    let (_, dump) = side.proxy.get("/config_dump").await?;
    ensure!(dump.contains("\"version_info\": \"last good configuration of "), "{dump}");

    let server = Management::start(address).await?;
    for (t, resource) in [
        (T::Endpoint, side.make.endpoints(side.other)),
        (T::Route, side.make.routes(Some("said"))),
        (T::Cluster, side.make.cluster()),
        (T::Listener, side.make.listener("first", FIRST)),
    ] {
        server.set(t, &[resource])?;
    }
    side.until(FIRST, "/said", Some("200 said")).await?;
    side.until(FIRST, "/", Some("200 two")).await?;
    side.until_counted("last_good.in_use", 0).await?;
    side.until(SECOND, "/", None).await?;
    side.until_counted("last_good.saved", 1).await?;
    side.proxy.stop().await?;
    Ok(())
}
