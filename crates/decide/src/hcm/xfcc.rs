//! `x-forwarded-client-cert`.

use crate::connection::{Connection, TlsInfo};
use crate::headers::Known;
use crate::request::Request;
use crate::route::append_list;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct XfccPolicy {
    pub(crate) mode: XfccMode,
    pub(crate) cert: bool,
    pub(crate) chain: bool,
    pub(crate) subject: bool,
    pub(crate) uri: bool,
    pub(crate) dns: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum XfccMode {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

impl XfccPolicy {
    pub(crate) fn apply(&self, connection: &Connection, request: &mut Request) {
        let tls = connection.tls.as_deref().filter(|t| t.peer_presented);
        match (self.mode, tls) {
            (XfccMode::AlwaysForwardOnly, _) | (XfccMode::ForwardOnly, Some(_)) => {}
            (XfccMode::Sanitize, _) | (_, None) => {
                request.headers.remove_known(Known::XForwardedClientCert);
            }
            (XfccMode::AppendForward, Some(tls)) => {
                append_list(request, Known::XForwardedClientCert, &self.element(tls));
            }
            (XfccMode::SanitizeSet, Some(tls)) => {
                request.headers.set(Known::XForwardedClientCert, self.element(tls));
            }
        }
    }

    fn element(&self, tls: &TlsInfo) -> String {
        let mut parts = Vec::new();
        parts.extend(tls.local_uris.first().map(|uri| format!("By={uri}")));
        if !tls.peer_fingerprint.is_empty() {
            parts.push(format!("Hash={}", tls.peer_fingerprint));
        }
        if self.cert && !tls.peer_pem.is_empty() {
            parts.push(format!("Cert=\"{}\"", tls.peer_pem));
        }
        if self.chain && !tls.peer_chain_pem.is_empty() {
            parts.push(format!("Chain=\"{}\"", tls.peer_chain_pem));
        }
        if self.subject {
            // RFC 2253 has escaped what ends a quoted value.
            parts.push(format!("Subject=\"{}\"", tls.peer_subject));
        }
        if self.uri {
            match tls.peer_uris.as_slice() {
                [] => parts.push("URI=".to_owned()),
                uris => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
            }
        }
        if self.dns {
            parts.extend(tls.peer_dns.iter().map(|name| format!("DNS={name}")));
        }
        parts.join(";")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::Method;

    fn forwarded(mode: XfccMode, mutual: bool) -> Option<String> {
        let mut connection = Connection::new("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        connection.tls = Some(Arc::new(TlsInfo {
            peer_presented: mutual,
            peer_uris: ["spiffe://a".into()].into_iter().collect(),
            local_uris: ["spiffe://b".into()].into_iter().collect(),
            peer_fingerprint: "ab".into(),
            ..TlsInfo::default()
        }));
        let mut request = Request::new(Method::Get, "a", "/").with_header("x-forwarded-client-cert", "old");
        XfccPolicy { mode, subject: true, uri: true, dns: true, ..XfccPolicy::default() }
            .apply(&connection, &mut request);
        request.headers.known_str(Known::XForwardedClientCert).map(str::to_owned)
    }

    #[test]
    fn each_mode_does_what_envoy_does() {
        let own = "By=spiffe://b;Hash=ab;Subject=\"\";URI=spiffe://a";
        for (mode, mutual, expected) in [
            (XfccMode::Sanitize, true, None),
            (XfccMode::ForwardOnly, true, Some("old".to_owned())),
            (XfccMode::ForwardOnly, false, None),
            (XfccMode::AppendForward, true, Some(format!("old,{own}"))),
            (XfccMode::AppendForward, false, None),
            (XfccMode::SanitizeSet, true, Some(own.to_owned())),
            (XfccMode::SanitizeSet, false, None),
            (XfccMode::AlwaysForwardOnly, false, Some("old".to_owned())),
        ] {
            assert_eq!(forwarded(mode, mutual), expected, "{mode:?} {mutual}");
        }
    }
}
