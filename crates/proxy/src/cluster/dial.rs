//! Opening a connection to a host: TCP or a Unix socket, then TLS where the cluster says so, all within one time-out.

use std::io;
use std::time::Duration;

use tls::ClientTls;
use tokio::net::UnixStream;
use upstream::Address;

use crate::net::{ConnectOptions, Io, Kind, Outside, connect};

/// Why there is no connection; the texts are Envoy's transport failure reasons.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("connection timeout")]
    Timeout,
    #[error("{0}")]
    Connect(String),
    #[error("TLS_error:|{0}:TLS_error_end")]
    Tls(String),
}

/// What TLS offers for this connection, where that differs from the cluster's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOverride {
    pub sni: Option<Box<str>>,
    pub alpn: Option<Vec<Vec<u8>>>,
}

pub async fn dial(
    address: &Address,
    (options, outside): (&ConnectOptions, Option<&Outside>),
    tls: Option<&ClientTls>,
    with: &TlsOverride,
    within: Duration,
) -> Result<Io, DialError> {
    match tokio::time::timeout(within, dial_unbounded(address, options, outside, tls, with)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout),
    }
}

async fn dial_unbounded(
    address: &Address,
    options: &ConnectOptions,
    outside: Option<&Outside>,
    tls: Option<&ClientTls>,
    with: &TlsOverride,
) -> Result<Io, DialError> {
    let io = match address {
        Address::Socket(to) => {
            let stream = match outside.filter(|_| options.source.is_none()).and_then(|o| o(*to)) {
                Some(connecting) => connecting.await,
                None => connect(*to, options).await,
            };
            Io::new(Kind::Tcp(stream.map_err(|e| refused(&e))?))
        }
        Address::Pipe(path) => {
            Io::new(Kind::Unix(UnixStream::connect(&**path).await.map_err(|e| refused(&e))?))
        }
        Address::Name(host, _) => return Err(DialError::Connect(format!("{host} is not resolved"))),
    };
    let Some(tls) = tls else { return Ok(io) };
    let stream = tls
        .connect_as(io.reads_ahead(), with.sni.as_deref(), with.alpn.clone())
        .await
        .map_err(|e| DialError::Tls(e.to_string()))?;
    Ok(Io::new(Kind::Client(Box::new(stream))))
}

/// The system's words without our decoration: `Connection refused`.
fn refused(error: &io::Error) -> DialError {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    DialError::Connect(format!("delayed connect error: {words}"))
}
