//! Opens the connection that a stream or a poll goes over.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::grpc::Status;

/// A server's machine that says nothing for so long is asked whether it is still there, again and again,
const SILENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);
/// and is gone when it acknowledged nothing for so long.
const UNREACHED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(10);

/// Opens a connection to the server.
pub type Connect = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Send + Sync>;

/// Where the server is.
#[derive(Clone)]
pub enum Dial {
    Tcp(Connect),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl From<Connect> for Dial {
    fn from(connect: Connect) -> Self {
        Self::Tcp(connect)
    }
}

/// TLS, with the name that the server's certificate must bear.
pub type Tls = (Arc<rustls::ClientConfig>, ServerName<'static>);

pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection on which HTTP can be spoken.
pub(super) async fn open(dial: &Dial, tls: Option<&Tls>) -> Result<Box<dyn Socket>, Status> {
    let raw = within("connecting", async {
        Ok(match dial {
            Dial::Tcp(connect) => {
                let tcp = connect().await?;
                watch_over(&tcp)?;
                Box::new(tcp) as Box<dyn Socket>
            }
            Dial::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    })
    .await?;
    let Some((tls, name)) = tls else { return Ok(raw) };
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
    Ok(Box::new(within("TLS", connector.connect(name.clone(), raw)).await?))
}

async fn within<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T, Status> {
    let failed = |e: &dyn std::fmt::Display| Status::new(Status::UNAVAILABLE, format!("{what}: {e}"));
    tokio::time::timeout(LIMIT, work).await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
}

/// Lets the kernel notice that the other machine is gone. HTTP/2's own pings would do so too, but servers made with gRPC's
/// libraries, istiod among them, end the connection of a client that pings more often than they like.
fn watch_over(tcp: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(AGAIN))?;
    socket.set_tcp_user_timeout(Some(UNREACHED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_s_machine_that_is_gone_is_noticed_without_pings_of_ours() -> io::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let tcp = TcpStream::connect(listener.local_addr()?).await?;
        watch_over(&tcp)?;
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive()?);
        assert_eq!(socket.tcp_keepalive_time()?, SILENCE);
        assert_eq!(socket.tcp_keepalive_interval()?, AGAIN);
        assert_eq!(socket.tcp_user_timeout()?, Some(UNREACHED));
        Ok(())
    }
}
