//! `mizzen analyze`: problems that only show when resources are seen beside each other.
//!
//! The rules are the model's (`model::Finding`), the same as those behind the resources' status.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use model::Severity;
use serde::Serialize;

use crate::GlobalArgs;
use crate::control::ControlArgs;
use crate::output::{Colour, Format, colours, paint};
use crate::snapshot::Seen;

/// istioctl's exit codes.
const FOUND: u8 = 79;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen analyze                          what is applied, in one namespace
  mizzen analyze -A                       in all namespaces
  mizzen analyze -f route.yaml            what is applied, and a change to it that is not
  mizzen analyze --use-api=false -f .     files alone

Exit code: 0 if nothing at or above the threshold is found, 79 if something is, 1 if it could not be looked at.")]
pub struct AnalyzeArgs {
    /// Files or folders that are not applied yet; `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Whether to look at what the API server has
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    use_api: bool,
    /// Findings of this severity and above make the exit code 79
    #[arg(long, value_enum, default_value_t = Level::Error)]
    failure_threshold: Level,
    /// How to show them [default: lines of text]
    #[arg(long, short, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Level {
    Info,
    Warning,
    Error,
}

impl From<Severity> for Level {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
            Severity::Info => Self::Info,
        }
    }
}

/// A finding as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    #[serde(skip)]
    level: Option<Level>,
    severity: &'static str,
    code: String,
    kind: String,
    namespace: String,
    name: String,
    field: String,
    message: String,
    hint: String,
}

