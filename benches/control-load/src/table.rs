//! What was measured, beside what is aimed at and what istiod was measured to need.

use std::time::Duration;

/// Which of the meshes is measured: aims and istiod's figures are known for these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// 1,000 services of 10 endpoints, 1,000 sidecars.
    Wide,
    /// 10,000 services of 10 endpoints, 100 sidecars.
    Deep,
    Other,
}

/// What stands beside a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside {
    pub(crate) aim: &'static str,
    pub(crate) istiod: &'static str,
}

/// The figures, by what they are figures of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    SyncTime,
    SyncCpu,
    SyncBytes,
    Memory,
    MemoryAfter,
    EndpointTime,
    EndpointCpu,
    RouteTime,
    RouteCpu,
}

/// How the sidecars are connected and what they see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) scale: Scale,
    pub(crate) scoped: bool,
    pub(crate) tls: bool,
}

impl Setup {
    pub(crate) fn beside(self, figure: Figure) -> Beside {
        let aim = match figure {
            Figure::SyncCpu => "6 s",
            Figure::Memory => "200 MB",
            Figure::EndpointTime if self.tls => "p99 60 ms",
            Figure::EndpointTime => "p99 30 ms",
            Figure::RouteTime if self.scoped => "p99 50 ms",
            Figure::RouteTime => "p99 1 s",
            Figure::RouteCpu => "1 s",
            _ => "",
        };
        // istiod was measured over plaintext, with sidecars that see everything.
        let measured = match self.scale {
            _ if self.tls || self.scoped => "",
            Scale::Wide => match figure {
                Figure::SyncTime => "51 s",
                Figure::SyncCpu => "66 to 91 s",
                Figure::SyncBytes => "3.8 MB",
                Figure::Memory => "2900 MB",
                Figure::MemoryAfter => "700 to 1100 MB",
                Figure::EndpointTime => "last 0.30 s",
                Figure::EndpointCpu => "0.16 s",
                Figure::RouteTime => "p50 1.9 s, p99 3.4 s",
                Figure::RouteCpu => "5.4 s",
            },
            Scale::Deep => match figure {
                Figure::SyncTime => "54 s",
                Figure::SyncCpu => "38 s",
                Figure::SyncBytes => "38 MB",
                Figure::Memory => "3900 MB",
                Figure::MemoryAfter => "1400 to 2200 MB",
                Figure::EndpointTime => "last 0.31 s",
                Figure::EndpointCpu => "0.15 s",
                Figure::RouteTime => "p50 5 s, p99 6 to 11 s",
                Figure::RouteCpu => "9 to 10 s",
            },
            Scale::Other => "",
        };
        Beside { aim, istiod: measured }
    }
}

/// Rows of a table, printed when all widths are known.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { rows: vec![["", "measured", "aim", "istiod"].map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, what: &str, measured: String, beside: Beside) {
        self.rows.push([what.to_owned(), measured, beside.aim.to_owned(), beside.istiod.to_owned()]);
    }

    /// A figure that nothing stands beside.
    pub(crate) fn note(&mut self, what: &str, measured: String) {
        self.row(what, measured, Beside { aim: "", istiod: "" });
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths: [usize; 4] = std::array::from_fn(width);
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(&format!("  {cell:width$}"));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A time as people read it.
pub(crate) fn time(of: Duration) -> String {
    let milliseconds = of.as_secs_f64() * 1000.0;
    if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.2} s", milliseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new();
        let setup = Setup { scale: Scale::Wide, scoped: false, tls: true };
        table.row("endpoint", time(Duration::from_millis(52)), setup.beside(Figure::EndpointTime));
        table.note("last", time(Duration::from_millis(1500)));
        let lines: Vec<String> = table.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "  endpoint  52 ms     p99 60 ms");
        assert_eq!(lines[2], "  last      1.50 s");
    }
}
