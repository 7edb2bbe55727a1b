//! A join token's record as a Secret, written by `mizzen token create` and read by the control plane.

use std::collections::BTreeMap;

use ca::Kept;
use k8s_openapi::{ByteString, api::core::v1::Secret};

/// Marks these Secrets.
pub const LABEL: &str = "mizzen.dev/join-token";
const TYPE: &str = "mizzen.dev/join-token";
const HASH: &str = "hash";
const ACCOUNT: &str = "service-account";
const EXPIRES: &str = "expires";
const USED_BY: &str = "used-by";

/// The Secret's name for a record's.
pub fn name(record: &str) -> String {
    format!("mizzen-join-{record}")
}

/// The Secret for a new token.
pub fn new(kept: &Kept) -> Secret {
    let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
    secret.metadata.name = Some(name(&kept.name()));
    secret.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), "true".to_owned())]));
    write(&mut secret, kept);
    secret
}

/// Replaces the record in the Secret.
pub fn write(secret: &mut Secret, kept: &Kept) {
    let fields = [
        (HASH, Some(kept.hash.clone())),
        (ACCOUNT, Some(kept.service_account.clone())),
        (EXPIRES, Some(kept.expires.to_string())),
        (USED_BY, kept.used_by.clone()),
    ];
    let fields =
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), ByteString(value?.into_bytes()))));
    secret.data = Some(fields.collect());
}

/// The record; `None` for a Secret of another kind, or one that somebody has damaged.
pub fn read(secret: &Secret) -> Option<Kept> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().filter(|text| !text.is_empty());
    Some(Kept {
        hash: text(HASH)?,
        service_account: text(ACCOUNT)?,
        expires: text(EXPIRES)?.parse().ok()?,
        used_by: text(USED_BY),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_holds_no_token() {
        tls::install_provider();
        let (token, mut kept) =
            Kept::mint("shop", "cart", Duration::from_secs(60), SystemTime::now()).unwrap();
        let mut secret = new(&kept);
        assert_eq!(read(&secret), Some(kept.clone()));
        let text = serde_json::to_string(&secret).unwrap();
        assert!(!text.contains(token.rsplit('.').next().unwrap()));
        kept.used_by = Some("0123".into());
        write(&mut secret, &kept);
        assert_eq!(read(&secret), Some(kept));
        secret.type_ = Some("Opaque".into());
        assert_eq!(read(&secret), None);
    }
}
