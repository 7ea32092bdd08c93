//! `oarlock-sim`: replays one seed, or runs many on all cores. Each run is a process of its own, so
//! that one that fails, however it ends, is told by its parent: with its seed, the command that
//! replays it, and the smallest schedule of faults with which it still fails.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "it measures and starts runs"
)]

use std::any::Any;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use oarlock_sim::page::{self, Choice, Story};
use oarlock_sim::{Config, Figures, Overrides, World, finish};
use oarlock_types::GroupId;

/// Runs clusters of Oarlock in a simulated world of faults.
#[derive(Clone, Debug, Parser)]
#[command(name = "oarlock-sim")]
struct Options {
    /// The run to replay; the first one with --seeds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many runs, one seed after the other
    #[arg(long)]
    seeds: Option<u64>,
    /// As many runs as begin within so many minutes, or --seeds if that is fewer
    #[arg(long)]
    minutes: Option<f64>,
    /// Nodes, instead of what the seed draws
    #[arg(long)]
    nodes: Option<u64>,
    /// Cores of each node
    #[arg(long)]
    cores: Option<u16>,
    /// Groups
    #[arg(long)]
    groups: Option<u64>,
    /// Virtual seconds of faults
    #[arg(long)]
    seconds: Option<u64>,
    /// Only the faults with these numbers, and no others: "3,7"; "none" for none
    #[arg(long)]
    faults: Option<String>,
    /// A quiet network and quiet disks, whatever the seed draws
    #[arg(long)]
    calm_weather: bool,
    /// The cluster keeps its own map, with placement, joins and drains, whatever the seed draws
    #[arg(long, value_name = "BOOL")]
    placement: Option<bool>,
    /// A quorum is lost for good, and survivors are gone on from, whatever the seed draws
    #[arg(long, value_name = "BOOL")]
    recovery: Option<bool>,
    /// Disks are spoiled while members change and ranges merge, whatever the seed draws; with false none is
    #[arg(long, value_name = "BOOL")]
    spoiled: Option<bool>,
    /// Nodes are started with other numbers of cores, whatever the seed draws
    #[arg(long, value_name = "BOOL")]
    core_changes: Option<bool>,
    /// Fails once more elections are won: a wish, to see what a failure looks like
    #[arg(long, value_name = "N")]
    elections_max: Option<u64>,
    /// Writes what happened to a file, a line for each event
    #[arg(long)]
    trace_text: Option<std::path::PathBuf>,
    /// Draws what happened as a page that a browser shows, offline
    #[arg(long, value_name = "FILE.html")]
    trace: Option<std::path::PathBuf>,
    /// Messages, logs and clients on the page only from this virtual second on
    #[arg(long, value_name = "SECONDS")]
    trace_from: Option<f64>,
    /// ... and up to this one
    #[arg(long, value_name = "SECONDS")]
    trace_to: Option<f64>,
    /// Only these groups on the page: "1,4"
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    trace_group: Vec<u64>,
    /// Does not look for the smallest schedule that fails
    #[arg(long)]
    no_shrink: bool,
    /// Processes at once with --seeds [default: one for each CPU]
    #[arg(long)]
    jobs: Option<usize>,
    /// Real seconds after which a run counts as hung
    #[arg(long, default_value_t = 600)]
    hung_after: u64,
    /// A run of a parent: tells its figures in one line
    #[arg(long, hide = true)]
    child: bool,
}

impl Options {
    fn overrides(&self) -> Overrides {
        let only = self
            .faults
            .as_ref()
            .map(|list| list.split(',').filter_map(|number| number.trim().parse().ok()).collect());
        Overrides {
            nodes: self.nodes,
            cores: self.cores,
            groups: self.groups,
            seconds: self.seconds,
            only,
            calm_weather: self.calm_weather,
            elections_max: self.elections_max,
            placement: self.placement,
            recovery: self.recovery,
            spoiled: self.spoiled,
            core_changes: self.core_changes,
        }
    }

