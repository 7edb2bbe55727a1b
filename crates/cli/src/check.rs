//! `mizzen check`: what this machine allows, found by doing, and the cure for what it does not.

use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, TcpListener},
    process::ExitCode,
};

use agent::host::{
    Launcher,
    probe::{self, Finding, Outcome},
};

use crate::output::Format;

/// The API server and the control plane listen on these, on the host's loopback.
const PORTS: [(u16, &str); 6] = [
    (6443, "the embedded API"),
    (8080, "readiness"),
    (15010, "xDS"),
    (15012, "xDS and certificates"),
    (15014, "metrics"),
    (20001, "the console"),
];
/// Enough for a demo under load.
const DESCRIPTORS: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// How to show them [default: lines of text]
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

pub(crate) fn execute(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let findings = findings()?;
    let mut out = io::stdout().lock();
    let told = match args.output {
        Some(format) => format.text(&findings)?,
        None => text(&findings, out.is_terminal() && std::env::var_os("NO_COLOR").is_none()),
    };
    match out.write_all(told.as_bytes()) {
        // Whoever reads has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    let usable = findings.iter().all(|finding| finding.works() || !finding.needed);
    Ok(if usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All that could be found out. Nothing is left of the trying.
pub(crate) fn findings() -> anyhow::Result<Vec<Finding>> {
    let mut findings = probe::probe(&Launcher::default())?;
    findings.extend(PORTS.map(|(port, what)| port_is_free(port, what)));
    findings.push(descriptors());
    Ok(findings)
}

/// What keeps a mesh from running here, in words; empty if nothing does.
pub(crate) fn obstacles(findings: &[Finding]) -> String {
    let bad: Vec<Finding> = findings.iter().filter(|f| f.needed && !f.works()).cloned().collect();
    text(&bad, false)
}

fn port_is_free(port: u16, what: &str) -> Finding {
    let outcome = match TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)) {
        Ok(_) => Outcome::Works("free".into()),
        Err(e) => Outcome::Fails {
            cause: format!("127.0.0.1:{port}: {e}"),
            cure: Some(format!("see who listens there: ss -ltnp 'sport = :{port}'")),
        },
    };
    Finding { what: format!("port {port} for {what}"), needed: false, outcome }
}

fn descriptors() -> Finding {
    let what = "file descriptors".to_owned();
    let outcome = match hard_limit() {
        Some(limit) if limit >= DESCRIPTORS => Outcome::Works(format!("{limit} per process")),
        Some(limit) => Outcome::Fails {
            cause: format!("at most {limit} per process, {DESCRIPTORS} are better under load"),
            cure: Some(format!("ulimit -n {DESCRIPTORS}")),
        },
        None => Outcome::Fails { cause: "the limit is not known".into(), cure: None },
    };
    Finding { what, needed: false, outcome }
}

/// The most that a process of this user may raise its limit to.
fn hard_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(4)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn text(findings: &[Finding], colours: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    let mut lines = String::new();
    for Finding { what, needed, outcome } in findings {
        let (mark, detail) = match outcome {
            Outcome::Works(how) => (paint("32", "ok  "), how.clone()),
            Outcome::Fails { cause, .. } if *needed => (paint("31", "no  "), cause.clone()),
            Outcome::Fails { cause, .. } => (paint("33", "warn"), cause.clone()),
        };
        lines.push_str(&format!("{mark}  {what:width$}  {detail}\n"));
        if let Outcome::Fails { cure: Some(cure), .. } = outcome {
            lines.push_str(&format!("      {:width$}  {}\n", "", paint("36", cure)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(needed: bool) -> Finding {
        let outcome = Outcome::Fails { cause: "forbidden".into(), cure: Some("sudo allow".into()) };
        Finding { what: "links".into(), needed, outcome }
    }

    #[test]
    fn only_what_is_needed_is_an_obstacle_and_it_comes_with_its_cure() {
        assert_eq!(obstacles(&[failing(false)]), "");
        let told = obstacles(&[failing(true)]);
        assert!(told.contains("forbidden") && told.contains("sudo allow"), "{told}");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(!port_is_free(port, "a test").works());
        drop(taken);
        assert!(port_is_free(port, "a test").works());
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(text(&[failing(true)], true).contains("\x1b[31m"));
        assert!(!text(&[failing(true)], false).contains('\x1b'));
    }
}
