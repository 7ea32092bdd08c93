//! `rival compare`: Oarlock, the floor and the rivals under the same loads, in turn, several rounds;
//! what came out as `compare.json`, `compare.md` and `compare.html`.
//!
//! Map: [`system`] starts what is measured, [`load`] says what is put on it, [`generator`] runs
//! `oarlock bench` for it, [`search`] looks for the highest rate, [`node_return`] kills a node and
//! brings it back, [`durability`] counts flushes, [`summary`] makes medians, ratios and verdicts,
//! [`document`] is all that is kept, [`tell`] writes it for people, [`stop`] is Ctrl-C.

mod document;
mod durability;
mod generator;
mod load;
mod node_return;
mod search;
mod stop;
mod summary;
mod system;
mod tell;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock::bench::ports::{data_folder, is_in_memory};

use document::{Config, Document};
use durability::Durability;
use generator::{Figure, Figures, Generator, Outcome};
use load::{HIGHEST_P99_US, Load, SEARCH_TRIES, Times};
use stop::Stop;
use summary::{Run, Summary, keeps_up, verdicts};
use system::{Running, Setup, System};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Before a load, so that leaders are where they should be.
const SETTLE: Duration = Duration::from_secs(1);
/// What the check of durability takes for each system, without its start.
const CHECK_S: f64 = 4.0;

/// Measures Oarlock beside the rivals. A shorter way to say it: scripts/compare.
#[derive(clap::Args)]
pub struct Args {
    /// How often everything is run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only to see that everything runs: one round of short runs. The figures mean nothing, and are
    /// not written to docs/benchmarks.
    #[arg(long)]
    quick: bool,
    /// Which loads; may be given several times. All, unless given.
    #[arg(long = "load", value_enum)]
    loads: Vec<Load>,
    /// Which systems; may be given several times. All, unless given.
    #[arg(long = "system", value_enum)]
    systems: Vec<System>,
    /// Cores of each node of Oarlock, and threads of each node of raft-rs and openraft.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    cores: u16,
    /// The program oarlock, built with --features etcd [default: the repository's release build].
    #[arg(long, value_name = "FILE")]
    oarlock: Option<PathBuf>,
    /// The program oarlock-floor [default: the repository's release build].
    #[arg(long, value_name = "FILE")]
    floor: Option<PathBuf>,
    /// A folder on the disk to measure on; a new one in it is removed at the end [default: the system's
    /// temporary folder].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Where the three files are written [default: docs/benchmarks, with --quick target/compare].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Measure nothing: write the other two files anew from this compare.json.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Args {
    fn times(&self) -> Times {
        if self.quick { Times::QUICK } else { Times::FULL }
    }

    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn out(&self) -> PathBuf {
        let usual = if self.quick { "target/compare" } else { "docs/benchmarks" };
        self.out.clone().unwrap_or_else(|| Path::new(REPOSITORY).join(usual))
    }

    fn config(&self) -> Config {
        // In the order of the tables, each once.
        let pick = |all: &[System]| {
            let is_wanted =
                |system: &System| self.systems.is_empty() || self.systems.contains(system);
            all.iter().copied().filter(is_wanted).collect::<Vec<_>>()
        };
        let is_wanted = |load: &Load| self.loads.is_empty() || self.loads.contains(load);
        let loads: Vec<Load> = Load::ALL.into_iter().filter(is_wanted).collect();
        Config::new(self.rounds(), self.cores, self.times(), &pick(&System::ALL), &loads)
    }
}

