//! `mizzen explain`: what a request would meet on its way, and why.
//!
//! The mesh is read as the control plane reads it, translated for the source's proxy and for the destination's, compiled
//! and decided by `decide`, which is what the proxy runs: there is no matching in here. What is left to chance (weights,
//! fault percentages) is drawn anew at each run and said to be drawn.

mod node;
mod side;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use base::ThreadRandom;
use http::Uri;
use model::{Snapshot, Workload};
use serde::Serialize;

use crate::GlobalArgs;
use crate::control::ControlArgs;
use crate::output::{Colour, Format, colours, paint};
use crate::snapshot::Seen;
use node::Proxy;
use side::{Inbound, Outbound, Side};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen explain --from productpage-v1 http://reviews:9080/reviews/1
  mizzen explain --from productpage-v1 -H 'end-user: jason' http://reviews:9080/
  mizzen explain --from istio-ingressgateway.istio-system http://bookinfo.example:80/productpage
  mizzen explain --from ratings-v2 tcp://mysqldb:3306
  mizzen explain --from productpage-v1 -f change.yaml http://reviews:9080/    with a change not applied yet")]
pub struct ExplainArgs {
    /// Workload that sends the request, as NAME or NAME.NAMESPACE
    #[arg(long, value_name = "WORKLOAD")]
    from: String,
    /// Method of the request
    #[arg(long, short = 'X', default_value = "GET")]
    method: String,
    /// Header of the request; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Address that a name outside the mesh resolves to
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Files that are not applied yet; `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// How to show it [default: text]
    #[arg(long, short, value_enum)]
    output: Option<Format>,
    /// Where the request goes: http://, https:// or tcp://
    url: Uri,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

/// All that is known of the way, as `-o json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    from: String,
    request: String,
    /// What the destination's name resolves to.
    address: String,
    outbound: Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbound: Option<Side>,
}

pub(crate) async fn execute(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let namespace = args.global.namespace().unwrap_or("default");
    let mut seen = Seen::of(&args.global.server).await?;
    seen.learn_keys(&args.control).await;
    if !args.filename.is_empty() {
        seen.add(&args.filename, namespace)?;
        for problem in &seen.problems {
            eprintln!("warning: left out: {problem}");
        }
    }
    let way = way(args, namespace, &seen.snapshot())?;
    match args.output {
        Some(format) => format.print(&way)?,
        None => print!("{}", text(&way, colours())),
    }
    Ok(ExitCode::SUCCESS)
}

fn way(args: &ExplainArgs, namespace: &str, snapshot: &Snapshot) -> anyhow::Result<Way> {
    let source = workload(snapshot, &args.from, namespace)?;
    let proxy = Proxy::of(snapshot, source)?;
    let target = Target::of(args)?;
    let ip = target.resolve(args, &proxy)?;
    let address = proxy.listening(snapshot, SocketAddr::new(ip, target.port));
    let mut random = ThreadRandom;
    let Outbound { side, request, peer } = side::outbound(&proxy, &target, args, address, &mut random)?;
    let mut way = Way {
        from: source.name.to_string(),
        request: format!("{} {}", args.method, args.url),
        address: address.to_string(),
        outbound: side,
        to: None,
        inbound: None,
    };
    let Some(peer) = peer else { return Ok(way) };
    let of_peer =
        |w: &&std::sync::Arc<Workload>| w.addresses.iter().any(|a| **a == *peer.address.ip().to_string());
    if let Some(destination) = snapshot.workloads().find(of_peer).filter(|_| peer.in_mesh) {
        let server = Proxy::of(snapshot, destination)?;
        let client = Inbound { proxy: &proxy, request, peer: &peer, target: &target };
        way.to = Some(destination.name.to_string());
        way.inbound = Some(side::inbound(&server, client, &mut random)?);
    }
    Ok(way)
}

/// What the URL says.
struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    /// TLS that the application speaks itself: only its server name is seen.
    Https,
    Tcp,
}

impl Target {
    fn of(args: &ExplainArgs) -> anyhow::Result<Self> {
        let url = &args.url;
        let (scheme, default) = match url.scheme_str() {
            Some("http") => (Scheme::Http, Some(80)),
            Some("https") => (Scheme::Https, Some(443)),
            Some("tcp") => (Scheme::Tcp, None),
            _ => bail!("{url} has no scheme that can be explained; write http://, https:// or tcp://"),
        };
        let host = url.host().with_context(|| format!("{url} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = url.port_u16().or(default).with_context(|| format!("{url} needs a port"))?;
        let authority = url.authority().map_or(host.clone(), ToString::to_string);
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { scheme, host, port, authority, path })
    }

    /// As the agent beside the source would answer.
    fn resolve(&self, args: &ExplainArgs, proxy: &Proxy) -> anyhow::Result<IpAddr> {
        if let Some(given) = args.address {
            return Ok(given);
        }
        if let Ok(ip) = self.host.parse() {
            return Ok(ip);
        }
        if proxy.is_gateway() {
            return Ok(proxy.ip());
        }
        if let Some(ip) = proxy.look_up(&self.host) {
            return Ok(ip);
        }
        // A name outside the mesh: an address that documentation may use stands for whatever it resolves to.
        ensure!(
            self.host.contains('.'),
            "there is no service {:?}; give its address with --address",
            self.host
        );
        Ok(Ipv4Addr::new(203, 0, 113, 1).into())
    }
}

/// By its name, or the only one that begins with it, as Pods do with their Deployment's.
fn workload<'a>(snapshot: &'a Snapshot, named: &str, namespace: &str) -> anyhow::Result<&'a Workload> {
    let (short, of) = match named.rsplit_once('.') {
        Some((short, of)) if snapshot.workloads().any(|w| *w.name.namespace == *of) => (short, of),
        _ => (named, namespace),
    };
    let mut all: Vec<&Workload> =
        snapshot.workloads().map(|w| &**w).filter(|w| *w.name.namespace == *of).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let exact = all.iter().find(|w| *w.name.name == *short);
    let alike = || {
        all.iter().find(|w| {
            *w.workload_name == *short
                || w.name.name.strip_prefix(short).is_some_and(|rest| rest.starts_with('-'))
        })
    };
    exact.or_else(alike).copied().with_context(|| {
        let names: Vec<&str> = all.iter().map(|w| &*w.name.name).collect();
        format!("there is no workload {short:?} in namespace {of}; there are: {}", names.join(", "))
    })
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("{text:?} is not NAME: VALUE"))?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn text(way: &Way, coloured: bool) -> String {
    let mut text = format!("{} from {} to {}\n", way.request, way.from, way.address);
    let head = |title: &str| paint(coloured, Colour::Cyan, title);
    text.push_str(&format!("\n{}\n{}", head(&format!("At {} (outbound)", way.from)), way.outbound.text()));
    if let (Some(to), Some(inbound)) = (&way.to, &way.inbound) {
        text.push_str(&format!("\n{}\n{}", head(&format!("At {to} (inbound)")), inbound.text()));
    }
    text
}

#[cfg(test)]
mod tests;
