//! Messages with file descriptors, over a Unix socket that keeps their boundaries.
//!
//! The parties are processes of one user on one machine; each message is one JSON value of at most 64 KiB.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::{Domain, Socket, Type};

const LONGEST: usize = 64 << 10;
const MOST_FDS: usize = 16;

/// Two connected ends, closed in programs that are started.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

pub(crate) fn send(to: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than 64 KiB"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    loop {
        match rustix::net::sendmsg(&to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|_| ()).map_err(Into::into),
        }
    }
}

/// The next message, or `None` when the other end is closed.
pub(crate) fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(&from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<OwnedFd> = fds.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok(Some((message, fds)))
}

/// What may be asked for: an unbound, unconnected socket of the answering process's network namespace. A socket stays
/// in the namespace that it was made in, so whoever holds it speaks from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SocketKind {
    pub(crate) v6: bool,
    pub(crate) datagram: bool,
}

impl SocketKind {
    pub(crate) fn stream(address: std::net::SocketAddr) -> Self {
        Self { v6: address.is_ipv6(), datagram: false }
    }

    pub(crate) fn datagram(address: std::net::SocketAddr) -> Self {
        Self { v6: address.is_ipv6(), datagram: true }
    }

    pub(crate) fn make(self) -> io::Result<Socket> {
        let domain = if self.v6 { Domain::IPV6 } else { Domain::IPV4 };
        let kind = if self.datagram { Type::DGRAM } else { Type::STREAM };
        Socket::new(domain, kind.nonblocking(), None)
    }
}

/// An answer to any question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply<T> {
    Done(T),
    /// The system refused: the errno and where.
    Refused {
        errno: i32,
        what: String,
    },
}

impl<T> Reply<T> {
    pub(crate) fn from_io(result: io::Result<T>, what: &str) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(error) => Self::Refused {
                errno: error.raw_os_error().unwrap_or(libc::EIO),
                what: if error.raw_os_error().is_some() { what.into() } else { format!("{what}: {error}") },
            },
        }
    }
}

/// Asks and waits for the answer.
pub(crate) fn call<Q: Serialize, A: DeserializeOwned>(
    peer: impl AsFd,
    question: &Q,
    fds: &[BorrowedFd<'_>],
) -> Result<(A, Vec<OwnedFd>), super::Error> {
    let lost = |e: io::Error| super::Error::new("the other process does not answer", e);
    send(&peer, question, fds).map_err(lost)?;
    let (reply, fds) =
        receive(&peer).map_err(lost)?.ok_or_else(|| lost(io::ErrorKind::ConnectionReset.into()))?;
    match reply {
        Reply::Done(answer) => Ok((answer, fds)),
        Reply::Refused { errno, what } => Err(super::Error::new(what, io::Error::from_raw_os_error(errno))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_its_descriptors_and_its_boundary() {
        let (here, there) = pair().unwrap();
        let kind = SocketKind { v6: false, datagram: false };
        let socket = kind.make().unwrap();
        send(&here, &"one", &[socket.as_fd()]).unwrap();
        send(&here, &"two", &[]).unwrap();
        let (one, fds) = receive::<String>(&there).unwrap().unwrap();
        assert_eq!((one.as_str(), fds.len()), ("one", 1));
        let (two, fds) = receive::<String>(&there).unwrap().unwrap();
        assert_eq!((two.as_str(), fds.len()), ("two", 0));
        drop(here);
        assert!(receive::<String>(&there).unwrap().is_none());
    }

    #[test]
    fn an_answer_that_is_an_error_keeps_its_number() {
        let (here, there) = pair().unwrap();
        let refused = Reply::<()>::from_io(Err(io::Error::from_raw_os_error(libc::EPERM)), "add a bridge");
        send(&there, &refused, &[]).unwrap();
        let error = call::<_, ()>(&here, &(), &[]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPERM));
        assert!(error.to_string().starts_with("add a bridge"), "{error}");
    }
}
