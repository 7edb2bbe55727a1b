//! Server and client against each other, from a seed: changes, rejections, delays and disconnects in any order. In the end
//! the client holds what the source has, and at no moment did it apply a reference to what it was told to drop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Random, SeededRandom};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::pb::envoy::config::cluster::v3 as cluster;
use proto::pb::envoy::config::core::v3 as core;
use proto::pb::envoy::config::endpoint::v3 as endpoint;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::{Layers, Rejection, Resource, ResourceType};

use super::{Request, Session};
use crate::client::{Client, ClientRequest, Ready, Response};
use crate::{Everything, Mode, Payloads, Source};

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoint;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Clusters with endpoints: for each name the versions of both, or nothing.
#[derive(Debug, Clone, Default)]
struct World {
    generation: u64,
    clusters: BTreeMap<&'static str, (u64, u64)>,
}

impl World {
    fn cluster(name: &str, version: u64) -> Resource {
        let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource::default());
        let eds_config =
            Some(core::ConfigSource { config_source_specifier: Some(ads), ..Default::default() });
        let body = cluster::Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
            eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
                eds_config,
                service_name: String::new(),
            }),
            alt_stat_name: version.to_string(),
            ..Default::default()
        };
        Resource { name: name.into(), version, body: Bytes::from(body.encode_to_vec()) }
    }

    fn endpoints(name: &str, version: u64) -> Resource {
        let locality = endpoint::LocalityLbEndpoints { priority: version as u32, ..Default::default() };
        let body = endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![locality],
            ..Default::default()
        };
        Resource { name: name.into(), version, body: Bytes::from(body.encode_to_vec()) }
    }

    fn change(&mut self, random: &mut SeededRandom) {
        self.generation += 1;
        let version = self.generation + 1;
        let name = NAMES[random.below(6) as usize];
        match random.below(4) {
            0 => {
                self.clusters.remove(name);
            }
            1 => self.clusters.entry(name).or_insert((version, version)).0 = version,
            _ => self.clusters.entry(name).or_insert((version, version)).1 = version,
        }
    }
}

impl Source for World {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn all(&self, t: ResourceType) -> Layers {
        let clusters = self.clusters.iter().filter(|_| t == CDS);
        let all: Vec<_> = clusters.map(|(name, (version, _))| Self::cluster(name, *version)).collect();
        let (some, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|resource| resource.version % 2 == 0);
        [some.into(), others.into()].into_iter().collect()
    }

    fn get(&self, t: ResourceType, name: &str) -> Option<Resource> {
        let (_, version) = self.clusters.get(name).filter(|_| t == EDS)?;
        Some(Self::endpoints(name, *version))
    }
}

struct Simulation {
    random: SeededRandom,
    world: World,
    payloads: Payloads,
    client: Client,
    session: Option<Session>,
    to_server: VecDeque<ClientRequest>,
    to_client: VecDeque<Response>,
    unjudged: VecDeque<Ready>,
    mode: Mode,
    now: Instant,
    /// What was applied: the bodies by type and name.
    applied: BTreeMap<(ResourceType, Arc<str>), Bytes>,
    rejecting: bool,
}

impl Simulation {
    fn new(seed: u64, mode: Mode) -> Self {
        let mut client = Client::new(mode, core::Node::default());
        client.subscribe_all(CDS);
        Self {
            random: SeededRandom::new(seed),
            world: World { generation: 1, ..World::default() },
            payloads: Payloads::new(1 << 16),
            client,
            session: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            unjudged: VecDeque::new(),
            mode,
            now: Instant::now(),
            applied: BTreeMap::new(),
            rejecting: true,
        }
    }

    fn step(&mut self, faults: bool) {
        match self.random.below(if faults { 12 } else { 8 }) {
            0 | 1 => self.serve(),
            2 | 3 => self.send(),
            4 => self.hear(),
            5 => self.listen(),
            6 => self.judge(),
            7 => {
                self.now += Duration::from_secs(1);
                self.client.release_overdue(self.now);
            }
            8..=10 => {
                self.world.change(&mut self.random);
                if let Some(session) = &mut self.session {
                    session.mark(&Everything, self.world.generation);
                }
            }
            _ if self.random.chance(1, 6) => self.disconnect(),
            _ => {}
        }
        while let Some(ready) = self.client.next_ready() {
            self.unjudged.push_back(ready);
        }
    }

