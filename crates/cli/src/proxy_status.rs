//! `mizzen proxy-status`: which proxies are connected, and whether they have accepted what they were sent.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;

use crate::args::NamespaceArgs;
use crate::control::{ControlArgs, MeshStatus, ProxyStatus, TypeState, short_type};
use crate::output::{Format, colours, paint_states};
use crate::table::align;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen proxy-status                        every proxy of the mesh
  mizzen proxy-status reviews-v1.default     one proxy, type by type
  mizzen proxy-status -o json | jq '.proxies[] | select(.synced | not).proxy'")]
pub struct ProxyStatusArgs {
    /// Only this one, as NAME.NAMESPACE or as NAME in the namespace
    proxy: Option<String>,
    #[command(flatten)]
    control: ControlArgs,
    /// How to show it [default: a table]
    #[arg(long, short, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    pub(crate) scope: NamespaceArgs,
}

const TYPES: [&str; 5] = ["CDS", "LDS", "EDS", "RDS", "SDS"];

pub(crate) async fn execute(args: &ProxyStatusArgs) -> anyhow::Result<ExitCode> {
    let mut raw: Value = args.control.get("/debug/syncz").await?;
    let namespace = args.scope.namespace.as_deref();
    let wanted = |proxy: &ProxyStatus| match (&args.proxy, namespace) {
        (Some(name), namespace) => {
            let namespace = namespace.unwrap_or("default");
            proxy.is_named(name, namespace) || proxy.is_replica_of(name, namespace)
        }
        (None, Some(namespace)) => proxy.proxy.ends_with(&format!(".{namespace}")),
        (None, None) => true,
    };
    let mut status: MeshStatus = serde_json::from_value(raw.clone())?;
    if let Some(list) = raw["proxies"].as_array_mut() {
        let mut of = status.proxies.iter();
        list.retain(|_| of.next().is_some_and(&wanted));
    }
    status.proxies.retain(&wanted);
    if let (Some(name), true) = (&args.proxy, status.proxies.is_empty()) {
        bail!("no proxy {name:?} is connected; `mizzen proxy-status` lists those that are");
    }
    match args.output {
        Some(format) => format.print(&raw)?,
        None if status.proxies.is_empty() => eprintln!("no proxy is connected"),
        None if args.proxy.is_some() => print!("{}", paint_states(colours(), &details(&status))),
        None => print!("{}", paint_states(colours(), &overview(&status))),
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each proxy, then what was refused.
fn overview(status: &MeshStatus) -> String {
    let mut proxies: Vec<_> = status.proxies.iter().collect();
    proxies.sort_by(|a, b| a.proxy.cmp(&b.proxy));
    let head = ["NAME", "KIND", "CLUSTER"].iter().chain(&TYPES).chain(&["VERSION"]);
    let mut lines: Vec<Vec<String>> = vec![head.map(|text| (*text).to_owned()).collect()];
    for proxy in &proxies {
        let mut line = vec![proxy.proxy.clone(), proxy.kind.clone(), dash(&proxy.cluster)];
        line.extend(TYPES.map(|of| state(proxy, of).to_owned()));
        line.push(dash(&proxy.version));
        lines.push(line);
    }
    let mut text = align(&lines);
    text.push_str(&refusals(proxies));
    text
}

/// A line for each type of each proxy.
fn details(status: &MeshStatus) -> String {
    let mut text = String::new();
    for proxy in &status.proxies {
        let standing = if proxy.has(status.generation) && !status.pending {
            "has accepted everything"
        } else {
            "has not accepted everything yet"
        };
        let _ = writeln!(text, "{} ({}) {standing}\n", proxy.proxy, proxy.kind);
        let mut lines = vec![["TYPE", "STATE", "RESOURCES"].map(str::to_owned).to_vec()];
        let line = |of: &TypeState| {
            vec![short_type(&of.type_url).to_owned(), of.state.clone(), of.resources.to_string()]
        };
        lines.extend(proxy.types.iter().map(line));
        text.push_str(&align(&lines));
    }
    text.push_str(&refusals(status.proxies.iter().collect()));
    text
}

/// The last refusal of each proxy and type, in the proxy's own words.
pub(crate) fn refusals(proxies: Vec<&ProxyStatus>) -> String {
    let mut text = String::new();
    for proxy in proxies {
        for of in &proxy.types {
            let Some(nack) = &of.nack else { continue };
            let _ = write!(text, "\n{} refused {}:\n", proxy.proxy, short_type(&of.type_url));
            for line in nack.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}

fn state<'a>(proxy: &'a ProxyStatus, short: &str) -> &'a str {
    proxy.types.iter().find(|of| short_type(&of.type_url) == short).map_or("-", |of| &of.state)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mesh() -> MeshStatus {
        let types = json!([
            {"typeUrl": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "state": "NACK",
             "nack": "cluster x: no endpoints\nsecond line", "resources": 3},
            {"typeUrl": "type.googleapis.com/envoy.config.listener.v3.Listener", "state": "SYNCED", "resources": 2},
        ]);
        let proxies = json!([
            {"proxy": "b.default", "kind": "router", "version": "1.29", "cluster": "Kubernetes", "synced": true,
             "generation": 4, "types": []},
            {"proxy": "a.default", "kind": "sidecar", "version": "", "cluster": "Kubernetes", "synced": false,
             "generation": 4, "types": types},
        ]);
        serde_json::from_value(json!({"generation": 4, "pending": false, "proxies": proxies})).unwrap()
    }

    #[test]
    fn a_line_for_each_proxy_and_its_refusal_below() {
        assert_eq!(
            overview(&mesh()),
            "NAME        KIND      CLUSTER      CDS    LDS      EDS   RDS   SDS   VERSION\n\
             a.default   sidecar   Kubernetes   NACK   SYNCED   -     -     -     -\n\
             b.default   router    Kubernetes   -      -        -     -     -     1.29\n\
             \na.default refused CDS:\n  cluster x: no endpoints\n  second line\n"
        );
    }

    #[test]
    fn one_proxy_is_shown_type_by_type() {
        let mut mesh = mesh();
        mesh.proxies.retain(|proxy| proxy.proxy == "a.default");
        let text = details(&mesh);
        assert!(text.starts_with("a.default (sidecar) has not accepted everything yet\n"), "{text}");
        assert!(text.contains("CDS    NACK     3\n") && text.contains("LDS    SYNCED   2\n"), "{text}");
    }

    #[test]
    fn states_are_coloured_only_where_that_is_wanted() {
        assert_eq!(paint_states(false, "NACK"), "NACK");
        assert_eq!(paint_states(true, "NACK"), "\x1b[31mNACK\x1b[0m");
    }
}
