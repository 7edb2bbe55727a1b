//! What really went over the wire: packets read off the links of a network namespace, kept as a pcap file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, recvfrom, socket,
};

/// What a record of TLS begins with: change of cipher, alert, handshake, data.
pub const TLS_RECORDS: std::ops::RangeInclusive<u8> = 0x14..=0x17;
const LOOPBACK: usize = 1;
/// Segments may be joined before they are seen.
const LARGEST: usize = 1 << 17;
const HEADER: usize = 24;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Whose network namespace
    #[arg(long)]
    pub pid: u32,
    #[arg(long)]
    pub file: PathBuf,
}

/// Captures until it is killed. Loopback is left out: what passes there has not left the workload.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/net", options.pid)).context("the network namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let mut file = File::create(&options.file)?;
    // Microseconds, version 2.4, Ethernet.
    let fields: [u32; 6] = [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, LARGEST as u32, 1];
    file.write_all(&fields.map(u32::to_ne_bytes).concat())?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let (length, from) = recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut buffer)?;
        if from.is_none_or(|from| from.family() != Some(AddressFamily::Packet) || from.ifindex() == LOOPBACK)
        {
            continue;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let length_field = u32::try_from(length)?;
        let head = [u32::try_from(now.as_secs())?, now.subsec_micros(), length_field, length_field];
        let mut record = head.map(u32::to_ne_bytes).concat();
        record.extend_from_slice(&buffer[..length]);
        file.write_all(&record)?;
    }
}

/// What was captured.
pub struct Packets {
    bytes: Vec<u8>,
}

/// A TCP segment over IPv4 that carries something.
pub struct Segment<'a> {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub payload: &'a [u8],
}

impl Packets {
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(file)?;
        ensure!(bytes.len() >= HEADER, "{} has no header yet", file.display());
        Ok(Self { bytes })
    }

    /// Whether the text is anywhere, in whatever packet.
    pub fn contains(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut rest = &self.bytes[HEADER..];
        std::iter::from_fn(move || {
            let length = u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
            let packet = rest.get(16..16 + length)?;
            rest = &rest[16 + length..];
            Some(packet)
        })
        .filter_map(segment)
    }

    /// The flows with this port at one end, each as who began to speak in it and the first byte said.
    pub fn first_words(&self, port: u16) -> Vec<(SocketAddrV4, SocketAddrV4, u8)> {
        let mut seen = BTreeSet::new();
        self.segments()
            .filter(|segment| segment.from.port() == port || segment.to.port() == port)
            .filter(|segment| seen.insert((segment.from, segment.to)))
            .filter_map(|segment| Some((segment.from, segment.to, *segment.payload.first()?)))
            .collect()
    }
}

fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..).filter(|_| frame.get(12..14) == Some(&[0x08, 0x00]))?;
    let head = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    // A joined packet is longer than its field can say.
    let packet = if total == 0 { packet } else { packet.get(..total)? };
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let tcp = packet.get(head..).filter(|_| packet.get(9) == Some(&6))?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..).filter(|payload| !payload.is_empty())?;
    Some(Segment {
        from: SocketAddrV4::new(address(12)?, port(0)?),
        to: SocketAddrV4::new(address(16)?, port(2)?),
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_in_its_frame() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 44, 0, 2, 10, 44, 0, 3]);
        frame.extend([0x23, 0x78, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(b"GET");
        // Ethernet fills short frames up.
        frame.extend([0; 4]);
        let found = segment(&frame).unwrap();
        assert_eq!((found.from.to_string().as_str(), found.to.port()), ("10.44.0.2:9080", 40000));
        assert_eq!(found.payload, b"GET");
        assert!(segment(&frame[..30]).is_none() && segment(&[]).is_none());
    }
}
