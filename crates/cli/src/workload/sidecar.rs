//! What the proxy beside a workload is told: arguments, and files that exist in memory only.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
};

use agent::host::{ProxyOptions, networks};
use anyhow::Context;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use super::{Kind, Spec};

/// A file that has no name anywhere and goes with its last holder.
#[derive(Debug)]
pub(super) struct MemoryFile(File);

impl MemoryFile {
    pub(super) fn new(name: &str, content: &str) -> anyhow::Result<Self> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC).context("make a file in memory")?;
        let mut file = Self(fd.into());
        file.replace(content)?;
        Ok(file)
    }

    pub(super) fn replace(&mut self, content: &str) -> anyhow::Result<()> {
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(content.as_bytes())?;
            file.set_len(length)
        };
        write(&mut self.0).context("write a file in memory")
    }

    fn fd(&self) -> anyhow::Result<OwnedFd> {
        Ok(self.0.try_clone().context("pass a file in memory")?.into())
    }
}

/// The files that a proxy reads.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) token: MemoryFile,
    pub(super) root: MemoryFile,
    pub(super) metadata: MemoryFile,
}

/// Who the proxy is to the control plane.
pub(super) struct Identity<'a> {
    pub(super) spec: &'a Spec,
    pub(super) name: &'a str,
    pub(super) address: IpAddr,
    pub(super) address_6: Option<IpAddr>,
    /// A stock Envoy in the proxy's place, and a folder for its socket to the agent.
    pub(super) envoy: Option<(&'a Path, &'a Path)>,
}

impl Identity<'_> {
    pub(super) fn node_id(&self) -> String {
        let kind = match self.spec.kind {
            Kind::Sidecar => "sidecar",
            Kind::Router => "router",
        };
        let (namespace, name) = (&self.spec.namespace, self.name);
        format!("{kind}~{}~{name}.{namespace}~{namespace}.svc.cluster.local", self.address)
    }

    pub(super) fn metadata(&self) -> Value {
        let Self { spec, name, .. } = self;
        let addresses: Vec<String> =
            [Some(self.address), self.address_6].into_iter().flatten().map(|a| a.to_string()).collect();
        let workload = spec.workload();
        let mut labels: BTreeMap<String, String> = spec.labels();
        if let Some(locality) = &spec.locality {
            labels.insert("istio-locality".into(), locality.replace('/', "."));
        }
        let mut metadata = json!({
            "NAME": name,
            "NAMESPACE": spec.namespace,
            "SERVICE_ACCOUNT": spec.account(),
            "WORKLOAD_NAME": workload,
            "OWNER": format!("kubernetes://apis/apps/v1/namespaces/{}/deployments/{workload}", spec.namespace),
            "INSTANCE_IPS": addresses.join(","),
            "LABELS": labels,
            "CLUSTER_ID": "Kubernetes",
            "MIZZEN_VERSION": env!("CARGO_PKG_VERSION"),
            "INTERCEPTION_MODE": if spec.kind == Kind::Sidecar { "REDIRECT" } else { "NONE" },
            "DNS_CAPTURE": if spec.kind == Kind::Sidecar { "true" } else { "false" },
        });
        if let Some(network) = &spec.network {
            metadata["NETWORK"] = json!(network);
        }
        if let Some(group) = &spec.group {
            metadata["AUTO_REGISTER_GROUP"] = json!(group);
        }
        metadata
    }
}

/// The proxy's command line. `{0}` and so on are the numbers of the descriptors that go with it.
pub(super) fn options(
    identity: &Identity<'_>,
    files: &Files,
    program: File,
    log: Option<File>,
) -> anyhow::Result<ProxyOptions> {
    let broker = agent::egress::serve().context("serve the proxy's sockets to the outside")?;
    // The workload's own file names the agent as its resolver.
    let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolvers = MemoryFile::new("resolv.conf", &machine)?;
    let mut fds = vec![files.token.fd()?, files.root.fd()?, files.metadata.fd()?, broker, resolvers.fd()?];
    let spec = identity.spec;
    let mut arguments: Vec<String> = vec![
        match spec.kind {
            Kind::Sidecar => "sidecar".into(),
            Kind::Router => "router".into(),
        },
        "--node-id".into(),
        identity.node_id(),
        "--control-plane".into(),
        spec.control_plane.clone(),
    ];
    for (flag, value) in [
        ("--token-file", "/proc/self/fd/{0}"),
        ("--root-cert", "/proc/self/fd/{1}"),
        ("--metadata-json", "/proc/self/fd/{2}"),
        ("--egress-fd", "{3}"),
        ("--resolv-conf", "/proc/self/fd/{4}"),
    ] {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    for network in networks() {
        arguments.extend(["--inside".into(), network.to_string()]);
    }
    if let Some(locality) = &spec.locality {
        arguments.extend(["--locality".into(), locality.clone()]);
    }
    if let Some(threads) = spec.concurrency {
        arguments.extend(["--concurrency".into(), threads.to_string()]);
    }
    if let Some(drain) = spec.drain {
        // Whole seconds, and never none of them.
        let seconds = drain.as_secs() + u64::from(drain.subsec_nanos() > 0);
        arguments.extend(["--drain-time".into(), seconds.to_string()]);
    }
    if let Some((envoy, folder)) = identity.envoy {
        let socket = folder.join("sds");
        arguments.extend(["--envoy".into(), program_of(envoy, &mut fds)?]);
        arguments.extend(["--sds-socket".into(), socket.display().to_string()]);
    }
    arguments.extend(["--xds".into(), spec.xds.to_string()]);
    Ok(ProxyOptions { program, arguments, fds, log })
}

/// Where the proxy finds Envoy. A program is passed opened, so that the proxy's user needs no way to it; a script is
/// started by its interpreter, which must find it by its name.
fn program_of(envoy: &Path, fds: &mut Vec<OwnedFd>) -> anyhow::Result<String> {
    let mut file = File::open(envoy).with_context(|| format!("--envoy {}", envoy.display()))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).with_context(|| format!("--envoy {}", envoy.display()))?;
    if magic != *b"\x7fELF" {
        let whole = envoy.canonicalize().with_context(|| format!("--envoy {}", envoy.display()))?;
        return Ok(whole.display().to_string());
    }
    fds.push(file.into());
    Ok(format!("/proc/self/fd/{{{}}}", fds.len() - 1))
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_file_in_memory_is_replaced_whole() {
        let mut file = MemoryFile::new("token", "a long first content").unwrap();
        file.replace("short").unwrap();
        let mut read = String::new();
        let mut other = file.0.try_clone().unwrap();
        other.rewind().unwrap();
        other.read_to_string(&mut read).unwrap();
        assert_eq!(read, "short");
    }

    #[test]
    fn a_node_names_itself_as_istio_does() {
        let spec = Spec { namespace: "shop".into(), version: Some("v2".into()), ..Spec::sidecar("reviews") };
        let address = [10, 44, 0, 5].into();
        let address_6 = "fd44::5".parse().ok();
        let identity = Identity { spec: &spec, name: "reviews-v2-abcde", address, address_6, envoy: None };
        assert_eq!(identity.node_id(), "sidecar~10.44.0.5~reviews-v2-abcde.shop~shop.svc.cluster.local");
        let metadata = identity.metadata();
        assert_eq!(metadata["INSTANCE_IPS"], "10.44.0.5,fd44::5");
        assert_eq!(metadata["WORKLOAD_NAME"], "reviews-v2");
        assert_eq!(metadata["SERVICE_ACCOUNT"], "reviews");
    }
}
