//! Where a workload runs: region, zone, subzone.

use std::fmt;

/// A place in the topology. Empty parts are unknown; a part is only meaningful below a known one.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

impl Locality {
    /// From Istio's `region/zone/subzone`, in which trailing parts may be absent.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }

    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, subzone } = self;
        match (zone.is_empty(), subzone.is_empty()) {
            (true, true) => write!(f, "{region}"),
            (false, true) => write!(f, "{region}/{zone}"),
            (_, false) => write!(f, "{region}/{zone}/{subzone}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_reads_as_it_is_written() {
        for text in ["", "r1", "r1/z1", "r1/z1/s1", "r1/z1/s1/more"] {
            assert_eq!(Locality::parse(text).to_string(), text);
        }
    }
}