/// Runs it.
///
/// # Errors
/// If Oarlock does not run, files cannot be written, or a stop is wanted. What goes wrong with a rival
/// is told, and the rest goes on.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let Some(file) = &args.from {
        let mut document: Document = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        return write(&mut document, &args.out());
    }
    let stop = Stop::on_signals()?;
    let folder = folder(args.data.as_deref())?;
    let built = |name: &str| Path::new(REPOSITORY).join("target/release").join(name);
    let setup = Setup {
        oarlock: args.oarlock.clone().unwrap_or_else(|| built("oarlock")),
        floor: args.floor.clone().unwrap_or_else(|| built("oarlock-floor")),
        cores: args.cores,
    };
    let generator = Generator { oarlock: &setup.oarlock, folder: folder.path(), stop: &stop };
    let mut comparison = Comparison {
        document: Document::new(args.config(), folder.path()),
        units: units(&args.config().systems),
        setup: &setup,
        folder: folder.path(),
        generator,
        found: BTreeMap::new(),
        began: Instant::now(),
        done_s: 0.0,
        whole_s: 0.0,
    };
    let ended = comparison.run(&args.out());
    if stop.is_wanted() {
        return Err("interrupted; all processes have been ended".into());
    }
    ended
}

/// A new folder that ends with its handle, on a disk.
fn folder(data: Option<&Path>) -> Result<tempfile::TempDir, Box<dyn Error>> {
    let Some(data) = data else { return Ok(data_folder()?) };
    std::fs::create_dir_all(data)?;
    if is_in_memory(data)? {
        return Err(
            format!("{} is kept in memory: nothing is durable there", data.display()).into()
        );
    }
    // Open files are told by paths without links.
    Ok(tempfile::Builder::new().prefix("oarlock-compare-").tempdir_in(data.canonicalize()?)?)
}

/// Systems that share processes: Oarlock's two ways to send to it.
fn units(systems: &[System]) -> Vec<Vec<System>> {
    let (oarlock, others): (Vec<System>, Vec<System>) =
        systems.iter().partition(|system| system.is_oarlock());
    let others = others.into_iter().map(|system| vec![system]);
    std::iter::once(oarlock).filter(|both| !both.is_empty()).chain(others).collect()
}

struct Comparison<'a> {
    document: Document,
    units: Vec<Vec<System>>,
    setup: &'a Setup,
    folder: &'a Path,
    generator: Generator<'a>,
    /// The place of the highest rate that was found in the round before.
    found: BTreeMap<System, i32>,
    began: Instant,
    /// What is done and what there is, in seconds as estimated.
    done_s: f64,
    whole_s: f64,
}

