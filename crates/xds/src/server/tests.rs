//! The session against requests written by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;
use proto::pb::envoy::service::discovery::v3 as pb;
use proto::{Layers, Resource, ResourceType};

use super::*;
use crate::{Everything, Mode, Payloads, Source};

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoint;
const LDS: ResourceType = ResourceType::Listener;

/// A source made of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) generation: u64,
    pub(super) resources: BTreeMap<(ResourceType, Arc<str>), u64>,
    /// What went a moment ago.
    pub(super) gone: BTreeMap<(ResourceType, Arc<str>), u64>,
}

impl Table {
    pub(super) fn of(entries: &[(ResourceType, &str, u64)]) -> Self {
        let resources = entries.iter().map(|(t, name, version)| ((*t, Arc::from(*name)), *version)).collect();
        Self { generation: 1, resources, gone: BTreeMap::new() }
    }

    fn resource(name: &Arc<str>, version: u64) -> Resource {
        // Field 1 is the name, as in all of Envoy's resources; the version makes the body differ.
        let mut body = vec![0x0a, name.len() as u8];
        body.extend(name.as_bytes());
        body.extend([0xf8, 0x07]);
        prost::encoding::encode_varint(version, &mut body);
        Resource { name: Arc::clone(name), version, body: Bytes::from(body) }
    }
}

impl Source for Table {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn all(&self, t: ResourceType) -> Layers {
        let of_type = self.resources.iter().filter(|((of, _), _)| *of == t);
        let all: Vec<_> = of_type.map(|((_, name), version)| Self::resource(name, *version)).collect();
        // In two layers, as the control plane has them: one that seldom changes and one of the client's own.
        let (common, own): (Vec<_>, Vec<_>) = all.into_iter().partition(|resource| resource.version % 2 == 0);
        [common.into(), own.into()].into_iter().collect()
    }

    fn get(&self, t: ResourceType, name: &str) -> Option<Resource> {
        let (key, version) = self.resources.get_key_value(&(t, name.into()))?;
        Some(Self::resource(&key.1, *version))
    }

    fn gone(&self, t: ResourceType, name: &str) -> Option<Resource> {
        let (key, version) = self.gone.get_key_value(&(t, name.into()))?;
        Some(Self::resource(&key.1, *version))
    }
}

struct Peer {
    session: Session,
    payloads: Payloads,
    now: Instant,
}

impl Peer {
    fn new(mode: Mode) -> Self {
        Self { session: Session::new(mode), payloads: Payloads::new(1 << 20), now: Instant::now() }
    }

    fn sotw(&mut self, t: ResourceType, names: &[&str], nonce: &str, error: Option<&str>) -> Received {
        let error = error.map(|m| proto::pb::google::rpc::Status { message: m.into(), ..Default::default() });
        self.session.receive(Request::from(pb::DiscoveryRequest {
            type_url: t.url().into(),
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            response_nonce: nonce.into(),
            error_detail: error,
            ..Default::default()
        }))
    }

    fn delta(&mut self, t: ResourceType, subscribe: &[&str], unsubscribe: &[&str], nonce: &str) -> Received {
        self.session.receive(Request::from(pb::DeltaDiscoveryRequest {
            type_url: t.url().into(),
            resource_names_subscribe: subscribe.iter().map(|n| (*n).to_owned()).collect(),
            resource_names_unsubscribe: unsubscribe.iter().map(|n| (*n).to_owned()).collect(),
            response_nonce: nonce.into(),
            ..Default::default()
        }))
    }

    /// The next response as `type names -removed`.
    fn next(&mut self, source: &Table) -> Option<(String, String)> {
        let out = self.session.next(source, &self.payloads, self.now)?;
        let bytes = [&[out.head][..], out.payload.parts.as_slice()].concat().concat();
        let short = |t: ResourceType| format!("{t:?}");
        Some(match self.session.mode() {
            Mode::Delta => {
                let response = pb::DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
                let names: Vec<_> = response.resources.iter().map(|r| r.name.clone()).collect();
                let removed: Vec<_> = response.removed_resources.iter().map(|r| format!("-{r}")).collect();
                (
                    format!("{} {}", short(out.resource_type), [names, removed].concat().join(" ")),
                    response.nonce,
                )
            }
            Mode::Sotw => {
                let response = pb::DiscoveryResponse::decode(bytes.as_slice()).unwrap();
                let name = |any: &proto::pb::google::protobuf::Any| {
                    crate::payload::string_field(&any.value, 1).unwrap().to_owned()
                };
                let names: Vec<_> = response.resources.iter().map(name).collect();
                (format!("{} {}", short(out.resource_type), names.join(" ")), response.nonce)
            }
        })
    }

