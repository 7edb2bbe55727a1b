//! A run: what is shared by all rows, and in which order contestants take their turns.

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use testkit::cost::load_average;

use crate::answer::Upstream;
use crate::contestant::{Contestant, Kind, Part, Programs};
use crate::keys::Keys;
use crate::load::{Done, Work};
use crate::process::free_port;
use crate::report::{Column, Report};
use crate::rows::ROWS;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The mizzen-proxy that is measured
    #[arg(long, value_name = "FILE")]
    proxy: PathBuf,
    /// Fewer and shorter rounds
    #[arg(long)]
    quick: bool,
    /// Only these rows
    rows: Vec<String>,
}

/// What every row uses.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) keys: Keys,
    pub(crate) upstream: Upstream,
    folder: TempDir,
    quick: bool,
    /// How many contestants have been started.
    started: Cell<usize>,
    /// How many descriptors a process may have.
    pub(crate) descriptors: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
    let unknown = options.rows.iter().find(|name| !known.contains(&name.as_str()));
    ensure!(unknown.is_none(), "no row is called {unknown:?}; there are {}", known.join(", "));
    ensure!(options.proxy.is_file(), "--proxy: {} is no file", options.proxy.display());
    let descriptors = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors })?;
    let folder = tempfile::tempdir()?;
    let bench = Bench {
        programs: Programs::new(std::path::absolute(&options.proxy)?),
        keys: Keys::make(folder.path())?,
        upstream: Upstream::start()?,
        folder,
        quick: options.quick,
        started: Cell::new(0),
        descriptors: descriptors.unwrap_or(u64::MAX),
    };
    println!("{}\n", bench.machine());
    for row in ROWS {
        if options.rows.is_empty() || options.rows.iter().any(|name| name == row.name) {
            match (row.run)(&bench) {
                Ok(reports) => reports.iter().for_each(|report| println!("{report}")),
                // The others are worth having all the same.
                Err(error) => println!("### {} was not measured\n\n{error:#}\n", row.name),
            }
        }
    }
    println!("Load over the last minute at the end: {}.", load_average());
    Ok(())
}

impl Bench {
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    /// How long a load lasts.
    pub(crate) fn seconds(&self) -> u64 {
        if self.quick { 2 } else { 3 }
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    fn machine(&self) -> String {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
        let model = text.lines().find_map(field).unwrap_or_else(|| "an unknown processor".to_owned());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let versions: Vec<String> = Kind::ALL.iter().map(|kind| self.programs.version(*kind)).collect();
        format!(
            "{processors} x {model}, Linux {}, load over the last minute {}. Medians of {} rounds in turns \
             (least to most), one worker thread each. {}.",
            kernel.trim(),
            load_average(),
            self.rounds(),
            versions.join(", "),
        )
    }

    /// A folder that is the contestant's own.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        let number = self.started.replace(self.started.get() + 1);
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Starts each of these kinds that is installed, with the one part that is made for its port.
    pub(crate) fn start(
        &self,
        kinds: &[Kind],
        part: impl Fn(Kind, u16) -> Option<Part>,
    ) -> Result<Vec<Contestant>> {
        let mut all = Vec::new();
        for &kind in kinds {
            let (port, folder) = (free_port()?, self.folder()?);
            let Some(part) = part(kind, port) else { continue };
            if let Some(program) = self.programs.of(kind) {
                all.push(Contestant::start(kind.name(), kind, &program, &folder, vec![part])?);
            }
        }
        Ok(all)
    }

    /// Warms each up, then puts the load on one after the other, round by round, each round beginning with the next.
    pub(crate) fn turns(
        &self,
        report: &mut Report,
        contestants: &[Contestant],
        unit: Unit,
        load: impl Fn(&Contestant, Work) -> Result<Done>,
    ) -> Result<()> {
        let seconds = self.seconds();
        let mut amounts = Vec::new();
        for contestant in contestants {
            let done = load(contestant, Work { seconds: 1, units: None })?;
            amounts.push(done.units / done.seconds * seconds as f64);
        }
        for round in 0..self.rounds() {
            for turn in 0..contestants.len() {
                let place = (round + turn) % contestants.len();
                let contestant = &contestants[place];
                let before = contestant.cost()?;
                let done = load(contestant, Work { seconds, units: Some(amounts[place]) })?;
                let after = contestant.cost()?;
                contestant.empty_logs();
                let cpu = (after.cpu - before.cpu) / done.units * unit.cpu_scale;
                report.add(
                    &contestant.name,
                    [cpu, done.units / done.seconds * unit.rate_scale, after.resident],
                );
            }
        }
        Ok(())
    }
}

/// What work is counted in, and how its figures are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) cpu: Column,
    cpu_scale: f64,
    pub(crate) rate: Column,
    rate_scale: f64,
}

pub(crate) const RESIDENT: Column = Column { name: "resident MB", digits: 1 };

impl Unit {
    pub(crate) const REQUESTS: Self = Self {
        cpu: Column { name: "CPU µs per request", digits: 1 },
        cpu_scale: 1e6,
        rate: Column { name: "requests/s", digits: 0 },
        rate_scale: 1.0,
    };
    pub(crate) const BYTES: Self = Self {
        cpu: Column { name: "CPU ms per GB", digits: 0 },
        cpu_scale: 1e12,
        rate: Column { name: "GB/s", digits: 2 },
        rate_scale: 1e-9,
    };
    pub(crate) const HANDSHAKES: Self = Self {
        cpu: Column { name: "CPU µs per handshake", digits: 0 },
        cpu_scale: 1e6,
        rate: Column { name: "handshakes/s", digits: 0 },
        rate_scale: 1.0,
    };

    pub(crate) fn columns(self) -> [Column; 3] {
        [self.cpu, self.rate, RESIDENT]
    }
}
