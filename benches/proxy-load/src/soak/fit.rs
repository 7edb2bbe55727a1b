//! Whether a figure that is read again and again grows.

/// The straight line through points by least squares: how much it rises over the time between the first and the last.
pub(crate) fn rise(points: &[(f64, f64)]) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let spread: f64 = points.iter().map(|it| (it.0 - x).powi(2)).sum();
    if spread == 0.0 {
        return 0.0;
    }
    let slope = points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum::<f64>() / spread;
    slope * (last.0 - first.0)
}

/// The mean of the second and of the last quarter, by number of points.
pub(crate) fn quarters(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let quarter = points.len() / 4;
    let mean = |part: &[(f64, f64)]| part.iter().map(|it| it.1).sum::<f64>() / part.len() as f64;
    (quarter > 0).then(|| (mean(&points[quarter..2 * quarter]), mean(&points[points.len() - quarter..])))
}

/// What is left without the first quarter, in which caches and pools fill.
pub(crate) fn settled(points: &[(f64, f64)]) -> &[(f64, f64)] {
    &points[points.len() / 4..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_points_that_lie_about_it() {
        let noisy: Vec<(f64, f64)> =
            (0..100).map(|n| (f64::from(n), 0.5 * f64::from(n) + f64::from(n % 2))).collect();
        assert!((rise(&noisy) - 49.5).abs() < 0.1, "{}", rise(&noisy));
        let flat: Vec<(f64, f64)> = (0..100).map(|n| (f64::from(n), f64::from(n % 5))).collect();
        assert!(rise(&flat).abs() < 0.3);
        assert_eq!((rise(&[]), rise(&[(1.0, 5.0)])), (0.0, 0.0));
    }

    #[test]
    fn quarters_are_told_apart() {
        let steps: Vec<(f64, f64)> = (0..8).map(|n| (f64::from(n), f64::from(n / 2))).collect();
        assert_eq!(quarters(&steps), Some((1.0, 3.0)));
        assert_eq!(quarters(&steps[..3]), None);
        assert_eq!(settled(&steps).len(), 6);
    }
}
