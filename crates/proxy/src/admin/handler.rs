//! What each admin path answers.

use percent_encoding::percent_decode_str;
use regex::Regex;
use serde_json::json;

use super::{Answer, Scope, clusters, logging};
use crate::control::Handle;
use crate::stats::{self, Wanted};

const HELP: &str = "admin commands are:
  /certs: print certificates on machine
  /clusters: upstream cluster status (?format=json)
  /config_dump: dump current configuration (?include_eds)
  /drain_listeners (POST): drain listeners
  /help: print out list of admin commands
  /listeners: print listener info (?format=json)
  /logging (POST): query/change logging levels (?level=LEVEL, ?paths=LOGGER:LEVEL,...)
  /quitquitquit (POST): exit the server
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /server_info: print server version/status information
  /stats: print server stats (?filter=REGEX, ?usedonly, ?format=text|json|prometheus)
  /stats/prometheus: print server stats in prometheus format
";

pub(super) async fn handle(handle: &Handle, scope: Scope, method: &str, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match (scope, path) {
        (Scope::Readiness, "/healthz/ready") => return ready(handle),
        (Scope::Metrics, "/stats/prometheus") => return metrics(handle).await,
        (Scope::Readiness | Scope::Metrics, _) => return Answer::text(404, "not found\n"),
        (Scope::All, _) => {}
    }
    let changes = matches!(path, "/logging" | "/drain_listeners" | "/quitquitquit");
    if changes && method != "POST" {
        return Answer::text(405, format!("Method {method} not allowed, POST required.\n"));
    }
    match path {
        "/" | "/help" => Answer::text(200, HELP),
        "/ready" => ready(handle),
        "/stats" => statistics(handle, query).await,
        "/stats/prometheus" => metrics(handle).await,
        "/clusters" => {
            let (views, snapshot) = (handle.clusters().await, handle.stats().await);
            if parameter(query, "format") == Some("json") {
                Answer::json(&clusters::json(&views))
            } else {
                Answer::text(200, clusters::text(&views, &snapshot))
            }
        }
        "/listeners" => listeners(handle, query).await,
        "/config_dump" => {
            let endpoints = has(query, "include_eds");
            Answer::json(&handle.dump(endpoints).await)
        }
        "/certs" => Answer::json(&handle.certificates().await),
        "/server_info" => Answer::json(&json!({
            "version": concat!("mizzen-proxy/", env!("CARGO_PKG_VERSION")),
            "state": if handle.is_ready() { "LIVE" } else { "INITIALIZING" },
        })),
        "/drain_listeners" => {
            let draining = handle.clone();
            let inbound_only = query.split('&').any(|word| word == "inboundonly");
            tokio::task::spawn_local(async move {
                if inbound_only {
                    draining.drain_inbound().await;
                } else {
                    draining.drain().await;
                }
            });
            Answer::text(200, "OK\n")
        }
        "/quitquitquit" => {
            let stopping = handle.clone();
            tokio::task::spawn_local(async move { stopping.stop().await });
            Answer::text(200, "OK\n")
        }
        "/logging" => logging::answer(query),
        _ => Answer::text(404, "invalid path. admin commands are listed at /help\n"),
    }
}

fn ready(handle: &Handle) -> Answer {
    if handle.is_ready() { Answer::text(200, "LIVE\n") } else { Answer::text(503, "INITIALIZING\n") }
}

async fn statistics(handle: &Handle, query: &str) -> Answer {
    let filter = parameter(query, "filter").map(|text| percent_decode_str(text).decode_utf8_lossy());
    let filter = match filter.map(|text| Regex::new(&text)).transpose() {
        Ok(filter) => filter,
        Err(error) => return Answer::text(400, format!("Invalid re2 regex: {error}\n")),
    };
    let wanted = Wanted { filter, used_only: has(query, "usedonly") };
    match parameter(query, "format") {
        None | Some("text") => Answer::text(200, stats::text(&handle.stats().await, &wanted)),
        Some("json") => Answer::json(&stats::json(&handle.stats().await, &wanted)),
        Some("prometheus") => metrics(handle).await,
        Some(_) => Answer::text(400, "usage: /stats?format=(text|json|prometheus)\n"),
    }
}

async fn metrics(handle: &Handle) -> Answer {
    Answer::text(200, stats::prometheus(&handle.stats().await))
}

async fn listeners(handle: &Handle, query: &str) -> Answer {
    let all = handle.listeners().await;
    if parameter(query, "format") != Some("json") {
        return Answer::text(200, all.iter().map(|(name, a)| format!("{name}::{a}\n")).collect::<String>());
    }
    let statuses: Vec<_> = all
        .iter()
        .map(|(name, a)| {
            let socket = json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
            json!({"name": &**name, "local_address": socket})
        })
        .collect();
    Answer::json(&json!({ "listener_statuses": statuses }))
}

fn has(query: &str, name: &str) -> bool {
    query.split('&').any(|p| p.split('=').next() == Some(name))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
}