    fn expect(&mut self, source: &Table, what: &str) -> String {
        let (got, nonce) = self.next(source).unwrap_or_else(|| panic!("nothing to send instead of {what:?}"));
        assert_eq!(got, what);
        nonce
    }

    /// Nothing is sent yet, and the session says when; then it is.
    fn wait(&mut self, source: &Table) {
        assert!(self.next(source).is_none());
        self.now = self.session.due().expect("something is to come");
    }

    fn mark(&mut self, source: &Table) {
        self.session.mark(&Everything, source.generation);
    }
}

#[test]
fn delta_sends_only_what_changed_and_removes_last() {
    let mut peer = Peer::new(Mode::Delta);
    let mut table = Table::of(&[(CDS, "a", 2), (CDS, "b", 2), (EDS, "a", 2), (LDS, "l", 2)]);
    assert_eq!(peer.delta(CDS, &[], &[], ""), Received::Subscription);
    let n = peer.expect(&table, "Cluster a b");
    assert!(peer.next(&table).is_none(), "one response is unanswered");
    peer.delta(EDS, &["a", "nothing"], &[], "");
    let e = peer.expect(&table, "Endpoint a -nothing");
    assert_eq!(peer.delta(CDS, &[], &[], &n), Received::Acknowledged(CDS));
    assert_eq!(peer.delta(EDS, &[], &[], &e), Received::Acknowledged(EDS));
    peer.delta(LDS, &[], &[], "");
    let n = peer.expect(&table, "Listener l");
    peer.delta(LDS, &[], &[], &n);
    assert!(peer.session.is_synced() && peer.next(&table).is_none());

    table.generation = 2;
    table.resources.insert((EDS, "a".into()), 3);
    table.resources.remove(&(CDS, "b".into()));
    table.resources.insert((LDS, "l".into()), 3);
    peer.mark(&table);
    let e = peer.expect(&table, "Endpoint a");
    let l = peer.expect(&table, "Listener l");
    assert!(peer.next(&table).is_none(), "removals wait for answers");
    peer.delta(EDS, &[], &[], &e);
    peer.delta(LDS, &[], &[], &l);
    peer.wait(&table);
    let n = peer.expect(&table, "Cluster -b");
    peer.delta(CDS, &[], &[], &n);
    assert!(peer.session.is_synced());
    assert!(peer.session.status().all(|status| status.acknowledged == 2));
}

#[test]
fn routes_do_not_overtake_the_clusters_that_they_lead_to() {
    const RDS: ResourceType = ResourceType::Route;
    let mut peer = Peer::new(Mode::Delta);
    let mut table = Table::of(&[(CDS, "a", 2), (EDS, "a", 2), (RDS, "9080", 2)]);
    peer.delta(CDS, &[], &[], "");
    peer.delta(RDS, &["9080"], &[], "");
    let c = peer.expect(&table, "Cluster a");
    let r = peer.expect(&table, "Route 9080");
    peer.delta(RDS, &[], &[], &r);
    peer.delta(EDS, &["a"], &[], "");
    // The first answer for clusters is still open when a cluster comes, and a route to it.
    table.generation = 2;
    table.resources.insert((CDS, "b".into()), 3);
    table.resources.insert((RDS, "9080".into()), 3);
    peer.mark(&table);
    let e = peer.expect(&table, "Endpoint a");
    assert!(peer.next(&table).is_none(), "the route waits, endpoints do not");
    peer.delta(EDS, &[], &[], &e);
    peer.delta(CDS, &[], &[], &c);
    peer.expect(&table, "Cluster b");
    peer.expect(&table, "Route 9080");
}

