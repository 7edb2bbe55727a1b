//! Which API server the commands talk to.

use std::path::PathBuf;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::ServerArgs;

/// Where `mizzen up` keeps the store, its keys and the kubeconfig, unless told otherwise.
pub fn default_data_dir() -> PathBuf {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".local/share");
    std::env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("mizzen")
}

pub(crate) const NO_SERVER: &str =
    "no API server: start `mizzen up`, or name a kubeconfig with --kubeconfig or KUBECONFIG";

impl ServerArgs {
    /// The kubeconfig to use: the one that was named, else the one that `mizzen up` wrote; `None` leaves the choice
    /// to Kubernetes' own rules (`~/.kube/config`, the account of a pod).
    pub fn kubeconfig_file(&self) -> Option<PathBuf> {
        let written = || Some(default_data_dir().join("kubeconfig")).filter(|file| file.is_file());
        let named = || std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.kubeconfig.clone().or_else(named).or_else(written)
    }

    /// The configuration of a client.
    pub async fn client_config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions::default();
        let Some(file) = self.kubeconfig_file() else {
            // Why each of the usual places has none helps nobody.
            return Config::infer().await.map_err(|_| anyhow::anyhow!(NO_SERVER));
        };
        let kubeconfig =
            Kubeconfig::read_from(&file).with_context(|| format!("kubeconfig {}", file.display()))?;
        Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(|| format!("kubeconfig {}", file.display()))
    }

    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::try_from(self.client_config().await?).context("cannot make a client")
    }

    /// A client of a server that answers.
    pub(crate) async fn answering_client(&self) -> anyhow::Result<Client> {
        let config = self.client_config().await?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("cannot make a client")?;
        match client.apiserver_version().await {
            Err(kube::Error::Api(_)) | Ok(_) => Ok(client),
            Err(error) => Err(anyhow::anyhow!(
                "the API server at {server} does not answer ({}): start `mizzen up`, or name another kubeconfig with \
                 --kubeconfig",
                root(&error)
            )),
        }
    }
}

/// The cause of all.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
