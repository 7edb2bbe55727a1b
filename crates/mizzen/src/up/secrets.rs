//! The authority's keys on a cluster: where Istio keeps them, so that a control plane of either kind finds them.
//!
//! A Secret `cacerts` is an intermediate that somebody plugged in. Without it, Secret `istio-ca-secret` holds a root of
//! our own, made on first start; what Istio's format has no place for (a rotation under way) is an entry of its own.
//! All calls block: they are made on threads for that.

use std::collections::BTreeMap;
use std::fmt;

use ca::{KeptRoot, KeptRoots, PLUGGED_FILES, PluggedSource, RootStore, StoreError};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ObjectMeta, PostParams};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

const PLUGGED: &str = "cacerts";
const OWN: &str = "istio-ca-secret";
/// The type that istiod gives to its root.
const OWN_TYPE: &str = "istio.io/ca-root";
const ROTATION: &str = "mizzen-rotation.json";
const MANAGER: &str = "mizzen-control";

/// The Secrets of one namespace.
#[derive(Clone)]
pub(super) struct Secrets {
    client: kube::Client,
    namespace: String,
    runtime: Handle,
}

/// What of [`KeptRoots`] Istio's Secret does not know.
#[derive(Default, Serialize, Deserialize)]
struct Rotation {
    next: Option<(KeptRoot, u64)>,
    retired: Vec<(String, u64)>,
}

impl Secrets {
    /// For use on threads that may block, of the runtime that this is called on.
    pub(super) fn new(client: kube::Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), runtime: Handle::current() }
    }

    /// Makes the namespace if it is absent.
    pub(super) fn ensure_namespace(&self) -> Result<(), StoreError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = Namespace { metadata: named(&self.namespace), ..Default::default() };
        let made = self.runtime.block_on(async {
            if namespaces.get_opt(&self.namespace).await?.is_some() {
                return Ok(());
            }
            created(namespaces.create(&params(), &namespace).await).map(drop)
        });
        made.map_err(|error| self.failed(&self.namespace, error))
    }

    /// What somebody plugged in, if there is something.
    pub(super) fn plugged(&self) -> Result<Option<ca::PluggedFiles>, StoreError> {
        let source = Plugged(self.clone());
        Ok(self.get(PLUGGED)?.map(|_| ca::PluggedFiles::new(Box::new(source))))
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn get(&self, name: &str) -> Result<Option<Secret>, StoreError> {
        self.runtime.block_on(self.api().get_opt(name)).map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, error: impl fmt::Display) -> StoreError {
        StoreError::Remote { place: format!("Secret {}/{name}", self.namespace), reason: error.to_string() }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.namespace)
    }
}

#[derive(Debug)]
struct Plugged(Secrets);

impl PluggedSource for Plugged {
    fn read(&self) -> Result<[Zeroizing<Vec<u8>>; 4], StoreError> {
        let secret = self.0.get(PLUGGED)?.ok_or_else(|| self.0.failed(PLUGGED, "it is gone"))?;
        let mut data = secret.data.unwrap_or_default();
        let mut part = |name: &str, required: bool| match data.remove(name) {
            Some(bytes) => Ok(Zeroizing::new(bytes.0)),
            None if !required => Ok(Zeroizing::default()),
            None => Err(self.0.failed(PLUGGED, format!("data.{name} is missing"))),
        };
        let [certificate, key, chain, roots] = PLUGGED_FILES;
        Ok([part(certificate, true)?, part(key, true)?, part(chain, false)?, part(roots, true)?])
    }
}

impl RootStore for Secrets {
    fn load(&self) -> Result<Option<KeptRoots>, StoreError> {
        let Some(secret) = self.get(OWN)? else { return Ok(None) };
        from_data(&secret.data.unwrap_or_default()).map(Some).map_err(|reason| self.failed(OWN, reason))
    }

    fn create(&self, roots: &KeptRoots) -> Result<bool, StoreError> {
        let secret = Secret {
            metadata: named(OWN),
            type_: Some(OWN_TYPE.into()),
            data: Some(to_data(roots).map_err(|error| self.failed(OWN, error))?),
            ..Default::default()
        };
        let made = self.runtime.block_on(self.api().create(&params(), &secret));
        created(made).map_err(|error| self.failed(OWN, error))
    }