impl Comparison<'_> {
    fn run(&mut self, out: &Path) -> Result<(), Box<dyn Error>> {
        let rounds = self.document.config.rounds;
        self.whole_s = self.estimate_s();
        eprintln!(
            "compare: {rounds} rounds of {} loads on {} systems, about {:.0} minutes, on {}",
            self.document.config.loads.len(),
            self.document.config.systems.len(),
            (self.whole_s / 60.0).ceil(),
            self.document.disk
        );
        self.check_durability()?;
        let loads: Vec<Load> = self.document.config.loads.iter().map(|(load, _)| *load).collect();
        for round in 1..=rounds {
            for load in &loads {
                for at in 0..self.units.len() {
                    // Nobody always follows the same one.
                    let turn = at + usize::try_from(round).unwrap_or(0);
                    let unit = self.units[turn % self.units.len()].clone();
                    self.measure_unit(round, *load, unit)?;
                }
            }
            // An hour's work is not lost to an interruption.
            self.document.took_s = self.began.elapsed().as_secs_f64();
            write(&mut self.document, out)?;
        }
        print!("{}", tell::verdicts(&self.document));
        for name in FILES {
            println!("{}", out.join(name).display());
        }
        Ok(())
    }

    fn estimate_s(&self) -> f64 {
        let config = &self.document.config;
        let mut round_s = 0.0;
        let mut check_s = 0.0;
        for unit in &self.units {
            let start_s = unit.iter().map(|system| system.start_s()).fold(0.0, f64::max)
                + SETTLE.as_secs_f64();
            check_s += start_s + CHECK_S;
            for (load, _) in &config.loads {
                let runs = unit.iter().filter(|system| load.is_for(**system)).count();
                if runs > 0 {
                    round_s += start_s + runs as f64 * load.run_s(&config.times);
                }
            }
        }
        check_s + round_s * f64::from(config.rounds)
    }

    /// Also finds out which systems are not there.
    fn check_durability(&mut self) -> Result<(), Box<dyn Error>> {
        for unit in self.units.clone() {
            let system = unit[0];
            let folder = self.folder.join("check");
            let seen = self.check_one(system, &folder);
            remove(&folder)?;
            self.generator.stop.check()?;
            match seen {
                Ok(seen) => {
                    let word = if seen.is_durable() { "durable" } else { "NOT DURABLE" };
                    eprintln!("compare: {}: {word}: {}", system.name(), seen.told());
                    self.document.durability.push(seen);
                }
                Err(why) if system.is_oarlock() => return Err(why),
                Err(why) => {
                    let why = self.plain(&why.to_string());
                    eprintln!("compare: {} is left out: {why}", system.name());
                    self.document.left_out.push((system, why));
                    self.units.retain(|unit| unit[0] != system);
                }
            }
        }
        self.whole_s = self.estimate_s();
        self.done_s = self.began.elapsed().as_secs_f64();
        Ok(())
    }

    fn check_one(&self, system: System, folder: &Path) -> Result<Durability, Box<dyn Error>> {
        let running = Running::start(system, self.setup, folder, self.generator.stop)?;
        durability::check(system, &running, &self.generator, folder)
    }

    /// One load on the processes of a unit, which are new.
    fn measure_unit(
        &mut self,
        round: u32,
        load: Load,
        mut unit: Vec<System>,
    ) -> Result<(), Box<dyn Error>> {
        unit.retain(|system| load.is_for(*system));
        if round.is_multiple_of(2) {
            unit.reverse();
        }
        if unit.is_empty() {
            return Ok(());
        }
        let folder = self.folder.join("data");
        let started = Running::start(unit[0], self.setup, &folder, self.generator.stop);
        let mut started = started.map_err(|error| error.to_string());
        if started.is_ok() {
            self.generator.stop.rest(SETTLE)?;
        }
        for system in unit {
            let outcome = match &mut started {
                Ok(running) => self.measure(round, load, system, running),
                Err(error) => Err(error.clone().into()),
            };
            self.generator.stop.check()?;
            let run = self.keep(round, load, system, outcome);
            self.tell(&run);
            self.document.runs.push(run);
        }
        drop(started);
        remove(&folder)?;
        Ok(())
    }

    fn measure(
        &mut self,
        round: u32,
        load: Load,
        system: System,
        running: &mut Running,
    ) -> Result<Outcome, Box<dyn Error>> {
        let times = self.document.config.times;
        match load {
            Load::HighestRate => self.highest_rate(round, system, running),
            Load::NodeReturn => {
                let cluster = running.oarlock().ok_or("it is for Oarlock alone")?;
                let stop = self.generator.stop;
                let figures = node_return::run(cluster, &times, u64::from(round), stop)?;
                Ok(Outcome { figures, curve: Vec::new() })
            }
            Load::Open5k | Load::Open20k | Load::Closed64 | Load::Closed256 | Load::Mixed => {
                self.generator.run(system, running, &load.bench_args(&times, round, None))
            }
        }
    }

    fn highest_rate(
        &mut self,
        round: u32,
        system: System,
        running: &Running,
    ) -> Result<Outcome, Box<dyn Error>> {
        let times = self.document.config.times;
        let generator = &self.generator;
        let before = self.found.get(&system).copied();
        let found = search::highest(before, SEARCH_TRIES, |rate| {
            let args = Load::HighestRate.bench_args(&times, round, Some(rate));
            let mut again = true;
            loop {
                let figures = generator.run(system, running, &args)?.figures;
                let (holds, keeps_up) = judge(&figures, rate);
                // One stall of the disk in a short run is not the limit.
                if holds || !keeps_up || !again {
                    return Ok::<bool, Box<dyn Error>>(holds);
                }
                again = false;
            }
        })?;
        if let Some(place) = found {
            self.found.insert(system, place);
        }
        let rate = found.map_or(0.0, search::rate);
        Ok(Outcome { figures: Figures::from([(Figure::HighestRate, rate)]), curve: Vec::new() })
    }

    fn keep(
        &self,
        round: u32,
        load: Load,
        system: System,
        outcome: Result<Outcome, Box<dyn Error>>,
    ) -> Run {
        let (figures, curve, error) = match outcome {
            Ok(Outcome { figures, curve }) => (figures, curve, None),
            Err(error) => (Figures::new(), Vec::new(), Some(self.plain(&error.to_string()))),
        };
        Run { round, load, system, figures, curve, error }
    }

    /// An error's first line, without the folder that will be gone.
    fn plain(&self, error: &str) -> String {
        let folder = format!("{}/", self.folder.display());
        error.lines().next().unwrap_or_default().replace(&folder, "")
    }

    fn tell(&mut self, run: &Run) {
        let times = self.document.config.times;
        let sharing =
            if run.system.is_oarlock() && run.load != Load::NodeReturn { 2.0 } else { 1.0 };
        let start_s = run.system.start_s() + SETTLE.as_secs_f64();
        self.done_s += run.load.run_s(&times) + start_s / sharing;
        // As the work that is done has shown the estimate to be.
        let elapsed_s = self.began.elapsed().as_secs_f64();
        let left_s = (self.whole_s - self.done_s).max(0.0) * elapsed_s / self.done_s.max(1.0);
        eprintln!(
            "compare: round {}/{}, {}, {}: {} (about {:.0} min left)",
            run.round,
            self.document.config.rounds,
            run.load.name(),
            run.system.name(),
            tell::run(run),
            left_s / 60.0
        );
    }
}

