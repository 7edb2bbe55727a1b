//! Access logs and the proxies' own.

use std::time::Duration;

use anyhow::ensure;
use e2e::mesh::program;
use e2e::{Mesh, Workload, until, until_ok};
use serde_json::{Value, json};

use super::{configure, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const BASE: &str = "http://reviews:9080";
const SENT: usize = 20;

/// Every request leaves one line at each side, in text or JSON, beside the service's own output and never inside it;
/// Telemetry turns that on and off, and filters it, without a restart.
pub(super) fn lines() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let reviews = saying(&mesh)?;
    mesh.until_answers(&format!("{BASE}/first"))?;
    let log = Log { mesh: &mesh };
    log.send("silent", 200)?;
    // Where the mesh writes no log, Telemetry alone turns it on.
    log.telemetry("providers: [{name: envoy}]")?;
    log.send("on", 200)?;
    log.both("on", SENT)?;
    mesh.kubectl_ok(&["delete", "telemetry", "logs"])?;
    wait(&mesh, &["--for=deletion", "telemetry", "logs"])?;
    log.send("silent-again", 200)?;

    configure(&mesh, &json!({"accessLogFile": "/dev/stdout"}))?;
    log.until_logged("text")?;
    log.send("text", 200)?;
    for line in log.both("text", SENT)? {
        let text =
            line.starts_with('[') && line.contains("\"GET /text HTTP/1.1\" 200 - via_upstream - \"-\" 0 ");
        ensure!(text && line.contains("\"reviews:9080\""), "{line}");
    }

    configure(&mesh, &json!({"accessLogFile": "/dev/stdout", "accessLogEncoding": "JSON"}))?;
    log.until_logged("json")?;
    log.send("json", 200)?;
    for line in log.both("json", SENT)? {
        let entry: Value = serde_json::from_str(&line)?;
        let wanted = json!({"path": "/json", "method": "GET", "protocol": "HTTP/1.1", "response_code": 200});
        let same = wanted.as_object().is_some_and(|w| w.iter().all(|(name, value)| entry[name] == *value));
        ensure!(same && entry["authority"] == "reviews:9080", "{line}");
    }

    log.telemetry("disabled: true")?;
    log.send("off", 200)?;
    log.telemetry("filter: {expression: 'response.code >= 400'}")?;
    log.send("fine", 200)?;
    reviews.behave("status=503")?;
    log.send("bad", 503)?;
    log.both("bad", SENT)?;
    reviews.behave("")?;
    mesh.kubectl_ok(&["delete", "telemetry", "logs"])?;
    log.until_logged("again")?;
    log.send("again", 200)?;
    log.both("again", SENT)?;
    // All that was written before the last lines is there by now.
    for nothing in ["silent", "silent-again", "off", "fine"] {
        let found = [log.of("reviews", nothing), log.of("client", nothing)];
        ensure!(found.iter().all(Vec::is_empty), "{nothing}: {found:?}");
    }

    let own = std::fs::read_to_string(mesh.folder().join("reviews.log"))?;
    let own_words = ["reviews serves /", "listening "];
    let foreign = own.lines().find(|line| !own_words.iter().any(|words| line.starts_with(words)));
    ensure!(foreign.is_none(), "in the service's own output: {foreign:?}");
    let said = own.lines().filter(|line| *line == "reviews serves /text").count();
    ensure!(said == SENT, "the service said {said} lines itself");
    let inside = std::fs::read_to_string(log.file("reviews"))?.contains("reviews serves");
    ensure!(!inside, "the service's output is in the proxy's log");
    Ok(())
}

/// A service that prints a line for each request.
fn saying(mesh: &Mesh) -> anyhow::Result<Workload> {
    let script = mesh.folder().join("reviews.script");
    std::fs::write(&script, "")?;
    let mut command = mesh.run("reviews", "reviews", &["--version", "v1", "--port", "http=9080"]);
    command.arg("--").arg(program("mizzen-e2e"));
    command.args(["serve", "--name", "reviews", "--say", "--script"]).arg(&script);
    mesh.spawn(command, "reviews", script)
}

