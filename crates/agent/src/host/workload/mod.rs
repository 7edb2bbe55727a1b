//! One workload: its namespaces, its proxy and its application, seen from the process that started it.
//!
//! The starter talks to the workload's first process over a socket. When the starter is gone, by whatever signal, that
//! process ends, and with it everything in its process-id namespace.

pub(super) mod inside;
mod ports;

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::{
    Error, Hub, Launcher, Privilege, process,
    spaces::{self, Credentials, Ids},
    wire::{self, SocketKind},
};
use crate::{
    capture::{self, PROXY_ID},
    host::hub::{self, Lease},
};

/// What a workload is made from.
#[derive(Debug)]
pub struct WorkloadOptions {
    /// The application and its arguments.
    pub command: Vec<OsString>,
    /// Added to the environment that the application inherits.
    pub environment: Vec<(OsString, OsString)>,
    pub directory: Option<PathBuf>,
    /// Another user to run as; only root can choose.
    pub user: Option<String>,
    /// Domains to look short names up in.
    pub search: Vec<String>,
    /// What is captured; nothing if absent. User ids and networks are filled in.
    pub capture: Option<capture::Settings>,
    pub streams: Streams,
}

/// The application's standard streams.
#[derive(Debug)]
pub enum Streams {
    /// The starter's own.
    Inherit,
    /// No input; output and errors go to this file.
    To(std::fs::File),
}

impl WorkloadOptions {
    pub fn new(command: Vec<OsString>) -> Self {
        Self {
            command,
            environment: Vec::new(),
            directory: None,
            user: None,
            search: Vec::new(),
            capture: Some(capture::Settings::default()),
            streams: Streams::Inherit,
        }
    }
}

/// How the proxy is started.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Opened here, so that the proxy's user needs no way to it.
    pub program: std::fs::File,
    /// `{0}` stands for the number of the first of `fds`, and so on.
    pub arguments: Vec<String>,
    pub fds: Vec<OwnedFd>,
    /// Where its output and errors go.
    pub log: Option<std::fs::File>,
}

/// How the application is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct AppOptions {
    /// A session of its own, out of the terminal's reach.
    pub own_session: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Proxy,
    App,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    /// As shells put it.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// What happened in a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Ended(Target, ExitStatus),
    /// Every port that was waited for is listened on; these by loopback only.
    Listening {
        loopback_only: Vec<u16>,
    },
    /// Nobody is connected to the port that was asked about.
    Quiet,
}

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    SetUp(SetUp),
    StartProxy { arguments: Vec<String>, credentials: Credentials, log: bool },
    StartApp { credentials: Credentials, own_session: bool },
    Signal(Target, i32),
    Socket(SocketKind),
    AwaitPorts(Vec<u16>),
    AwaitQuiet(u16),
}

#[derive(Debug, Serialize, Deserialize)]
struct SetUp {
    lease: Lease,
    search: Vec<String>,
    hostname: String,
    capture: Option<Capture>,
}

/// The part of [`capture::Settings`] that travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Capture {
    outbound: u16,
    inbound: Option<u16>,
    dns: Option<u16>,
    proxy_id: Option<u32>,
    exclude_inbound: Vec<u16>,
    exclude_outbound: Vec<u16>,
    exclude_networks: Vec<String>,
    relay: Option<u16>,
}

/// A workload whose namespaces exist. Dropping it ends everything in them.
#[derive(Debug)]
pub struct Workload {
    /// Closed first when dropped; the first process ends on that.
    control: Mutex<Option<OwnedFd>>,
    events: Mutex<Option<OwnedFd>>,
    child: Mutex<Child>,
    lease: Lease,
    app: Credentials,
    hub: Hub,
}

