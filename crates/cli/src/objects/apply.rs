//! `mizzen apply`: server-side apply of manifests.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams, TypeMeta};
use kube::core::GroupVersionKind;
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
    let gvk = GroupVersionKind::try_from(types).with_context(|| types.api_version.clone())?;
    let (resource, capabilities) = kinds
        .discovery
        .resolve_gvk(&gvk)
        .with_context(|| format!("the API server has no {} in {}", types.kind, types.api_version))?;
    let name = object.metadata.name.clone().context("an object without metadata.name")?;
    let shown = display(&resource, &name);
    let namespace =
        place(object.metadata.namespace.as_deref(), &args.global).with_context(|| shown.clone())?;
    let api = kinds.api(&resource, &capabilities, Some(&namespace));

    let before = api.get_opt(&name).await.map_err(explain)?.and_then(|object| object.resource_version());
    let mut params = PatchParams::apply("mizzen").validation_strict();
    params.dry_run = args.dry_run;
    params.force = args.force;
    let after = api
        .patch(&name, &params, &Patch::Apply(&object))
        .await
        .map_err(|error| explain(error).context(shown.clone()))?
        .resource_version();
    let outcome = match before {
        None => "created",
        Some(before) if Some(&before) == after.as_ref() => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{shown} {outcome}{}", if args.dry_run { " (dry run)" } else { "" }))
}
