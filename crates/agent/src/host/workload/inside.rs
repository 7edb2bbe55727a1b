//! The workload's own processes: one that makes the namespaces, and the first one inside them.
//!
//! The first process starts the proxy and the application, reaps what ends, and answers the starter. It ends when the
//! starter is gone; the kernel then ends everything else in its process-id namespace.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, FcntlArg, FdFlag, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, execveat, execvpe},
};

use super::{Ask, Event, ExitStatus, SetUp, Target, ports, settings_of};
use crate::{
    capture::{INBOUND_SOURCE_6, Program, nft},
    host::{
        Error,
        hub::{BRIDGE, GATEWAY, GATEWAY_6, NETWORK, NETWORK_6},
        mounts, process,
        spaces::{self, Credentials},
        wire::{self, Reply},
    },
    netlink::{
        self,
        links::{Hardware, Index},
    },
};

const LINK: &str = "eth0";
/// How often ports that are waited for are looked at.
const PORT_PAUSE: u8 = 20;
/// Who still knows the address comes back at once; after this time nobody does.
const QUIET: Duration = Duration::from_millis(500);
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// The helper's life: set up, split, and wait for the first process.
pub(in crate::host) fn run(control: OwnedFd, command: &[OsString]) -> ExitCode {
    let Ok(Some((Ask::SetUp(set_up), fds))) = wire::receive::<Ask>(&control) else {
        return ExitCode::FAILURE;
    };
    match set_up_all(&set_up, fds) {
        Ok(events) => split(control, events, command),
        Err(error) => {
            let Error { what, cause, cure } = error;
            let what = cure.map_or(what.clone(), |cure| format!("{what} ({cure})"));
            refuse(&control, cause.and_then(|c| c.raw_os_error()).unwrap_or(libc::EIO), &what);
            ExitCode::FAILURE
        }
    }
}

fn refuse(control: &OwnedFd, errno: i32, what: &str) {
    // A starter that is gone needs no answer.
    let _ = wire::send(control, &Reply::<()>::Refused { errno, what: what.into() }, &[]);
}

/// Everything that must hold before the application's first instruction. Returns where events go.
fn set_up_all(set_up: &SetUp, mut fds: Vec<OwnedFd>) -> Result<OwnedFd, Error> {
    if fds.len() < 2 {
        return Err(Error::plain("the starter passed no namespaces"));
    }
    let events = fds.remove(0);
    spaces::enter(&fds)?;
    let mut hub = netlink::Socket::route()?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|e| Error::new("make the workload's namespaces", e))?;
    connect_to_hub(&mut hub, set_up)?;
    mounts::open_low_ports();
    if let Some(capture) = &set_up.capture {
        nft::install(&Program::sidecar(&settings_of(capture.clone())))?;
    }
    mounts::cover(&mounts::Names {
        address: set_up.lease.v4.into(),
        hostname: &set_up.hostname,
        search: &set_up.search,
    })?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| Error::new("make a process-id namespace", e))?;
    Ok(events)
}

fn connect_to_hub(hub: &mut netlink::Socket, set_up: &SetUp) -> Result<(), Error> {
    let lease = &set_up.lease;
    let here = spaces::open("net")?;
    let mut own = netlink::Socket::route()?;
    let port = hub.add_veth(&lease.link, LINK, Hardware::of(lease.v4), here.as_fd())?;
    let bridge = hub.index(BRIDGE)?;
    hub.enslave(port, bridge)?;
    hub.up(port)?;
    own.up(Index::LOOPBACK)?;
    let link = own.index(LINK)?;
    own.add_address(link, lease.v4.into(), NETWORK)?;
    if let Some(v6) = lease.v6 {
        own.add_address(link, v6.into(), NETWORK_6)?;
        // Unlike 127.0.0.6 it is nobody's, until somebody has it.
        own.add_address(Index::LOOPBACK, INBOUND_SOURCE_6.into(), 128)?;
    }
    own.up(link)?;
    own.add_default_route(link, GATEWAY.into())?;
    if lease.v6.is_some() {
        own.add_default_route(link, GATEWAY_6.into())?;
    }
    Ok(())
}

