//! What a row of the benchmark found, as people read it: a table in Markdown, then each target with what became of it.

use std::fmt;

use crate::series::Series;

/// A figure that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) digits: usize,
}

/// What is aimed at, for one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    pub(crate) column: Column,
    /// Whose figure.
    pub(crate) of: &'static str,
    /// Beside whose; nobody's means that the figure itself is aimed at.
    pub(crate) to: Option<&'static str>,
    pub(crate) aim: Aim,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
    /// Nobody named one: the ratio is only told.
    None,
}

/// The contestants' figures.
#[derive(Debug)]
pub(crate) struct Report {
    title: String,
    columns: Vec<Column>,
    lines: Vec<(String, Vec<Series>)>,
    targets: Vec<Target>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>, columns: &[Column], targets: &[Target]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), lines: Vec::new(), targets: targets.to_vec() }
    }

    /// One figure for each column.
    pub(crate) fn add(&mut self, who: &str, figures: impl IntoIterator<Item = f64>) {
        let place = self.lines.iter().position(|(name, _)| name == who).unwrap_or_else(|| {
            self.lines.push((who.to_owned(), vec![Series::default(); self.columns.len()]));
            self.lines.len() - 1
        });
        for (series, figure) in self.lines[place].1.iter_mut().zip(figures) {
            series.push(figure);
        }
    }

    fn series(&self, who: &str, column: Column) -> Option<&Series> {
        let place = self.columns.iter().position(|it| *it == column)?;
        self.lines.iter().find(|(name, _)| name == who)?.1.get(place)
    }

    /// The targets for which there are figures.
    fn verdicts(&self) -> impl Iterator<Item = String> {
        self.targets.iter().filter_map(|target| {
            let own = self.series(target.of, target.column)?;
            let (what, figure) = match target.to {
                Some(other) => {
                    let ratio = own.to(self.series(other, target.column)?).median()?;
                    (format!("{} : {other}, {}", target.of, target.column.name), ratio)
                }
                None => (format!("{}, {}", target.of, target.column.name), own.median()?),
            };
            Some(format!("- {what}: {figure:.2}{}", target.aim.verdict(figure)))
        })
    }
}

impl Aim {
    fn verdict(self, figure: f64) -> String {
        let (words, aim, met) = match self {
            Self::AtMost(aim) => ("at most", aim, figure <= aim),
            Self::AtLeast(aim) => ("at least", aim, figure >= aim),
            Self::None => return String::new(),
        };
        format!(" (target: {words} {aim}): {}", if met { "met" } else { "**missed**" })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.columns.iter().map(|column| column.name.to_owned()));
        for (name, all) in &self.lines {
            let cells = all.iter().zip(&self.columns).map(|(series, column)| cell(series, column.digits));
            rows.push(std::iter::once(name.clone()).chain(cells).collect());
        }
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        writeln!(f, "### {}\n", self.title)?;
        for (number, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                widths.iter().try_for_each(|width| write!(f, "|{}", "-".repeat(width + 2)))?;
                writeln!(f, "|")?;
            }
        }
        writeln!(f)?;
        self.verdicts().try_for_each(|verdict| writeln!(f, "{verdict}"))
    }
}

/// The median, and the range where there were several rounds.
fn cell(series: &Series, digits: usize) -> String {
    let (Some(median), Some((least, most))) = (series.median(), series.range()) else {
        return "–".to_owned();
    };
    if least == most {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Column = Column { name: "CPU", digits: 1 };

    fn target(to: Option<&'static str>, aim: Aim) -> Target {
        Target { column: CPU, of: "ours", to, aim }
    }

    #[test]
    fn a_table_has_medians_ranges_and_verdicts() {
        let targets = [
            target(Some("theirs"), Aim::AtMost(0.28)),
            target(Some("absent"), Aim::AtMost(1.0)),
            target(None, Aim::AtMost(40.0)),
            target(Some("theirs"), Aim::None),
        ];
        let mut report = Report::new("HTTP", &[CPU], &targets);
        for (ours, theirs) in [(30.0, 90.0), (33.0, 110.0), (29.0, 100.0)] {
            report.add("theirs", [theirs]);
            report.add("ours", [ours]);
        }
        let text = "\
### HTTP

|        | CPU                   |
|--------|-----------------------|
| theirs | 100.0 (90.0 to 110.0) |
| ours   | 30.0 (29.0 to 33.0)   |

- ours : theirs, CPU: 0.30 (target: at most 0.28): **missed**
- ours, CPU: 30.00 (target: at most 40): met
- ours : theirs, CPU: 0.30
";
        assert_eq!(report.to_string(), text);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        assert_eq!(cell(&Series::default(), 1), "–");
        assert_eq!(Aim::AtLeast(1.0).verdict(0.5), " (target: at least 1): **missed**");
    }
}