impl Workload {
    /// Makes the namespaces, with link, addresses, rules and files; nothing runs in them yet.
    pub fn prepare(launcher: &Launcher, options: WorkloadOptions) -> Result<Self, Error> {
        let hub = Hub::join(launcher)?;
        let app = application_credentials(hub.privilege(), options.user.as_deref())?;
        let (lease, namespaces) = hub.lease()?;
        let failed = |e: io::Error| Error::new("start the workload's first process", e);
        let (control, theirs) = wire::pair().map_err(failed)?;
        let (events, their_events) = wire::pair().map_err(failed)?;
        let mut command = Command::new(&launcher.program);
        command.args(&launcher.arguments).arg("workload-process").arg(theirs.as_raw_fd().to_string());
        command.args(&options.command).envs(options.environment);
        process::inherit(&mut command, theirs.as_raw_fd());
        if let Some(directory) = &options.directory {
            command.current_dir(directory);
        }
        if let Streams::To(file) = options.streams {
            let errors = file.try_clone().map_err(failed)?;
            command.stdin(Stdio::null()).stdout(file).stderr(errors);
        }
        let child = command.spawn().map_err(failed)?;
        drop(theirs);
        let workload = Self {
            control: Mutex::new(Some(control)),
            events: Mutex::new(Some(events)),
            child: Mutex::new(child),
            lease: lease.clone(),
            app,
            hub,
        };
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let set_up = SetUp {
            lease,
            search: options.search,
            hostname: hostname.unwrap_or_else(|| "localhost".into()),
            capture: options.capture.map(|settings| capture_of(settings, workload.hub.privilege())),
        };
        let fds: Vec<BorrowedFd<'_>> =
            [their_events.as_fd()].into_iter().chain(namespaces.iter().map(AsFd::as_fd)).collect();
        workload.call(&Ask::SetUp(set_up), &fds)?;
        Ok(workload)
    }

    pub fn address(&self) -> IpAddr {
        self.lease.v4.into()
    }

    /// Absent where the machine has no IPv6.
    pub fn address_6(&self) -> Option<IpAddr> {
        self.lease.v6.map(Into::into)
    }

    pub fn privilege(&self) -> Privilege {
        self.hub.privilege()
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Starts the proxy: as its own user where user ids can be chosen, with the capability to mark its packets.
    pub fn start_proxy(&self, options: &ProxyOptions) -> Result<(), Error> {
        let proxy_ids = Ids { user: PROXY_ID, group: PROXY_ID, groups: Vec::new() };
        let credentials = Credentials {
            ids: (self.privilege() == Privilege::Root).then_some(proxy_ids),
            capabilities: spaces::proxy_capabilities(),
        };
        let fds: Vec<BorrowedFd<'_>> = [options.program.as_fd()]
            .into_iter()
            .chain(options.log.as_ref().map(AsFd::as_fd))
            .chain(options.fds.iter().map(AsFd::as_fd))
            .collect();
        let arguments = options.arguments.clone();
        self.call(&Ask::StartProxy { arguments, credentials, log: options.log.is_some() }, &fds).map(drop)
    }

    /// Starts the application: as the caller or the chosen user, without any capability.
    pub fn start_app(&self, options: AppOptions) -> Result<(), Error> {
        let ask = Ask::StartApp { credentials: self.app.clone(), own_session: options.own_session };
        self.call(&ask, &[]).map(drop)
    }

    /// Signals the process; one that has ended is left in peace.
    pub fn signal(&self, target: Target, signal: i32) -> Result<(), Error> {
        self.call(&Ask::Signal(target, signal), &[]).map(drop)
    }

    /// A non-blocking stream socket of the workload's network, exempt from capture by its loopback destination only.
    pub fn stream_socket(&self, v6: bool) -> Result<Socket, Error> {
        let fds = self.call(&Ask::Socket(SocketKind { v6, datagram: false }), &[])?;
        let none = || Error::plain("the workload passed no socket");
        fds.into_iter().next().map(Socket::from).ok_or_else(none)
    }

    /// Connects to an address as seen from within the workload.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let socket = self.stream_socket(to.is_ipv6())?;
        tokio::net::TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// Asks for an [`Event::Listening`] once the application listens on all these ports.
    pub fn await_ports(&self, ports: Vec<u16>) -> Result<(), Error> {
        self.call(&Ask::AwaitPorts(ports), &[]).map(drop)
    }

    /// Asks for an [`Event::Quiet`] once nobody is connected to the port.
    pub fn await_quiet(&self, port: u16) -> Result<(), Error> {
        self.call(&Ask::AwaitQuiet(port), &[]).map(drop)
    }

    /// What happens in the workload, until it is gone. There is one such stream; later calls get an empty one.
    pub fn events(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel();
        self.forward(move |event| sender.send(event).is_ok());
        receiver
    }

    /// The same, for asynchronous code.
    pub fn event_stream(&self) -> tokio::sync::mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        self.forward(move |event| sender.send(event).is_ok());
        receiver
    }

