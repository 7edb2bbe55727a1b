//! `mizzen wait`: done when every proxy concerned has accepted a change.
//!
//! A change is first taken in by the control plane, which is seen by its holding the very spec that the API server has
//! (or none, after a deletion), and is then accepted by the proxies, which is seen by the mesh being settled.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::GlobalArgs;
use crate::control::{ControlArgs, MeshStatus, escape};
use crate::objects::{Kinds, display, explain};
use crate::proxy_status::refusals;

const PAUSE: Duration = Duration::from_millis(100);
/// How long a mesh must stay settled after a change of a kind of which the control plane does not say what it holds.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen apply -f route.yaml && mizzen wait virtualservice reviews
  mizzen wait --for=deletion virtualservice reviews
  mizzen wait                       everything that is applied, everywhere
  mizzen wait vs reviews --timeout 2m || mizzen proxy-status")]
pub struct WaitArgs {
    /// Kind, in any of its names; without it, all changes so far are waited for
    #[arg(requires = "name")]
    kind: Option<String>,
    /// The resource's name
    name: Option<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t = For::Distribution, value_name = "WHAT")]
    what: For,
    /// How long at most: 30s, 2m
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum For {
    /// Every proxy concerned has accepted the resource as it is now
    Distribution,
    /// The resource is gone, and every proxy concerned has accepted that
    Deletion,
}

