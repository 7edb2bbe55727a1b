//! The file that the last good configuration is kept in: what control planes sent and was taken, without any secret.
//!
//! A line of magic, a checksum, then one message: who it is for, when it was written, and the resources under the names that
//! they are kept under. Written beside and moved into place, readable by its owner alone.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use proto::json::{Walk, set_fields};
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::Any;
use proto::{Delta, Resource, ResourceType};

use crate::clock::timestamp;

const MAGIC: &[u8] = b"mizzen last good configuration 1\n";
/// In the order in which they are applied: what is referred to comes first.
pub(super) const KEPT: [ResourceType; 7] = [
    ResourceType::ProxyConfig,
    ResourceType::NameTable,
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Route,
    ResourceType::VirtualHost,
    ResourceType::Listener,
];

/// What was read.
#[derive(Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) written: String,
    pub(super) deltas: Vec<Delta>,
}

/// Reads the file; nothing where there is none. What is not whole, or is for somebody else, is an error.
pub(super) fn read(path: &Path, node: &str) -> Result<Option<Stored>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    parse(&bytes, node).map(Some)
}

fn parse(bytes: &Bytes, node: &str) -> Result<Stored, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("it is of another kind or version")?;
    let (sum, body) = body.split_at_checked(8).ok_or("it is cut short")?;
    if sum != checksum(body).to_le_bytes() {
        return Err("it is damaged".into());
    }
    let message = pb::DiscoveryResponse::decode(body).map_err(|e| e.to_string())?;
    if message.type_url != node {
        return Err(format!("it is of node {:?}, and this is {node:?}", message.type_url));
    }
    let mut deltas = KEPT.map(|t| Delta { resource_type: t, changed: Vec::new(), removed: Vec::new() });
    for any in message.resources {
        let wrapped = pb::Resource::decode(any.value.as_slice()).map_err(|e| e.to_string())?;
        let Some(inner) = wrapped.resource else { continue };
        let of_type = |delta: &&mut Delta| delta.resource_type.url() == inner.type_url;
        if let Some(delta) = deltas.iter_mut().find(of_type) {
            let version = wrapped.version.parse().unwrap_or_default();
            delta.changed.push(Resource { name: wrapped.name.into(), version, body: inner.value.into() });
        }
    }
    Ok(Stored {
        written: message.nonce,
        deltas: deltas.into_iter().filter(|d| !d.changed.is_empty()).collect(),
    })
}

/// FNV-1a: what is looked for is a file that was cut or mixed up, not one that somebody forged.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Knows of each resource whether it holds a secret, so that only what is new is looked through.
#[derive(Debug, Default)]
pub(super) struct Saver {
    judged: HashMap<(ResourceType, Arc<str>), (u64, bool)>,
}

impl Saver {
    /// Writes the file; how many resources were left out, since they hold a secret.
    pub(super) fn save(
        &mut self,
        path: &Path,
        node: &str,
        all: &[(ResourceType, Resource)],
        now: SystemTime,
    ) -> std::io::Result<usize> {
        let before = all.len();
        let kept: Vec<_> = all.iter().filter(|(t, resource)| !self.is_secret(*t, resource)).collect();
        self.judged
            .retain(|(t, name), _| all.iter().any(|(u, r)| t == u && *name == r.name) || before > 4096);
        let left_out = before - kept.len();
        let bytes = encode(&kept, node, now);
        write(path, &bytes)?;
        Ok(left_out)
    }

    fn is_secret(&mut self, t: ResourceType, resource: &Resource) -> bool {
        let key = (t, resource.name.clone());
        if let Some((_, secret)) = self.judged.get(&key).filter(|(version, _)| *version == resource.version) {
            return *secret;
        }
        let secret = holds_secret(t, &resource.body);
        if secret {
            tracing::info!(name = %decide::Origin::name_of(&resource.name), "not kept for a restart: it holds a secret");
        }
        self.judged.insert(key, (resource.version, secret));
        secret
    }
}

