//! Join tokens as Secrets: what is kept of each lies in its own namespace, so that whoever may write Secrets there may
//! give tokens out, a restart forgets none, and several control planes agree on which were used.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ca::{BoxFuture, JoinError, JoinGrant, JoinStore, Judged, Kept, Shown};
use cli::join_secret;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, PostParams};

/// Two redeem one token at the same time: the second one sees what the first one wrote.
const TRIES: usize = 3;
/// How often expired ones are removed.
const SWEEP: Duration = Duration::from_secs(300);

/// The Secrets of an API server.
#[derive(Clone)]
pub(super) struct KubeTokens(pub(super) kube::Client);

impl KubeTokens {
    async fn redeem(&self, token: &str, public_key: &[u8], now: SystemTime) -> Result<JoinGrant, JoinError> {
        let shown = Shown::read(token).ok_or(JoinError::Unknown)?;
        let secrets: Api<Secret> = Api::namespaced(self.0.clone(), shown.namespace);
        for _ in 0..TRIES {
            let found = secrets.get_opt(&join_secret::name(&shown.name)).await.map_err(unavailable)?;
            let mut secret = found.ok_or(JoinError::Unknown)?;
            let kept = join_secret::read(&secret).ok_or(JoinError::Unknown)?;
            let grant = JoinGrant {
                namespace: shown.namespace.to_owned(),
                service_account: kept.service_account.clone(),
            };
            let Judged::First(used) = kept.judge(&shown, public_key, now)? else { return Ok(grant) };
            join_secret::write(&mut secret, &used);
            // The version that was read goes along: who comes second is refused and looks again.
            match secrets.replace(&join_secret::name(&shown.name), &PostParams::default(), &secret).await {
                Ok(_) => {
                    put_on_record(&grant, &used);
                    return Ok(grant);
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(JoinError::Unavailable("others redeem it at the same time".into()))
    }

    /// Removes what has expired, for ever.
    pub(super) async fn sweep(self) {
        loop {
            if let Err(error) = self.remove_expired(SystemTime::now()).await {
                tracing::debug!(%error, "expired join tokens could not be removed");
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    async fn remove_expired(&self, now: SystemTime) -> kube::Result<()> {
        let all: Api<Secret> = Api::all(self.0.clone());
        let ours = ListParams::default().labels(&format!("{}=true", join_secret::LABEL));
        for secret in all.list(&ours).await?.items {
            let expired = join_secret::read(&secret).is_none_or(|kept| kept.has_expired(now));
            let (Some(namespace), Some(name)) = (&secret.metadata.namespace, &secret.metadata.name) else {
                continue;
            };
            if expired {
                let secrets: Api<Secret> = Api::namespaced(self.0.clone(), namespace);
                secrets.delete(name, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

fn unavailable(error: kube::Error) -> JoinError {
    JoinError::Unavailable(error.to_string())
}

fn put_on_record(grant: &JoinGrant, kept: &Kept) {
    tracing::info!(
        target: "audit",
        event = "join-token.redeemed",
        namespace = grant.namespace,
        service_account = grant.service_account,
        token = kept.name(),
    );
}

impl JoinStore for KubeTokens {
    fn redeem<'a>(
        &'a self,
        token: &'a str,
        public_key: &'a [u8],
        now: SystemTime,
    ) -> BoxFuture<'a, Result<JoinGrant, JoinError>> {
        Box::pin(Self::redeem(self, token, public_key, now))
    }
}

/// Names the network of this control plane's own workloads, where nobody has named it yet.
pub(super) async fn name_network(client: &kube::Client, network: &str) -> kube::Result<()> {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::api::{ObjectMeta, Patch, PatchParams};
    let labels = BTreeMap::from([("topology.istio.io/network".to_owned(), network.to_owned())]);
    let metadata = ObjectMeta { labels: Some(labels), ..Default::default() };
    let root = Namespace { metadata, ..Default::default() };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = PatchParams::apply("mizzen-control").force();
    namespaces
        .patch(&model::Settings::default().root_namespace, &params, &Patch::Apply(&root))
        .await
        .map(drop)
}
