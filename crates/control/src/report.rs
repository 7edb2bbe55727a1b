//! Writes into users' resources what the mesh makes of them: Istio's condition `Reconciled`, `validationMessages` and
//! `observedGeneration`.
//!
//! The findings are those of `mizzen analyze`. Nothing is written twice: a resource is touched when it, or what is found
//! about it, has changed, and only if its status says something else. What changes only the status changes neither,
//! so that no write leads to another.

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::NamespacedName;
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use model::{Finding, Kind, ObjectRef, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use self::verdict::Verdict;
use crate::judge::Judge;

const MANAGER: &str = "mizzen-control";
/// More of the same comes together: it is looked at when nothing else came for this long.
const QUIET: Duration = Duration::from_millis(200);
/// Endpoints come and go all the time, and few findings speak of them.
const ENDPOINTS: Duration = Duration::from_secs(3);
/// What could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Writes that are under way at once.
const AT_ONCE: usize = 8;

/// Reports about resources, for ever.
pub struct Reporter {
    client: kube::Client,
    published: watch::Receiver<Snapshot>,
    serving: watch::Receiver<bool>,
    refused: mpsc::Receiver<registry::Problem>,
    told: BTreeMap<ObjectRef, Told>,
}

/// What was last written, or found written, about a resource.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    revision: u64,
    generation: i64,
    findings: Vec<Finding>,
}

/// What became of a report.
enum Outcome {
    /// It stands there now.
    Done,
    /// Another version of the resource is there already; what the mesh makes of that comes later.
    Other,
    Failed,
}

impl Reporter {
    /// About what that judge knows; `refused` are the objects that the registries could not read.
    pub fn new(client: kube::Client, judge: &Judge, refused: mpsc::Receiver<registry::Problem>) -> Self {
        let (published, serving) = (judge.published.clone(), judge.serving.clone());
        Self { client, published, serving, refused, told: BTreeMap::new() }
    }

    pub async fn run(mut self) {
        // Before everything was read, most things seem to be missing.
        if self.serving.wait_for(|serving| *serving).await.is_err() {
            return;
        }
        let mut refused = BTreeSet::new();
        let mut again = Some(Instant::now());
        let mut judged: Option<Snapshot> = None;
        while self.wait(judged.as_ref(), &mut refused, again).await {
            let snapshot = self.published.borrow_and_update().clone();
            judged = Some(snapshot.clone());
            let Ok(wanted) = tokio::task::spawn_blocking(move || wanted(&snapshot)).await else { return };
            let pending = self.write(wanted, &mut refused).await;
            again = pending.then(|| Instant::now() + AGAIN);
        }
    }

    /// Waits until there is something to look at, and a moment longer for more of it. False when the control plane ends.
    async fn wait(
        &mut self,
        judged: Option<&Snapshot>,
        refused: &mut BTreeSet<ObjectRef>,
        again: Option<Instant>,
    ) -> bool {
        let mut due = again;
        loop {
            tokio::select! {
                () = sleep_until(due), if due.is_some() => return true,
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let now = Instant::now();
                    let only_endpoints =
                        judged.is_some_and(|judged| judged.diff(&self.published.borrow()).only_endpoints());
                    let next = now + if only_endpoints { ENDPOINTS } else { QUIET };
                    due = Some(due.map_or(next, |due| due.min(next)));
                }
                Some(problem) = self.refused.recv() => {
                    if let Some(kind) = KINDS.into_iter().find(|kind| format!("{kind:?}") == problem.kind) {
                        refused.insert(ObjectRef { kind, name: problem.name });
                        let next = Instant::now() + QUIET;
                        due = Some(due.map_or(next, |due| due.min(next)));
                    }
                }
            }
        }
    }

    /// Writes what differs from what was told; whether something is left to be tried again.
    async fn write(&mut self, wanted: BTreeMap<ObjectRef, Told>, refused: &mut BTreeSet<ObjectRef>) -> bool {
        self.told.retain(|at, _| wanted.contains_key(at));
        let changed = wanted.into_iter().filter(|(at, told)| self.told.get(at) != Some(told));
        let jobs: Vec<(ObjectRef, Option<Told>)> = changed
            .map(|(at, told)| (at, Some(told)))
            .chain(std::mem::take(refused).into_iter().map(|at| (at, None)))
            .collect();
        let client = &self.client;
        let reports = futures::stream::iter(jobs).map(|(at, told)| async move {
            let outcome = report(client, &at, told.as_ref()).await;
            (at, told, outcome)
        });
        let outcomes: Vec<_> = reports.buffer_unordered(AT_ONCE).collect().await;
        let mut left = false;
        for (at, told, outcome) in outcomes {
            match (outcome, told) {
                (Outcome::Done, Some(told)) => {
                    self.told.insert(at, told);
                }
                (Outcome::Done | Outcome::Other, _) => {}
                (Outcome::Failed, told) => {
                    left = true;
                    if told.is_none() {
                        refused.insert(at);
                    }
                }
            }
        }
        left
    }
}