pub(crate) async fn execute(args: &AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let AnalyzeArgs { global, .. } = args;
    ensure!(args.use_api || !args.filename.is_empty(), "nothing to look at: name files with --filename");
    ensure!(
        args.use_api || global.server.kubeconfig.is_none(),
        "--use-api=false asks no API server: leave --kubeconfig out"
    );
    ensure!(
        !(args.all_namespaces && args.filename.is_empty() && global.namespace().is_some()),
        "--all-namespaces looks at all: leave --namespace out"
    );
    let namespace = global.namespace().unwrap_or("default");
    let mut seen = if args.use_api { Seen::of(&global.server).await? } else { Seen::nothing() };
    if args.use_api {
        seen.learn_keys(&args.control).await;
    }
    if !args.filename.is_empty() {
        seen.add(&args.filename, namespace)?;
    }
    let namespaces = match global.namespace() {
        _ if args.all_namespaces => Namespaces::All,
        Some(name) => Namespaces::One(name),
        None => Namespaces::Usual(namespace),
    };
    let lines = lines(&seen, namespaces);
    match args.output {
        Some(format) => format.print(&lines)?,
        None if lines.is_empty() => {
            let place =
                if args.all_namespaces { "any namespace".into() } else { format!("namespace {namespace}") };
            println!("nothing found in {place}");
        }
        None => print!("{}", text(&lines, colours())),
    }
    let bad = lines.iter().any(|line| line.level.is_some_and(|level| level >= args.failure_threshold));
    Ok(if bad { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
enum Namespaces<'a> {
    All,
    /// The one that was asked for.
    One(&'a str),
    /// The one that is meant where none is asked for, and the mesh's own settings.
    Usual(&'a str),
}

impl Namespaces<'_> {
    fn have(self, line: &Line) -> bool {
        match self {
            Self::All => true,
            Self::One(name) => line.namespace == name,
            Self::Usual(name) => line.namespace == name || line.is_of_mesh(),
        }
    }
}

impl Line {
    fn is_of_mesh(&self) -> bool {
        self.kind == CONFIG_MAP && self.name == api::mesh::CONFIG_MAP
    }
}

/// The kind of what holds the mesh's settings.
const CONFIG_MAP: &str = "ConfigMap";

/// A kind as the API server calls it.
fn kind(name: String) -> String {
    if name == "Mesh" { CONFIG_MAP.to_owned() } else { name }
}

fn lines(seen: &Seen, namespaces: Namespaces<'_>) -> Vec<Line> {
    let unread = seen.problems.iter().flat_map(|problem| {
        problem.reasons.iter().map(|reason| Line {
            level: Some(Level::Error),
            severity: "Error",
            code: "Refused".into(),
            kind: kind(problem.kind.clone()),
            namespace: problem.name.namespace.to_string(),
            name: problem.name.name.to_string(),
            field: String::new(),
            message: reason.clone(),
            hint: String::new(),
        })
    });
    let found = seen.snapshot().findings().into_iter().map(|finding| Line {
        level: Some(finding.severity.into()),
        severity: match finding.severity {
            Severity::Error => "Error",
            Severity::Warning => "Warning",
            Severity::Info => "Info",
        },
        code: finding.code.into(),
        kind: kind(format!("{:?}", finding.about.kind)),
        namespace: finding.about.name.namespace.to_string(),
        name: finding.about.name.name.to_string(),
        field: finding.field,
        message: finding.message,
        hint: finding.hint,
    });
    let mut lines: Vec<Line> = unread.chain(found).collect();
    lines.retain(|line| line.namespace.is_empty() || namespaces.have(line));
    lines.sort_by_key(|line| std::cmp::Reverse(line.level));
    lines
}

fn text(lines: &[Line], coloured: bool) -> String {
    let mut text = String::new();
    for line in lines {
        let colour = match line.level {
            Some(Level::Error) => Colour::Red,
            Some(Level::Warning) => Colour::Yellow,
            _ => Colour::Cyan,
        };
        let severity = paint(coloured, colour, line.severity);
        let field = if line.field.is_empty() { String::new() } else { format!("{}: ", line.field) };
        let name = if line.namespace.is_empty() {
            line.name.clone()
        } else {
            format!("{}/{}", line.namespace, line.name)
        };
        text.push_str(&format!(
            "{severity} [{}] ({} {name}) {field}{}\n",
            line.code, line.kind, line.message
        ));
        if !line.hint.is_empty() {
            text.push_str(&format!("    {}\n", line.hint));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ROUTE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: v2}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: wrong, namespace: other}
spec: {hots: reviews}
";

    fn seen() -> Seen {
        let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        file.write_all(ROUTE.as_bytes()).unwrap();
        let mut seen = Seen::nothing();
        seen.add(&[file.path().to_path_buf()], "default").unwrap();
        seen
    }

    #[test]
    fn files_are_judged_beside_each_other() {
        let lines = lines(&seen(), Namespaces::Usual("default"));
        let shown = text(&lines, false);
        assert!(
            shown.starts_with(
                "Error [DanglingSubset] (VirtualService default/reviews) \
                 spec.http[0].route[0].destination.subset: no DestinationRule defines subset \"v2\""
            ),
            "{shown}"
        );
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn the_mesh_s_own_settings_are_judged_wherever_one_looks() {
        let of = |mesh: &str| {
            let text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
                 data: {{mesh: '{mesh}'}}\n"
            );
            let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let mut seen = Seen::nothing();
            seen.add(&[file.path().to_path_buf()], "default").unwrap();
            seen
        };
        let wrong = of("accessLogFormat: 100%");
        let shown = text(&lines(&wrong, Namespaces::Usual("default")), false);
        assert!(
            shown.starts_with("Error [Refused] (ConfigMap istio-system/istio) accessLogFormat: "),
            "{shown}"
        );
        assert_eq!(lines(&wrong, Namespaces::One("default")), []);
        let dangling = of("{extensionProviders: [{name: z, zipkin: {service: z.example, port: 9411}}], \
             defaultProviders: {tracing: [z]}}");
        let shown = text(&lines(&dangling, Namespaces::Usual("default")), false);
        assert!(
            shown.starts_with(
                "Error [DanglingProvider] (ConfigMap istio-system/istio) extensionProviders[0].zipkin.service: "
            ),
            "{shown}"
        );
    }

    #[test]
    fn what_would_be_refused_is_said_and_namespaces_are_kept_apart() {
        let lines = lines(&seen(), Namespaces::One("other"));
        assert!(lines.iter().all(|line| line.code == "Refused" && line.name == "wrong"), "{lines:?}");
        assert!(lines.iter().any(|line| line.message.contains("hots")), "{lines:?}");
        assert_eq!(super::lines(&seen(), Namespaces::All).len(), lines.len() + 1);
    }
}
