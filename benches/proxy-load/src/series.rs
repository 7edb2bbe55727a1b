//! Figures of several rounds, and what is said of them.

/// One figure a round, in the order of the rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle one, or the mean of the two in the middle; none without rounds.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let high = sorted.len() / 2;
        let low = sorted.len().checked_sub(1)? / 2;
        Some((sorted[low] + sorted[high]) / 2.0)
    }

    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        let least = self.0.iter().copied().min_by(f64::total_cmp)?;
        Some((least, self.0.iter().copied().max_by(f64::total_cmp)?))
    }

    /// The ratio to another series, round by round: what changes on the machine from round to round falls out.
    pub(crate) fn to(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.filter(|(_, other)| **other > 0.0).map(|(own, other)| own / other).collect())
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(figures: T) -> Self {
        Self(figures.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(figures: &[f64]) -> Series {
        figures.iter().copied().collect()
    }

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(series(&[9.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(series(&[4.0, 1.0, 2.0, 9.0]).median(), Some(3.0));
        assert_eq!(series(&[]).median(), None);
        assert_eq!(series(&[3.0, 1.0, 2.0]).range(), Some((1.0, 3.0)));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ratio = series(&[10.0, 40.0, 10.0]).to(&series(&[20.0, 80.0, 25.0]));
        assert_eq!(ratio.median(), Some(0.5));
        assert_eq!(series(&[1.0]).to(&series(&[0.0])).median(), None);
    }
}
