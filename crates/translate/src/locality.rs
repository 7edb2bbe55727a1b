//! Which localities come first: failover, shares, and labels to prefer by.

use std::collections::BTreeMap;

use api::networking as net;
use base::Locality;

/// How endpoints are ranked for one caller.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Preference {
    None,
    /// The caller's locality, and which region stands in for its own.
    Near {
        own: Locality,
        stand_in: Option<String>,
    },
    /// Shares of the localities' traffic, by pattern.
    Shares(BTreeMap<String, u32>),
    /// Label keys with the values wanted, the most important first.
    Labels(Vec<(String, Option<String>)>),
}

impl Preference {
    pub(crate) fn near(own: &Locality, failover: &[net::LocalityFailover]) -> Self {
        let stand_in = failover.iter().find(|rule| rule.from == own.region).map(|rule| rule.to.clone());
        if own.is_empty() { Self::None } else { Self::Near { own: own.clone(), stand_in } }
    }

    /// The shares for callers of that locality, if any are set.
    pub(crate) fn shares(rules: &[net::LocalityDistribute], own: &Locality) -> Option<Self> {
        let rule = rules.iter().find(|rule| covers(&rule.from, &own.to_string()))?;
        Some(Self::Shares(rule.to.clone()))
    }

    pub(crate) fn by_labels(priority: &[String], own: &BTreeMap<String, String>) -> Self {
        let wanted = |entry: &String| match entry.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (entry.clone(), own.get(entry).cloned()),
        };
        Self::Labels(priority.iter().map(wanted).collect())
    }

    /// Lower is better; gaps are closed later.
    pub(crate) fn priority(&self, locality: &Locality, labels: &BTreeMap<String, String>) -> u32 {
        match self {
            Self::None | Self::Shares(_) => 0,
            Self::Near { own, stand_in } => {
                if own.region != locality.region {
                    return if stand_in.as_ref().is_some_and(|region| *region == locality.region) {
                        3
                    } else {
                        4
                    };
                }
                match (own.zone == locality.zone, own.subzone == locality.subzone) {
                    (true, true) => 0,
                    (true, false) => 1,
                    (false, _) => 2,
                }
            }
            Self::Labels(wanted) => {
                let agree = |(key, value): &&(String, Option<String>)| labels.get(key) == value.as_ref();
                wanted.len() as u32 - wanted.iter().take_while(agree).count() as u32
            }
        }
    }

    /// The weights of the localities present, where shares are set: a share is split among those that it covers.
    pub(crate) fn weights<'a>(
        &self,
        present: impl Iterator<Item = &'a str>,
    ) -> Option<BTreeMap<String, u32>> {
        let Self::Shares(shares) = self else { return None };
        let present: Vec<&str> = present.collect();
        let mut weights = BTreeMap::new();
        // The most specific pattern speaks for a locality.
        let best = |name: &str| {
            shares.keys().filter(|pattern| covers(pattern, name)).max_by_key(|pattern| pattern.len())
        };
        for (pattern, share) in shares {
            let covered: Vec<_> = present.iter().filter(|name| best(name) == Some(pattern)).collect();
            for name in &covered {
                let part = (share * 100 / covered.len() as u32).max(1);
                if *share > 0 {
                    weights.insert((**name).to_owned(), part);
                }
            }
        }
        Some(weights)
    }
}

/// `region/zone/*` covers what lies below; `*` covers all; a name without a star covers itself and what lies below.
fn covers(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let prefix = pattern.strip_suffix("/*").unwrap_or(pattern);
    name == prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_comes_first() {
        let own = Locality::parse("r1/z1/s1");
        let near = Preference::near(&own, &[net::LocalityFailover { from: "r1".into(), to: "r3".into() }]);
        let rank = |text: &str| near.priority(&Locality::parse(text), &BTreeMap::new());
        let ranks = ["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r3/z1", "r2/z1"].map(rank);
        assert_eq!(ranks, [0, 1, 2, 3, 4]);
        assert_eq!(Preference::near(&Locality::default(), &[]), Preference::None);
    }

    #[test]
    fn shares_go_to_what_their_patterns_cover() {
        let rule = net::LocalityDistribute {
            from: "r1/z1/*".into(),
            to: [("r1/z1/*".to_owned(), 80), ("r1/z2/*".to_owned(), 20)].into(),
        };
        let shares = Preference::shares(&[rule], &Locality::parse("r1/z1/s1")).unwrap();
        let weights = shares.weights(["r1/z1", "r1/z2/a", "r1/z2/b", "r2/z1"].into_iter()).unwrap();
        let expected = [("r1/z1", 8000), ("r1/z2/a", 1000), ("r1/z2/b", 1000)];
        assert_eq!(weights, expected.map(|(name, weight)| (name.to_owned(), weight)).into());
    }

    #[test]
    fn labels_rank_by_how_many_agree_from_the_front() {
        let own = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "1".to_owned())].into();
        let by = Preference::by_labels(&["a".into(), "b".into(), "c=9".into()], &own);
        let rank = |a: &str, b: &str| {
            by.priority(&Locality::default(), &[("a".into(), a.into()), ("b".into(), b.into())].into())
        };
        assert_eq!([rank("1", "1"), rank("1", "2"), rank("2", "1")], [1, 2, 3]);
    }
}
