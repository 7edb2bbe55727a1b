//! How a workload becomes known to the mesh: through the API server, or, on another host, by its own proxy.

use std::sync::Arc;

use anyhow::Context;

use super::{
    Spec,
    join::JoinFile,
    objects::{Objects, Token},
    root_certificates,
};

/// Whom the workloads of this process are registered with.
#[derive(Clone)]
pub(crate) enum Registry {
    Api(kube::Client),
    /// A control plane elsewhere: there is a token and nothing to write to.
    Joined(Arc<JoinFile>),
}

/// The same for one workload.
#[derive(Clone)]
pub(crate) enum Register {
    Api(Objects),
    Joined,
}

impl Registry {
    /// Sees to what a workload needs before its proxy starts: its account and service, a token, the roots to trust.
    pub(super) async fn prepare(&self, spec: &Spec) -> anyhow::Result<(Register, Token, String)> {
        match self {
            Self::Api(client) => {
                let objects = Objects::new(client.clone(), &spec.namespace);
                objects.ensure_account(spec.account()).await?;
                objects.ensure_service(&spec.service, &spec.ports).await?;
                let token = objects.token(spec.account()).await?;
                let root = root_certificates(&objects).await?;
                Ok((Register::Api(objects), token, root))
            }
            Self::Joined(join) => {
                let namespace = ca::Shown::read(&join.token).map(|shown| shown.namespace.to_owned());
                let namespace = namespace.context("the join token")?;
                anyhow::ensure!(
                    namespace == spec.namespace,
                    "the join token is for the namespace {namespace}, not {}: name it with -n",
                    spec.namespace
                );
                // It buys the first certificate; each certificate buys the next.
                let token = Token { text: join.token.to_string(), seconds: 0 };
                Ok((Register::Joined, token, join.roots.clone()))
            }
        }
    }
}

impl Register {
    pub(super) async fn register(&self, name: &str, spec: &Spec, address: &str) -> anyhow::Result<()> {
        match self {
            Self::Api(objects) => objects.register(name, spec, address).await,
            Self::Joined => Ok(()),
        }
    }

    pub(super) async fn withdraw(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Api(objects) => objects.withdraw(name).await,
            // Its proxy has said goodbye.
            Self::Joined => Ok(()),
        }
    }
}
