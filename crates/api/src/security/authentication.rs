//! PeerAuthentication and RequestAuthentication: how callers prove who they are.

use std::collections::BTreeMap;

use crate::common::{LabelSelector, PolicyTargetReference};
use crate::duration::Duration;
use crate::message::{keyword, message};

message! {
    /// Whether some workloads insist on mutual TLS.
    pub struct PeerAuthentication {
        /// The workloads; all of the namespace when absent.
        pub selector: Option<LabelSelector>,
        /// The mode; inherited when absent.
        pub mtls: Option<MutualTls>,
        /// Modes of single ports of the workload; needs a selector.
        pub port_level_mtls: BTreeMap<u32, MutualTls>,
    }

    /// Whether mutual TLS is used.
    pub struct MutualTls {
        /// Inherited when absent.
        pub mode: MutualTlsMode,
    }

    /// Which tokens some workloads accept.
    #[schemars(extend("x-oneof" = [["selector", "targetRef", "targetRefs"]]))]
    pub struct RequestAuthentication {
        /// The workloads; all of the namespace when absent.
        pub selector: Option<LabelSelector>,
        /// A resource to which the policy is attached instead.
        pub target_ref: Option<PolicyTargetReference>,
        /// Resources to which the policy is attached instead.
        #[schemars(length(max = 16))]
        pub target_refs: Vec<PolicyTargetReference>,
        /// The issuers that are trusted.
        #[schemars(length(max = 4096))]
        pub jwt_rules: Vec<JwtRule>,
    }

    /// An issuer of tokens.
    #[schemars(extend("required" = ["issuer"], "x-oneof" = [["jwksUri", "jwks_uri", "jwks"]]))]
    pub struct JwtRule {
        /// The `iss` claim.
        #[schemars(length(min = 1))]
        pub issuer: String,
        /// The `aud` claims that are accepted; any when absent.
        pub audiences: Vec<String>,
        /// Where the keys are fetched.
        #[schemars(length(max = 2048))]
        pub jwks_uri: String,
        /// Where the keys are fetched.
        #[serde(rename = "jwks_uri")]
        #[schemars(length(max = 2048))]
        pub jwks_uri_by_proto_name: String,
        /// The keys themselves.
        pub jwks: String,
        /// Headers that carry the token.
        pub from_headers: Vec<JwtHeader>,
        /// Query parameters that carry the token.
        pub from_params: Vec<String>,
        /// Cookies that carry the token.
        pub from_cookies: Vec<String>,
        /// Header into which the payload is put.
        pub output_payload_to_header: String,
        /// Whether the token is passed on.
        pub forward_original_token: bool,
        /// Headers into which claims are put.
        pub output_claim_to_headers: Vec<ClaimToHeader>,
        /// How long fetching the keys may take.
        pub timeout: Option<Duration>,
        /// Claims that hold lists separated by spaces.
        #[schemars(length(max = 64))]
        pub space_delimited_claims: Vec<String>,
        /// Whether there must be a token.
        pub presence: Presence,
    }

    /// A header that carries a token.
    #[schemars(extend("required" = ["name"]))]
    pub struct JwtHeader {
        /// Its name.
        #[schemars(length(min = 1))]
        pub name: String,
        /// What stands before the token.
        pub prefix: String,
    }

    /// A header into which a claim is put.
    #[schemars(extend("required" = ["header", "claim"]))]
    pub struct ClaimToHeader {
        /// Name of the header.
        #[schemars(length(min = 1), extend("pattern" = "^[-_A-Za-z0-9]+$"))]
        pub header: String,
        /// Name of the claim.
        #[schemars(length(min = 1))]
        pub claim: String,
    }
}

keyword! {
    /// Whether mutual TLS is used.
    pub enum MutualTlsMode {
        #[default]
        Unset,
        Disable,
        Permissive,
        Strict,
    }
}

keyword! {
    /// Whether there must be a token.
    pub enum Presence {
        #[default]
        Optional,
        Required,
    }
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// Here, as a JSON Web Key Set.
    Inline(&'a str),
    /// At this address.
    Uri(&'a str),
    /// Where the document says that this issuer serves (OpenID Connect Discovery).
    Issuer(&'a str),
}

impl JwtRule {
    pub fn key_source(&self) -> KeySource<'_> {
        let uri = if self.jwks_uri.is_empty() { &self.jwks_uri_by_proto_name } else { &self.jwks_uri };
        match (self.jwks.as_str(), uri.as_str()) {
            ("", "") => KeySource::Issuer(&self.issuer),
            ("", uri) => KeySource::Uri(uri),
            (jwks, _) => KeySource::Inline(jwks),
        }
    }
}

impl PeerAuthentication {
    /// The mode for a port of the workload; nothing if it is inherited.
    pub fn mode(&self, port: u32) -> Option<MutualTlsMode> {
        let set = |mtls: &MutualTls| (mtls.mode != MutualTlsMode::Unset).then_some(mtls.mode);
        self.port_level_mtls.get(&port).and_then(set).or_else(|| self.mtls.as_ref().and_then(set))
    }
}
