//! xDS in; compiled [`Plan`] and explained [`Decision`] out. No I/O.
//!
//! ```text
//! Delta ──► Plan::apply ──► Plan          what does not fit is a Rejection; its last good form stays
//!
//! connection:  plan.listener(name) ─► plan.hand_over(listener, original destination)
//!              listener.choose(&connection, &mut ()) ─► FilterChain
//!              decide_connection(&plan, &chain, &connection, ..) ─► Http(hcm) | Tcp(cluster) | Close | …
//! request:     Deciding::new(&connection), then step(&cx, &mut request, rng, &mut ()) until Done(Decision);
//!              what it asks meanwhile (Ask) is answered by answer(..)
//!              decision.outcome: Forward { cluster, timeouts, retry, hash, .. } or Reply
//! response:    decision.take_upstream_peer(..), decision.respond(..); hcm.finish_reply(..) for our own answers
//! log:         AccessLog::wants(&entry) ─► AccessLog::render(&entry, &mut line)
//! ```
//!
//! A plan is immutable and holds no run-time state but token buckets and what filters that shed load learned, which live as
//! long as the filter that is written with them. Every step takes a [`Recorder`]: `&mut ()` in the proxy, an
//! [`Explanation`] for `explain`; there is one matcher for both. What is accepted is honoured; everything else is
//! refused by the name of its field. Deliberately absent: sockets, clocks, threads, and how bytes become heads.

// Fields that Envoy calls deprecated are still sent, so they are still read.
#![allow(deprecated)]

mod access_log;
mod ask;
mod cel;
mod cluster;
mod collector;
mod connection;
mod decision;
mod explain;
mod ext_authz;
mod ext_proc;
mod filters;
mod flags;
mod format;
#[doc(hidden)]
pub mod fuzz;
mod hcm;
mod headers;
mod jwt;
mod limit;
mod listener;
mod log;
mod machine;
mod matching;
mod metadata;
mod network;
mod origin;
mod plan;
mod rbac;
mod refusal;
mod request;
mod respond;
mod route;
mod shed;
mod support;
mod tcp;
mod tls;
mod wire;

pub use access_log::{AccessLog, LogExport, LogRecord, LogSink, Logged};
pub use ask::{Answer, Answered, Ask, Call, CallFault, GrpcFault, GrpcTarget, ReceivedBody};
pub use cluster::{
    BindConfig, CheckKind, Cluster, ClusterMetadata, Discovery, DnsFamily, DnsSettings, GrpcCheck,
    HealthCheck, Http2Keepalive, HttpCheck, HttpSettings, NameCache, ServiceRef, SocketOption, SocketState,
    SocketValue, TcpKeepalive, TransportMatch, UpstreamProtocol, contains_in_order,
};
pub use collector::{Collector, CollectorProtocol};
pub use connection::{Connection, TlsInfo, TransportProtocol};
pub use decision::{
    Decision, Expected, Forward, HostRewriteLater, LocalReply, Matched, Mirror, Outcome, PolicyHit,
    TraceDecision,
};
pub use explain::{Explanation, Note, Recorder};
pub use ext_authz::NetworkAuthz;
pub use ext_proc::{
    BodyMode, Common, Judged, Part, Parts, ProcessAsk, Processed, Processing, ProcessingRequest,
    ProcessingResponse, Processor, SPURIOUS, Side, Subject, side_of,
};
pub use filters::{
    Answering, BodyFilter, Coding, CsrfCounts, Decode, Encoded, LONGEST_MESSAGE, as_grpc_message,
};
pub use flags::ResponseFlags;
pub use format::{DEFAULT_ENVOY, DEFAULT_ISTIO, Format, JsonFormat};
pub use hcm::{
    Codec, CustomTag, FinishedReply, Hcm, Http1Options, Http2Options, HttpLimits, HttpTimeouts, RouteSource,
    Sampling, ScopedRoutes, TagValue, TraceHeaders, Tracer, Tracing,
};
pub use headers::{HeaderName, Headers, Known};
pub use jwt::Counts as JwtCounts;
pub use listener::{
    ChainMatch, Direction, FilterChain, Listener, ListenerFilter, ListenerFilterKind, Terminal,
};
pub use log::{LogEntry, Times, UpstreamEntry, grpc_of_http};
pub use machine::{Context, Count, CountScope, Deciding, NodeFacts, Step};
pub use matching::{HeaderMatcher, MetadataMatcher, StringMatcher, ValueMatcher};
pub use metadata::{DynamicMetadata, PeerMetadata};
pub use network::{ConnectionRateLimit, NetworkFilter, TcpProxy};
pub use origin::Origin;
pub use plan::{ClusterId, Plan, RouteTableId};
pub use rbac::Rbac;
pub use request::{Method, Request, Response, Version, is_grpc_type};
pub use route::{
    Action, ClusterRef, Destination, DirectResponse, Followed, ForwardAction, HashPolicy, HeaderMutations,
    HostRewrite, InternalRedirects, MirrorPolicy, NetworkHash, NotFollowed, PathMatch, PathRewrite, Redirect,
    Redirected, Retry, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster,
};
pub use shed::Ended;
pub use tcp::{ConnectionDecision, ConnectionOutcome, TcpForward, decide_connection, decide_connection_with};
pub use tls::{
    CertificateSource, DownstreamTls, DownstreamTransport, SanKind, SanMatcher, SecretRef, TlsCommon,
    TlsVersion, Transport, UpstreamTls, UpstreamTransport, Validation, compile_validation,
};
pub use wire::{Chance, Cidr, DataSource, json_of};
