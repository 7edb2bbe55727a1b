//! `wrk`: HTTP/1.1 over 64 connections that stay, each with one request at a time.

use anyhow::{Context, Result, bail};

use super::{Done, Work, output, time};
use crate::keys::HOST;

pub(crate) fn run(port: u16, work: Work) -> Result<Done> {
    let (duration, host) = (format!("-d{}", work.seconds), format!("Host: {HOST}"));
    let url = format!("http://127.0.0.1:{port}/api/v1/products/17?lang=en");
    read(&output("wrk", &["-t1", "-c64", &duration, "-H", &host, &url])?)
}

fn read(text: &str) -> Result<Done> {
    let wrong = |line: &&str| line.contains("Non-2xx") || line.contains("Socket errors");
    if let Some(line) = text.lines().find(wrong) {
        bail!("wrk: {}", line.trim());
    }
    let counted = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("wrk counted nothing")?;
    let seconds = time(counted.1.split(',').next().unwrap_or_default());
    Ok(Done { units: counted.0.parse()?, seconds: seconds.context("wrk names no time")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 3s test @ http://127.0.0.1:1/\n  Thread Stats   Avg      Stdev\n\
            \x20 120345 requests in 3.10s, 17.21MB read\nRequests/sec:  38820.97\n";
        assert_eq!(read(text).unwrap(), Done { units: 120_345.0, seconds: 3.1 });
        assert!(read(&format!("{text}  Non-2xx or 3xx responses: 7\n")).is_err());
    }
}