/// The end of a cluster may be known before the route that leaves it.
#[test]
fn a_cluster_outlives_its_end_for_a_while() {
    const RDS: ResourceType = ResourceType::Route;
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = Peer::new(mode);
        let ask = |peer: &mut Peer, t, names: &[&str], nonce: &str| match mode {
            Mode::Delta if nonce.is_empty() => peer.delta(t, names, &[], nonce),
            Mode::Delta => peer.delta(t, &[], &[], nonce),
            Mode::Sotw => peer.sotw(t, names, nonce, None),
        };
        let mut table = Table::of(&[(CDS, "old", 2), (CDS, "other", 2), (RDS, "9080", 2)]);
        ask(&mut peer, CDS, &[], "");
        let n = peer.expect(&table, "Cluster old other");
        ask(&mut peer, CDS, &[], &n);
        ask(&mut peer, RDS, &["9080"], "");
        let n = peer.expect(&table, "Route 9080");
        ask(&mut peer, RDS, &["9080"], &n);

        table.generation = 2;
        table.resources.remove(&(CDS, "old".into()));
        peer.mark(&table);
        assert!(peer.next(&table).is_none(), "{mode:?}");
        assert!(peer.session.is_synced(), "it has what it needs");
        // The route comes, and with it another change of clusters: the old one stays until its time has come.
        table.generation = 3;
        table.resources.insert((CDS, "other".into()), 3);
        table.resources.insert((RDS, "9080".into()), 3);
        peer.mark(&table);
        let c = peer.expect(&table, if mode == Mode::Delta { "Cluster other" } else { "Cluster old other" });
        let r = peer.expect(&table, "Route 9080");
        ask(&mut peer, CDS, &[], &c);
        ask(&mut peer, RDS, &["9080"], &r);
        peer.wait(&table);
        let c = peer.expect(&table, if mode == Mode::Delta { "Cluster -old" } else { "Cluster other" });
        assert!(!peer.session.is_synced());
        ask(&mut peer, CDS, &[], &c);
        assert!(peer.session.is_synced() && peer.session.due().is_none());
        // What comes back in time is not told to be gone.
        table.resources.remove(&(CDS, "other".into()));
        peer.mark(&table);
        assert!(peer.next(&table).is_none());
        table.resources.insert((CDS, "other".into()), 3);
        peer.mark(&table);
        let c = peer.expect(&table, "Cluster other");
        ask(&mut peer, CDS, &[], &c);
        assert!(peer.next(&table).is_none() && peer.session.due().is_none());
    }
}

#[test]
fn sotw_names_all_clusters_but_only_changed_endpoints() {
    let mut peer = Peer::new(Mode::Sotw);
    let mut table = Table::of(&[(CDS, "a", 2), (CDS, "b", 2), (EDS, "a", 2), (EDS, "b", 2)]);
    peer.sotw(CDS, &[], "", None);
    let c = peer.expect(&table, "Cluster a b");
    peer.sotw(CDS, &[], &c, None);
    peer.sotw(EDS, &["a", "b"], "", None);
    let e = peer.expect(&table, "Endpoint a b");
    peer.sotw(EDS, &["a", "b"], &e, None);
    table.resources.insert((EDS, "b".into()), 3);
    peer.mark(&table);
    let e = peer.expect(&table, "Endpoint b");
    peer.sotw(EDS, &["a", "b"], &e, None);
    // A changed cluster gets its endpoints again; one that is gone leaves in a response of its own.
    table.resources.insert((CDS, "a".into()), 3);
    table.resources.remove(&(CDS, "b".into()));
    peer.mark(&table);
    let c = peer.expect(&table, "Cluster a b");
    let e = peer.expect(&table, "Endpoint a");
    peer.sotw(CDS, &[], &c, None);
    assert!(peer.next(&table).is_none());
    peer.sotw(EDS, &["a", "b"], &e, None);
    peer.wait(&table);
    let c = peer.expect(&table, "Cluster a");
    peer.sotw(CDS, &[], &c, None);
    assert!(peer.next(&table).is_none() && peer.session.is_synced());
}

