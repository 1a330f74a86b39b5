//! A straight line through measured points.

/// `y = base + slope * x`, by least squares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) slope: f64,
    pub(crate) base: f64,
    /// The largest distance of a point from the line, in units of y.
    pub(crate) residual_max: f64,
}

impl Line {
    /// `None` unless there are two different x.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / n;
        let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / n;
        // Around the means, so that large numbers do not cancel each other.
        let sum_xx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let sum_xy: f64 = points
            .iter()
            .map(|(x, y)| (x - mean_x) * (y - mean_y))
            .sum();
        if sum_xx <= 0.0 || sum_xx.is_nan() {
            return None;
        }
        let slope = sum_xy / sum_xx;
        let base = mean_y - slope * mean_x;
        let distance = |(x, y): &(f64, f64)| (y - (base + slope * x)).abs();
        Some(Self {
            slope,
            base,
            residual_max: points.iter().map(distance).fold(0.0, f64::max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_on_a_line_give_that_line() {
        let points: Vec<(f64, f64)> = (1..=5)
            .map(|k| {
                (
                    f64::from(k) * 60_000.0,
                    5e6 + 346.0 * 60_000.0 * f64::from(k),
                )
            })
            .collect();
        let line = Line::through(&points).unwrap();
        assert!((line.slope - 346.0).abs() < 1e-6, "{line:?}");
        assert!((line.base - 5e6).abs() < 1e-3, "{line:?}");
        assert!(line.residual_max < 1e-3, "{line:?}");
    }

    #[test]
    fn a_point_beside_the_line_is_told_by_the_residual() {
        let line = Line::through(&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)]).unwrap();
        assert!((line.slope).abs() < 1e-12 && (line.base - 1.0).abs() < 1e-12);
        assert!((line.residual_max - 2.0).abs() < 1e-12);
    }

    #[test]
    fn no_line_without_two_different_points() {
        assert_eq!(Line::through(&[]), None);
        assert_eq!(Line::through(&[(1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
