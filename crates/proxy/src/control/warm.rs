//! Listeners that wait until what they refer to has come, while their last form serves.

use std::sync::Arc;
use std::time::Instant;

use decide::{Listener, Origin, RouteSource, Terminal};
use proto::{Delta, Rejection, Resource, ResourceType};

use super::Control;
use super::sources::{Came, WAIT};

/// A listener that is good and not yet served.
pub(super) struct Warming {
    pub(super) resource: Resource,
    came: Came,
    listener: Arc<Listener>,
    since: Instant,
}

impl Control {
    /// Takes out of a change of listeners, which the plan has taken already, those that must wait; true if there are any.
    pub(super) fn hold_back(
        &mut self,
        delta: &mut Delta,
        came: Came,
        bad: &dyn Fn(&Arc<str>) -> bool,
    ) -> bool {
        for name in &delta.removed {
            self.warming.remove(name);
            self.refer_no_more(ResourceType::Listener, name);
        }
        let mut waiting = Vec::new();
        delta.changed.retain(|resource| {
            let listener = self.plan.listener(&resource.name).filter(|_| !bad(&resource.name)).cloned();
            let held = listener.filter(|listener| self.must_wait(listener, came));
            if let Some(listener) = &held {
                waiting.push((resource.clone(), listener.clone()));
            }
            held.is_none()
        });
        for resource in &delta.changed {
            self.warming.remove(&resource.name);
            self.refer_no_more(ResourceType::Listener, &resource.name);
        }
        let any = !waiting.is_empty();
        for (resource, listener) in waiting {
            self.refer(ResourceType::Listener, &resource.name, came, true);
            let name = resource.name.clone();
            self.warming.insert(name, Warming { resource, came, listener, since: Instant::now() });
        }
        any
    }

    fn must_wait(&self, listener: &Listener, came: Came) -> bool {
        let of_its_own = |origin: &Origin| came != Came::Ads || *origin != Origin::Ads;
        let lacks_routes = listener.all_chains().any(|chain| match &chain.terminal {
            Terminal::Http(hcm) => match &hcm.routes {
                RouteSource::Rds { id, origin, name } => {
                    let table = self.plan.route_table(*id);
                    let lacks_hosts = |from: &Origin| of_its_own(from) && !self.sources.has_told_hosts(from);
                    table.is_some_and(|table| table.vhds.as_ref().is_some_and(lacks_hosts))
                        || (of_its_own(origin)
                            && table.is_none()
                            && !self.sources.is_absent(ResourceType::Route, name))
                }
                // Those of scopes come over the aggregated stream, whose server keeps the order.
                RouteSource::Inline(_) | RouteSource::Scoped(_) => false,
            },
            _ => false,
        });
        // At the start nothing is let in before there is somewhere to lead it.
        lacks_routes || (!self.settled && self.is_short_of(ResourceType::Endpoint))
    }

    /// Whether something that is referred to has not come, and may still come.
    pub(super) fn is_short_of(&self, t: ResourceType) -> bool {
        !self.sources.is_late() && self.sources.awaited(t).any(|key| !self.resources.contains_key(&(t, key)))
    }

    /// Serves the listeners that need not wait any more.
    pub(super) async fn release(&mut self) -> Vec<Rejection> {
        let over = |w: &Warming| w.since.elapsed() >= WAIT || !self.must_wait(&w.listener, w.came);
        let names: Vec<_> =
            self.warming.iter().filter(|(_, w)| over(w)).map(|(name, _)| name.clone()).collect();
        let mut rejections = Vec::new();
        for name in names {
            let Some(warming) = self.warming.remove(&name) else { continue };
            self.refer_no_more(ResourceType::Listener, &name);
            let delta = Delta {
                resource_type: ResourceType::Listener,
                changed: vec![warming.resource],
                removed: Vec::new(),
            };
            rejections.extend(self.apply_now(vec![delta], warming.came).await);
        }
        for rejection in &rejections {
            tracing::warn!(%rejection, "refused");
        }
        rejections
    }
}