    fn save(&self, roots: &KeptRoots) -> Result<(), StoreError> {
        let mut secret = self.get(OWN)?.ok_or_else(|| self.failed(OWN, "it is gone"))?;
        let data = to_data(roots).map_err(|error| self.failed(OWN, error))?;
        secret.data.get_or_insert_default().extend(data);
        // The version that was read goes with it: two who rotate at once do not overwrite each other.
        let saved = self.runtime.block_on(self.api().replace(OWN, &params(), &secret));
        saved.map(drop).map_err(|error| self.failed(OWN, error))
    }

    fn place(&self) -> String {
        format!("Secret {}/{OWN}", self.namespace)
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

fn params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(MANAGER.into()) }
}

/// Whether it was made by us; false if somebody was faster.
fn created<T>(outcome: kube::Result<T>) -> kube::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

type Data = BTreeMap<String, ByteString>;

fn to_data(roots: &KeptRoots) -> Result<Data, serde_json::Error> {
    let copy = |root: &KeptRoot| KeptRoot { certificate: root.certificate.clone(), key: root.key.clone() };
    let next = roots.next.as_ref().map(|(root, since)| (copy(root), *since));
    let rotation = serde_json::to_vec(&Rotation { next, retired: roots.retired.clone() })?;
    let [certificate, key, chain, all] = PLUGGED_FILES;
    let parts = [
        (certificate, roots.active.certificate.clone().into_bytes()),
        (key, roots.active.key.as_bytes().to_vec()),
        (chain, Vec::new()),
        (all, roots.certificates().into_bytes()),
        (ROTATION, rotation),
    ];
    Ok(parts.into_iter().map(|(name, bytes)| (name.to_owned(), ByteString(bytes))).collect())
}

fn from_data(data: &Data) -> Result<KeptRoots, String> {
    let text = |name: &str| {
        let bytes = data.get(name).ok_or_else(|| format!("data.{name} is missing"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| format!("data.{name} is no PEM"))
    };
    let [certificate, key, ..] = PLUGGED_FILES;
    let rotation: Rotation = match data.get(ROTATION) {
        Some(bytes) => serde_json::from_slice(&bytes.0).map_err(|_| format!("data.{ROTATION} is damaged"))?,
        None => Rotation::default(),
    };
    let active = KeptRoot { certificate: text(certificate)?, key: Zeroizing::new(text(key)?) };
    Ok(KeptRoots { active, next: rotation.next, retired: rotation.retired })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: &str) -> KeptRoot {
        KeptRoot { certificate: format!("{name}\n"), key: Zeroizing::new(format!("{name}'s key")) }
    }

    #[test]
    fn roots_are_kept_as_istio_keeps_them() {
        let roots =
            KeptRoots { active: root("a"), next: Some((root("b"), 7)), retired: vec![("c\n".to_owned(), 9)] };
        let data = to_data(&roots).unwrap();
        assert_eq!(data["ca-cert.pem"].0, b"a\n");
        assert_eq!(data["ca-key.pem"].0, b"a's key");
        assert_eq!(data["root-cert.pem"].0, b"a\nb\nc\n");
        let read = from_data(&data).unwrap();
        assert_eq!(
            read.next.as_ref().map(|(root, since)| (root.certificate.as_str(), *since)),
            Some(("b\n", 7))
        );
        assert_eq!(read.certificates(), roots.certificates());
    }

    #[test]
    fn what_istiod_made_is_read_and_what_lacks_a_part_is_named() {
        let of = |name: &str| (name.to_owned(), ByteString(b"pem".to_vec()));
        let istiods: Data =
            ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "key.pem", "root-cert.pem"].map(of).into();
        assert_eq!(from_data(&istiods).unwrap().active.certificate, "pem");
        let error = from_data(&[of("ca-cert.pem")].into()).unwrap_err();
        assert_eq!(error, "data.ca-key.pem is missing");
    }
}
