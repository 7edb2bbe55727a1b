//! `mizzen get`: resources as a table, YAML or JSON.

use std::process::ExitCode;

use anyhow::Context;
use http::{Request, header};
use serde_json::Value;

use super::{Kinds, display, explain};
use crate::GlobalArgs;

/// Show resources
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Kind, in any of its names: virtualservices, vs, Service …
    kind: String,
    /// Name; all of the kind when absent
    name: Option<String>,
    /// In all namespaces
    #[arg(long, short = 'A', conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// Only those with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "name")]
    selector: Option<String>,
    /// How to show them
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) async fn execute(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let GetArgs { global, .. } = args;
    let kinds = Kinds::of(global.server.answering_client().await?).await?;
    let (resource, capabilities) = kinds.named(&args.kind)?;
    let namespace = global.namespace().unwrap_or("default");
    let api = kinds.api(&resource, &capabilities, (!args.all_namespaces).then_some(namespace));
    let mut url = api.resource_url().to_owned();
    if let Some(name) = &args.name {
        url = format!("{url}/{name}");
    }
    if let Some(selector) = &args.selector {
        let escaped: String = selector.bytes().map(|b| format!("%{b:02X}")).collect();
        url = format!("{url}?labelSelector={escaped}");
    }
    let is_table = matches!(args.output, Format::Table | Format::Wide);
    let accept = if is_table { TABLE } else { "application/json" };
    let request = Request::get(url).header(header::ACCEPT, accept).body(Vec::new())?;
    let found: Value = kinds.client.request(request).await.map_err(explain)?;
    match args.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Format::Yaml => print!("{}", serde_yaml_ng::to_string(&found)?),
        Format::Name => {
            let items =
                found["items"].as_array().map_or_else(|| vec![&found], |items| items.iter().collect());
            for name in items.iter().filter_map(|item| item["metadata"]["name"].as_str()) {
                println!("{}", display(&resource, name));
            }
        }
        Format::Table | Format::Wide => {
            let text =
                table(&found, args.output == Format::Wide, args.all_namespaces).context("not a table")?;
            if text.is_empty() {
                eprintln!("no {} found", resource.plural);
            }
            print!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The server's table, its columns aligned; columns of lower priority only when it may be wide.
fn table(table: &Value, wide: bool, with_namespace: bool) -> Option<String> {
    let columns: Vec<(usize, &str)> = table["columnDefinitions"]
        .as_array()?
        .iter()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .filter_map(|(index, column)| Some((index, column["name"].as_str()?)))
        .collect();
    let rows = table["rows"].as_array()?;
    if rows.is_empty() {
        return Some(String::new());
    }
    let namespace =
        |row: &Value| row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head: Vec<String> = columns.iter().map(|(_, name)| name.to_ascii_uppercase()).collect();
    if with_namespace {
        head.insert(0, "NAMESPACE".into());
    }
    lines.push(head);
    for row in rows {
        let mut cells: Vec<String> = columns.iter().map(|(index, _)| cell(&row["cells"][*index])).collect();
        if with_namespace {
            cells.insert(0, namespace(row));
        }
        lines.push(cells);
    }
    Some(crate::table::align(&lines))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn narrow_tables_leave_out_what_has_low_priority() {
        let answer = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Hosts", "priority": 1}],
            "rows": [{"cells": ["reviews", ["a", "b"]], "object": {"metadata": {"namespace": "default"}}}]
        });
        assert_eq!(table(&answer, false, false).unwrap(), "NAME\nreviews\n");
        assert_eq!(
            table(&answer, true, true).unwrap(),
            "NAMESPACE   NAME      HOSTS\ndefault     reviews   a,b\n"
        );
    }
}
