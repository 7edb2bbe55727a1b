//! What was acknowledged survives `kill -9`, and a full disk refuses writes and loses nothing.

mod support;

use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::{client, send};

/// When set, this test binary is the server.
const ROLE: &str = "APISERVER_TEST_FOLDER";

fn server(folder: &std::path::Path) -> (Child, String, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_server_itself", "--nocapture"]).env(ROLE, folder);
    started(command).expect("the server starts")
}

/// The process, its address and its administrator's token; `None` when it ended first.
fn started(mut command: Command) -> Option<(Child, String, String)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.find_map(|line| line.unwrap().split_once("READY ").map(|(_, rest)| rest.to_owned()));
    let Some(line) = line else {
        let _ = child.wait();
        return None;
    };
    let (url, token) = line.split_once(' ').unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    Some((child, url.to_owned(), token.to_owned()))
}

/// The child of the other tests; by itself it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_itself() {
    let Some(folder) = std::env::var_os(ROLE) else { return };
    tls::install_provider();
    let mut config = apiserver::Config::new(folder);
    config.listen = ([127, 0, 0, 1], 0).into();
    let handle = apiserver::Server::start(config).await.unwrap();
    println!("READY {} {}", handle.url(), handle.admin_token());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..3 {
        let (mut child, url, token) = server(folder.path());
        let client = client(&url, &token);
        let done = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (client, done, count) = (client.clone(), done.clone(), count.clone());
                tokio::spawn(async move {
                    for index in 0.. {
                        let name = format!("r{round}-w{writer}-{index}");
                        let body = json!({ "metadata": { "name": name }, "data": { "k": "v" } }).to_string();
                        let request = http::Request::post("/api/v1/namespaces/default/configmaps")
                            .header("content-type", "application/json")
                            .body(body.into_bytes())
                            .unwrap();
                        if client.request::<Value>(request).await.is_err() {
                            return;
                        }
                        done.lock().unwrap().push(name);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // In the midst of it.
        while count.load(Ordering::Relaxed) < 100 {
            tokio::task::yield_now().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        acknowledged.extend(done.lock().unwrap().drain(..));
    }
    let (mut child, url, token) = server(folder.path());
    let list =
        send(&client(&url, &token), "GET", "/api/v1/namespaces/default/configmaps", "", vec![]).await.body;
    child.kill().unwrap();
    child.wait().unwrap();
    let names: std::collections::BTreeSet<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !names.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost", lost.len(), acknowledged.len());
}

/// The server on a disk of that size, in a mount namespace of its own.
fn server_on_small_disk(megabytes: u32) -> Option<(Child, String, String)> {
    let folder = tempfile::tempdir().unwrap().keep();
    let mut command = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size={megabytes}m,mode=700 none '{0}' && exec \"$0\" --exact the_server_itself --nocapture",
        folder.display()
    );
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(std::env::current_exe().unwrap()).env(ROLE, &folder);
    let started = started(command);
    let _ = std::fs::remove_dir(folder);
    if started.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "needs user namespaces and unshare");
        println!("skipped: needs user namespaces and unshare");
    }
    started
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let Some((mut child, url, token)) = server_on_small_disk(12) else { return };
    let client = client(&url, &token);
    let path = "/api/v1/namespaces/default/configmaps";
    let mut stored = Vec::new();
    let refused = loop {
        assert!(stored.len() < 100, "the disk never fills");
        let name = format!("m{}", stored.len());
        let body = json!({ "metadata": { "name": name }, "data": { "k": "x".repeat(500_000) } }).to_string();
        let answer = send(&client, "POST", path, "application/json", body.into()).await;
        if answer.code != 201 {
            break answer;
        }
        stored.push(name);
    };
    assert_eq!((refused.code, refused.body["reason"].as_str()), (507, Some("InsufficientStorage")));
    assert!(!stored.is_empty());
    for name in &stored {
        let answer = send(&client, "GET", &format!("{path}/{name}"), "", vec![]).await;
        assert_eq!(answer.code, 200, "{name}");
    }
    // What was refused is not there.
    let absent = format!("{path}/m{}", stored.len());
    assert_eq!(send(&client, "GET", &absent, "", vec![]).await.code, 404);
    child.kill().unwrap();
    child.wait().unwrap();
}
