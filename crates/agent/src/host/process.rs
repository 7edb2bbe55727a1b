//! Starting helper processes and the programs of a workload.
//!
//! This module holds what the type system cannot check: forking (only ever in processes of one thread) and taking
//! ownership of descriptors that the kernel has just made or that the starter has left open.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    process::{Command, ExitCode},
};

use nix::unistd::{ForkResult, Pid};

use super::{Error, hub, workload};

/// The hidden command: what a helper process is to do, with the arguments behind `hub`.
pub fn entry(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map_while(|a| a.to_str()).collect();
    let result = match (words.as_slice(), arguments) {
        (["hub-process", name], _) => detach().and_then(|child| if child { hub::run(name) } else { Ok(()) }),
        (["probe-process"], _) => super::probe::run(),
        (["workload-process", fd, ..], [_, _, command @ ..]) => match fd.parse() {
            Ok(fd) => return workload::inside::run(take(fd), command),
            Err(_) => Err(Error::plain("the helper's descriptor is no number")),
        },
        _ => Err(Error::plain("this command is for mizzen itself: see `mizzen run --help`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A process of its own session with nothing open but its standard streams; false in the process that is to end.
fn detach() -> Result<bool, Error> {
    let failed = |e: io::Error| Error::new("detach the hub", e);
    if fork().map_err(failed)?.is_some() {
        return Ok(false);
    }
    nix::unistd::setsid().map_err(|e| failed(e.into()))?;
    // SAFETY: no descriptor above 2 is owned by anything in this process, which has just started.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    std::env::set_current_dir("/").map_err(failed)?;
    Ok(true)
}

/// Splits this process, which must have one thread; `None` in the child.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: helper processes have one thread, so the child finds no lock held and may do whatever it likes.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Lets the program inherit the descriptor, under its own number.
pub(super) fn inherit(command: &mut Command, fd: RawFd) {
    let keep = move || -> io::Result<()> {
        // SAFETY: fcntl on a number has no memory effects and is safe after fork.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: the closure only calls fcntl.
    unsafe { command.pre_exec(keep) };
}

/// Sends the program this signal when the starting thread is gone, however it went.
pub fn end_with_starter(command: &mut Command, number: i32) {
    // SAFETY: the closure only calls prctl, which touches no memory of this process.
    let ask = move || {
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(ask) };
}

/// Owns a descriptor whose number was told on the command line. Each is to be taken once; programs that are started do not
/// get it.
pub fn passed(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO || !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        let why = format!("descriptor {fd} was not passed to this program");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(take(fd))
}

/// Owns a descriptor that the kernel has just returned.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller got the number from a call that makes a descriptor and keeps no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Owns a descriptor that the starter left open for this process, and closes it in programs that are started.
fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: as in `inherit`; a number that is not open yields an error that later use will show.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    adopt(fd)
}

/// Gives signals their usual meaning again: Rust ignores one, and helpers hold some back.
pub(super) fn usual_signals() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    // SAFETY: restoring a default installs no handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Leaves the signals of the terminal to the application.
pub(super) fn ignore_terminal_signals() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for which in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGTSTP] {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { signal(which, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Ends this process by the signal, as if nothing had handled it, and without a core of its own. Returns if the signal
/// ends no process.
pub fn end_by(number: i32) -> io::Result<()> {
    use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    let which = Signal::try_from(number)?;
    if !matches!(which, Signal::SIGKILL | Signal::SIGSTOP) {
        // SAFETY: restoring a default installs no handler.
        unsafe { signal(which, SigHandler::SigDfl) }?;
        SigSet::from(which).thread_unblock()?;
    }
    Ok(raise(which)?)
}

pub(super) fn c_string(text: impl AsRef<std::ffi::OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