fn encode(all: &[&(ResourceType, Resource)], node: &str, now: SystemTime) -> Vec<u8> {
    let resources = all.iter().map(|(t, resource)| {
        let inner = Any { type_url: t.url().to_owned(), value: resource.body.to_vec() };
        let wrapped = pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(inner),
            ..Default::default()
        };
        Any { type_url: String::new(), value: wrapped.encode_to_vec() }
    });
    let message = pb::DiscoveryResponse {
        type_url: node.to_owned(),
        nonce: timestamp(now),
        resources: resources.collect(),
        ..Default::default()
    };
    let body = message.encode_to_vec();
    [MAGIC, &checksum(&body).to_le_bytes(), &body].concat()
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let written = (|| {
        // Left over by a process of this number that was killed.
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Fields below which a text is a secret, by their JSON names.
const SECRET: [&str; 8] = [
    "privateKey",
    "privateKeyProvider",
    "pkcs12",
    "password",
    "sessionTicketKeys",
    "genericSecret",
    "hmacSecret",
    "tokenSecret",
];

/// Whether a resource carries a key, a password or the like itself, and not just where to find it.
fn holds_secret(t: ResourceType, body: &[u8]) -> bool {
    if t == ResourceType::Secret || has(body, b"PRIVATE KEY-----") {
        return true;
    }
    let mut found = false;
    let walked = set_fields(t.url(), body, &mut |field| {
        let is_text = matches!(field.name, "inline_string" | "inline_bytes");
        // A key set may hold symmetric keys, by which tokens are made as well as verified.
        let symmetric = is_text && has(field.bytes, b"\"oct\"");
        let below = |name: &&str| field.path.split(['.', '[']).any(|step| step == *name);
        found |= symmetric || ((is_text || field.name == "private_key_provider") && SECRET.iter().any(below));
        if found { Walk::Over } else { Walk::Into }
    });
    found || (walked.is_err() && !matches!(t, ResourceType::NameTable | ResourceType::ProxyConfig))
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::*;

    fn resource(t: ResourceType, mut value: Value) -> (ResourceType, Resource) {
        value["@type"] = t.url().into();
        let (_, body) = proto::json::any_from_value(&value).unwrap();
        (
            t,
            Resource {
                name: value["name"].as_str().unwrap().into(),
                version: body.len() as u64,
                body: body.into(),
            },
        )
    }

    fn tls(key: Value) -> Value {
        json!({"name": "c", "transportSocket": {"name": "tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "commonTlsContext": {"tlsCertificates": [{"certificateChain": {"inlineString": "PUBLIC"}, "privateKey": key}]},
        }}})
    }

    #[test]
    fn what_is_written_is_read_again_by_the_same_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last");
        assert_eq!(read(&path, "n"), Ok(None));
        let all = [
            resource(ResourceType::Listener, json!({"name": "l"})),
            resource(ResourceType::Cluster, json!({"name": "c"})),
        ];
        assert_eq!(Saver::default().save(&path, "n", &all, SystemTime::UNIX_EPOCH).unwrap(), 0);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        let stored = read(&path, "n").unwrap().unwrap();
        assert_eq!(stored.written, "1970-01-01T00:00:00.000Z");
        let types: Vec<_> = stored.deltas.iter().map(|d| d.resource_type).collect();
        assert_eq!(types, [ResourceType::Cluster, ResourceType::Listener]);
        assert_eq!(stored.deltas[0].changed, [all[1].1.clone()]);

        assert_eq!(read(&path, "m").unwrap_err(), r#"it is of node "n", and this is "m""#);
        let whole = std::fs::read(&path).unwrap();
        for (bytes, fault) in [
            (&whole[..whole.len() - 1], "it is damaged"),
            (&whole[..MAGIC.len() + 3], "it is cut short"),
            (b"something else", "it is of another kind or version"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path, "n").unwrap_err(), fault);
        }
    }

    #[test]
    fn nothing_that_holds_a_secret_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last");
        let jwks = |text: &str| {
            json!({"name": "l", "filterChains": [{"filters": [{"name": "h", "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "httpFilters": [{"name": "j", "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                    "providers": {"p": {"localJwks": {"inlineString": text}}}}}]}}]}]})
        };
        let t = ResourceType::Cluster;
        for (kept, one) in [
            (true, resource(t, tls(json!({"filename": "/key"})))),
            (true, resource(t, tls(json!({"environmentVariable": "KEY"})))),
            (false, resource(t, tls(json!({"inlineString": "c2VjcmV0"})))),
            (false, resource(t, tls(json!({"inlineBytes": "c2VjcmV0"})))),
            (false, resource(t, json!({"name": "-----BEGIN PRIVATE KEY-----"}))),
            (true, resource(ResourceType::Listener, jwks(r#"{"keys":[{"kty":"RSA"}]}"#))),
            (false, resource(ResourceType::Listener, jwks(r#"{"keys":[{"kty": "oct"}]}"#))),
        ] {
            let left_out =
                Saver::default().save(&path, "n", std::slice::from_ref(&one), SystemTime::now()).unwrap();
            assert_eq!(left_out, usize::from(!kept), "{one:?}");
            let bytes = std::fs::read(&path).unwrap();
            assert!(!has(&bytes, b"c2VjcmV0") && !has(&bytes, b"secret"));
        }
    }
}
