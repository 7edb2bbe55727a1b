//! Questions to servers that are reached from here: one request, and its answer.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// GETs a URL.
pub fn ask(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fetch(url, headers))
}

/// The same for whoever has a runtime.
pub async fn fetch(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let mut request = Request::get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.body(Full::<Bytes>::default())?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// The JSON of an answer that is 200.
pub fn ask_json(url: &str, headers: &[(&str, &str)]) -> anyhow::Result<serde_json::Value> {
    let answer = ask(url, headers)?;
    ensure!(answer.status == 200, "{url}: {answer:?}");
    serde_json::from_str(&answer.body).with_context(|| format!("{url}: {}", answer.body))
}

/// Text as part of a query.
pub fn escape(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
