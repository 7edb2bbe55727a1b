//! What the server keeps secret: its authority, the key that signs service accounts' tokens, the
//! administrator's token. All are made once and live sealed in the store.

use crate::config::StartError;
use crate::store::{Compare, Op, Outcome, Store, Txn};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// Who issues service accounts' tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The server's keys. They can be neither printed nor logged.
pub struct Keys {
    pub ca_pem: String,
    ca_key_pem: String,
    signing: EcdsaKeyPair,
    pub admin_token: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What a service account's token says, after its signature and times were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub account: String,
    pub uid: String,
    pub audiences: Vec<String>,
    pub id: String,
}

fn certificates(error: impl std::fmt::Display) -> StartError {
    StartError::Certificates(error.to_string())
}

/// The value under that key, made and stored when there is none.
async fn kept(
    store: &dyn Store,
    name: &str,
    make: impl FnOnce() -> Result<Vec<u8>, StartError>,
) -> Result<Vec<u8>, StartError> {
    let key = format!("/internal/keys/{name}");
    let prepare = |error: crate::store::StoreError| StartError::Prepare(error.to_string());
    if let Some(record) = store.get(&key).map_err(prepare)? {
        return Ok(record.value.to_vec());
    }
    let value = make()?;
    let txn = Txn {
        compare: vec![Compare { key: key.clone(), modified: 0 }],
        then: vec![Op::Put(key, value.clone().into())],
    };
    match store.txn(txn).await.map_err(prepare)? {
        Outcome::Done(_) => Ok(value),
        Outcome::Differs { now, .. } => Ok(now.map(|record| record.value.to_vec()).unwrap_or_default()),
    }
}

