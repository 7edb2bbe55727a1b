//! From a checked object of Istio's API to the world's own form of it.

use api::{Object as Api, Typed};

use crate::change::Object;
use crate::config::Config;
use crate::kube::{created, name};
use crate::source::{Labels, Workload};

impl Object {
    /// `None` for an object without a name, which no API server serves.
    pub fn from_api(object: Api) -> Option<Self> {
        let meta = &object.metadata;
        let (name, created, generation) = (name(meta)?, created(meta), meta.generation);
        macro_rules! config {
            ($($kind:ident),*) => {
                match object.spec {
                    $(Typed::$kind(spec) => {
                        Object::$kind(Config::new(name, created, *spec).at_generation(generation))
                    })*
                    Typed::WorkloadEntry(spec) => {
                        let labels: Labels = meta.labels.clone().unwrap_or_default();
                        Object::WorkloadEntry(Workload::from_entry(name, &spec, &labels))
                    }
                }
            };
        }
        Some(config!(
            VirtualService,
            DestinationRule,
            Gateway,
            ServiceEntry,
            Sidecar,
            WorkloadGroup,
            ProxyConfig,
            AuthorizationPolicy,
            PeerAuthentication,
            RequestAuthentication,
            Telemetry
        ))
    }
}
