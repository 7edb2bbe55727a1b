//! Which module builds which type of resource, and what they share.

use std::sync::Arc;

use model::{Key, Mesh};
use proto::{Resource, ResourceType};

use crate::memo::Reader;
use crate::node::NodeKind;
use crate::scope::Facet;
use crate::translator::{Memo, Part};
use crate::view::{Services, VirtualServices};
use crate::{cluster, endpoint, gateway, listener, nds, roots, route, secret};

/// What a build may use: the reader, and results remembered before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) memo: &'a Memo,
}

impl<'a> Context<'a> {
    pub(crate) fn mesh(&self) -> &'a Arc<Mesh> {
        self.reader.read(Key::Mesh).mesh()
    }

    pub(crate) fn services(&self) -> Arc<Services> {
        self.memo.services.get(self.reader, &(), |reader| Arc::new(Services::build(reader)))
    }

    pub(crate) fn virtual_services(&self) -> Arc<VirtualServices> {
        self.memo.virtual_services.get(self.reader, &(), |reader| Arc::new(VirtualServices::build(reader)))
    }

    pub(crate) fn part(
        &self,
        part: &Part,
        build: impl FnOnce(&Context<'_>) -> Option<Resource>,
    ) -> Option<Resource> {
        let memo = self.memo;
        memo.parts.get(self.reader, part, |reader| build(&Context { reader, memo }))
    }

    pub(crate) fn is_router(&self) -> bool {
        self.reader.facets(Facet::Kind).kind == NodeKind::Router
    }

    /// Whether Istio's own extensions may be sent.
    pub(crate) fn extensions(&self) -> bool {
        self.reader.facets(Facet::Extensions).extensions
    }
}

/// The resources of a type that many scopes have in common.
pub(crate) fn common(context: &Context<'_>, of: ResourceType) -> Vec<Resource> {
    match of {
        ResourceType::Cluster => cluster::outbound_all(context),
        ResourceType::Endpoint => endpoint::all(context),
        ResourceType::Listener if !context.is_router() => listener::outbound_all(context),
        ResourceType::Route if !context.is_router() => route::all(context),
        ResourceType::NameTable => nds::all(context),
        ResourceType::ProxyConfig => roots::all(context),
        _ => Vec::new(),
    }
}

/// The other resources of a type; none of a type that this control plane does not serve.
pub(crate) fn own(context: &Context<'_>, of: ResourceType) -> Vec<Resource> {
    match of {
        ResourceType::Cluster => cluster::inbound_all(context),
        ResourceType::Listener if context.is_router() => gateway::listeners(context),
        ResourceType::Listener => listener::inbound_all(context),
        ResourceType::Route if context.is_router() => gateway::routes(context),
        ResourceType::Secret => secret::all(context),
        _ => Vec::new(),
    }
}