    /// The arguments that make the same run.
    fn arguments(&self) -> Vec<String> {
        let mut all = vec!["--seed".to_owned(), self.seed.to_string()];
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                all.extend([format!("--{name}"), value]);
            }
        };
        add("nodes", self.nodes.map(|n| n.to_string()));
        add("cores", self.cores.map(|n| n.to_string()));
        add("groups", self.groups.map(|n| n.to_string()));
        add("seconds", self.seconds.map(|n| n.to_string()));
        add("faults", self.faults.clone());
        add("elections-max", self.elections_max.map(|n| n.to_string()));
        if let Some(placement) = self.placement {
            all.extend(["--placement".to_owned(), placement.to_string()]);
        }
        if let Some(recovery) = self.recovery {
            all.extend(["--recovery".to_owned(), recovery.to_string()]);
        }
        if let Some(spoiled) = self.spoiled {
            all.extend(["--spoiled".to_owned(), spoiled.to_string()]);
        }
        if let Some(core_changes) = self.core_changes {
            all.extend(["--core-changes".to_owned(), core_changes.to_string()]);
        }
        if self.calm_weather {
            all.push("--calm-weather".to_owned());
        }
        all
    }

    fn command(&self) -> String {
        format!("cargo run --release -p oarlock-sim -- {}", self.arguments().join(" "))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.child {
        let begun = Instant::now();
        let figures = simulate(&options);
        println!("{} {}", line(&figures), begun.elapsed().as_micros());
        return ExitCode::SUCCESS;
    }
    match (options.seeds, options.minutes) {
        (None, None) => one(&options),
        (count, _) => many(&options, count.unwrap_or(u64::MAX - options.seed)),
    }
}

fn simulate(options: &Options) -> Figures {
    let config = Config::swarm(options.seed, &options.overrides());
    let mut world = World::new(options.seed, config);
    finish(&mut world)
}

