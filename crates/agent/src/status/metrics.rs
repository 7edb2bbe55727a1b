//! Three sources of metrics made one.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::http::{self, Reply};
use crate::certificates::Certificates;
use crate::egress::Egress;

const PATIENCE: Duration = Duration::from_secs(10);

/// Where the application tells its own metrics: the annotations `prometheus.io/port` and `/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMetrics {
    pub port: u16,
    pub path: String,
}

impl AppMetrics {
    pub(super) async fn scrape(&self, address: IpAddr, egress: &Egress) -> io::Result<Reply> {
        // Not OpenMetrics, whose end mark would cut off what follows.
        let accept = [("accept".to_owned(), "text/plain;version=0.0.4".to_owned())];
        http::get(egress, SocketAddr::new(address, self.port), &self.path, &accept, PATIENCE).await
    }
}

/// What the agent itself counts.
pub(super) fn own(certificates: &Certificates) -> String {
    let mut text = String::new();
    let failed = u8::from(certificates.failure().is_some());
    let _ = writeln!(
        text,
        "# HELP mizzen_agent_certificate_failing Whether the last attempt to get a certificate failed.\n\
         # TYPE mizzen_agent_certificate_failing gauge\n\
         mizzen_agent_certificate_failing {failed}"
    );
    if let Some(identity) = certificates.identity.current() {
        let left = identity.not_after().duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        let _ = writeln!(
            text,
            "# HELP istio_agent_cert_expiry_seconds The time until our certificate expires.\n\
             # TYPE istio_agent_cert_expiry_seconds gauge\n\
             istio_agent_cert_expiry_seconds{{resource_name=\"default\"}} {left}"
        );
    }
    text
}

/// Adds somebody's text: without an end mark, and ending in a line break.
pub(super) fn append(merged: &mut String, text: &str) {
    for line in text.lines().filter(|line| line.trim_end() != "# EOF") {
        merged.push_str(line);
        merged.push('\n');
    }
}
