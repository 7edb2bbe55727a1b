//! The wire: TLS connections, who is asking, which verb it is, and the shape of the answer.

mod access;
mod discovery;
mod listen;
mod openapi;
mod openapi_v2;
pub(crate) mod protobuf;
pub(crate) mod request;
mod respond;
mod reviews;
mod route;
mod scale;
mod table;
mod watch;

pub(crate) use listen::serve;

use crate::advice::Advisor;
use crate::engine::Engine;
use crate::keys::Keys;
use std::sync::Arc;
use std::sync::OnceLock;

/// What all connections share.
pub(crate) struct Api {
    pub(crate) engine: Arc<Engine>,
    pub(crate) keys: Keys,
    pub(crate) max_body: usize,
    /// Tells watches that the server goes.
    pub(crate) shutdown: tokio::sync::watch::Receiver<bool>,
    pub(crate) documents: OnceLock<openapi::Documents>,
    /// Who knows more of custom resources than their own text says.
    pub(crate) advisor: OnceLock<Arc<dyn Advisor>>,
}