/// Replays one seed in this process, so that a debugger and a profiler see it; if it fails, its
/// panic says why, and the hook how to replay it.
fn one(options: &Options) -> ExitCode {
    let config = Config::swarm(options.seed, &options.overrides());
    println!(
        "seed {}: {} nodes of {} cores, {} groups, {} clients, {} faults over {} s{}",
        options.seed,
        config.nodes,
        config.cores,
        config.groups,
        config.clients,
        config.faults.len(),
        config.duration_us / 1_000_000,
        if config.is_outside_model() {
            "; a clock goes beyond its bound: leases and reads are not judged"
        } else {
            ""
        },
    );
    if options.trace_text.is_none() && options.trace.is_none() {
        let mut child = start(options);
        let mut told = String::new();
        if let Some(out) = &mut child.stdout {
            let _ = out.read_to_string(&mut told);
        }
        let mut why = String::new();
        if let Some(out) = &mut child.stderr {
            let _ = out.read_to_string(&mut why);
        }
        return match child.wait() {
            Ok(status) if status.success() => {
                println!("{}", summary(&[read_line(&told)], 1));
                ExitCode::SUCCESS
            }
            Ok(_) | Err(_) => fail(options, &why),
        };
    }
    let mut world = World::traced(options.seed, config, options.trace.is_some());
    if let Some(path) = &options.trace_text {
        match std::fs::File::create(path) {
            Ok(file) => world.trace.write_lines(Box::new(file)),
            Err(error) => {
                eprintln!("cannot write {}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    let Some(path) = &options.trace else {
        println!("{}", summary(&[Run { figures: finish(&mut world), real: Duration::ZERO }], 1));
        return ExitCode::SUCCESS;
    };
    // A run that fails is what one wants to look at most.
    let end = catch_unwind(AssertUnwindSafe(|| finish(&mut world)));
    if !draw(options, &world, path, end.as_ref().err().map(words)) {
        return ExitCode::FAILURE;
    }
    match end {
        Ok(figures) => {
            println!("{}", summary(&[Run { figures, real: Duration::ZERO }], 1));
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("\nseed {} fails; replay it: {}", options.seed, options.command());
            ExitCode::FAILURE
        }
    }
}

/// What a panic says.
fn words(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// Writes the page of a run.
fn draw(options: &Options, world: &World, path: &Path, failure: Option<String>) -> bool {
    let us = |seconds: f64| {
        Duration::try_from_secs_f64(seconds)
            .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
    };
    let choice = Choice {
        from_us: options.trace_from.map(us),
        to_us: options.trace_to.map(us),
        groups: options.trace_group.iter().copied().map(GroupId).collect(),
        bytes_max: None,
    };
    let (seed, command, end_us) = (options.seed, options.command(), world.now_us());
    let story = Story { seed, command, failure, end_us };
    let page = page::write(&story, &world.config, world.trace.events(), &choice);
    match std::fs::write(path, &page) {
        Ok(()) => {
            println!("{} ({} KiB): open it in a browser", path.display(), page.len() >> 10);
            true
        }
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            false
        }
    }
}

/// What became of one run.
struct Run {
    figures: Figures,
    real: Duration,
}

fn start(options: &Options) -> Child {
    let program = std::env::current_exe().expect("invariant: this program has a file");
    Command::new(program)
        .args(options.arguments())
        .arg("--child")
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this machine starts processes")
}

fn many(options: &Options, count: u64) -> ExitCode {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or(cpus).max(1);
    let limit = options.minutes.map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    // With a limit it is time that passes, else it is runs.
    let bar = ProgressBar::new(limit.map_or(count, |limit| limit.as_secs()));
    let template = match limit {
        Some(_) => "{bar:40} {elapsed} of {len} s gone, {msg} seeds",
        None => "{bar:40} {pos}/{len} seeds, {elapsed} gone, {eta} to go",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let begun = Instant::now();
    let mut waiting = options.seed..options.seed + count;
    let mut running: Vec<(Options, Child, Instant)> = Vec::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut failed: Vec<(Options, String)> = Vec::new();
    loop {
        while running.len() < jobs
            && failed.is_empty()
            && limit.is_none_or(|limit| begun.elapsed() < limit)
            && let Some(seed) = waiting.next()
        {
            let options = Options { seed, ..options.clone() };
            let child = start(&options);
            running.push((options, child, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        let mut left = Vec::new();
        for (options, mut child, begun) in running {
            let is_hung = begun.elapsed().as_secs() > options.hung_after;
            if is_hung {
                let _ = child.kill();
            }
            match child.try_wait() {
                Ok(None) if !is_hung => left.push((options, child, begun)),
                _ => match ended(child, is_hung) {
                    Ok(run) => runs.push(run),
                    Err(why) => failed.push((options, why)),
                },
            }
        }
        running = left;
        bar.set_message(runs.len().to_string());
        bar.set_position(limit.map_or(runs.len() as u64, |_| begun.elapsed().as_secs()));
        // Nothing tells of the end of one child among several without a signal handler.
        std::thread::sleep(Duration::from_millis(2));
    }
    bar.finish_and_clear();
    println!("{}", summary(&runs, jobs));
    println!("{} seeds in {:.1} s", runs.len(), begun.elapsed().as_secs_f64());
    failed.first().map_or(ExitCode::SUCCESS, |(options, why)| fail(options, why))
}

fn ended(mut child: Child, is_hung: bool) -> Result<Run, String> {
    let (mut told, mut why) = (String::new(), String::new());
    if let Some(out) = &mut child.stdout {
        let _ = out.read_to_string(&mut told);
    }
    if let Some(out) = &mut child.stderr {
        let _ = out.read_to_string(&mut why);
    }
    match child.wait() {
        Ok(status) if status.success() && !is_hung => Ok(read_line(&told)),
        Ok(_) | Err(_) if is_hung => Err("it hangs".to_owned()),
        Ok(_) | Err(_) => Err(why),
    }
}

/// The figures in one line, for the parent.
fn line(figures: &Figures) -> String {
    let Figures { events, virtual_us, answered, unknown, elections, entries, faults, .. } = figures;
    let (messages, digest) = (figures.messages, figures.digest);
    format!(
        "{events} {virtual_us} {answered} {unknown} {elections} {entries} {faults} {messages} {digest}"
    )
}

fn read_line(text: &str) -> Run {
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let figures = Figures {
        events: number(0),
        virtual_us: number(1),
        answered: number(2),
        unknown: number(3),
        elections: number(4),
        entries: number(5),
        faults: number(6),
        messages: number(7),
        digest: number(8),
    };
    Run { figures, real: Duration::from_micros(number(9)) }
}

fn summary(runs: &[Run], jobs: usize) -> String {
    let sum = |of: fn(&Figures) -> u64| runs.iter().map(|run| of(&run.figures)).sum::<u64>();
    let real: f64 = runs.iter().map(|run| run.real.as_secs_f64()).sum::<f64>().max(1e-9);
    let (events, virtual_s) = (sum(|f| f.events), sum(|f| f.virtual_us) as f64 / 1e6);
    let digest = runs.iter().fold(0, |all: u64, run| all.wrapping_add(run.figures.digest));
    format!(
        "{:.2} virtual hours, {events} events, {} faults, {} elections, {} entries, {} messages\n\
         {} operations answered, {} of unknown outcome; digest {digest:x}\n\
         on one core: {:.0} events a second, {:.1} virtual hours per real hour ({jobs} at once)",
        virtual_s / 3600.0,
        sum(|f| f.faults),
        sum(|f| f.elections),
        sum(|f| f.entries),
        sum(|f| f.messages),
        sum(|f| f.answered),
        sum(|f| f.unknown),
        events as f64 / real,
        virtual_s / real,
    )
}

/// Tells of a failure, and of the least with which it still fails.
fn fail(options: &Options, why: &str) -> ExitCode {
    println!("\nseed {} fails:\n{}", options.seed, why.trim());
    println!("\nreplay it: {}", options.command());
    println!("see it:    {} --trace run.html", options.command());
    if !options.no_shrink {
        let small = shrink(options, why);
        let config = Config::swarm(small.seed, &small.overrides());
        println!("\nit still fails with {} faults:", config.faults.len());
        for fault in &config.faults {
            println!("  {fault}");
        }
        println!("replay that: {}", small.command());
    }
    ExitCode::FAILURE
}

/// The first words of a failure: another one is another failure.
fn kind(why: &str) -> String {
    let line = why.lines().find(|line| !line.is_empty() && !line.starts_with("thread"));
    line.unwrap_or("").chars().take_while(|c| *c != ':').filter(|c| !c.is_ascii_digit()).collect()
}

/// Shortens a run, then leaves out faults, by halves and then one by one, while it fails as before.
fn shrink(options: &Options, why: &str) -> Options {
    let kind_wanted = kind(why);
    let fails = |candidate: &Options| {
        ended(start(candidate), false).is_err_and(|why| kind(&why) == kind_wanted)
    };
    let mut best = options.clone();
    let mut config = Config::swarm(best.seed, &best.overrides());
    let mut seconds = config.duration_us / 1_000_000;
    while seconds > 1 {
        let shorter = Options { seconds: Some(seconds * 3 / 4), ..best.clone() };
        if !fails(&shorter) {
            break;
        }
        seconds = seconds * 3 / 4;
        best = shorter;
    }
    config = Config::swarm(best.seed, &best.overrides());
    let mut left: Vec<usize> = config.faults.iter().map(|fault| fault.number).collect();
    let named = |numbers: &[usize]| {
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        Some(if list.is_empty() { "none".to_owned() } else { list.join(",") })
    };
    let mut piece = left.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < left.len() {
            let mut fewer = left.clone();
            fewer.drain(at..(at + piece).min(left.len()));
            let candidate = Options { faults: named(&fewer), ..best.clone() };
            if fails(&candidate) {
                left = fewer;
                best = candidate;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    let calmer = Options { calm_weather: true, ..best.clone() };
    if fails(&calmer) { calmer } else { best }
}
