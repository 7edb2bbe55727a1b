//! Netlink, as far as links and nftables need it: messages built attribute by attribute, sent and acknowledged.
//!
//! Synchronous on purpose: it runs before any thread exists, in processes that make namespaces. There are no
//! multicast groups here, and dumps only as far as a look-up by name.

pub mod links;

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt},
    time::TimeVal,
};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;

/// Flags for a message that makes something new.
pub const CREATE: u16 = 0x400;
/// The new thing must not exist yet.
pub const EXCLUSIVE: u16 = 0x200;
/// The new thing goes behind those that exist.
pub const APPEND: u16 = 0x800;

/// One message under construction. `what` says in words what it asks for, and is named when the kernel refuses.
#[derive(Debug, Clone)]
pub struct Message {
    what: String,
    bytes: Vec<u8>,
    acknowledged: bool,
}

impl Message {
    pub fn new(what: impl Into<String>, kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        Self { what: what.into(), bytes, acknowledged: true }
    }

    /// A message that the kernel does not answer: the brackets around a batch.
    pub fn unacknowledged(what: impl Into<String>, kind: u16) -> Self {
        let mut message = Self::new(what, kind, 0);
        message.bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.acknowledged = false;
        message
    }

    /// The fixed part that stands between the header and the attributes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// A 32-bit number in the host's order, as routing netlink has them.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A 32-bit number in network order, as netfilter has them.
    pub fn big(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// An attribute made of the attributes that `fill` adds.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn seal(&mut self, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// What the kernel refused, in words.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct Error {
    pub what: String,
    #[source]
    pub cause: io::Error,
}

impl Error {
    fn new(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { what: what.into(), cause: cause.into() }
    }

    /// The thing exists already.
    pub fn exists(&self) -> bool {
        self.cause.raw_os_error() == Some(libc::EEXIST)
    }
}

/// A netlink socket. It belongs to the network namespace that it was opened in, for good.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Links, addresses and routes.
    pub fn route() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// nftables.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, Error> {
        let open = || -> nix::Result<OwnedFd> {
            let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            // The kernel answers at once or never.
            socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
            Ok(fd)
        };
        let fd = open().map_err(|e| Error::new("open a netlink socket", e))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one message and waits for the kernel's word on it.
    pub fn request(&mut self, message: Message) -> Result<(), Error> {
        self.batch(vec![message])
    }

    /// Sends the messages in one piece and waits until the last that wants an answer has it. A refused batch leaves
    /// answers in the socket, so the socket is not for use after an error.
    pub fn batch(&mut self, mut messages: Vec<Message>) -> Result<(), Error> {
        let first = self.sequence + 1;
        for message in &mut messages {
            self.sequence += 1;
            message.seal(self.sequence);
        }
        let bytes: Vec<u8> = messages.iter().flat_map(|m| m.bytes.iter().copied()).collect();
        self.send(&bytes)?;
        let mut open = messages.iter().filter(|m| m.acknowledged).count();
        while open > 0 {
            for reply in self.receive()? {
                let about = usize::try_from(reply.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let (Some(errno), Some(message)) = (reply.error, messages.get(about)) else { continue };
                if errno != 0 {
                    return Err(Error::new(message.what.clone(), io::Error::from_raw_os_error(errno)));
                }
                open = open.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Sends one message that asks for data and returns the body of its answer.
    pub fn get(&mut self, mut message: Message) -> Result<Vec<u8>, Error> {
        self.sequence += 1;
        message.seal(self.sequence);
        self.send(&message.bytes)?;
        let mut body = None;
        loop {
            for reply in self.receive()? {
                match reply.error {
                    None => body = Some(reply.body),
                    Some(0) => {
                        return body.ok_or_else(|| Error::new(message.what, io::ErrorKind::UnexpectedEof));
                    }
                    Some(errno) => return Err(Error::new(message.what, io::Error::from_raw_os_error(errno))),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty())
            .map(|_| ())
            .map_err(|e| Error::new("send to the kernel", e))
    }

    fn receive(&self) -> Result<Vec<Reply>, Error> {
        let mut buffer = vec![0; 64 << 10];
        let length = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .map_err(|e| Error::new("wait for the kernel's answer", e))?;
        Ok(replies(&buffer[..length]))
    }
}

struct Reply {
    sequence: u32,
    /// Present on acknowledgements: 0, or the errno.
    error: Option<i32>,
    body: Vec<u8>,
}

fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(header) = bytes.get(..HEADER) {
        let length = usize::try_from(u32_at(header, 0)).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else { break };
        let is_error = u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR && body.len() >= 4;
        let error = is_error.then(|| u32_at(body, 0).cast_signed().wrapping_neg());
        replies.push(Reply { sequence: u32_at(header, 8), error, body: body.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

/// The 32-bit number in the host's order at `at`, or 0 behind the end.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_nested_ones_know_their_length() {
        let mut message = Message::new("x", 7, CREATE).nested(2, |m| m.text(1, "lo").number(3, 5));
        message.seal(9);
        assert_eq!(message.bytes.len(), HEADER + 4 + 8 + 8);
        assert_eq!(u32_at(&message.bytes, 0), 36);
        assert_eq!(
            &message.bytes[HEADER..HEADER + 4],
            [20u16.to_ne_bytes(), (2 | NESTED).to_ne_bytes()].concat()
        );
        assert_eq!(&message.bytes[HEADER + 4..HEADER + 12], b"\x07\x00\x01\x00lo\x00\x00");
    }

    #[test]
    fn a_truncated_answer_ends_the_list() {
        let mut message = Message::new("x", NLMSG_ERROR, 0).raw(&(-17i32).to_ne_bytes());
        message.seal(3);
        let whole = message.bytes.clone();
        let read = replies(&whole);
        assert_eq!((read.len(), read[0].error, read[0].sequence), (1, Some(17), 3));
        for cut in 0..whole.len() {
            assert!(replies(&whole[..cut]).is_empty(), "{cut}");
        }
    }
}
