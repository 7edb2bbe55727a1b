//! A workload's own view of the few files that steer name look-ups.
//!
//! Everything else of the file system is the host's. The files live in memory and are seen only in the workload's
//! mount namespace.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Error;

/// Look-ups that would pass by `/etc/resolv.conf`, through sockets in these folders.
const RESOLVERS: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];
/// Folders that exist everywhere; one of them is covered for a moment while the files are made.
const SCRATCH: [&str; 3] = ["/tmp", "/run", "/mnt"];

/// What the files say.
pub(super) struct Names<'a> {
    pub(super) address: IpAddr,
    pub(super) hostname: &'a str,
    pub(super) search: &'a [String],
}

/// Puts the workload's files over the machine's, in this process's own mount namespace.
pub(super) fn cover(names: &Names<'_>) -> Result<(), Error> {
    let failed = |what: &'static str| move |e: nix::errno::Errno| Error::new(what, e);
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(failed("keep mounts from the host"))?;
    let files = [
        ("/etc/hosts", hosts(names, &fs::read_to_string("/etc/hosts").unwrap_or_default())),
        ("/etc/resolv.conf", resolv_conf(names.search)),
        ("/etc/nsswitch.conf", NSSWITCH.to_owned()),
    ];
    // The real places, before their folders are covered.
    let targets: Vec<(PathBuf, String)> =
        files.into_iter().filter_map(|(path, text)| Some((fs::canonicalize(path).ok()?, text))).collect();
    for folder in RESOLVERS.iter().filter(|folder| Path::new(folder).is_dir()) {
        mount(
            Some("tmpfs"),
            *folder,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=755"),
        )
        .map_err(failed("cover the host's resolver"))?;
    }
    let scratch = SCRATCH.into_iter().find(|folder| Path::new(folder).is_dir());
    let scratch =
        Path::new(scratch.ok_or_else(|| Error::plain("there is no folder to mount on: make /tmp"))?);
    mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .map_err(failed("mount a file system in memory"))?;
    let bound = bind_all(scratch, &targets).map_err(|e| Error::new("put the workload's files in place", e));
    let uncovered = umount2(scratch, MntFlags::MNT_DETACH).map_err(failed("uncover the folder"));
    bound.and(uncovered)
}

fn bind_all(scratch: &Path, targets: &[(PathBuf, String)]) -> io::Result<()> {
    let none: Option<&str> = None;
    for (at, (target, text)) in targets.iter().enumerate() {
        let source = scratch.join(at.to_string());
        fs::write(&source, text)?;
        if !target.exists() {
            // It was in a folder that is now covered.
            fs::write(target, text)?;
            continue;
        }
        // A target below the scratch folder is covered by it and cannot be what the application sees.
        mount(Some(&source), target, none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}

const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
    protocols: files\nservices: files\nethers: files\nrpc: files\n";

/// What the machine's own file says stays true, but for its loopback addresses: those are now the workload's.
fn hosts(names: &Names<'_>, machine: &str) -> String {
    let mut text = format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{} {}\n",
        names.address, names.hostname
    );
    for line in machine.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let others: Vec<&str> = words.filter(|name| *name != names.hostname).collect();
        if let Some(address) = address.filter(|address| !address.is_loopback() && !others.is_empty()) {
            text.push_str(&format!("{address} {}\n", others.join(" ")));
        }
    }
    text
}

fn resolv_conf(search: &[String]) -> String {
    let search = if search.is_empty() { String::new() } else { format!("search {}\n", search.join(" ")) };
    format!("nameserver 127.0.0.1\n{search}options ndots:5\n")
}

/// The processes of this process-id namespace, where the machine lets them be shown.
pub(super) fn show_processes() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Containers may forbid it; then the workload sees the host's numbers.
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
}

/// An application without capabilities may listen on port 80, as it may in a pod.
pub(super) fn open_low_ports() {
    // Where `/proc/sys` is read-only, low ports stay what they are on the machine.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_the_workload_and_the_mesh() {
        let search = ["default.svc.cluster.local".to_owned(), "svc.cluster.local".to_owned()];
        let names = Names { address: [10, 44, 0, 5].into(), hostname: "box", search: &search };
        assert!(hosts(&names, "").ends_with("10.44.0.5 box\n"));
        let machine = "127.0.1.1 box\n# note\n192.0.2.9 box db.local # old\n::1 six\n192.0.2.8 box\n";
        assert!(hosts(&names, machine).ends_with("10.44.0.5 box\n192.0.2.9 db.local\n"));
        assert_eq!(
            resolv_conf(&search),
            "nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&[]), "nameserver 127.0.0.1\noptions ndots:5\n");
    }
}
