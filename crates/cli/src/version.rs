//! `mizzen version`: this program's version, the control plane's, and those of the proxies that are connected to it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::control::{ControlArgs, MeshStatus};
use crate::output::Format;

/// Whoever asks for a version does not wait for a server.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// This program's only: ask no control plane
    #[arg(long, conflicts_with = "control")]
    client: bool,
    #[command(flatten)]
    control: ControlArgs,
    /// How to show it [default: lines of text]
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

/// Named as by `istioctl version -o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client_version: Info,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh_version: Option<Vec<Component>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_plane_version: Option<Vec<Proxy>>,
}

#[derive(Debug, Serialize)]
struct Info {
    version: String,
}

#[derive(Debug, Serialize)]
struct Component {
    component: &'static str,
    revision: String,
    info: Info,
}

#[derive(Debug, Serialize)]
struct Proxy {
    id: String,
    version: String,
}

/// What the control plane answers at `/version`.
#[derive(Debug, Deserialize)]
struct Server {
    version: String,
    #[serde(default)]
    revision: String,
}

pub(crate) async fn execute(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    let own = Info { version: env!("CARGO_PKG_VERSION").into() };
    let mut versions = Versions { client_version: own, mesh_version: None, data_plane_version: None };
    if !args.client {
        match timeout(PATIENCE, ask(&args.control))
            .await
            .context("no control plane answers in time")
            .flatten()
        {
            Ok((server, status)) => versions.add(server, status),
            // What is known is told all the same.
            Err(error) => eprintln!("{error:#}"),
        }
    }
    match args.output {
        Some(format) => format.print(&versions)?,
        None => print!("{}", versions.text()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(control: &ControlArgs) -> anyhow::Result<(Server, MeshStatus)> {
    Ok((control.get("/version").await?, control.status().await?))
}

impl Versions {
    fn add(&mut self, server: Server, status: MeshStatus) {
        let Server { version, revision } = server;
        self.mesh_version =
            Some(vec![Component { component: "control plane", revision, info: Info { version } }]);
        let of = |proxy: crate::control::ProxyStatus| Proxy { id: proxy.proxy, version: proxy.version };
        self.data_plane_version = Some(status.proxies.into_iter().map(of).collect());
    }

    fn text(&self) -> String {
        let mut text = format!("mizzen {}\n", self.client_version.version);
        for Component { component, revision, info } in self.mesh_version.iter().flatten() {
            text.push_str(&format!("{component} {} (revision {revision})\n", info.version));
        }
        let mut counts = BTreeMap::new();
        for proxy in self.data_plane_version.iter().flatten() {
            *counts.entry(proxy.version.as_str()).or_insert(0) += 1;
        }
        let told = |(version, count): (&str, usize)| {
            let proxies = if count == 1 { "proxy" } else { "proxies" };
            let version = if version.is_empty() { "of an unknown version" } else { version };
            format!("data plane {version} ({count} {proxies})\n")
        };
        text.extend(counts.into_iter().map(told));
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxies_are_counted_by_version_and_listed_for_programs() {
        let own = Info { version: "0.2.0".into() };
        let mut versions = Versions { client_version: own, mesh_version: None, data_plane_version: None };
        assert_eq!(versions.text(), "mizzen 0.2.0\n");
        assert_eq!(serde_json::to_value(&versions).unwrap(), json!({"clientVersion": {"version": "0.2.0"}}));
        let proxy = |name: &str, version: &str| json!({"proxy": name, "version": version, "synced": true, "generation": 1, "types": []});
        let status = json!({"generation": 1, "pending": false, "proxies": [
            proxy("a.default", "0.1.0"), proxy("b.default", "0.1.0"), proxy("c.default", "1.40.0"), proxy("d.default", ""),
        ]});
        let server = Server { version: "0.1.0".into(), revision: "default".into() };
        versions.add(server, serde_json::from_value(status).unwrap());
        assert_eq!(
            versions.text(),
            "mizzen 0.2.0\ncontrol plane 0.1.0 (revision default)\n\
             data plane of an unknown version (1 proxy)\ndata plane 0.1.0 (2 proxies)\ndata plane 1.40.0 (1 proxy)\n"
        );
        let shown = serde_json::to_value(&versions).unwrap();
        assert_eq!(shown["meshVersion"][0]["info"]["version"], "0.1.0");
        assert_eq!(shown["dataPlaneVersion"][2], json!({"id": "c.default", "version": "1.40.0"}));
    }
}
