//! What a client asked for, holds, and must say next.
//!
//! New clusters and listeners wait ("warm") until what they refer to has come or a deadline has passed; then they are
//! handed over together, clusters and endpoints before listeners and routes. Whoever applies them gives a verdict, and
//! only then a response is acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use proto::pb::envoy::config::core::v3::Node;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::pb::google::protobuf::Any;
use proto::pb::google::rpc;
use proto::{Delta, Rejection, Resource, ResourceType, table_of_host};

use super::references::{Reference, references};
use crate::Mode;

/// How long what is new waits for what it refers to.
const WARMING: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq)]
pub enum ClientRequest {
    Sotw(pb::DiscoveryRequest),
    Delta(pb::DeltaDiscoveryRequest),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Sotw(pb::DiscoveryResponse),
    Delta(pb::DeltaDiscoveryResponse),
}

/// Changes that are complete and may be applied, in this order. The ticket goes back with the verdict.
#[derive(Debug)]
pub struct Ready {
    pub deltas: Vec<Delta>,
    pub ticket: Ticket,
}

/// The responses that wait for a verdict.
#[derive(Debug)]
pub struct Ticket {
    responses: Vec<Answer>,
    stream: u64,
}

#[derive(Debug, Clone)]
struct Answer {
    resource_type: ResourceType,
    nonce: String,
    version_info: String,
}

#[derive(Debug)]
struct Held {
    delta: Delta,
    answer: Answer,
    needs: BTreeSet<Reference>,
    deadline: Instant,
}

#[derive(Debug, Default)]
struct Type {
    wildcard: bool,
    /// Asked for by the caller, and because something held refers to it.
    asked: BTreeSet<Arc<str>>,
    referred: BTreeSet<Arc<str>>,
    /// What somebody else refers to, who says so again when that changes.
    wanted: BTreeSet<Arc<str>>,
    /// What is held: the version as the server calls it, and the hash of the content. `None`: known not to exist.
    held: BTreeMap<Arc<str>, Option<(String, u64)>>,
    version_info: String,
    nonce: String,
    /// Delta: the names that the stream's server was told.
    told: BTreeSet<Arc<str>>,
    told_wildcard: bool,
    started: bool,
}

/// The client's end of one stream after another.
#[derive(Debug)]
pub struct Client {
    mode: Mode,
    node: Node,
    types: BTreeMap<ResourceType, Type>,
    held: Vec<Held>,
    /// Responses without a verdict, with the names that they speak of.
    unjudged: Vec<(ResourceType, String, Vec<Arc<str>>)>,
    references: BTreeMap<(ResourceType, Arc<str>), Vec<Reference>>,
    outbox: VecDeque<ClientRequest>,
    ready: VecDeque<Ready>,
    stream: u64,
    connected: bool,
    node_sent: bool,
    /// What resources refer to is asked for elsewhere.
    alone: bool,
    hasher: ahash::RandomState,
}

/// Resources by type and name.
pub type Names = Arc<BTreeSet<(ResourceType, Arc<str>)>>;

