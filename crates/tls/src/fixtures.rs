//! Certificates for tests, made with the same library as `ca` uses, wrong ones included.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, Issuer, KeyPair, SanType};

use crate::{CertificateDer, Identity, PrivateKey};

pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
}

pub(crate) fn root(name: &str) -> Root {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.into()));
    params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    Root { issuer: Issuer::new(params, key), certificate }
}

impl Root {
    pub(crate) fn leaf(&self, sans: Vec<SanType>) -> Identity {
        let now = SystemTime::now();
        self.leaf_between(sans, now - Duration::from_secs(60), now + Duration::from_secs(3600))
    }

    pub(crate) fn leaf_between(&self, sans: Vec<SanType>, from: SystemTime, to: SystemTime) -> Identity {
        self.leaf_with(sans, from, to, &KeyPair::generate().unwrap())
    }

    pub(crate) fn leaf_with(
        &self,
        sans: Vec<SanType>,
        from: SystemTime,
        to: SystemTime,
        key: &KeyPair,
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = sans;
        params.not_before = from.into();
        params.not_after = to.into();
        let certificate = params.signed_by(key, &self.issuer).unwrap().der().clone();
        Identity::new(vec![certificate], PrivateKey::from_pem(key.serialize_pem().as_bytes()).unwrap())
            .unwrap()
    }

    pub(crate) fn named(&self, subject: &[(DnType, &str)], sans: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).into()));
        }
        params.subject_alt_names = sans;
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    pub(crate) fn svid(&self, id: &str) -> Identity {
        self.leaf(vec![uri(id)])
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}
