//! Permissions and principals: trees of conditions.

use std::net::IpAddr;

use crate::connection::{Connection, TlsInfo};
use crate::matching::{HeaderMatcher, MetadataMatcher, StringMatcher};
use crate::rbac::Subject;
use crate::wire::Cidr;

#[derive(Debug, Clone)]
pub(super) enum Permission {
    Any,
    And(Vec<Permission>),
    Or(Vec<Permission>),
    Not(Box<Permission>),
    Header(Box<HeaderMatcher>),
    Path(StringMatcher),
    DestinationIp(Cidr),
    DestinationPort(u16),
    /// Start included, end not.
    DestinationPorts(u16, u32),
    Metadata(MetadataMatcher),
    ServerName(StringMatcher),
}

#[derive(Debug, Clone)]
pub(super) enum Principal {
    Any,
    And(Vec<Principal>),
    Or(Vec<Principal>),
    Not(Box<Principal>),
    /// Any client whose certificate was verified, or one whose name matches.
    Authenticated(Option<StringMatcher>),
    SourceIp(Cidr),
    DirectRemoteIp(Cidr),
    RemoteIp(Cidr),
    Header(Box<HeaderMatcher>),
    Path(StringMatcher),
    Metadata(MetadataMatcher),
}

impl Permission {
    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        let local = subject.connection.local;
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.matches(subject)),
            Self::Or(any) => any.iter().any(|p| p.matches(subject)),
            Self::Not(inner) => !inner.matches(subject),
            Self::Header(matcher) => subject.request.is_some_and(|r| matcher.matches(r)),
            Self::Path(matcher) => path_matches(matcher, subject),
            Self::DestinationIp(range) => range.contains(local.ip()),
            Self::DestinationPort(port) => local.port() == *port,
            Self::DestinationPorts(start, end) => *start <= local.port() && u32::from(local.port()) < *end,
            Self::Metadata(matcher) => metadata_matches(matcher, subject),
            Self::ServerName(matcher) => matcher.matches(subject.connection.server_name.as_bytes()),
        }
    }
}

impl Principal {
    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.matches(subject)),
            Self::Or(any) => any.iter().any(|p| p.matches(subject)),
            Self::Not(inner) => !inner.matches(subject),
            Self::Authenticated(name) => authenticated(name.as_ref(), subject.connection),
            // Envoy's deprecated `source_ip` is the address as decided; ours the same.
            Self::SourceIp(range) | Self::RemoteIp(range) => range.contains(subject.remote.ip()),
            Self::DirectRemoteIp(range) => range.contains(direct(subject.connection)),
            Self::Header(matcher) => subject.request.is_some_and(|r| matcher.matches(r)),
            Self::Path(matcher) => path_matches(matcher, subject),
            Self::Metadata(matcher) => metadata_matches(matcher, subject),
        }
    }
}

fn direct(connection: &Connection) -> IpAddr {
    connection.remote.ip()
}

/// The path as it is routed: canonical, without query and fragment.
fn path_matches(matcher: &StringMatcher, subject: &Subject<'_>) -> bool {
    subject.request.is_some_and(|r| matcher.matches(r.path_only().as_bytes()))
}

fn metadata_matches(matcher: &MetadataMatcher, subject: &Subject<'_>) -> bool {
    match subject.request {
        Some(request) => matcher.matches(&request.metadata),
        None => matcher.matches(&crate::metadata::DynamicMetadata::default()),
    }
}

/// Any URI SAN or DNS SAN; the subject where there is neither.
fn authenticated(name: Option<&StringMatcher>, connection: &Connection) -> bool {
    let Some(tls) = connection.tls.as_deref().filter(|t| t.peer_verified) else { return false };
    let Some(matcher) = name else { return true };
    let TlsInfo { peer_uris, peer_dns, peer_subject, .. } = tls;
    let mut names = peer_uris.iter().chain(peer_dns).peekable();
    if names.peek().is_none() {
        return matcher.matches(peer_subject.as_bytes());
    }
    names.any(|name| matcher.matches(name.as_bytes()))
}