impl Client {
    pub fn new(mode: Mode, node: Node) -> Self {
        Self {
            mode,
            node,
            types: BTreeMap::new(),
            held: Vec::new(),
            unjudged: Vec::new(),
            references: BTreeMap::new(),
            outbox: VecDeque::new(),
            ready: VecDeque::new(),
            stream: 0,
            connected: false,
            node_sent: false,
            alone: false,
            hasher: ahash::RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    /// A client of one type's own service: what its resources refer to is not asked for here.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Wants everything of a type.
    pub fn subscribe_all(&mut self, resource_type: ResourceType) {
        self.types.entry(resource_type).or_default().wildcard = true;
        self.tell(resource_type);
    }

    /// Wants these names of a type, beside those that clusters and listeners refer to.
    pub fn subscribe(&mut self, resource_type: ResourceType, names: impl IntoIterator<Item = Arc<str>>) {
        self.types.entry(resource_type).or_default().asked.extend(names);
        self.tell(resource_type);
    }

    pub fn unsubscribe(&mut self, resource_type: ResourceType, names: &[Arc<str>]) {
        if let Some(state) = self.types.get_mut(&resource_type) {
            for name in names {
                state.asked.remove(name);
            }
        }
        self.tell(resource_type);
    }

    /// Wants these, in the place of those that were named so before.
    pub fn want(&mut self, names: &Names) {
        for (t, _) in names.iter() {
            self.types.entry(*t).or_default();
        }
        let types: Vec<_> = self.types.keys().copied().collect();
        for t in types {
            let of_type = names.iter().filter(|(u, _)| *u == t).map(|(_, name)| name.clone()).collect();
            if let Some(state) = self.types.get_mut(&t).filter(|state| state.wanted != of_type) {
                state.wanted = of_type;
                self.tell(t);
            }
        }
    }

    /// Whether there is anything to ask for.
    pub fn asks(&self) -> bool {
        let asks =
            |s: &Type| s.wildcard || !(s.asked.is_empty() && s.referred.is_empty() && s.wanted.is_empty());
        self.types.values().any(asks)
    }

    /// A stream is open: everything is asked for again, with what is held.
    pub fn connected(&mut self) {
        self.stream += 1;
        self.connected = true;
        self.node_sent = false;
        self.outbox.clear();
        for state in self.types.values_mut() {
            state.nonce.clear();
            state.told.clear();
            state.told_wildcard = false;
            state.started = false;
        }
        let types: Vec<_> = self.types.keys().copied().collect();
        for resource_type in types {
            self.tell(resource_type);
        }
    }

    /// The stream broke. What was applied stays; what was not judged yet is dropped and will come again.
    pub fn disconnected(&mut self) {
        self.connected = false;
        for (t, _, names) in std::mem::take(&mut self.unjudged) {
            if let Some(state) = self.types.get_mut(&t) {
                state.held.extend(names.into_iter().map(|name| (name, unknown())));
            }
        }
        self.outbox.clear();
        self.held.clear();
        self.ready.clear();
    }

    /// The next request to send.
    pub fn next_request(&mut self) -> Option<ClientRequest> {
        self.outbox.pop_front()
    }

    /// The next changes to apply.
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// When [`release_overdue`](Self::release_overdue) wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.deadline).min()
    }

    /// Hands over what waited too long for what it refers to.
    pub fn release_overdue(&mut self, now: Instant) {
        for held in &mut self.held {
            if held.deadline <= now {
                held.needs.clear();
            }
        }
        self.release();
    }

    /// Takes a response.
    pub fn receive(&mut self, response: Response, now: Instant) {
        let Some((delta, answer)) = self.read(response) else { return };
        let resource_type = delta.resource_type;
        self.refer(&delta);
        let state = self.types.entry(resource_type).or_default();
        state.nonce.clone_from(&answer.nonce);
        let names = delta.changed.iter().map(|r| &r.name).chain(&delta.removed).cloned().collect();
        if matches!(resource_type, ResourceType::ScopedRoute | ResourceType::VirtualHost) {
            for held in &mut self.held {
                held.needs.retain(|(t, _)| *t != resource_type);
            }
        }
        self.unjudged.push((resource_type, answer.nonce.clone(), names));
        let needs = self.needs(&delta);
        // A table whose virtual hosts are still to come is not yet what its listener waits for.
        if needs.is_empty() || resource_type != ResourceType::Route {
            self.came(&delta);
        }
        self.held.push(Held { delta, answer, needs, deadline: now + WARMING });
        self.release();
        self.tell_all();
    }

    /// The verdict on changes: those rejected are named to the server, all others count as held.
    pub fn verdict(&mut self, ticket: Ticket, rejections: &[Rejection]) {
        if ticket.stream != self.stream || !self.connected {
            return;
        }
        for answer in ticket.responses {
            self.unjudged.retain(|(t, nonce, _)| *t != answer.resource_type || *nonce != answer.nonce);
            let reasons: Vec<_> = rejections
                .iter()
                .filter(|rejection| rejection.resource_type == answer.resource_type)
                .map(|rejection| format!("{}: {}: {}", rejection.name, rejection.field, rejection.reason))
                .collect();
            if let Some(state) = self.types.get_mut(&answer.resource_type) {
                for rejection in rejections.iter().filter(|r| r.resource_type == answer.resource_type) {
                    // What was refused must come again on the next stream; an older version may be in use.
                    state.held.insert(Arc::clone(&rejection.name), unknown());
                }
                if reasons.is_empty() {
                    state.version_info.clone_from(&answer.version_info);
                }
            }
            let error = (!reasons.is_empty()).then(|| reasons.join("; "));
            self.answer(&answer, error);
        }
    }

    /// Reads a response into what changed; one that cannot be read is refused as a whole.
    fn read(&mut self, response: Response) -> Option<(Delta, Answer)> {
        let (url, nonce, version_info) = match &response {
            Response::Sotw(r) => (&r.type_url, &r.nonce, &r.version_info),
            Response::Delta(r) => (&r.type_url, &r.nonce, &r.system_version_info),
        };
        let resource_type = ResourceType::from_url(url)?;
        let answer = Answer { resource_type, nonce: nonce.clone(), version_info: version_info.clone() };
        let read = match response {
            Response::Sotw(response) => self.read_sotw(resource_type, response),
            Response::Delta(response) => self.read_delta(resource_type, response),
        };
        match read {
            Ok(delta) => Some((delta, answer)),
            Err(reason) => {
                self.types.entry(resource_type).or_default().nonce.clone_from(&answer.nonce);
                self.answer(&answer, Some(reason));
                None
            }
        }
    }

    fn read_sotw(&mut self, t: ResourceType, response: pb::DiscoveryResponse) -> Result<Delta, String> {
        let mut resources = Vec::with_capacity(response.resources.len());
        for any in response.resources {
            let any = unwrapped(any)?;
            check_type(t, &any.type_url)?;
            let body = Bytes::from(any.value);
            let name = name_of(t, &body)?;
            resources.push(self.resource(name, body));
        }
        let state = self.types.entry(t).or_default();
        let names: BTreeSet<_> = resources.iter().map(|resource| Arc::clone(&resource.name)).collect();
        let mut removed = Vec::new();
        if t.is_complete() {
            removed.extend(state.held.keys().filter(|name| !names.contains(*name)).cloned());
            for name in &removed {
                state.held.remove(name);
            }
        }
        let mut changed = Vec::new();
        for resource in resources {
            let held = Some((String::new(), resource.version));
            if state.held.get(&resource.name) != Some(&held) {
                state.held.insert(Arc::clone(&resource.name), held);
                changed.push(resource);
            }
        }
        Ok(Delta { resource_type: t, changed, removed })
    }

    fn read_delta(&mut self, t: ResourceType, response: pb::DeltaDiscoveryResponse) -> Result<Delta, String> {
        let mut changed = Vec::with_capacity(response.resources.len());
        let mut versions = Vec::with_capacity(response.resources.len());
        let mut removed: Vec<Arc<str>> = response.removed_resources.into_iter().map(Arc::from).collect();
        for resource in response.resources {
            let Some(any) = resource.resource else {
                // That is how it is said that a host which was asked for does not exist.
                if t != ResourceType::VirtualHost {
                    return Err(format!("{}: the resource is missing", resource.name));
                }
                removed.extend([resource.name].into_iter().chain(resource.aliases).map(Arc::from));
                continue;
            };
            check_type(t, &any.type_url)?;
            changed.push(self.resource(resource.name.into(), Bytes::from(any.value)));
            versions.push(resource.version);
        }
        let state = self.types.entry(t).or_default();
        for (resource, version) in changed.iter().zip(versions) {
            state.held.insert(Arc::clone(&resource.name), Some((version, resource.version)));
        }
        for name in &removed {
            if state.told.contains(name) {
                state.held.insert(Arc::clone(name), None);
            } else {
                state.held.remove(name);
            }
        }
        Ok(Delta { resource_type: t, changed, removed })
    }

    fn resource(&self, name: Arc<str>, body: Bytes) -> Resource {
        Resource { version: self.hasher.hash_one(&body), name, body }
    }

    /// Learns what the changed resources refer to.
    fn refer(&mut self, delta: &Delta) {
        let t = delta.resource_type;
        if self.alone
            || !matches!(
                t,
                ResourceType::Cluster
                    | ResourceType::Listener
                    | ResourceType::Route
                    | ResourceType::ScopedRoute
            )
        {
            return;
        }
        for resource in &delta.changed {
            self.references.insert((t, Arc::clone(&resource.name)), references(t, resource));
        }
        for name in &delta.removed {
            self.references.remove(&(t, Arc::clone(name)));
        }
        let mut wanted: BTreeMap<ResourceType, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (to, name) in self.references.values().flatten() {
            wanted.entry(*to).or_default().insert(name.as_str().into());
        }
        if wanted.contains_key(&ResourceType::ScopedRoute) {
            self.types.entry(ResourceType::ScopedRoute).or_default().wildcard = true;
        }
        for to in
            [ResourceType::Endpoint, ResourceType::Route, ResourceType::VirtualHost, ResourceType::Secret]
        {
            let names = wanted.remove(&to).unwrap_or_default();
            if !names.is_empty() || self.types.contains_key(&to) {
                self.types.entry(to).or_default().referred = names;
            }
        }
    }

    /// What the changed resources refer to and has not come. Secrets may come later: their listeners say so themselves.
    fn needs(&self, delta: &Delta) -> BTreeSet<Reference> {
        let of =
            |resource: &Resource| self.references.get(&(delta.resource_type, Arc::clone(&resource.name)));
        let missing = |(t, name): &&Reference| {
            // Of these it is not known which there are.
            if matches!(*t, ResourceType::ScopedRoute | ResourceType::VirtualHost) {
                return self.types.get(t).is_none_or(|state| state.nonce.is_empty() && state.held.is_empty());
            }
            *t != ResourceType::Secret
                && self.types.get(t).is_none_or(|state| !state.held.contains_key(name.as_str()))
        };
        delta.changed.iter().filter_map(of).flatten().filter(missing).cloned().collect()
    }

    /// Hands over what is complete. Of one type nothing overtakes what waits, and no listener or route overtakes a cluster
    /// that it may lead to.
    fn release(&mut self) {
        use ResourceType as T;
        let mut waiting = BTreeSet::new();
        let mut parts = Vec::new();
        for held in std::mem::take(&mut self.held) {
            let t = held.delta.resource_type;
            let leads = matches!(t, T::Listener | T::Route | T::VirtualHost | T::ScopedRoute);
            let behind = waiting.contains(&t) || (leads && waiting.contains(&T::Cluster));
            if behind || !held.needs.is_empty() {
                waiting.insert(t);
                self.held.push(held);
            } else {
                parts.push((held.delta, held.answer));
            }
        }
        if parts.is_empty() {
            return;
        }
        parts.sort_by_key(|(delta, _)| delta.resource_type);
        let (deltas, responses): (Vec<Delta>, _) = parts.into_iter().unzip();
        let is_waited_for = |d: &&Delta| d.resource_type == T::Route && !self.held.is_empty();
        let tables: Vec<Delta> = deltas.iter().filter(is_waited_for).cloned().collect();
        self.ready.push_back(Ready { deltas, ticket: Ticket { responses, stream: self.stream } });
        if !tables.is_empty() {
            tables.iter().for_each(|delta| self.came(delta));
            self.release();
        }
    }

    /// Nobody waits for these any more.
    fn came(&mut self, delta: &Delta) {
        for name in delta.changed.iter().map(|resource| &resource.name).chain(&delta.removed) {
            for held in &mut self.held {
                held.needs.remove(&(delta.resource_type, name.to_string()));
            }
        }
    }

    fn tell_all(&mut self) {
        use ResourceType as T;
        for t in [T::ScopedRoute, T::Endpoint, T::Route, T::VirtualHost, T::Secret] {
            self.tell(t);
        }
    }

    /// Tells the server what is wanted of a type, if that differs from what it was told.
    fn tell(&mut self, t: ResourceType) {
        let Some(state) = self.types.get_mut(&t).filter(|_| self.connected) else { return };
        let mut wanted: BTreeSet<_> = state.asked.union(&state.referred).cloned().collect();
        wanted.extend(state.wanted.iter().cloned());
        if state.started && wanted == state.told && state.wildcard == state.told_wildcard {
            return;
        }
        if !state.started && wanted.is_empty() && !state.wildcard {
            return;
        }
        let first = !state.started;
        let subscribe: Vec<_> = wanted.difference(&state.told).cloned().collect();
        let unsubscribe: Vec<_> = state.told.difference(&wanted).cloned().collect();
        let was_wildcard = std::mem::replace(&mut state.told_wildcard, state.wildcard);
        state.started = true;
        if !state.wildcard {
            state.held.retain(|name, _| wanted.contains(name) || is_of_a_table(t, name, &wanted));
        }
        state.told = wanted;
        let node = (!std::mem::replace(&mut self.node_sent, true)).then(|| self.node.clone());
        let text = |names: &[Arc<str>]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        self.outbox.push_back(match self.mode {
            Mode::Sotw => ClientRequest::Sotw(pb::DiscoveryRequest {
                node,
                version_info: state.version_info.clone(),
                type_url: t.url().to_owned(),
                response_nonce: state.nonce.clone(),
                resource_names: sotw_names(state),
                ..Default::default()
            }),
            Mode::Delta => {
                let mut subscribe = text(&subscribe);
                if state.wildcard && !was_wildcard && (!first || !subscribe.is_empty()) {
                    subscribe.push("*".to_owned());
                }
                let initial = state.held.iter().filter(|_| first);
                let initial =
                    initial.filter_map(|(name, held)| Some((name.to_string(), held.as_ref()?.0.clone())));
                ClientRequest::Delta(pb::DeltaDiscoveryRequest {
                    node,
                    type_url: t.url().to_owned(),
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: text(&unsubscribe),
                    initial_resource_versions: initial.collect(),
                    ..Default::default()
                })
            }
        });
    }

    fn answer(&mut self, answer: &Answer, error: Option<String>) {
        let Some(state) = self.types.get(&answer.resource_type) else { return };
        let error_detail = error.map(|message| rpc::Status { code: 3, message, details: Vec::new() });
        let type_url = answer.resource_type.url().to_owned();
        let response_nonce = answer.nonce.clone();
        self.outbox.push_back(match self.mode {
            Mode::Sotw => ClientRequest::Sotw(pb::DiscoveryRequest {
                version_info: state.version_info.clone(),
                type_url,
                response_nonce,
                resource_names: sotw_names(state),
                error_detail,
                ..Default::default()
            }),
            Mode::Delta => ClientRequest::Delta(pb::DeltaDiscoveryRequest {
                type_url,
                response_nonce,
                error_detail,
                ..Default::default()
            }),
        });
    }
}

fn sotw_names(state: &Type) -> Vec<String> {
    let mut names: Vec<_> = state.told.iter().map(|name| name.to_string()).collect();
    if state.wildcard && !names.is_empty() {
        names.push("*".to_owned());
    }
    names
}

/// Virtual hosts are wanted by the name of their table, which stands before their own.
fn is_of_a_table(t: ResourceType, name: &str, wanted: &BTreeSet<Arc<str>>) -> bool {
    t == ResourceType::VirtualHost && table_of_host(name).is_some_and(|table| wanted.contains(table))
}

/// A version that differs from every other, so that the resource is sent again or removed.
fn unknown() -> Option<(String, u64)> {
    Some((String::new(), 0))
}

/// A resource may come with its name and version around it.
fn unwrapped(any: Any) -> Result<Any, String> {
    if !any.type_url.ends_with("/envoy.service.discovery.v3.Resource") {
        return Ok(any);
    }
    let wrapper = pb::Resource::decode(any.value.as_slice()).map_err(|e| e.to_string())?;
    wrapper.resource.ok_or_else(|| format!("{}: the resource is missing", wrapper.name))
}

fn check_type(t: ResourceType, url: &str) -> Result<(), String> {
    if url == t.url() { Ok(()) } else { Err(format!("a resource of type {url:?} stands among those of {t}")) }
}

/// What a resource of that type calls itself.
pub fn name_of_any(t: ResourceType, any: &Any) -> Result<Arc<str>, String> {
    let any = unwrapped(any.clone())?;
    check_type(t, &any.type_url)?;
    name_of(t, &any.value)
}

/// State of the world does not repeat the name outside of the resource.
fn name_of(t: ResourceType, body: &[u8]) -> Result<Arc<str>, String> {
    let field = match t {
        // `cluster_name` and `name` are the first field of all of these.
        ResourceType::Cluster
        | ResourceType::Endpoint
        | ResourceType::Listener
        | ResourceType::Route
        | ResourceType::VirtualHost
        | ResourceType::ScopedRoute
        | ResourceType::Secret
        | ResourceType::ExtensionConfig => 1,
        _ => return Ok("".into()),
    };
    crate::payload::string_field(body, field)
        .map(Arc::from)
        .ok_or_else(|| format!("a resource of type {t} has no name or cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
    use proto::pb::envoy::config::core::v3::{AggregatedConfigSource, ConfigSource, config_source};

    fn response(t: ResourceType, nonce: &str, name: &str, body: &impl prost::Message) -> Response {
        let resource = Any { type_url: t.url().into(), value: body.encode_to_vec() };
        let resource = pb::Resource { name: name.into(), resource: Some(resource), ..Default::default() };
        Response::Delta(pb::DeltaDiscoveryResponse {
            type_url: t.url().into(),
            nonce: nonce.into(),
            resources: vec![resource],
            ..Default::default()
        })
    }

    /// A subset comes and traffic moves to it at once: requests must not be led to where nobody is yet.
    #[test]
    fn a_route_waits_for_the_cluster_before_it() {
        let ads = config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
        let eds = ConfigSource { config_source_specifier: Some(ads), ..Default::default() };
        let cluster = Cluster {
            name: "new".into(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(3)),
            eds_cluster_config: Some(cluster::EdsClusterConfig {
                eds_config: Some(eds),
                service_name: String::new(),
            }),
            ..Default::default()
        };
        let now = Instant::now();
        let mut client = Client::new(Mode::Delta, Node::default());
        client.subscribe_all(ResourceType::Cluster);
        client.subscribe(ResourceType::Route, ["80".into()]);
        client.connected();
        client.receive(response(ResourceType::Cluster, "1", "new", &cluster), now);
        let empty = pb::DiscoveryRequest::default();
        client.receive(response(ResourceType::Route, "2", "80", &empty), now);
        assert!(client.next_ready().is_none(), "the endpoints are not there yet");
        client.receive(response(ResourceType::Endpoint, "3", "new", &empty), now);
        let ready = client.next_ready().expect("all is there");
        let types: Vec<_> = ready.deltas.iter().map(|delta| delta.resource_type).collect();
        assert_eq!(types, [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Route]);
    }

    /// A listener that routes by scopes waits for them, and they for their tables.
    #[test]
    fn scopes_are_asked_for_by_listeners_and_ask_for_tables() {
        use proto::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
        use proto::pb::envoy::config::route::v3::ScopedRouteConfiguration;
        use proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
        let ads = config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
        let source = Some(ConfigSource { config_source_specifier: Some(ads), ..Default::default() });
        let scoped = hcm::ScopedRds { scoped_rds_config_source: source, ..Default::default() };
        let scoped = hcm::ScopedRoutes {
            config_specifier: Some(hcm::scoped_routes::ConfigSpecifier::ScopedRds(scoped)),
            ..Default::default()
        };
        let manager = hcm::HttpConnectionManager {
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::ScopedRoutes(scoped)),
            ..Default::default()
        };
        let manager = Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager".into(),
            value: prost::Message::encode_to_vec(&manager),
        };
        let filter = Filter { name: "h".into(), config_type: Some(ConfigType::TypedConfig(manager)) };
        let chain = FilterChain { filters: vec![filter], ..Default::default() };
        let listener = Listener { name: "l".into(), filter_chains: vec![chain], ..Default::default() };
        let scope = ScopedRouteConfiguration {
            name: "s".into(),
            route_configuration_name: "table".into(),
            ..Default::default()
        };
        let now = Instant::now();
        let mut client = Client::new(Mode::Delta, Node::default());
        client.subscribe_all(ResourceType::Listener);
        client.connected();
        let asked = |client: &mut Client| {
            let mut all = Vec::new();
            while let Some(request) = client.next_request() {
                let ClientRequest::Delta(request) = request else { continue };
                all.push((request.type_url, request.resource_names_subscribe));
            }
            all
        };
        asked(&mut client);
        client.receive(response(ResourceType::Listener, "1", "l", &listener), now);
        assert_eq!(asked(&mut client), [(ResourceType::ScopedRoute.url().to_owned(), vec![])], "all of them");
        assert!(client.next_ready().is_none());
        client.receive(response(ResourceType::ScopedRoute, "2", "s", &scope), now);
        assert_eq!(asked(&mut client), [(ResourceType::Route.url().to_owned(), vec!["table".to_owned()])]);
        let empty = pb::DiscoveryRequest::default();
        client.receive(response(ResourceType::Route, "3", "table", &empty), now);
        let mut types = Vec::new();
        while let Some(ready) = client.next_ready() {
            types.extend(ready.deltas.iter().map(|delta| delta.resource_type));
        }
        types.sort();
        let mut all = [ResourceType::Listener, ResourceType::Route, ResourceType::ScopedRoute];
        all.sort();
        assert_eq!(types, all);
    }

    /// A table is not there before its virtual hosts are, nor its listener before it; hosts are held by their table's name.
    #[test]
    fn a_table_waits_for_its_virtual_hosts() {
        use proto::pb::envoy::config::route::v3::{RouteConfiguration, Vhds};
        let ads = config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
        let source = Some(ConfigSource { config_source_specifier: Some(ads), ..Default::default() });
        let table = RouteConfiguration {
            name: "r".into(),
            vhds: Some(Vhds { config_source: source }),
            ..Default::default()
        };
        let now = Instant::now();
        let mut client = Client::new(Mode::Delta, Node::default());
        client.subscribe(ResourceType::Route, ["r".into()]);
        client.connected();
        client.receive(response(ResourceType::Route, "1", "r", &table), now);
        assert!(client.next_ready().is_none(), "the virtual hosts are not there yet");
        let hosts = |names: &[&str], nonce: &str| {
            let resource = |name: &&str| pb::Resource {
                name: (*name).into(),
                version: "1".into(),
                // One of a domain does not exist.
                resource: (!name.contains('.'))
                    .then(|| Any { type_url: ResourceType::VirtualHost.url().into(), value: Vec::new() }),
                ..Default::default()
            };
            Response::Delta(pb::DeltaDiscoveryResponse {
                type_url: ResourceType::VirtualHost.url().into(),
                nonce: nonce.into(),
                resources: names.iter().map(resource).collect(),
                ..Default::default()
            })
        };
        client.receive(hosts(&["r/one"], "2"), now);
        let ready = client.next_ready().expect("all is there");
        let types: Vec<_> = ready.deltas.iter().map(|delta| delta.resource_type).collect();
        assert_eq!(types, [ResourceType::Route, ResourceType::VirtualHost]);
        client.verdict(ready.ticket, &[]);
        let wanted = [(ResourceType::VirtualHost, "r/a.example".into())];
        client.want(&Arc::new(wanted.into_iter().collect()));
        client.receive(hosts(&["r/a.example"], "3"), now);
        let ready = client.next_ready().expect("the answer");
        assert_eq!((ready.deltas[0].changed.len(), ready.deltas[0].removed.len()), (0, 1));
        client.verdict(ready.ticket, &[]);
        client.disconnected();
        client.connected();
        let mut held = Vec::new();
        while let Some(request) = client.next_request() {
            let ClientRequest::Delta(request) = request else { continue };
            if request.type_url == ResourceType::VirtualHost.url() {
                held.extend(request.initial_resource_versions.into_keys());
            }
        }
        assert_eq!(held, ["r/one"]);
    }
}