#[test]
fn an_old_nonce_is_ignored_and_a_nack_is_remembered() {
    let mut peer = Peer::new(Mode::Sotw);
    let mut table = Table::of(&[(LDS, "l", 2)]);
    peer.sotw(LDS, &[], "", None);
    let n = peer.expect(&table, "Listener l");
    assert_eq!(peer.sotw(LDS, &[], "77", None), Received::Ignored);
    assert!(matches!(peer.sotw(LDS, &[], &n, Some("bad filter")), Received::Rejected(LDS, _)));
    let status: Vec<_> = peer.session.status().collect();
    assert_eq!((status[0].state, status[0].rejection.as_deref()), (State::Rejected, Some("bad filter")));
    assert!(peer.next(&table).is_none(), "the same is not sent again");
    peer.mark(&table);
    assert!(peer.next(&table).is_none(), "nor after a change of something else");
    assert_eq!(
        peer.session.status().next().map(|s| s.acknowledged),
        Some(0),
        "a NACK never counts as applied"
    );
    table.resources.insert((LDS, "l".into()), 3);
    peer.mark(&table);
    let n = peer.expect(&table, "Listener l");
    peer.sotw(LDS, &[], &n, None);
    assert!(peer.session.is_synced());
}

#[test]
fn a_reconnecting_client_gets_only_what_differs() {
    let table = Table::of(&[(CDS, "a", 2), (CDS, "b", 3)]);
    let mut peer = Peer::new(Mode::Delta);
    let held = |name: &str, version: u64| (name.to_owned(), format!("{version:016x}"));
    peer.session.receive(Request::from(pb::DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        initial_resource_versions: [held("a", 2), held("b", 2), held("gone", 2)].into(),
        ..Default::default()
    }));
    let n = peer.expect(&table, "Cluster b");
    peer.delta(CDS, &[], &[], &n);
    peer.wait(&table);
    peer.expect(&table, "Cluster -gone");
}

#[test]
fn subscriptions_change_by_name() {
    let table = Table::of(&[(EDS, "a", 2), (EDS, "b", 2)]);
    let mut peer = Peer::new(Mode::Delta);
    peer.delta(EDS, &["a"], &[], "");
    let n = peer.expect(&table, "Endpoint a");
    peer.delta(EDS, &["b"], &["a"], &n);
    let n = peer.expect(&table, "Endpoint b");
    peer.delta(EDS, &["b"], &[], &n);
    peer.expect(&table, "Endpoint b");
    let mut peer = Peer::new(Mode::Sotw);
    peer.sotw(EDS, &["a"], "", None);
    let n = peer.expect(&table, "Endpoint a");
    peer.sotw(EDS, &["a", "b"], &n, None);
    let n = peer.expect(&table, "Endpoint b");
    peer.sotw(EDS, &[], &n, None);
    assert!(peer.next(&table).is_none());
}

/// A cluster that was sent before its end became known leads to endpoints that are asked for after it.
#[test]
fn endpoints_that_went_a_moment_ago_are_told_to_those_who_ask_late() {
    let mut table = Table::of(&[(EDS, "a", 2), (EDS, "b", 2)]);
    for mode in [Mode::Delta, Mode::Sotw] {
        let mut peer = Peer::new(mode);
        let ask = |peer: &mut Peer, names: &[&str], nonce: &str| match mode {
            Mode::Delta => peer.delta(EDS, names, &[], nonce),
            Mode::Sotw => peer.sotw(EDS, names, nonce, None),
        };
        ask(&mut peer, &["a"], "");
        let n = peer.expect(&table, "Endpoint a");
        let last = table.resources.remove(&(EDS, "b".into()));
        table.gone.extend(last.map(|version| ((EDS, "b".into()), version)));
        ask(&mut peer, &["a", "b"], &n);
        peer.expect(&table, if mode == Mode::Delta { "Endpoint a b" } else { "Endpoint b" });
        table = Table::of(&[(EDS, "a", 2), (EDS, "b", 2)]);
    }
}

#[test]
fn an_empty_world_is_an_answer_too() {
    let table = Table::of(&[]);
    for mode in [Mode::Sotw, Mode::Delta] {
        let mut peer = Peer::new(mode);
        match mode {
            Mode::Sotw => peer.sotw(CDS, &[], "", None),
            Mode::Delta => peer.delta(CDS, &[], &[], ""),
        };
        peer.expect(&table, "Cluster ");
    }
    let mut peer = Peer::new(Mode::Sotw);
    let unknown = pb::DiscoveryRequest { type_url: "type.googleapis.com/a.B".into(), ..Default::default() };
    assert_eq!(peer.session.receive(Request::from(unknown)), Received::Ignored);
}
