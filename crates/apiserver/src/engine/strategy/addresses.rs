//! Cluster addresses: each is a key of its own in the store, written in the service's transaction, so that
//! no two services ever hold the same one.

use crate::engine::{Engine, Target};
use crate::kinds::Core;
use crate::status::{Cause, Result, Status};
use crate::store::{Compare, Op};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

const FIRST: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const SIZE: u32 = 1 << 20;
/// The lowest addresses are left to those who ask for one by name.
const RESERVED: u32 = 256;

fn key(address: &str) -> String {
    format!("/internal/addresses/{address}")
}

fn in_range(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => (FIRST..FIRST + SIZE).contains(&v4.to_bits()),
        IpAddr::V6(_) => false,
    }
}

fn address(object: &Value) -> &str {
    match crate::engine::text(object, "/spec/clusterIP") {
        "None" => "",
        address => address,
    }
}

fn wants_address(service: &Value) -> bool {
    crate::engine::text(service, "/spec/type") != "ExternalName"
}

impl Engine {
    /// Gives a service its address, within the transaction that stores it.
    pub(in crate::engine) fn allocate(
        &self,
        target: &Target,
        old: Option<&Value>,
        object: &mut Value,
        compare: &mut Vec<Compare>,
        then: &mut Vec<Op>,
    ) -> Result<()> {
        if target.resource.core != Some(Core::Service) {
            return Ok(());
        }
        let held = old.map(address).unwrap_or_default().to_owned();
        let wanted = address(object).to_owned();
        let none = crate::engine::text(object, "/spec/clusterIP") == "None";
        if !wants_address(object) || none {
            if !held.is_empty() {
                then.push(Op::Delete(key(&held)));
            }
            return Ok(());
        }
        if !wanted.is_empty() && wanted == held {
            return Ok(());
        }
        let chosen = if wanted.is_empty() { self.free_address()? } else { self.checked(object, &wanted)? };
        let spec = &mut object["spec"];
        spec["clusterIP"] = json!(chosen);
        spec["clusterIPs"] = json!([chosen]);
        compare.push(Compare { key: key(&chosen), modified: 0 });
        let owner = target.key(crate::engine::name_of(object));
        then.push(Op::Put(key(&chosen), owner.into()));
        Ok(())
    }

    /// Frees what a service held.
    pub(in crate::engine) fn release(&self, target: &Target, object: &Value, then: &mut Vec<Op>) {
        if target.resource.core == Some(Core::Service) && !address(object).is_empty() {
            then.push(Op::Delete(key(address(object))));
        }
    }

    fn free_address(&self) -> Result<String> {
        for _ in 0..1000 {
            let offset = rand::Rng::random_range(&mut rand::rng(), RESERVED..SIZE - 1);
            let candidate = Ipv4Addr::from_bits(FIRST + offset).to_string();
            if self.store.get(&key(&candidate)).map_err(super::super::store_error)?.is_none() {
                return Ok(candidate);
            }
        }
        Err(Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn checked(&self, object: &Value, wanted: &str) -> Result<String> {
        let refuse = |why: &str| {
            let cause = Cause::invalid(
                "spec.clusterIPs",
                &json!([wanted]),
                format!("failed to allocate IP {wanted}: {why}"),
            );
            let mut about = self.kinds.core(Core::Service).about_kind(crate::engine::name_of(object));
            about.group = String::new();
            Status::invalid(about, vec![cause])
        };
        let parsed: Option<IpAddr> = wanted.parse().ok();
        if !parsed.is_some_and(in_range) {
            return Err(refuse("the provided network does not match the current range"));
        }
        if self.store.get(&key(wanted)).map_err(super::super::store_error)?.is_some() {
            return Err(refuse("provided IP is already allocated"));
        }
        Ok(wanted.to_owned())
    }
}