impl Keys {
    pub async fn open(store: &dyn Store) -> Result<Self, StartError> {
        let authority = kept(store, "authority", new_authority).await?;
        let authority: Value = serde_json::from_slice(&authority).map_err(certificates)?;
        let signing = kept(store, "service-accounts", || {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
            Ok(made.map_err(certificates)?.as_ref().to_vec())
        })
        .await?;
        let token = kept(store, "admin-token", || {
            let bytes: [u8; 32] = rand::random();
            Ok(URL_SAFE_NO_PAD.encode(bytes).into_bytes())
        })
        .await?;
        let text = |key: &str| authority[key].as_str().unwrap_or("").to_owned();
        Ok(Self {
            ca_pem: text("certificate"),
            ca_key_pem: text("key"),
            signing: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &signing)
                .map_err(certificates)?,
            admin_token: String::from_utf8(token).map_err(certificates)?,
        })
    }

    /// A TLS configuration with a fresh certificate for these names.
    pub fn server_config(
        &self,
        names: &[String],
        now: std::time::SystemTime,
    ) -> Result<rustls::ServerConfig, StartError> {
        let ca_key = rcgen::KeyPair::from_pem(&self.ca_key_pem).map_err(certificates)?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, ca_key).map_err(certificates)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(certificates)?;
        params.distinguished_name.push(DnType::CommonName, "mizzen-apiserver");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid_for(&mut params, now, 365);
        let key = rcgen::KeyPair::generate().map_err(certificates)?;
        let leaf = params.signed_by(&key, &issuer).map_err(certificates)?;
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(certificates)?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(certificates)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Signs a token.
    pub fn issue(&self, claims: &Claims, now: u64, seconds: u64) -> Option<String> {
        let header = json!({ "alg": "ES256", "kid": self.key_id(), "typ": "JWT" });
        let Claims { namespace, account, uid, audiences, id } = claims;
        let body = json!({
            "aud": audiences, "exp": now + seconds, "iat": now, "nbf": now, "iss": ISSUER, "jti": id,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": account, "uid": uid } },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&body));
        let signature = self.signing.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// What a token says if this server signed it and it is in its time; `Err` says why not.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, &'static str> {
        const MALFORMED: &str = "the token is malformed";
        let mut parts = token.rsplitn(2, '.');
        let (Some(signature), Some(signed)) = (parts.next(), parts.next()) else { return Err(MALFORMED) };
        let (header, body) = signed.split_once('.').ok_or(MALFORMED)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| MALFORMED)?;
        if header["alg"] != "ES256" {
            return Err("the token is not signed with ES256");
        }
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.signing.public_key().as_ref());
        public
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "the token was not signed by this server")?;
        let body: Value = serde_json::from_slice(&decode(body)?).map_err(|_| MALFORMED)?;
        let time = |key: &str| body[key].as_u64();
        if time("exp").is_none_or(|end| now >= end) {
            return Err("the token has expired");
        }
        if time("nbf").is_some_and(|start| now + 60 < start) {
            return Err("the token is not valid yet");
        }
        if body["iss"] != ISSUER {
            return Err("the token has another issuer");
        }
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let audiences = body["aud"].as_array().into_iter().flatten();
        Ok(Claims {
            namespace: text("/kubernetes.io/namespace"),
            account: text("/kubernetes.io/serviceaccount/name"),
            uid: text("/kubernetes.io/serviceaccount/uid"),
            audiences: audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            id: text("/jti"),
        })
    }

    fn key_id(&self) -> String {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.signing.public_key().as_ref());
        URL_SAFE_NO_PAD.encode(&digest.as_ref()[..16])
    }

    /// The public half, for whoever checks tokens without asking.
    pub fn jwks(&self) -> Value {
        let point = self.signing.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32.min(point.len().saturating_sub(1)));
        json!({ "keys": [{ "use": "sig", "kty": "EC", "kid": self.key_id(), "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) }] })
    }
}

fn new_authority() -> Result<Vec<u8>, StartError> {
    let key = rcgen::KeyPair::generate().map_err(certificates)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mizzen-apiserver-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, std::time::SystemTime::now(), 3650);
    let certificate = params.self_signed(&key).map_err(certificates)?;
    let kept = json!({ "certificate": certificate.pem(), "key": key.serialize_pem() });
    Ok(kept.to_string().into_bytes())
}

/// From yesterday for that many days.
fn valid_for(params: &mut CertificateParams, now: std::time::SystemTime, days: i64) {
    let moment = jiff::Timestamp::try_from(now).unwrap_or_default();
    let today = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |offset: i64| {
        let date = today.saturating_add(jiff::Span::new().days(offset));
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = day(-1);
    params.not_after = day(days);
}

/// The names and addresses of the server's certificate.
pub fn names_of(listen: IpAddr, more: &[String]) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "10.96.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    names.extend(more.iter().cloned());
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DiskOptions, DiskStore, Sealer};

    #[tokio::test]
    async fn a_token_counts_in_its_time_and_as_it_was_signed() {
        let folder = tempfile::tempdir().unwrap();
        let options = DiskOptions {
            path: folder.path().join("store.redb"),
            sealer: Sealer::open(&folder.path().join("key")).unwrap(),
            sealed: |_| true,
            window_events: 16,
            window_bytes: 1 << 20,
        };
        let keys = Keys::open(&DiskStore::open(options).unwrap()).await.unwrap();
        let text = |text: &str| text.to_owned();
        let claims = Claims {
            namespace: text("default"),
            account: text("reviews"),
            uid: text("1"),
            audiences: vec![text("istio-ca")],
            id: text("2"),
        };
        let token = keys.issue(&claims, 10_000, 600).unwrap();
        assert_eq!(keys.verify(&token, 10_599).unwrap().account, "reviews");
        assert_eq!(keys.verify(&token, 10_600).err(), Some("the token has expired"));
        assert_eq!(keys.verify(&token, 9_000).err(), Some("the token is not valid yet"));
        let (head, _) = token.rsplit_once('.').unwrap();
        for forged in [format!("{head}."), format!("{head}.AAAA"), head.to_owned(), text("x"), String::new()]
        {
            assert!(keys.verify(&forged, 10_100).is_err(), "{forged}");
        }
    }
}
