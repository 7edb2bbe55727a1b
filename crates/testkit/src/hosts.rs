//! Network namespaces as hosts on one wire, for tests that need more than one machine: with loss, cuts, and ears.
//!
//! Needs root (or root of a user namespace) and the programs `ip`, `nft`, `unshare` and `nsenter`. Delay is not
//! offered: the kernels that tests run on have no `netem`.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

/// A wire, and the hosts on it. All of it goes when it is dropped.
pub struct Lan {
    bridge: String,
    hosts: Vec<Host>,
}

/// A network namespace with an address on the wire.
pub struct Host {
    name: String,
    /// Keeps the namespace while it sleeps.
    holder: Child,
    address: Ipv4Addr,
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

impl Lan {
    /// One host for each name, with the addresses 10.99.N.2, .3 and so on; this namespace is 10.99.N.1.
    pub fn new(names: &[&str]) -> anyhow::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let third = u8::try_from(number % 250).unwrap_or(0);
        // Names are this process's own: the namespace may be shared with others' tests.
        let bridge = format!("tk{:x}b{number:x}", std::process::id());
        let mut lan = Self { bridge, hosts: Vec::new() };
        ip(&["link", "add", &lan.bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("10.99.{third}.1/24"), "dev", &lan.bridge])?;
        ip(&["link", "set", &lan.bridge, "up"])?;
        for (at, name) in names.iter().enumerate() {
            let last = u8::try_from(at + 2).context("too many hosts")?;
            let host = Host::new(name, Ipv4Addr::new(10, 99, third, last))?;
            let port = format!("{}p{at}", lan.bridge);
            let pid = host.pid();
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
            ip(&["link", "set", &port, "master", &lan.bridge, "up"])?;
            host.run("ip", &["link", "set", "lo", "up"])?;
            host.run("ip", &["addr", "add", &format!("{}/24", host.address), "dev", "eth0"])?;
            host.run("ip", &["link", "set", "eth0", "up"])?;
            host.run("ip", &["route", "add", "default", "via", &format!("10.99.{third}.1")])?;
            lan.hosts.push(host);
        }
        Ok(lan)
    }

    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host is called {name}"))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // The hosts' ends go with their namespaces.
        let _ = ip(&["link", "delete", &self.bridge]);
    }
}

