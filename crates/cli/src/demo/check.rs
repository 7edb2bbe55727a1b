//! `mizzen demo --check`: whether what people would see is there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use tokio::time::{Instant, sleep};

use super::plane::Plane;
use crate::workload::{Inside, get, get_on};

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
const REQUESTS: usize = 60;

fn door(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Until the page is whole: its own part, details and reviews.
pub(super) async fn await_page(gateway: &Inside) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < deadline {
        match get_on(gateway.connect(), gateway.address, "/productpage").await {
            Ok((200, body)) if is_whole(&body) => return Ok(()),
            Ok((200, _)) => last = "the page lacks details or reviews".into(),
            Ok((code, body)) => last = format!("{code} {}", body.lines().next().unwrap_or_default()),
            Err(error) => last = error.to_string(),
        }
        sleep(PAUSE).await;
    }
    bail!("the product page does not come up: {last}")
}

fn is_whole(body: &str) -> bool {
    !body.contains("product details are currently unavailable")
        && !body.contains("product reviews are currently unavailable")
}

/// Tries everything and says what held. Exit code 0 if all did.
pub(super) async fn all(port: u16, plane: &Plane) -> ExitCode {
    let mut good = true;
    let mut report = |what: &str, result: Result<String, String>| match result {
        Ok(how) => println!("ok    {what}: {how}"),
        Err(why) => {
            good = false;
            println!("FAIL  {what}: {why}");
        }
    };
    report("product page", pages(port).await);
    report("versions of reviews", versions(port).await);
    report("kubectl-style API", objects(plane).await);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn pages(port: u16) -> Result<String, String> {
    let mut failed = Vec::new();
    for _ in 0..REQUESTS {
        match get(door(port), "/productpage").await {
            Ok((200, body)) if is_whole(&body) => {}
            Ok((code, _)) => failed.push(code.to_string()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() { Ok(format!("{REQUESTS} requests, all whole")) } else { Err(failed.join(", ")) }
}

/// With no rule every version gets its share.
async fn versions(port: u16) -> Result<String, String> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..REQUESTS {
        let Ok((200, body)) = get(door(port), "/api/v1/products/0/reviews").await else { continue };
        seen.insert(
            ["\"red\"", "\"black\""].into_iter().find(|colour| body.contains(colour)).unwrap_or("none"),
        );
    }
    if seen.len() == 3 {
        Ok("no stars, black stars, red stars".into())
    } else {
        Err(format!("only {seen:?}"))
    }
}

async fn objects(plane: &Plane) -> Result<String, String> {
    let output = plane.mizzen(&["get", "workloadentries"], &[]).await.map_err(|e| format!("{e:#}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let entries = text.lines().filter(|line| line.contains("10.44.")).count();
    if output.status.success() && entries >= 8 {
        Ok(format!("{entries} workload entries"))
    } else {
        Err(format!("{entries} workload entries; {}", String::from_utf8_lossy(&output.stderr)))
    }
}