struct Log<'a> {
    mesh: &'a Mesh,
}

impl Log<'_> {
    fn file(&self, name: &str) -> std::path::PathBuf {
        self.mesh.folder().join(format!("{name}.proxy.log"))
    }

    /// The lines of a proxy that tell of requests for this path.
    fn of(&self, name: &str, path: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        let (as_text, as_json) = (format!("GET /{path} HTTP"), format!("\"path\":\"/{path}\""));
        let of_path = |line: &&str| line.contains(&as_text) || line.contains(&as_json);
        text.lines().filter(of_path).map(str::to_owned).collect()
    }

    fn send(&self, path: &str, status: u16) -> anyhow::Result<()> {
        let (url, count) = (format!("{BASE}/{path}"), SENT.to_string());
        let report = self.mesh.load(&["--url", &url, "--count", &count])?;
        ensure!(report.status(status) == SENT as u64, "{report:?}");
        Ok(())
    }

    /// One line at each side for each request; all lines of both.
    fn both(&self, path: &str, count: usize) -> anyhow::Result<Vec<String>> {
        until_ok(&format!("each request for /{path} has its line"), PATIENCE, || {
            let (server, client) = (self.of("reviews", path), self.of("client", path));
            ensure!(server.len() == count && client.len() == count, "{} and {}", server.len(), client.len());
            Ok([server, client].concat())
        })
    }

    /// Sends single requests until lines are written in that form.
    fn until_logged(&self, form: &str) -> anyhow::Result<()> {
        let (probe, is_json) = (format!("probe-{form}"), form != "text");
        until(&format!("lines are written: {form}"), PATIENCE, || {
            let url = format!("{BASE}/{probe}");
            self.mesh.load(&["--url", &url, "--count", "1", "--connections", "1"]).ok()?;
            let written = |line: &String| line.starts_with('{') == is_json;
            self.of("reviews", &probe).iter().any(written).then_some(())
        })
    }

    fn telemetry(&self, rule: &str) -> anyhow::Result<()> {
        self.mesh.apply(&format!(
            "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: logs, namespace: default}}
spec: {{accessLogging: [{{{rule}}}]}}
"
        ))?;
        wait(self.mesh, &["telemetry", "logs"])
    }
}

/// `POST /logging` changes what a proxy says of itself at once; what it does not know it refuses by name.
pub(super) fn levels() -> anyhow::Result<()> {
    let mesh = Mesh::start()?;
    let post = |name: &str, query: &str| {
        let url = format!("http://127.0.0.1:15000/logging{query}");
        let load = ["--url", &url, "--method", "POST", "--count", "1", "--connections", "1", "--linger"];
        mesh.start_load_as(name, &[], &load)
    };
    let said = |name: &str| {
        let log = std::fs::read_to_string(mesh.folder().join(format!("{name}.proxy.log")));
        log.is_ok_and(|log| log.contains("DEBUG"))
    };
    let (mut quiet, mut loud) = (post("quiet", "")?, post("loud", "?paths=h2:debug")?);
    let (as_it_was, changed) = (quiet.counted()?, loud.counted()?);
    ensure!(as_it_was.ok() == 1 && as_it_was.last_body.contains("all: info"), "{as_it_was:?}");
    ensure!(
        changed.last_body.contains("all: info") && changed.last_body.contains("h2: debug"),
        "{changed:?}"
    );
    // A change of configuration comes by HTTP/2.
    configure(&mesh, &json!({"accessLogFile": "/dev/stdout"}))?;
    until("the proxy says more of itself", PATIENCE, || said("loud").then_some(()))?;
    ensure!(!said("quiet"), "another proxy says more as well");
    let wrong = post("wrong", "?level=deafening")?.counted()?;
    ensure!(wrong.status(400) == 1 && wrong.last_failure.contains("\"deafening\" is no level"), "{wrong:?}");
    Ok(())
}