fn split(control: OwnedFd, events: OwnedFd, command: &[OsString]) -> ExitCode {
    // Held back from here on, so that none is lost between the split and the first look.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if children.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    match process::fork() {
        Ok(Some(first)) => {
            drop((control, events));
            // The terminal's signals are for the application; this process goes when the first one does.
            let _ = process::ignore_terminal_signals();
            while waitpid(first, None) == Err(Errno::EINTR) {}
            ExitCode::SUCCESS
        }
        Ok(None) => {
            mounts::show_processes();
            let first = First { control, events, command, proxy: None, app: None, awaited: None };
            match first.live() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(e) => {
            refuse(&control, e.raw_os_error().unwrap_or(libc::EIO), "split the workload's process");
            ExitCode::FAILURE
        }
    }
}

/// The first process of the workload's process-id namespace.
struct First<'a> {
    control: OwnedFd,
    events: OwnedFd,
    command: &'a [OsString],
    proxy: Option<Pid>,
    app: Option<Pid>,
    awaited: Option<Awaited>,
}

impl First<'_> {
    fn live(mut self) -> io::Result<()> {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        wire::send(&self.control, &Reply::Done(()), &[])?;
        loop {
            let patience = match self.awaited {
                Some(_) => PollTimeout::from(PORT_PAUSE),
                None => PollTimeout::NONE,
            };
            let mut polled =
                [self.control.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut polled, patience) {
                Err(Errno::EINTR) => continue,
                result => result?,
            };
            let [asked, ended] = polled.map(|p| p.any().unwrap_or(false));
            if ended {
                while signals.read_signal()?.is_some() {}
                self.reap()?;
            }
            if asked {
                match wire::receive::<Ask>(&self.control)? {
                    Some((ask, fds)) => self.answer(ask, &fds)?,
                    None => return Ok(()),
                }
            }
            self.look_at_ports()?;
        }
    }

    fn answer(&mut self, ask: Ask, fds: &[OwnedFd]) -> io::Result<()> {
        let made = match ask {
            Ask::Socket(kind) => match kind.make() {
                Ok(socket) => return wire::send(&self.control, &Reply::Done(()), &[socket.as_fd()]),
                Err(e) => (Err(e), "make a socket in the workload"),
            },
            Ask::StartProxy { arguments, credentials, log } => {
                let started = start_proxy(&arguments, &credentials, log, fds);
                (started.map(|pid| self.proxy = Some(pid)), "start the proxy")
            }
            Ask::StartApp { credentials, own_session } => {
                let started = start_app(self.command, &credentials, own_session);
                (started.map(|pid| self.app = Some(pid)), "start the command")
            }
            Ask::Signal(target, signal) => (self.signal(target, signal), "signal the process"),
            Ask::AwaitPorts(ports) => {
                self.awaited = Some(Awaited::Listening(ports));
                (Ok(()), "wait for ports")
            }
            Ask::AwaitQuiet(port) => {
                self.awaited = Some(Awaited::Quiet { port, since: None });
                (Ok(()), "wait for connections to end")
            }
            Ask::SetUp(_) => (Err(io::ErrorKind::InvalidInput.into()), "set up what is set up already"),
        };
        wire::send(&self.control, &Reply::from_io(made.0, made.1), &[])
    }

    fn signal(&self, target: Target, signal: i32) -> io::Result<()> {
        let pid = match target {
            Target::Proxy => self.proxy,
            Target::App => self.app,
        };
        match pid {
            Some(pid) => Ok(kill(pid, Some(Signal::try_from(signal)?))?),
            None => Ok(()),
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let target = if self.proxy == Some(pid) {
                self.proxy = None;
                Target::Proxy
            } else if self.app == Some(pid) {
                self.app = None;
                Target::App
            } else {
                // An orphan of the application.
                continue;
            };
            wire::send(&self.events, &Event::Ended(target, status), &[])?;
        }
    }

    fn look_at_ports(&mut self) -> io::Result<()> {
        let event = match &mut self.awaited {
            Some(Awaited::Listening(ports)) => {
                ports::all_listening(ports).map(|loopback_only| Event::Listening { loopback_only })
            }
            Some(Awaited::Quiet { port, since }) => {
                *since = (!ports::is_connected(*port)).then(|| since.unwrap_or_else(Instant::now));
                since.is_some_and(|since| since.elapsed() >= QUIET).then_some(Event::Quiet)
            }
            None => None,
        };
        let Some(event) = event else { return Ok(()) };
        self.awaited = None;
        wire::send(&self.events, &event, &[])
    }
}

