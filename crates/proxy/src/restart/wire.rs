//! What two processes of one proxy say to each other: messages of JSON behind their length, with descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors of one message; the kernel takes 253.
pub(super) const MOST_DESCRIPTORS: usize = 128;
/// Statistics of many thousand clusters are smaller.
const LONGEST: u32 = 256 << 20;

/// `@NAME` is a name that is in no file system.
pub(super) fn address(path: &str) -> io::Result<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}

pub(super) fn listen(path: &str) -> io::Result<UnixListener> {
    if !path.starts_with('@') {
        // Left over by a process that was killed; one that runs has another epoch.
        let _ = std::fs::remove_file(path);
    }
    UnixListener::bind_addr(&address(path)?)
}

/// Whether the other end is of our user, or root: nobody else is given listening sockets, or believed.
pub(super) fn is_ours(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == us || peer.uid.is_root())
}

pub(super) fn send(
    stream: &mut UnixStream,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    let sent = sendmsg(stream.as_fd(), &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)
}

pub(super) fn receive<M: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(M, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let mut read = 0;
    while read < length.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut length[read..])];
        let received = recvmsg(stream.as_fd(), into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read += received.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("a message that is too long"));
    }
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body)?;
    Ok((serde_json::from_slice(&body)?, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_with_their_descriptors() -> io::Result<()> {
        let (mut one, mut two) = UnixStream::pair()?;
        let (reader, mut writer) = io::pipe()?;
        send(&mut one, &"with", &[reader.as_fd()])?;
        send(&mut one, &"without", &[])?;
        drop(reader);
        let (text, mut fds) = receive::<String>(&mut two)?;
        assert_eq!((&*text, fds.len()), ("with", 1));
        writer.write_all(b"through")?;
        drop(writer);
        let mut said = String::new();
        std::fs::File::from(fds.remove(0)).read_to_string(&mut said)?;
        assert_eq!(said, "through");
        let (text, fds) = receive::<String>(&mut two)?;
        assert_eq!((&*text, fds.len()), ("without", 0));
        drop(one);
        assert_eq!(receive::<String>(&mut two).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(is_ours(&two));
        Ok(())
    }
}
