//! A real browser: headless Chromium, driven by its driver over WebDriver's plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::peers;

use crate::until;

/// The driver's own; every scenario has a network namespace of its own.
const PORT: u16 = 9515;
const PATIENCE: Duration = Duration::from_secs(30);
/// How WebDriver writes a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Ends with its holder.
pub struct Browser {
    driver: Child,
    session: String,
    /// Its profile.
    _folder: TempDir,
}

impl Browser {
    /// Starts one, or says what is missing.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let (Some(driver), Some(chromium)) = (peers::need("chromedriver"), peers::need("chromium")) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let driver = Command::new(driver)
            .args([&format!("--port={PORT}"), "--silent"])
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver")?;
        let mut browser = Self { driver, session: String::new(), _folder: folder };
        until("the driver listens", PATIENCE, || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok())?;
        let profile = format!("--user-data-dir={}", browser._folder.path().display());
        // Its sandbox needs what root in a container has not; its pages are our own.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let arguments: Vec<&str> =
            arguments.into_iter().chain(["--window-size=1600,1000", profile.as_str()]).collect();
        let options = json!({"binary": chromium, "args": arguments});
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let made = ask("POST", "/session", &wanted)?;
        browser.session = made["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Some(browser))
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        ask(method, &format!("/session/{}{path}", self.session), body)
    }

    pub fn open(&self, url: &str) -> anyhow::Result<()> {
        self.command("POST", "/url", &json!({"url": url})).map(drop)
    }

    /// Runs a function's body in the page and returns what it returns.
    pub fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// A click as a person's: on what is seen there.
    pub fn click(&self, css: &str) -> anyhow::Result<()> {
        let found = until(&format!("{css} is there"), PATIENCE, || {
            self.command("POST", "/element", &json!({"using": "css selector", "value": css})).ok()
        })?;
        let element = found[ELEMENT].as_str().context("no element")?;
        self.command("POST", &format!("/element/{element}/click"), &json!({}))
            .with_context(|| format!("click {css}"))
            .map(drop)
    }

    /// Types into a field, in the place of what was there.
    pub fn fill(&self, css: &str, text: &str) -> anyhow::Result<()> {
        let script = format!(
            "const e = document.querySelector({css}); if (!e) return false;
             Object.getOwnPropertyDescriptor(Object.getPrototypeOf(e), 'value').set.call(e, {text});
             e.dispatchEvent(new Event('input', {{bubbles: true}})); e.dispatchEvent(new Event('change', {{bubbles: true}}));
             return true",
            css = json!(css),
            text = json!(text)
        );
        until(&format!("{css} is there"), PATIENCE, || self.run(&script).ok().filter(|done| *done == true))
            .map(drop)
    }

    /// What an element shows; nothing where there is none.
    pub fn text(&self, css: &str) -> anyhow::Result<Option<String>> {
        let found =
            self.run(&format!("return document.querySelector({})?.textContent ?? null", json!(css)))?;
        Ok(found.as_str().map(str::to_owned))
    }

    /// Waits until an element shows that.
    pub fn until_shows(&self, css: &str, wanted: &str) -> anyhow::Result<String> {
        let mut last = None;
        let shown = until(&format!("{css} shows {wanted:?}"), PATIENCE, || {
            last = self.text(css).ok().flatten();
            last.clone().filter(|text| text.contains(wanted))
        });
        shown.with_context(|| format!("it shows {last:?}"))
    }

    /// Keeps a picture of the page.
    pub fn picture(&self, file: &Path) -> anyhow::Result<()> {
        let picture = self.command("GET", "/screenshot", &Value::Null)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap_or_default())?;
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        Ok(std::fs::write(file, bytes)?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes its browser with it.
        let _ = self.command("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// One command to the driver; its refusal is an error.
fn ask(method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{PORT}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut bytes = vec![0; length];
    answer.read_exact(&mut bytes)?;
    let mut value: Value = serde_json::from_slice(&bytes)?;
    let value = value["value"].take();
    if let (Some(error), Some(message)) = (value["error"].as_str(), value["message"].as_str()) {
        bail!("{error}: {}", message.lines().next().unwrap_or_default());
    }
    Ok(value)
}
