//! `mizzen proxy-config`: what the control plane gave a proxy, or what a proxy's own dump says it has.
//!
//! Reads configuration dumps in Envoy's shape, in protobuf's JSON names or in its own (Envoy writes the latter). Judges
//! nothing; secrets are shown by name and expiry only.

mod clusters;
mod endpoints;
mod listeners;
mod routes;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use crate::args::NamespaceArgs;
use crate::control::{ControlArgs, ProxyStatus, escape};
use crate::output::Format;
use crate::table::align;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen proxy-config routes productpage-v1.default
  mizzen proxy-config clusters productpage-v1 -n default --fqdn reviews
  mizzen proxy-config listeners productpage-v1 --port 9080 -o yaml
  curl -s localhost:15000/config_dump | mizzen proxy-config endpoints --file -")]
pub struct ProxyConfigArgs {
    #[command(subcommand)]
    kind: Kind,
    #[command(flatten)]
    pub(crate) scope: NamespaceArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// What it listens on, and where each match leads
    #[command(visible_aliases = ["listener", "l"])]
    Listeners {
        #[command(flatten)]
        of: Of,
        /// Only those on this port
        #[arg(long)]
        port: Option<u64>,
    },
    /// Virtual hosts and their routes
    #[command(visible_aliases = ["route", "r"])]
    Routes {
        #[command(flatten)]
        of: Of,
        /// Only the route configuration of this name
        #[arg(long)]
        name: Option<String>,
    },
    /// Where requests may go
    #[command(visible_aliases = ["cluster", "c"])]
    Clusters {
        #[command(flatten)]
        of: Of,
        /// Only those whose host begins with this
        #[arg(long)]
        fqdn: Option<String>,
        /// Only those of this port
        #[arg(long)]
        port: Option<u64>,
    },
    /// The addresses behind each cluster
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints {
        #[command(flatten)]
        of: Of,
        /// Only those of clusters whose name contains this
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Certificates by name, and when they expire; never a key
    #[command(visible_aliases = ["secret", "s"])]
    Secrets {
        #[command(flatten)]
        of: Of,
    },
}

/// Whose configuration, and how to show it.
#[derive(Debug, clap::Args)]
struct Of {
    /// The proxy, as NAME.NAMESPACE or as NAME in the namespace
    #[arg(required_unless_present = "file")]
    proxy: Option<String>,
    /// A proxy's own `/config_dump` instead; `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = ["proxy", "control", "namespace"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    /// How to show it [default: a table]
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

/// What is shown of one kind: the table's lines with its head, and the resources for `-o`.
struct View {
    lines: Vec<Vec<String>>,
    resources: Vec<Value>,
}

pub(crate) async fn execute(args: &ProxyConfigArgs) -> anyhow::Result<ExitCode> {
    let namespace = args.scope.namespace.as_deref();
    let (of, view) = match &args.kind {
        Kind::Listeners { of, port } => (of, listeners::view(&dump(of, namespace).await?, *port)),
        Kind::Routes { of, name } => (of, routes::view(&dump(of, namespace).await?, name.as_deref())),
        Kind::Clusters { of, fqdn, port } => {
            (of, clusters::view(&dump(of, namespace).await?, fqdn.as_deref(), *port))
        }
        Kind::Endpoints { of, cluster } => {
            (of, endpoints::view(&dump(of, namespace).await?, cluster.as_deref()))
        }
        Kind::Secrets { of } => (of, secrets::view(&dump(of, namespace).await?)),
    };
    match of.output {
        Some(format) => format.print(&view.resources)?,
        None if view.lines.len() < 2 => eprintln!("none found"),
        None => print!("{}", align(&view.lines)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn dump(of: &Of, namespace: Option<&str>) -> anyhow::Result<Value> {
    if let Some(file) = &of.file {
        let text = crate::objects::text(file)?;
        return serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()));
    }
    let proxy = of.proxy.as_deref().context("name a proxy, or a file with --file")?;
    let namespace = namespace.unwrap_or("default");
    let ProxyStatus { proxy, identity, .. } = of.control.proxy(proxy, namespace).await?;
    let mut dump: Value = of.control.get(&format!("/debug/config_dump?proxyID={}", escape(&proxy))).await?;
    if let (Some(identity), Some(configs)) = (identity, dump["configs"].as_array_mut()) {
        configs.push(secrets::of_agent(&identity));
    }
    Ok(dump)
}

/// A field by its JSON name, or by protobuf's own.
fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    const NULL: &Value = &Value::Null;
    if let Some(found) = value.get(name) {
        return found;
    }
    let mut own = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            own.push('_');
        }
        own.push(c.to_ascii_lowercase());
    }
    value.get(&own).unwrap_or(NULL)
}

/// The field at the end of a path of names.
fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| field(value, name))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// The resources of one section of a dump: dynamic ones (there, some lie within a state of their own) and static ones.
fn resources<'a>(dump: &'a Value, sections: &[&str], states: &[&str], resource: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    for config in list(field(dump, "configs")) {
        for entry in sections.iter().flat_map(|section| list(field(config, section))) {
            let held = states.iter().map(|state| field(entry, state)).find(|v| !v.is_null()).unwrap_or(entry);
            let body = field(held, resource);
            if !body.is_null() {
                found.push(body);
            }
        }
    }
    found
}

/// `1.2.3.4:80`, a name with its port, or a path.
fn address(value: &Value) -> (String, Option<u64>) {
    let socket = field(value, "socketAddress");
    if !socket.is_null() {
        return (text(field(socket, "address")).to_owned(), field(socket, "portValue").as_u64());
    }
    let pipe = at(value, &["pipe", "path"]);
    if !pipe.is_null() {
        return (format!("unix://{}", text(pipe)), None);
    }
    let internal = at(value, &["envoyInternalAddress", "serverListenerName"]);
    (format!("internal://{}", text(internal)), None)
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local`, taken apart.
struct ClusterName<'a> {
    direction: &'a str,
    port: &'a str,
    subset: &'a str,
    host: &'a str,
}

impl<'a> ClusterName<'a> {
    fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(direction), Some(port), Some(subset), Some(host)) => Self { direction, port, subset, host },
            _ => Self { direction: "", port: "", subset: "", host: name },
        }
    }
}

/// Where a route action or a TCP proxy sends what it gets.
fn destination(action: &Value) -> String {
    let cluster = text(field(action, "cluster"));
    if !cluster.is_empty() {
        return cluster.to_owned();
    }
    let weighted = list(at(action, &["weightedClusters", "clusters"]));
    let one = |cluster: &Value| {
        let weight = field(cluster, "weight");
        format!("{} ({})", text(field(cluster, "name")), weight.as_u64().unwrap_or(0))
    };
    if !weighted.is_empty() {
        return weighted.iter().map(one).collect::<Vec<_>>().join(", ");
    }
    let header = text(field(action, "clusterHeader"));
    if header.is_empty() { "-".into() } else { format!("by header {header}") }
}

/// A value for `-o`, of which nothing may be secret.
fn shown(value: &Value) -> Value {
    let mut value = value.clone();
    proto::json::redact(&mut value);
    value
}

#[cfg(test)]
mod tests;
