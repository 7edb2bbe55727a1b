//! Virtual hosts that requests ask for: the table's source is told, and they go on when it has spoken of them.

use std::sync::Arc;

use decide::Origin;

use super::Control;
use crate::worker::{Demand, Message};

/// Virtual hosts that were asked for and are kept, or waited for, at most: clients name them.
const MOST: usize = 10_000;

impl Control {
    pub(super) async fn demand(&mut self, demand: Demand) {
        let key = demand.origin.key(&demand.name);
        let is_there = self.plan.has_virtual_host(&key);
        let is_futile = self.plan.source_of_virtual_host(&key).is_none();
        if is_there || is_futile || !self.sources.demand(&demand.origin, &demand.name, MOST) {
            return self.say(demand, is_there).await;
        }
        self.demands.push(demand);
        self.follow(&|_, _| false, &mut Vec::new());
    }

    /// Lets those go on whose virtual hosts are there, or will not come: their source has spoken, or is none any more.
    pub(super) async fn answer_demands(&mut self, spoken: &[Arc<str>]) {
        // What is not there may be when it is asked for again.
        let gone: Vec<_> = spoken.iter().filter(|key| !self.plan.has_virtual_host(key)).collect();
        let is_less = self.sources.demand_no_more(&|key| gone.iter().any(|gone| **gone == *key));
        for demand in std::mem::take(&mut self.demands) {
            let key = demand.origin.key(&demand.name);
            let found = self.plan.has_virtual_host(&key);
            if found || spoken.contains(&key) || self.plan.source_of_virtual_host(&key).is_none() {
                self.say(demand, found).await;
            } else {
                self.demands.push(demand);
            }
        }
        if is_less {
            self.follow(&|_, _| false, &mut Vec::new());
        }
    }

    /// Follows those that are served already.
    pub(super) fn demand_again(&mut self, keys: &[Arc<str>]) {
        for key in keys {
            if let Some(origin) = self.plan.source_of_virtual_host(key) {
                self.sources.demand(&origin, &Origin::name_of(key).into(), MOST);
            }
        }
        if !keys.is_empty() {
            self.follow(&|_, _| false, &mut Vec::new());
        }
    }

    async fn say(&self, demand: Demand, found: bool) {
        let Demand { worker, reply, .. } = demand;
        if let Some(worker) = self.workers.get(worker) {
            let _ = worker.messages.send(Message::Demanded { found, reply }).await;
        }
    }

    /// Asks no more for what nobody waits for any longer.
    pub(super) fn forget_demands(&mut self) {
        let key = |demand: &Demand| demand.origin.key(&demand.name);
        let left: Vec<_> = self.demands.iter().filter(|d| d.reply.is_closed()).map(key).collect();
        if left.is_empty() {
            return;
        }
        self.demands.retain(|demand| !demand.reply.is_closed());
        let waiting: Vec<_> = self.demands.iter().map(key).collect();
        let gone =
            |key: &Arc<str>| left.contains(key) && !waiting.contains(key) && !self.plan.has_virtual_host(key);
        if self.sources.demand_no_more(&gone) {
            self.follow(&|_, _| false, &mut Vec::new());
        }
    }
}
