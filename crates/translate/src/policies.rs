//! Which of the policies of a kind speak about a workload.

use std::sync::Arc;

use api::LabelSelector;
use api::security::{AuthorizationPolicy, RequestAuthentication};
use model::{Config, Configs, Key, Kind, Snapshot};

use crate::build::Context;
use crate::scope::Facet;

/// A policy for the workloads that it selects.
pub(crate) trait Policy {
    fn selector(&self) -> Option<&LabelSelector>;
    /// It is for a resource of the Gateway API instead.
    fn is_attached(&self) -> bool;
}

macro_rules! policy {
    ($($type:ty),*) => {$(
        impl Policy for $type {
            fn selector(&self) -> Option<&LabelSelector> {
                self.selector.as_ref()
            }

            fn is_attached(&self) -> bool {
                self.target_ref.is_some() || !self.target_refs.is_empty()
            }
        }
    )*};
}

policy!(AuthorizationPolicy, RequestAuthentication);

pub(crate) fn root<'a>(context: &Context<'a>) -> &'a Arc<str> {
    context.reader.read(Key::Mesh).root_namespace()
}

/// The root namespace's that select the workload, then those of its own namespace.
pub(crate) fn selecting<T: Policy>(
    context: &Context<'_>,
    kind: Kind,
    all: fn(&Snapshot) -> &Arc<Configs<T>>,
) -> Vec<Arc<Config<T>>> {
    let namespace = &context.reader.facets(Facet::Namespace).namespace;
    let root = root(context);
    let mut places = vec![root];
    if namespace != root {
        places.push(namespace);
    }
    let mut found = Vec::new();
    for place in places {
        let snapshot = context.reader.read(Key::KindIn(kind, Arc::clone(place)));
        for policy in all(snapshot).in_namespace(place) {
            let selects = |selector: &LabelSelector| {
                selector.match_labels.is_empty()
                    || selector.selects(&context.reader.facets(Facet::Labels).labels)
            };
            if !policy.spec.is_attached() && policy.spec.selector().is_none_or(selects) {
                found.push(Arc::clone(policy));
            }
        }
    }
    found
}