/// The kinds that are reported about. WorkloadEntries are not: their status says whether they are healthy.
const KINDS: [Kind; 11] = [
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::Gateway,
    Kind::ServiceEntry,
    Kind::Sidecar,
    Kind::WorkloadGroup,
    Kind::ProxyConfig,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::RequestAuthentication,
    Kind::Telemetry,
];

/// What is to be told about every resource.
fn wanted(snapshot: &Snapshot) -> BTreeMap<ObjectRef, Told> {
    let mut all = BTreeMap::new();
    macro_rules! resources {
        ($($kind:ident = $list:ident),*) => {$(
            for config in snapshot.$list().iter() {
                let at = ObjectRef { kind: Kind::$kind, name: config.name.clone() };
                let (revision, generation) = (config.revision, config.generation);
                all.insert(at, Told { revision, generation, findings: Vec::new() });
            }
        )*};
    }
    resources!(
        VirtualService = virtual_services,
        DestinationRule = destination_rules,
        Gateway = gateways,
        ServiceEntry = service_entries,
        Sidecar = sidecars,
        WorkloadGroup = workload_groups,
        ProxyConfig = proxy_configs,
        AuthorizationPolicy = authorization_policies,
        PeerAuthentication = peer_authentications,
        RequestAuthentication = request_authentications,
        Telemetry = telemetries
    );
    for finding in snapshot.findings() {
        if let Some(told) = all.get_mut(&finding.about) {
            told.findings.push(finding);
        }
    }
    all
}

/// Looks at the resource as it is stored and writes its status if it should say something else. Without `told` the
/// registries could not read it.
async fn report(client: &kube::Client, at: &ObjectRef, told: Option<&Told>) -> Outcome {
    match try_report(client, at, told).await {
        Ok(outcome) => outcome,
        // Gone, or its kind has no status here.
        Err(kube::Error::Api(status)) if status.code == 404 => Outcome::Done,
        Err(kube::Error::Api(status)) if status.code == 409 => {
            debug!(about = %at, "somebody else wrote it at the same time");
            Outcome::Failed
        }
        Err(error) => {
            warn!(about = %at, %error, "the status of a resource could not be written");
            Outcome::Failed
        }
    }
}

async fn try_report(client: &kube::Client, at: &ObjectRef, told: Option<&Told>) -> kube::Result<Outcome> {
    let resources = api_of(client, at.kind, &at.name);
    let mut object = resources.get(&at.name.name).await?;
    let generation = object.metadata.generation.unwrap_or_default();
    let value = serde_json::to_value(&object).map_err(kube::Error::SerdeError)?;
    let verdict = match told {
        Some(told) if told.generation != generation => return Ok(Outcome::Other),
        Some(told) => Verdict::accepted(&told.findings),
        None => match refusals(&value) {
            errors if errors.is_empty() => return Ok(Outcome::Done),
            errors => Verdict::refused(&errors),
        },
    };
    let now = jiff::Timestamp::now();
    let Some(status) = verdict.status(&value["status"], generation, now) else { return Ok(Outcome::Done) };
    object.data["status"] = status;
    let params = PostParams { dry_run: false, field_manager: Some(MANAGER.into()) };
    resources.replace_status(&at.name.name, &params, &object).await?;
    Ok(Outcome::Done)
}

fn refusals(object: &serde_json::Value) -> Vec<api::FieldError> {
    match api::kind_of(object) {
        Ok(kind) => api::validate(kind, object).errors,
        Err(error) => vec![error],
    }
}

fn api_of(client: &kube::Client, kind: Kind, name: &NamespacedName) -> Api<DynamicObject> {
    let kind_name = format!("{kind:?}");
    let info = api::Kind::all().map(api::Kind::info).find(|info| info.name == kind_name);
    let (group, version, plural) = info.map_or(("", "", ""), |info| (info.group, info.storage, info.plural));
    let gvk = GroupVersionKind::gvk(group, version, &kind_name);
    let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
    Api::namespaced_with(client.clone(), &name.namespace, &resource)
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_reported_about_has_its_place_in_the_api() {
        for kind in KINDS {
            let info = api::Kind::all().map(api::Kind::info).find(|info| info.name == format!("{kind:?}"));
            assert!(info.is_some_and(|info| info.status), "{kind:?}");
        }
    }
}