impl Host {
    fn new(name: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "--kill-child", "--fork", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("unshare (util-linux)")?;
        let host = Self { name: name.to_owned(), holder, address };
        // The namespace is another one as soon as the holder has made it.
        let (own, deadline) = (namespace("self")?, Instant::now() + Duration::from_secs(5));
        while namespace(&host.pid())? == own {
            ensure!(
                Instant::now() < deadline,
                "the host {name} has no namespace: are the tests run as root?"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(host)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The process whose namespaces are the host's.
    pub fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", "--"]).arg(program);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        checked(self.command(program).args(arguments))
    }

    /// What comes and goes by this host's wire.
    pub fn wire(&self) -> Wire {
        Wire { pid: self.pid(), port: None }
    }

    /// Listens to everything that passes this host's interface.
    pub fn listen(&self) -> anyhow::Result<Ear> {
        Ear::in_namespace_of(&self.pid())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A holder that has ended needs no end.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What passes the interface `eth0` of a network namespace. What was done to it ends with the namespace.
pub struct Wire {
    pid: String,
    port: Option<u16>,
}

impl Wire {
    /// The wire of the process's namespace, which may be an application that `mizzen run` started; of what passes, only
    /// the traffic to that port of it.
    pub fn of(pid: &str, port: u16) -> Self {
        Self { pid: pid.to_owned(), port: Some(port) }
    }

    /// No packet comes or goes until [`Wire::heal`].
    pub fn cut(&self) -> anyhow::Result<()> {
        self.disturb("counter drop")
    }

    /// So many of a hundred packets are lost in each direction.
    pub fn lose(&self, percent: u8) -> anyhow::Result<()> {
        match percent {
            100.. => self.cut(),
            _ => self.disturb(&format!("numgen random mod 100 < {percent} counter drop")),
        }
    }

    /// Connections are refused, those that stand are reset.
    pub fn refuse(&self) -> anyhow::Result<()> {
        self.disturb("meta l4proto tcp counter reject with tcp reset")
    }

    /// How many packets were dropped or refused since the last change.
    pub fn dropped(&self) -> anyhow::Result<u64> {
        let mut nft = self.command();
        let output = nft.args(["--json", "list table inet testkit"]).output()?;
        let rules: serde_json::Value = serde_json::from_slice(&output.stdout).context("nft --json")?;
        let rules = rules["nftables"].as_array().into_iter().flatten();
        let expressions = rules.flat_map(|rule| rule["rule"]["expr"].as_array().into_iter().flatten());
        Ok(expressions.filter_map(|expression| expression["counter"]["packets"].as_u64()).sum())
    }

    pub fn heal(&self) -> anyhow::Result<()> {
        // Adding first makes the deletion of what is not there no error.
        self.nft("add table inet testkit; delete table inet testkit")
    }

    fn disturb(&self, rule: &str) -> anyhow::Result<()> {
        self.heal()?;
        let port = |end: &str| self.port.map_or_else(String::new, |port| format!("tcp {end} {port} "));
        // Arriving before capture gives a packet another port, leaving after it has its own again.
        let (to, from) = (port("dport"), port("sport"));
        let leaving = if rule.contains("reject") { "" } else { rule };
        self.nft(&format!(
            "table inet testkit {{\nchain arriving {{\ntype filter hook prerouting priority -150\niifname eth0 {to}{rule}\n}}\n\
             chain leaving {{\ntype filter hook postrouting priority 300\noifname eth0 {from}{leaving}\n}}\n}}\n"
        ))
    }

    fn nft(&self, script: &str) -> anyhow::Result<()> {
        checked(self.command().arg(script))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--net", "--", "nft"]);
        command
    }
}

/// Hears every packet of a network namespace, loopback included.
pub struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// The namespace of the process, which may be an application that `mizzen run` started.
    pub fn in_namespace_of(pid: &str) -> anyhow::Result<Self> {
        let file =
            File::open(format!("/proc/{pid}/ns/net")).with_context(|| format!("namespace of {pid}"))?;
        // A thread of its own enters; the socket stays there when the thread is gone.
        let opened = thread::spawn(move || -> nix::Result<OwnedFd> {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            let flags = SockFlag::SOCK_CLOEXEC;
            let ear = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&ear, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
            Ok(ear)
        });
        match opened.join() {
            Ok(socket) => Ok(Self { socket: socket.context("listen to packets")? }),
            Err(_) => bail!("the thread that listens to packets panicked"),
        }
    }

    /// What was heard until nothing more comes.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            packets.push(buffer[..length].to_vec());
        }
        packets
    }
}

/// Whether one of the packets has the words in it.
pub fn contain(packets: &[Vec<u8>], words: &[u8]) -> bool {
    packets.iter().any(|packet| packet.windows(words.len()).any(|window| window == words))
}

fn namespace(pid: &str) -> anyhow::Result<std::path::PathBuf> {
    Ok(std::fs::read_link(format!("/proc/{pid}/ns/net"))?)
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    checked(Command::new("ip").args(arguments))
}

fn checked(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Whether `from` can fetch the words that `to` serves.
    fn reaches(from: &Host, to: &Host) -> bool {
        let get = format!("exec 3<>/dev/tcp/{}/7000 && cat <&3", to.address());
        let output = from.command("timeout").args(["1", "bash", "-c", &get]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("plain words")
    }

    #[test]
    fn hosts_reach_each_other_until_the_wire_is_cut() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let lan = Lan::new(&["one", "two"]).unwrap();
        let (one, two) = (lan.host("one"), lan.host("two"));
        let file = File::open(format!("/proc/{}/ns/net", two.pid())).unwrap();
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let listener = std::net::TcpListener::bind("0.0.0.0:7000").unwrap();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"plain words\n");
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 8]);
            }
        });
        let ear = two.listen().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !reaches(one, two) {
            assert!(Instant::now() < deadline, "the hosts do not reach each other");
        }
        let heard = ear.heard();
        assert!(contain(&heard, b"plain words") && !contain(&heard, b"other words"));
        two.wire().cut().unwrap();
        assert!(!reaches(one, two));
        two.wire().heal().unwrap();
        assert!(reaches(one, two));
        two.wire().lose(100).unwrap();
        assert!(!reaches(one, two));
        two.wire().lose(5).unwrap();
    }
}
