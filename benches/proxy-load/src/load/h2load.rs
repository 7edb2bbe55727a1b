//! `h2load`: HTTP/2 by prior knowledge, 100 streams on each of 10 connections.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Done, Work, output, time};
use crate::keys::HOST;

/// A file with what each call says makes them gRPC calls.
pub(crate) fn run(port: u16, work: Work, message: Option<&Path>) -> Result<Done> {
    // A number of requests, so that each is counted; how many there have to be is found by a first run of a second.
    let amount = match work.units {
        Some(units) => format!("-n{}", units.max(1000.0) as u64),
        None => "-D1".to_owned(),
    };
    let url = format!("http://127.0.0.1:{port}/api/v1/products/17?lang=en");
    let host = format!(":authority: {HOST}");
    let mut arguments = vec!["-t1", "-c10", "-m100", &amount, "-H", &host];
    let message = message.map(|file| file.display().to_string());
    if let Some(file) = &message {
        arguments.extend(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", file]);
    }
    arguments.push(&url);
    read(&output("h2load", &arguments)?)
}

fn read(text: &str) -> Result<Done> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let seconds = line("finished in ").and_then(|rest| rest.split([',', ' ']).next()).and_then(time);
    let requests = line("requests: ").context("h2load counted nothing")?;
    let count = |what: &str| -> Option<f64> {
        requests.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    let (succeeded, failed) = (count("succeeded").unwrap_or_default(), count("failed").unwrap_or_default());
    ensure!(succeeded > 0.0 && failed == 0.0, "h2load: {requests}");
    Ok(Done { units: succeeded, seconds: seconds.context("h2load names no time")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_prints_is_read() {
        let text = "\nfinished in 931.21ms, 53693.56 req/s, 5.22MB/s\n\
            requests: 50000 total, 50000 started, 50000 done, 50000 succeeded, 0 failed, 0 errored, 0 timeout\n\
            status codes: 50000 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        let done = read(text).unwrap();
        assert_eq!(done.units, 50_000.0);
        assert!((done.seconds - 0.931_21).abs() < 1e-9);
        assert!(read(&text.replace("0 failed", "3 failed")).is_err());
    }
}
