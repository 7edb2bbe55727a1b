//! Namespaces: making the hub's, entering them, and what a process of them may do.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid},
};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::{
    capture::PROXY_ID,
    netlink::{self, links::Index},
};

/// By what right namespaces are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// By the machine's own capabilities; user ids can be chosen.
    Root,
    /// By a user namespace; there is one user id, the caller's.
    User,
}

/// Moves this process, which must have one thread, into a new network namespace: directly where it may, else within a
/// new user namespace that holds only the caller's own ids.
pub(super) fn create() -> Result<Privilege, Error> {
    let direct = capable(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
        && proxy_id_exists()
        && unshare(CloneFlags::CLONE_NEWNET).is_ok();
    if direct && bring_loopback_up().is_ok() {
        return Ok(Privilege::Root);
    }
    create_user_namespace()?;
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::new("make a network namespace", e).cure(cure_for_network()))?;
    bring_loopback_up().map_err(|e| Error::from(e).cure(cure_for_network()))?;
    Ok(Privilege::User)
}

/// Root of a user namespace that holds few ids cannot give the proxy its own.
fn proxy_id_exists() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .all(|map| fs::read_to_string(map).is_ok_and(|map| is_mapped(&map, PROXY_ID)))
}

fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().unwrap_or(0));
        let (first, _, count) = (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
        id >= first && id - first < count
    })
}

fn bring_loopback_up() -> Result<(), netlink::Error> {
    netlink::Socket::route()?.up(Index::LOOPBACK)
}

/// A user namespace in which the caller keeps its own user and group id and holds every capability.
pub(super) fn create_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|e| Error::new("make a user namespace", e).cure(cure_for_user()))?;
    let map = || -> io::Result<()> {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
    };
    map().map_err(|e| Error::new("map the caller's user id into the user namespace", e).cure(cure_for_user()))
}

/// What to paste where user namespaces are forbidden.
pub(super) fn cure_for_user() -> String {
    for (file, bad, line) in [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if fs::read_to_string(file).is_ok_and(|value| value.trim() == bad) {
            return format!("this machine forbids user namespaces to ordinary users; allow them: {line}");
        }
    }
    "run as root, or in a container started with --cap-add NET_ADMIN --cap-add SYS_ADMIN".into()
}

/// What to paste where a network namespace can be made but not be used.
pub(super) fn cure_for_network() -> String {
    cure_for_user()
}

/// Descriptors of the namespaces of this process.
pub(super) fn own(privilege: Privilege) -> Result<Vec<OwnedFd>, Error> {
    let mut fds = vec![open("net")?];
    if privilege == Privilege::User {
        fds.push(open("user")?);
    }
    Ok(fds)
}

pub(super) fn open(kind: &str) -> Result<OwnedFd, Error> {
    let file = fs::File::open(format!("/proc/self/ns/{kind}"));
    file.map(Into::into).map_err(|e| Error::new(format!("open this process's {kind} namespace"), e))
}

/// Enters what [`own`] described: the user namespace first, since it gives the right to the other.
pub(super) fn enter(namespaces: &[OwnedFd]) -> Result<(), Error> {
    let [network, user @ ..] = namespaces else {
        return Err(Error::plain("the hub passed no namespace"));
    };
    if let Some(user) = user.first() {
        setns(user.as_fd(), CloneFlags::CLONE_NEWUSER)
            .map_err(|e| Error::new("enter the hub's user namespace", e))?;
    }
    setns(network.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|e| Error::new("enter the hub's network namespace", e))
}

/// Whether this thread holds the capabilities now.
pub(super) fn capable(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// Who a program in the workload runs as, and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Credentials {
    /// User, group and further groups; absent: as the caller.
    pub(super) ids: Option<Ids>,
    /// The capabilities kept, as bits; none for an application.
    pub(super) capabilities: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ids {
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) groups: Vec<u32>,
}

/// What the proxy keeps: marks, transparent sockets and low ports.
pub(super) fn proxy_capabilities() -> u64 {
    (CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE).bits()
}

/// Becomes that user with exactly those capabilities, for good: called between fork and exec.
pub(super) fn assume(credentials: &Credentials) -> io::Result<()> {
    let kept = CapabilitySet::from_bits_retain(credentials.capabilities);
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        let known = rustix::thread::capability_is_in_bounding_set(one);
        if !kept.contains(one) && known.unwrap_or(false) {
            rustix::thread::remove_capability_from_bounding_set(one)?;
        }
    }
    if let Some(ids) = &credentials.ids {
        rustix::thread::set_keep_capabilities(true)?;
        let groups: Vec<Gid> = ids.groups.iter().copied().map(Gid::from_raw).collect();
        let (user, group) = (Uid::from_raw(ids.user), Gid::from_raw(ids.group));
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
    }
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: kept },
    )?;
    rustix::thread::clear_ambient_capability_set()?;
    for one in kept.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_mapped;

    #[test]
    fn a_map_of_one_id_holds_no_other() {
        assert!(is_mapped("         0          0 4294967295\n", 1337));
        assert!(!is_mapped("         0       1000          1\n", 1337));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 1337));
        assert!(!is_mapped("", 0));
    }
}
