//! What must hold at the end of a soak, line by line.

use std::fmt;

use super::book::{Book, Door};
use super::fit::{quarters, rise, settled};
use super::watch::{Sample, Stats};

/// One line of the verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    what: String,
    found: String,
    wanted: String,
    pub(crate) holds: bool,
}

impl Check {
    fn new(what: impl Into<String>, found: impl ToString, wanted: impl ToString, holds: bool) -> Self {
        Self { what: what.into(), found: found.to_string(), wanted: wanted.to_string(), holds }
    }

    /// Equal, or more by at most as many as nobody can know of.
    fn count(what: impl Into<String>, found: u64, known: u64, unknown: u64) -> Self {
        let holds = (known..=known + unknown).contains(&found);
        let wanted = if unknown == 0 { known.to_string() } else { format!("{known} to {}", known + unknown) };
        Self::new(what, found, wanted, holds)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = if self.holds { "holds" } else { "**fails**" };
        write!(f, "| {} | {} | {} | {holds} |", self.what, self.found, self.wanted)
    }
}

/// No request was lost that nothing excuses.
pub(crate) fn requests(book: &Book) -> Vec<Check> {
    let checks = book.classes.iter().map(|(class, tally)| {
        let lost: u64 = tally.lost.values().sum();
        let excused: u64 = tally.excused.values().sum();
        let what = format!("{class:?}: {} asked, {excused} met a fault, lost", tally.asked);
        Check::new(what, lost, 0, lost == 0)
    });
    checks.collect()
}

/// Counters say what the clients saw.
pub(crate) fn counters(book: &Book, stats: &Stats) -> Vec<Check> {
    let mut checks = Vec::new();
    for door in Door::COUNTED {
        let entries = book.doors.get(&door).cloned().unwrap_or_default();
        let (stat, unknown) = (door.stats(), entries.unknown);
        let known = |count: u64| count.saturating_sub(unknown);
        let name = format!("{stat}.downstream_cx_total");
        checks.push(Check::count(&name, stats.get(&name), entries.connections, 0));
        let name = format!("{stat}.downstream_rq_total");
        checks.push(Check::count(&name, stats.get(&name), known(entries.requests), unknown));
        for (digit, &count) in entries.answers.iter().enumerate().skip(1) {
            let name = format!("{stat}.downstream_rq_{digit}xx");
            checks.push(Check::count(&name, stats.get(&name), count, unknown));
        }
        let name = format!("{stat}.downstream_rq_completed");
        checks.push(Check::count(&name, stats.get(&name), entries.answers.iter().sum(), unknown));
    }
    let tcp = book.doors.get(&Door::Tcp).map_or(0, |it| it.connections);
    for name in ["tcp.tcp.downstream_cx_total", "cluster.tcp.upstream_cx_total"] {
        checks.push(Check::count(name, stats.get(name), tcp, 0));
    }
    for cluster in ["steady", "grpc", "secure", "cut", "stale", "mortal"] {
        let get = |name: &str| stats.get(&format!("cluster.{cluster}.{name}"));
        // A try for which no connection came about is no request to an upstream.
        let tries = get("upstream_rq_total")
            + get("upstream_rq_pending_failure_eject")
            + get("upstream_cx_none_healthy");
        // Ours counts apart what goes again since nobody had read it.
        let retries = get("upstream_rq_retry") + get("upstream_rq_stale_connection_replayed");
        let what = format!("cluster.{cluster}: tries, less {retries} retries = requests");
        checks.push(Check::count(what, tries - retries.min(tries), book.of_cluster(cluster), 0));
        let codes: u64 = (1..6).map(|digit| get(&format!("upstream_rq_{digit}xx"))).sum();
        let what = format!("cluster.{cluster}: upstream_rq_Nxx = upstream_rq_completed");
        checks.push(Check::count(what, codes, get("upstream_rq_completed"), 0));
        let what = format!("cluster.{cluster}: upstream_rq_completed = requests");
        checks.push(Check::count(what, get("upstream_rq_completed"), book.of_cluster(cluster), 0));
    }
    checks
}

/// No configuration was refused, and some came.
pub(crate) fn configuration(stats: &Stats) -> Vec<Check> {
    let mut checks: Vec<Check> = [".update_rejected", ".update_failure"]
        .into_iter()
        .map(|end| Check::count(format!("sum of *{end}"), stats.sum(end), 0, 0))
        .collect();
    for name in ["listener_manager.lds", "cluster_manager.cds", "http.edge.rds.routes"] {
        let name = format!("{name}.update_success");
        let found = stats.get(&name);
        checks.push(Check::new(&name, found, "at least 1", found > 0));
    }
    checks
}