/// What the starter wants to be told of, once.
enum Awaited {
    Listening(Vec<u16>),
    /// Since when nobody was seen there.
    Quiet {
        port: u16,
        since: Option<Instant>,
    },
}

fn start_proxy(
    arguments: &[String],
    credentials: &Credentials,
    log: bool,
    fds: &[OwnedFd],
) -> io::Result<Pid> {
    let (program, rest) = fds.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (log, passed) = if log { rest.split_at(1.min(rest.len())) } else { rest.split_at(0) };
    let numbered = |text: &String| {
        passed.iter().enumerate().fold(text.clone(), |text, (at, fd)| {
            text.replace(&format!("{{{at}}}"), &fd.as_raw_fd().to_string())
        })
    };
    let mut words = vec![CString::from(c"mizzen-proxy")];
    for argument in arguments {
        words.push(process::c_string(numbered(argument))?);
    }
    let environment = environment()?;
    start("the proxy", || {
        nix::unistd::setsid()?;
        quiet_streams(log.first().map(AsFd::as_fd))?;
        for fd in passed {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        spaces::assume(credentials)?;
        process::usual_signals()?;
        execveat(program, c"", &words, &environment, AtFlags::AT_EMPTY_PATH)?;
        Ok(())
    })
}

/// No input; output and errors to the log, or to nowhere.
fn quiet_streams(log: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let null: OwnedFd =
        nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    let output = log.unwrap_or(null.as_fd());
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(output)?;
    Ok(nix::unistd::dup2_stderr(output)?)
}

fn start_app(command: &[OsString], credentials: &Credentials, own_session: bool) -> io::Result<Pid> {
    let words = command.iter().map(process::c_string).collect::<io::Result<Vec<CString>>>()?;
    let program = words.first().cloned().ok_or(io::ErrorKind::InvalidInput)?;
    let environment = environment()?;
    start(&format!("{:?}", program), || {
        if own_session {
            nix::unistd::setsid()?;
        }
        spaces::assume(credentials)?;
        process::usual_signals()?;
        execvpe(&program, &words, &environment)
            .map_err(|e| if on_path(&program) { e } else { Errno::ENOENT })?;
        Ok(())
    })
}

/// Whether the program is somewhere: a folder on the path that may not be looked into makes the kernel say that
/// permission is denied.
fn on_path(program: &CString) -> bool {
    let program = Path::new(OsStr::from_bytes(program.as_bytes()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    program.components().count() > 1
        || std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

fn environment() -> io::Result<Vec<CString>> {
    let entry = |(name, value): (OsString, OsString)| {
        let mut line = name;
        line.push(OsStr::from_bytes(b"="));
        line.push(value);
        process::c_string(line)
    };
    std::env::vars_os().map(entry).collect()
}

/// Splits off a process that becomes the program. What `become_it` meets on the way is reported as by a shell: on the
/// process's own error stream and by its exit code.
fn start(what: &str, become_it: impl FnOnce() -> io::Result<()>) -> io::Result<Pid> {
    if let Some(child) = process::fork()? {
        return Ok(child);
    }
    let error = become_it().err().unwrap_or_else(|| io::ErrorKind::Other.into());
    eprintln!("mizzen: cannot start {what}: {error}");
    std::process::exit(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}
