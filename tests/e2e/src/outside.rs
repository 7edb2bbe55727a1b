//! A world outside of the mesh: addresses of this host's, a resolver on its loopback, and names that lead to them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::NamedTempFile;

/// All of it answers on this host, and on no other.
pub const NETWORK: &str = "192.0.2.0/24";
/// Where many machines have their resolver.
const RESOLVER: &str = "127.0.0.53";

/// Makes the whole block this host's own, each address of it.
pub fn addresses() -> anyhow::Result<()> {
    let added = Command::new("ip").args(["addr", "add", NETWORK, "dev", "lo"]).status().context("ip")?;
    ensure!(added.success(), "the addresses of the outside cannot be had");
    Ok(())
}

/// The outside of this process and what it starts.
pub struct Outside {
    /// Nothing can be put over a mount whose file has lost its name, and each workload has a file of its own.
    _resolv_conf: NamedTempFile,
}

impl Outside {
    /// Names resolve to the addresses given; no others exist.
    pub fn make(names: &[(&str, Ipv4Addr)]) -> anyhow::Result<Self> {
        addresses()?;
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).context("mounts of its own")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let mut file = NamedTempFile::new()?;
        writeln!(file, "nameserver {RESOLVER}")?;
        let target = std::fs::canonicalize("/etc/resolv.conf")?;
        mount(Some(file.path()), &target, none, MsFlags::MS_BIND, none)?;
        let socket = UdpSocket::bind((RESOLVER, 53)).context("the resolver")?;
        let names: BTreeMap<String, Ipv4Addr> =
            names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        thread::spawn(move || resolve(&socket, &names));
        Ok(Self { _resolv_conf: file })
    }
}

fn resolve(socket: &UdpSocket, names: &BTreeMap<String, Ipv4Addr>) {
    let mut buffer = [0; 512];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer(&buffer[..length], names) {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// An A record for a known name, nothing for its other records, "no such name" for all others.
fn answer(message: &[u8], names: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    const TTL: [u8; 4] = [0, 0, 0, 1];
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = message.get(12..at + 4)?;
    let address = names.get(&labels.join("."));
    let records = u8::from(address.is_some() && question.ends_with(&[0, 1, 0, 1]));
    let code = if address.is_some() { 0x80 } else { 0x83 };
    let mut text = message[..2].to_vec();
    text.extend([0x81, code, 0, 1, 0, records, 0, 0, 0, 0]);
    text.extend(question);
    if let Some(address) = address.filter(|_| records == 1) {
        text.extend([0xc0, 12, 0, 1, 0, 1]);
        text.extend(TTL);
        text.extend([0, 4]);
        text.extend(address.octets());
    }
    Some(text)
}

/// A server that speaks first and then closes, as many old protocols begin.
pub fn greet(address: Ipv4Addr, port: u16, words: &'static str) -> anyhow::Result<()> {
    let listener = TcpListener::bind((address, port))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(words.as_bytes());
        }
    });
    Ok(())
}

/// An authority of its own and a certificate for `name`: the files `ca.pem`, `NAME.pem` and `NAME.key`.
pub fn certify(openssl: &Path, folder: &Path, name: &str) -> anyhow::Result<()> {
    let run = |arguments: &str| -> anyhow::Result<()> {
        let output = Command::new(openssl).args(arguments.split(' ')).current_dir(folder).output()?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=outside"))?;
    run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
    std::fs::write(folder.join("san"), format!("subjectAltName=DNS:{name}\n"))?;
    let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile san";
    run(&format!("{sign} -in {name}.csr -out {name}.pem"))
}