/// Load and upstreams are gone: what is still under way hangs.
pub(crate) fn rest(stats: &Stats, start: Sample, end: Sample) -> Vec<Check> {
    let left: Vec<String> =
        stats.active().filter(|it| it.1 > 0).map(|(name, value)| format!("{name}={value}")).collect();
    let count = stats.active().count();
    let what = format!("gauges of what is under way ({count}) that are not 0");
    let found = if left.is_empty() { "none".to_owned() } else { left.join(" ") };
    let descriptors = end.descriptors <= start.descriptors;
    vec![
        Check::new(what, found, "none", left.is_empty() && count > 0),
        Check::new("descriptors", end.descriptors, format!("at most {}", start.descriptors), descriptors),
        Check::new("threads", end.threads, start.threads, end.threads == start.threads),
    ]
}

/// In kilobytes over all but the first quarter. An hour has a million requests in that time: two bytes lost with each would
/// show. A run of minutes still fills pools, and is let grow by more.
fn bound(seconds: f64) -> f64 {
    if seconds >= 1800.0 { 2048.0 } else { 6144.0 }
}

/// Memory, as seconds and kilobytes.
pub(crate) fn memory(points: &[(f64, f64)]) -> Vec<Check> {
    let seconds = points.last().map_or(0.0, |it| it.0);
    let bound = bound(seconds);
    let wanted = format!("at most {bound:.0} kB");
    let rise = rise(settled(points));
    let mut checks = vec![Check::new(
        "memory: rise of the line through all but the first quarter",
        format!("{rise:.0} kB"),
        &wanted,
        rise <= bound,
    )];
    if let Some((second, last)) = quarters(points) {
        let what = format!("memory: last quarter ({last:.0} kB) above the second ({second:.0} kB)");
        checks.push(Check::new(what, format!("{:.0} kB", last - second), wanted, last - second <= bound));
    }
    checks
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::book::{Class, Faults};
    use super::*;

    fn fails(checks: &[Check]) -> Vec<&str> {
        checks.iter().filter(|it| !it.holds).map(|it| it.what.as_str()).collect()
    }

    fn book() -> Book {
        let mut book = Book::default();
        book.connected(Door::Edge);
        for class in [Class::Kept, Class::Kept, Class::Mortal] {
            book.asked(class);
            book.answered(class, 200);
            book.ended(class, Ok(()), &Faults::default(), Instant::now());
        }
        book
    }

    const STATS: &str = "http.edge.downstream_cx_total: 1\nhttp.edge.downstream_rq_total: 3\n\
        http.edge.downstream_rq_2xx: 3\nhttp.edge.downstream_rq_completed: 3\n\
        cluster.steady.upstream_rq_total: 2\ncluster.steady.upstream_rq_2xx: 2\n\
        cluster.steady.upstream_rq_completed: 2\ncluster.mortal.upstream_rq_total: 1\n\
        cluster.mortal.upstream_rq_retry: 1\ncluster.mortal.upstream_rq_pending_failure_eject: 1\n\
        cluster.mortal.upstream_rq_2xx: 1\ncluster.mortal.upstream_rq_completed: 1\n";

    #[test]
    fn counters_that_add_up_hold_and_others_do_not() {
        assert_eq!(fails(&counters(&book(), &Stats::parse(STATS))), [""; 0]);
        let less = STATS.replace("downstream_rq_2xx: 3", "downstream_rq_2xx: 2");
        assert_eq!(fails(&counters(&book(), &Stats::parse(&less))), ["http.edge.downstream_rq_2xx"]);
        let more = STATS.replace("steady.upstream_rq_total: 2", "steady.upstream_rq_total: 3");
        assert_eq!(
            fails(&counters(&book(), &Stats::parse(&more))),
            ["cluster.steady: tries, less 0 retries = requests"]
        );
    }

    #[test]
    fn what_hangs_is_named() {
        let one = Sample { memory: 1, descriptors: 10, threads: 4 };
        let stats = Stats::parse("a.upstream_rq_active: 0\nb.downstream_cx_active: 1\n");
        let checks = rest(&stats, one, Sample { descriptors: 11, ..one });
        assert_eq!(checks[0].found, "b.downstream_cx_active=1");
        assert_eq!(checks.iter().map(|it| it.holds).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn memory_that_grows_fails() {
        let line =
            |slope: f64| (0..1800).map(|n| (f64::from(2 * n), 10_000.0 + slope * f64::from(n))).collect();
        let (flat, steep): (Vec<_>, Vec<_>) = (line(0.1), line(4.0));
        assert!(memory(&flat).iter().all(|it| it.holds));
        assert!(memory(&steep).iter().all(|it| !it.holds));
    }
}
