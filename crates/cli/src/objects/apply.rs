//! `mizzen apply`: server-side apply of manifests.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use http::header;
use http_body_util::BodyExt;
use kube::api::{DynamicObject, Patch, PatchParams, TypeMeta};
use kube::client::Body;
use kube::core::Request;
use kube::core::response::Status;
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::{Kinds, display, explain, manifests, place};
use crate::GlobalArgs;

/// Create or change resources
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// File or folder with YAML or JSON; `-` for standard input
    #[arg(long, short = 'f', required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Ask the server to check everything and store nothing
    #[arg(long)]
    dry_run: bool,
    /// Take over fields that others manage
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

pub(crate) async fn execute(args: &ApplyArgs) -> anyhow::Result<ExitCode> {
    let kinds = Kinds::of(args.global.server.answering_client().await?).await?;
    let mut failed = false;
    for value in manifests::read(&args.filename)? {
        match one(args, &kinds, value).await {
            Ok(line) => println!("{line}"),
            Err(error) => {
                failed = true;
                eprintln!("error: {error:#}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One object; the others do not suffer from its faults.
async fn one(args: &ApplyArgs, kinds: &Kinds, value: Value) -> anyhow::Result<String> {
    let object: DynamicObject =
        serde_json::from_value(value).context("an object without apiVersion or kind")?;
    let types: &TypeMeta = object.types.as_ref().context("an object without apiVersion or kind")?;
    let (resource, capabilities) = kinds.resolve(types)?;
    let name = object.metadata.name.clone().context("an object without metadata.name")?;
    let shown = display(&resource, &name);
    let namespace =
        place(object.metadata.namespace.as_deref(), &args.global).with_context(|| shown.clone())?;
    let api = kinds.api(&resource, &capabilities, Some(&namespace));

    let before = api.get_opt(&name).await.map_err(explain)?.and_then(|object| object.resource_version());
    let mut params = PatchParams::apply("mizzen").validation_strict();
    params.dry_run = args.dry_run;
    params.force = args.force;
    let stored = patch(&kinds.client, api.resource_url(), &name, &params, &object).await;
    let (after, warnings) = stored.map_err(|error| explain(error).context(shown.clone()))?;
    for warning in warnings {
        eprintln!("warning: {shown}: {warning}");
    }
    let after = after.resource_version();
    let outcome = match before {
        None => "created",
        Some(before) if Some(&before) == after.as_ref() => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{shown} {outcome}{}", if args.dry_run { " (dry run)" } else { "" }))
}

/// Server-side apply: what is stored then, and the server's warnings, which kube's own call drops.
async fn patch(
    client: &Client,
    url: &str,
    name: &str,
    params: &PatchParams,
    object: &DynamicObject,
) -> kube::Result<(DynamicObject, Vec<String>)> {
    let request = Request::new(url).patch(name, params, &Patch::Apply(object));
    let response = client.send(request.map_err(kube::Error::BuildRequest)?.map(Body::from)).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    if !parts.status.is_success() {
        let said = || {
            let text = String::from_utf8_lossy(&body);
            Status::failure(text.trim(), "Unknown").with_code(parts.status.as_u16())
        };
        let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| said());
        return Err(kube::Error::Api(status.boxed()));
    }
    let warnings =
        parts.headers.get_all(header::WARNING).iter().filter_map(|value| warning(value.to_str().ok()?));
    Ok((serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?, warnings.collect()))
}

/// The text of a header `299 - "text"`.
fn warning(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once(' ')?.1.trim();
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next()? } else { letter });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_without_their_quotes() {
        let read = warning(r#"299 - "no subset \"v9\" of a\\b""#);
        assert_eq!(read.as_deref(), Some(r#"no subset "v9" of a\b"#));
        for other in ["", "299", "199 - \"old\"", "299 - bare"] {
            assert_eq!(warning(other), None, "{other}");
        }
    }
}
