//! Steady requests for the product page.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::workload::get;

/// Goes on until it is dropped.
pub(super) struct Traffic(JoinHandle<()>);

impl Traffic {
    pub(super) fn start(port: u16, rate: u16) -> Self {
        Self(tokio::spawn(async move {
            if rate == 0 {
                return;
            }
            let mut ticks = interval(Duration::from_secs(1) / u32::from(rate));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                tokio::spawn(async move {
                    // Failures are what the console shows.
                    let _ = get((Ipv4Addr::LOCALHOST, port).into(), "/productpage").await;
                });
            }
        }))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}
