//! `mizzen delete`: by manifest or by name.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use kube::api::{DeleteParams, TypeMeta};
use kube::core::ApiResource;
use kube::discovery::ApiCapabilities;

use super::{Kinds, display, explain, manifests, place};
use crate::GlobalArgs;

/// Delete resources
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Kind, in any of its names
    #[arg(required_unless_present = "filename")]
    kind: Option<String>,
    /// Names
    #[arg(requires = "kind")]
    names: Vec<String>,
    /// File or folder with YAML or JSON; `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "kind")]
    filename: Vec<PathBuf>,
    /// Do not complain of what is not there
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

struct Target {
    resource: ApiResource,
    capabilities: ApiCapabilities,
    namespace: Option<String>,
    name: String,
}

pub(crate) async fn execute(args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let DeleteArgs { global, .. } = args;
    let kinds = Kinds::of(global.server.answering_client().await?).await?;
    let mut failed = false;
    for target in targets(args, &kinds)? {
        let shown = display(&target.resource, &target.name);
        let namespace = match place(target.namespace.as_deref(), global) {
            Ok(namespace) => namespace,
            Err(error) => {
                failed = true;
                eprintln!("error: {:#}", error.context(shown));
                continue;
            }
        };
        let api = kinds.api(&target.resource, &target.capabilities, Some(&namespace));
        match api.delete(&target.name, &DeleteParams::default()).await {
            Ok(_) => println!("{shown} deleted"),
            Err(kube::Error::Api(status)) if status.code == 404 && args.ignore_not_found => {}
            Err(error) => {
                failed = true;
                eprintln!("error: {:#}", explain(error).context(shown));
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn targets(args: &DeleteArgs, kinds: &Kinds) -> anyhow::Result<Vec<Target>> {
    if let Some(kind) = &args.kind {
        if args.names.is_empty() {
            bail!("name what to delete: `mizzen delete {kind} NAME`");
        }
        let (resource, capabilities) = kinds.named(kind)?;
        let target = |name: &String| Target {
            resource: resource.clone(),
            capabilities: capabilities.clone(),
            namespace: None,
            name: name.clone(),
        };
        return Ok(args.names.iter().map(target).collect());
    }
    let objects = manifests::read(&args.filename)?;
    objects
        .iter()
        .map(|object| {
            let types: TypeMeta =
                serde_json::from_value(object.clone()).context("an object without apiVersion or kind")?;
            let (resource, capabilities) = kinds.resolve(&types)?;
            let name =
                object["metadata"]["name"].as_str().context("an object without metadata.name")?.to_owned();
            let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
            Ok(Target { resource, capabilities, namespace, name })
        })
        .collect()
}
