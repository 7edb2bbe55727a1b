//! What is put on a contestant.

pub(crate) mod bulk;
pub(crate) mod h2load;
pub(crate) mod handshake;
pub(crate) mod http;
pub(crate) mod idle;
pub(crate) mod rate;
pub(crate) mod wrk;

use anyhow::{Context, Result, ensure};

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) seconds: u64,
    /// As many as that took the last time, where it is not a time that the load is given.
    pub(crate) units: Option<f64>,
}

/// What was done: requests, bytes or handshakes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Done {
    pub(crate) units: f64,
    pub(crate) seconds: f64,
}

/// Runs a program that generates load and returns what it printed.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program).args(arguments).output().with_context(|| {
        format!("cannot start {program}: run `cargo xtask bench proxy`, which installs it")
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{program} ended with {}: {text}", output.status);
    Ok(text)
}

/// `3.00s`, `1.50m`, `900.12ms`, as these programs write times.
fn time(text: &str) -> Option<f64> {
    [("ms", 0.001), ("us", 0.000_001), ("s", 1.0), ("m", 60.0)]
        .into_iter()
        .find_map(|(unit, scale)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * scale))
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_read_in_every_unit() {
        assert_eq!(
            [time("3.10s"), time("1.50m"), time("250ms"), time("x")],
            [Some(3.1), Some(90.0), Some(0.25), None]
        );
    }
}