pub(crate) async fn execute(args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let WaitArgs { global, .. } = args;
    let end = Instant::now() + args.timeout;
    let about = match (&args.kind, &args.name) {
        (Some(kind), Some(name)) => Some(Target::find(args, global, kind, name).await?),
        _ if global.server.kubeconfig.is_some() || global.namespace().is_some() => {
            bail!(
                "without KIND NAME all changes are waited for, everywhere: leave --kubeconfig and --namespace out"
            )
        }
        _ if args.what == For::Deletion => bail!("--for=deletion needs KIND NAME: what is to be gone?"),
        _ => None,
    };
    if let Some(target) = &about
        && !target.taken_in(args, end).await?
    {
        eprintln!("{} has not been taken in by the control plane within {:?}", target.shown, args.timeout);
        return Ok(ExitCode::FAILURE);
    }
    let quiet = match &about {
        Some(target) if target.is_exact() => Duration::ZERO,
        _ => QUIET,
    };
    let (settled, status) = settle(&args.control, quiet, end).await?;
    let what = about.map_or_else(|| "everything".to_owned(), |target| target.shown);
    if settled {
        println!("{what}: accepted by all {} proxies", status.proxies.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", lag(&what, args.timeout, &status));
    Ok(ExitCode::FAILURE)
}

/// What is waited for.
struct Target {
    shown: String,
    api: kube::Api<DynamicObject>,
    kind: String,
    namespace: String,
    name: String,
    /// The kind, if it is one whose specs the control plane shows.
    known: Option<api::Kind>,
}

impl Target {
    async fn find(args: &WaitArgs, global: &GlobalArgs, kind: &str, name: &str) -> anyhow::Result<Self> {
        let kinds = Kinds::of(global.server.answering_client().await?).await?;
        let (resource, capabilities) = kinds.named(kind)?;
        let namespace = global.namespace().unwrap_or("default").to_owned();
        let api = kinds.api(&resource, &capabilities, Some(&namespace));
        let shown = display(&resource, name);
        if args.what == For::Distribution && api.get_opt(name).await.map_err(explain)?.is_none() {
            bail!("there is no {shown} in namespace {namespace}; apply it first");
        }
        let known = api::Kind::all().find(|known| {
            let info = known.info();
            info.name == resource.kind && info.group == resource.group && *known != api::Kind::WorkloadEntry
        });
        let kind = resource.kind.clone();
        Ok(Self { shown, api, kind, namespace, name: name.to_owned(), known })
    }

    fn is_exact(&self) -> bool {
        self.known.is_some()
    }

    /// Until the control plane holds what the API server has.
    async fn taken_in(&self, args: &WaitArgs, end: Instant) -> anyhow::Result<bool> {
        let path = format!(
            "/debug/configz?kind={}&namespace={}&name={}",
            self.kind,
            escape(&self.namespace),
            escape(&self.name)
        );
        loop {
            let stored = self.api.get_opt(&self.name).await.map_err(explain)?;
            let wanted = match (args.what, &stored) {
                (For::Deletion, None) => Some(None),
                (For::Deletion, Some(_)) => None,
                (For::Distribution, Some(object)) => Some(Some(object)),
                (For::Distribution, None) => bail!("{} was deleted meanwhile", self.shown),
            };
            if let Some(wanted) = wanted {
                let Some(kind) = self.known else { return Ok(true) };
                let held = args.control.get_opt(&path).await?;
                let spec = wanted.map(|object| spec(kind, object)).transpose()?;
                if held.map(|held| held["spec"].clone()) == spec {
                    return Ok(true);
                }
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            sleep(PAUSE).await;
        }
    }
}

/// The spec as the mesh understands it, which is how the control plane shows it.
fn spec(kind: api::Kind, object: &DynamicObject) -> anyhow::Result<Value> {
    let value = serde_json::to_value(object)?;
    let typed = api::parse(kind, &value).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("it can never be accepted: {}", errors.join("; "))
    })?;
    Ok(typed.to_json())
}

/// Until the mesh is settled and stays so for a while, or time is up.
async fn settle(control: &ControlArgs, quiet: Duration, end: Instant) -> anyhow::Result<(bool, MeshStatus)> {
    let mut since: Option<(u64, Instant)> = None;
    loop {
        let status = control.status().await?;
        let now = Instant::now();
        since = match since {
            Some((generation, began)) if status.is_settled() && generation == status.generation => {
                Some((generation, began))
            }
            _ if status.is_settled() => Some((status.generation, now)),
            _ => None,
        };
        if since.is_some_and(|(_, began)| now.duration_since(began) >= quiet) {
            return Ok((true, status));
        }
        if now >= end {
            return Ok((false, status));
        }
        sleep(PAUSE).await;
    }
}

/// Who has not accepted, and what they said.
fn lag(what: &str, timeout: Duration, status: &MeshStatus) -> String {
    let lagging: Vec<_> = status.lagging().collect();
    if lagging.is_empty() {
        return format!("{what}: the control plane still takes in changes after {timeout:?}\n");
    }
    let names: Vec<&str> = lagging.iter().map(|proxy| proxy.proxy.as_str()).collect();
    let count = (names.len(), status.proxies.len());
    let head = format!(
        "{what}: not accepted by {} of {} proxies within {timeout:?}: {}\n",
        count.0,
        count.1,
        names.join(", ")
    );
    format!("{head}{}", refusals(lagging))
}

/// `30s`, `2m`, `1h30m`, as kubectl writes them.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write 30s, 2m or 1h30m");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_written_as_in_kubectl() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "soon", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_lags_is_named_with_its_refusal() {
        let proxies = json!([
            {"proxy": "a.default", "synced": true, "generation": 2, "types": []},
            {"proxy": "b.default", "synced": false, "generation": 2, "types": [
                {"typeUrl": "t/envoy.config.cluster.v3.Cluster", "state": "NACK", "nack": "no"}]},
        ]);
        let status: MeshStatus =
            serde_json::from_value(json!({"generation": 2, "pending": false, "proxies": proxies})).unwrap();
        assert_eq!(
            lag("vs/reviews", Duration::from_secs(30), &status),
            "vs/reviews: not accepted by 1 of 2 proxies within 30s: b.default\n\nb.default refused CDS:\n  no\n"
        );
    }

    #[test]
    fn specs_are_compared_as_the_mesh_understands_them() {
        let object = |timeout: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a"},
                "spec": {"hosts": ["a"], "http": [{"timeout": timeout, "route": [{"destination": {"host": "a"}}]}]}
            }))
            .unwrap()
        };
        let spec = |timeout| spec(api::Kind::VirtualService, &object(timeout)).unwrap();
        assert_eq!(spec("1s"), spec("1000ms"));
        assert_ne!(spec("1s"), spec("2s"));
    }
}