    fn disconnect(&mut self) {
        self.session = None;
        self.client.disconnected();
        self.to_server.clear();
        self.to_client.clear();
    }

    fn serve(&mut self) {
        if self.session.is_none() {
            self.session = Some(Session::new(self.mode));
            self.client.connected();
        }
        let Some(session) = &mut self.session else { return };
        let Some(out) = session.next(&self.world, &self.payloads, self.now) else { return };
        let bytes = [&[out.head][..], out.payload.parts.as_slice()].concat().concat();
        self.to_client.push_back(match self.mode {
            Mode::Sotw => Response::Sotw(pb::DiscoveryResponse::decode(bytes.as_slice()).unwrap()),
            Mode::Delta => Response::Delta(pb::DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap()),
        });
    }

    fn send(&mut self) {
        while let Some(request) = self.client.next_request() {
            self.to_server.push_back(request);
        }
    }

    fn hear(&mut self) {
        let (Some(session), Some(request)) = (&mut self.session, self.to_server.pop_front()) else { return };
        session.receive(match request {
            ClientRequest::Sotw(request) => Request::from(request),
            ClientRequest::Delta(request) => Request::from(request),
        });
    }

    fn listen(&mut self) {
        if let Some(response) = self.to_client.pop_front() {
            self.client.receive(response, self.now);
        }
    }

    fn judge(&mut self) {
        let Some(ready) = self.unjudged.pop_front() else { return };
        let mut rejections = Vec::new();
        for delta in &ready.deltas {
            for resource in &delta.changed {
                if self.rejecting && self.random.chance(1, 10) {
                    rejections.push(Rejection {
                        resource_type: delta.resource_type,
                        name: Arc::clone(&resource.name),
                        field: "name".into(),
                        reason: "not today".into(),
                    });
                } else {
                    self.applied
                        .insert((delta.resource_type, Arc::clone(&resource.name)), resource.body.clone());
                }
            }
            for name in &delta.removed {
                self.applied.remove(&(delta.resource_type, Arc::clone(name)));
            }
        }
        self.client.verdict(ready.ticket, &rejections);
    }

    fn settle(&mut self) {
        // What was refused for no reason comes again with its next version.
        self.rejecting = false;
        self.world.generation += 1;
        let version = self.world.generation + 1;
        for versions in self.world.clusters.values_mut() {
            *versions = (version, version);
        }
        if let Some(session) = &mut self.session {
            session.mark(&Everything, self.world.generation);
        }
        for _ in 0..2000 {
            self.step(false);
        }
    }
}

fn run(seed: u64, mode: Mode) {
    let mut simulation = Simulation::new(seed, mode);
    for _ in 0..400 {
        simulation.step(true);
    }
    simulation.settle();
    let expected: BTreeSet<_> =
        simulation.world.all(CDS).resources().map(|r| (r.name.to_string(), r.body.clone())).collect();
    let of = |t: ResourceType| {
        let applied = simulation.applied.iter().filter(move |((of, _), _)| *of == t);
        applied.map(|((_, name), body)| (name.to_string(), body.clone())).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(CDS), expected, "clusters, seed {seed}");
    for name in simulation.world.clusters.keys() {
        let want = simulation.world.get(EDS, name).unwrap();
        let got = simulation.applied.get(&(EDS, want.name.clone()));
        assert_eq!(got, Some(&want.body), "endpoints of {name}, seed {seed}");
    }
    let session = simulation.session.as_ref().unwrap();
    assert!(session.is_synced(), "seed {seed}: {:?}", session.status().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_client_ends_up_with_what_the_source_has(seed in any::<u64>()) {
        run(seed, Mode::Sotw);
        run(seed, Mode::Delta);
    }
}