    fn forward(&self, deliver: impl Fn(Event) -> bool + Send + 'static) {
        let Some(events) = self.events.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let forward = move || {
            while let Ok(Some((event, _))) = wire::receive(&events) {
                if !deliver(event) {
                    break;
                }
            }
        };
        // Without a thread the stream is empty, as it is when the workload is gone.
        let _ = thread::Builder::new().name("workload".into()).spawn(forward);
    }

    fn call(&self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Error> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let control = control.as_ref().ok_or_else(|| Error::plain("the workload has ended"))?;
        wire::call::<_, ()>(control, ask, fds).map(|((), fds)| fds)
    }

    /// Ends everything in the workload and waits until it is gone.
    pub fn end(&self) {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A process that cannot be waited for is gone already.
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}

fn application_credentials(privilege: Privilege, user: Option<&str>) -> Result<Credentials, Error> {
    let ids = match (user, privilege) {
        (None, _) => None,
        (Some(name), Privilege::Root) => Some(look_up(name)?),
        (Some(name), Privilege::User) => {
            let own = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
            if own.is_none_or(|own| own.name != name) {
                return Err(Error::plain(format!(
                    "only root can run the command as {name}: leave out --user"
                )));
            }
            None
        }
    };
    let user = ids.as_ref().map_or(nix::unistd::Uid::effective().as_raw(), |ids| ids.user);
    if user == PROXY_ID {
        return Err(Error::plain(format!(
            "user id {PROXY_ID} is the proxy's, whose traffic is not captured: run the command as another user"
        )));
    }
    Ok(Credentials { ids, capabilities: 0 })
}

fn look_up(name: &str) -> Result<Ids, Error> {
    let by_number = name.parse().ok().map(nix::unistd::Uid::from_raw);
    let found = match by_number {
        Some(uid) => nix::unistd::User::from_uid(uid),
        None => nix::unistd::User::from_name(name),
    };
    let user = found
        .map_err(|e| Error::new(format!("look up the user {name}"), e))?
        .ok_or_else(|| Error::plain(format!("there is no user {name} on this machine")))?;
    let groups = process::c_string(&user.name)
        .ok()
        .and_then(|name| nix::unistd::getgrouplist(&name, user.gid).ok())
        .unwrap_or_default();
    Ok(Ids {
        user: user.uid.as_raw(),
        group: user.gid.as_raw(),
        groups: groups.into_iter().map(nix::unistd::Gid::as_raw).filter(|&group| group != PROXY_ID).collect(),
    })
}

fn capture_of(settings: capture::Settings, privilege: Privilege) -> Capture {
    Capture {
        outbound: settings.outbound,
        inbound: settings.inbound,
        dns: settings.dns,
        // In a user namespace of one id the proxy has the application's, and is known by its mark alone.
        proxy_id: settings.proxy_id.filter(|_| privilege == Privilege::Root),
        exclude_inbound: settings.exclude_inbound,
        exclude_outbound: settings.exclude_outbound,
        exclude_networks: settings.exclude_networks.iter().map(ToString::to_string).collect(),
        relay: settings.relay.map(|relay| relay.port),
    }
}

fn settings_of(capture: Capture) -> capture::Settings {
    capture::Settings {
        outbound: capture.outbound,
        inbound: capture.inbound,
        dns: capture.dns,
        proxy_id: capture.proxy_id,
        exclude_inbound: capture.exclude_inbound,
        exclude_outbound: capture.exclude_outbound,
        exclude_networks: capture.exclude_networks.iter().filter_map(|n| n.parse().ok()).collect(),
        relay: capture.relay.map(|port| capture::Relay { port, inside: hub::networks() }),
        udp_only_to: Some(hub::networks()),
    }
}