/// Whether p99 is short enough and everything is answered, and whether at least the second is so.
fn judge(figures: &Figures, rate: f64) -> (bool, bool) {
    let figure = |figure| figures.get(&figure).copied();
    let keeps_up = keeps_up(rate, figure(Figure::Rate), figure(Figure::Errors));
    (keeps_up && figure(Figure::P99Us).is_some_and(|p99| p99 < HIGHEST_P99_US), keeps_up)
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

const FILES: [&str; 3] = ["compare.json", "compare.md", "compare.html"];

fn write(document: &mut Document, out: &Path) -> Result<(), Box<dyn Error>> {
    document.verdicts = verdicts(Summary(&document.runs));
    std::fs::create_dir_all(out)?;
    let json = serde_json::to_string(document)? + "\n";
    for (name, text) in
        FILES.into_iter().zip([json, tell::markdown(document), tell::html(document)])
    {
        std::fs::write(out.join(name), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ways_to_send_share_processes() {
        let all = units(&System::ALL);
        assert_eq!(all[0], [System::OarlockAny, System::OarlockMap]);
        assert_eq!(all.len(), System::ALL.len() - 1);
        assert_eq!(units(&[System::Etcd]), [[System::Etcd]]);
    }

    #[test]
    fn a_rate_holds_if_all_is_answered_in_time() {
        let figures = |rate, p99, errors| {
            Figures::from([(Figure::Rate, rate), (Figure::P99Us, p99), (Figure::Errors, errors)])
        };
        assert_eq!(judge(&figures(9_600.0, 4_999.0, 0.0), 10_000.0), (true, true));
        assert_eq!(judge(&figures(9_600.0, 5_000.0, 0.0), 10_000.0), (false, true));
        assert_eq!(judge(&figures(9_400.0, 100.0, 0.0), 10_000.0), (false, false));
        assert_eq!(judge(&figures(9_600.0, 100.0, 1.0), 10_000.0), (false, false));
        assert_eq!(judge(&Figures::new(), 1.0), (false, false));
    }

    #[test]
    fn a_folder_in_memory_is_refused() {
        let Err(error) = folder(Some(Path::new("/dev/shm"))) else { panic!("it was taken") };
        assert!(error.to_string().contains("is kept in memory"), "{error}");
    }
}
