//! One run of `oarlock bench`: its arguments, what is done before it, what is written after it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde_json::{Value, json};

use super::{bar, progress, write_file, write_json};
use crate::bench::breakdown::{Breakdown, Nodes};
use crate::bench::client::Client;
use crate::bench::compare::Named;
use crate::bench::conditions::Condition;
use crate::bench::export::{self, Run};
use crate::bench::keys::{Distribution, HotSpot, KeySpace, Naming};
use crate::bench::page;
use crate::bench::preset::Preset;
use crate::bench::report::Measured;
use crate::bench::routes::Routes;
use crate::bench::run::{self, RunOptions, Running};
use crate::bench::schedule::Arrival;
use crate::bench::target::Target;
use crate::bench::usage::{Disk, Used};
use crate::bench::values::ValueBytes;
use crate::bench::workload::{Fill, Mix, Mixed, Shares, Workload, WriteCommand};
use crate::cli::exit::Exit;

/// How long a server may take to answer before the run.
const ASKING_TIMEOUT: Duration = Duration::from_secs(3);

/// What a run is.
#[derive(Args, Clone, Debug, serde::Serialize)]
pub struct LoadArgs {
    /// Where the server is; may be given several times, clients are spread over them.
    #[arg(long = "addr", value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub addresses: Vec<String>,
    /// What the servers speak.
    #[arg(long, value_enum, default_value_t)]
    pub target: Target,
    /// Which node an operation is sent to. By the map, each client has a connection to every node.
    #[arg(long, value_enum, default_value_t)]
    pub route: Route,
    /// Operations per second, all clients together (open loop).
    #[arg(long, value_name = "OPS", value_parser = positive)]
    pub rate: Option<f64>,
    /// How an open loop's operations lie in time.
    #[arg(long, value_enum, default_value_t)]
    pub arrival: Arrival,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Most operations in flight per connection [default: 1 in a closed loop, 256 in an open one].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub pipeline: Option<u32>,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// A load that has a name, instead of --read-share and --command.
    #[arg(long, value_enum, conflicts_with_all = ["read_share", "command"])]
    pub preset: Option<Preset>,
    /// How many keys there are.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Name keys by this text and their number. Without it, each name begins with two bytes of a
    /// hash, so that keys fall evenly on a cluster's initial ranges.
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Bytes of a value: one number, or two as in 64..4096, between which each is drawn evenly
    /// [default: 128, or what the preset says].
    #[arg(long, value_name = "BYTES")]
    pub value_bytes: Option<ValueBytes>,
    /// Which share of the operations reads, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub read_share: f64,
    /// What the other operations are.
    #[arg(long, value_enum, default_value_t)]
    pub command: WriteCommand,
    /// How keys are drawn [default: uniform, or what the preset says].
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// Which share of the keys is hot with --distribution hot-spot, 0 to 1.
    #[arg(long, default_value_t = HotSpot::default().keys_share, value_parser = share)]
    pub hot_keys_share: f64,
    /// Which share of the operations takes a hot key with --distribution hot-spot, 0 to 1.
    #[arg(long, default_value_t = HotSpot::default().ops_share, value_parser = share)]
    pub hot_ops_share: f64,
    /// Write every key once before.
    #[arg(long, visible_alias = "load-first")]
    pub fill: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub seconds: f64,
    /// How long to run before measuring.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
    pub warmup_seconds: f64,
    /// After how long an unanswered operation counts as failed and its connection is broken off.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub timeout_seconds: f64,
    /// The same seed draws the same keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Also measure what this process of this machine uses in the window: CPU time, and bytes that it
    /// has written to disks. May be given several times, for all processes of a cluster.
    #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
    /// With `--pid`: also count what the device of this folder's file system writes in the window, for anybody on
    /// this machine. The journal of a file system is in it.
    #[arg(long, value_name = "FOLDER", requires = "pids")]
    pub disk: Option<PathBuf>,
    /// Write all figures to this file: percentiles, curves, seconds, configuration, machine.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a line for each second to this file.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a histogram for each second to this file, as a log for HdrHistogram's tools (nanoseconds,
    /// two digits).
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Draw the run on one page for a browser, which needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// End with 1 unless this holds, as in 'p99<2ms' or 'rate>=20k,errors==0'. May be given several
    /// times. Figures: p50 to p99.99 or any other percentile and max, each also of reads.p99,
    /// writes.p99, generator-late.p99; rate, ops, errors, error-percent.
    #[arg(long = "assert", value_name = "CONDITION", value_delimiter = ',')]
    pub conditions: Vec<Condition>,
    /// Ask the nodes of an Oarlock cluster where the time of its writes went, stage by stage.
    #[arg(long)]
    pub breakdown: bool,
    /// End with success though operations failed.
    #[arg(long)]
    pub allow_errors: bool,
}

/// Where operations are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// To the addresses given, in turn; a cluster forwards what it must.
    #[default]
    Any,
    /// To the node that leads the key's range, as an Oarlock cluster says at the start.
    Map,
}

fn number(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number <= 1e9 { Ok(number) } else { Err("out of range".to_owned()) }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|n| if n > 0.0 { Ok(n) } else { Err("must be over 0".to_owned()) })
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|n| if n >= 0.0 { Ok(n) } else { Err("must not be negative".to_owned()) })
}

fn share(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|n| if n <= 1.0 { Ok(n) } else { Err("must be 0 to 1".to_owned()) })
}

impl LoadArgs {
    fn distribution(&self) -> Distribution {
        let of_preset = self.preset.map(Preset::distribution);
        self.distribution.or(of_preset).unwrap_or_default()
    }

    fn disk(&self) -> io::Result<Option<Disk>> {
        self.disk.as_deref().map(Disk::of).transpose()
    }

    fn value_bytes(&self) -> ValueBytes {
        let of_preset = self.preset.and_then(Preset::value_bytes);
        self.value_bytes.or(of_preset).unwrap_or_else(|| ValueBytes::from(128))
    }

    fn shares(&self) -> Shares {
        let plain = Shares { read: self.read_share, ..Shares::default() };
        self.preset.map_or(plain, Preset::shares)
    }

    fn pipeline(&self) -> u32 {
        self.pipeline.unwrap_or(if self.rate.is_some() { 256 } else { 1 })
    }

    fn naming(&self) -> Naming {
        let prefix = self.key_prefix.as_ref().map(|prefix| prefix.clone().into_bytes());
        prefix.map_or(Naming::Spread, Naming::Prefixed)
    }

    /// Every setting as it is in effect.
    fn config(&self) -> Value {
        let mut config = serde_json::to_value(self).expect("invariant: settings are plain values");
        config["pipeline"] = json!(self.pipeline());
        config["distribution"] = json!(self.distribution());
        config["value_bytes"] = json!(self.value_bytes());
        config
    }
}

/// What stands before the first run.
pub(super) struct Ready {
    addresses: Vec<SocketAddr>,
    routes: Option<Arc<Routes>>,
    /// Who is asked for the stages of writes.
    nodes: Option<Nodes>,
    space: KeySpace,
}

/// Looks whether the servers are there, writes the keys, asks for the map.
///
/// # Errors
/// If a server does not answer as it must.
pub(super) fn prepare(args: &LoadArgs) -> io::Result<Ready> {
    fits_target(args)?;
    let addresses =
        args.addresses.iter().map(|text| run::resolve(text)).collect::<io::Result<Vec<_>>>()?;
    addresses.iter().try_for_each(|address| args.target.greet(*address, ASKING_TIMEOUT))?;
    Used::now(&args.pids, args.disk()?.as_ref())?;
    if args.shares().scan > 0.0 {
        addresses.iter().try_for_each(|address| can_scan(*address))?;
    }
    if args.fill {
        fill(args, &addresses)?;
    }
    let routes = match args.route {
        Route::Any => None,
        Route::Map => {
            let mut client = Client::connect(addresses[0], ASKING_TIMEOUT)?;
            Some(Arc::new(Routes::ask(&mut client)?))
        }
    };
    let nodes = args.breakdown.then(|| Nodes::find(addresses[0])).transpose()?;
    let hot = HotSpot { keys_share: args.hot_keys_share, ops_share: args.hot_ops_share };
    let space = KeySpace::new(args.keys, args.distribution(), hot);
    Ok(Ready { addresses, routes, nodes, space })
}

/// Runs it once.
///
/// # Errors
/// If a driver fails.
pub(super) fn measure(args: &LoadArgs, ready: &mut Ready) -> io::Result<(Run, Measured)> {
    let options = RunOptions {
        routes: ready.routes.clone(),
        addresses: ready.addresses.clone(),
        clients: count(args.clients),
        pipeline: count(args.pipeline()),
        rate: args.rate,
        arrival: args.arrival,
        warmup: Duration::from_secs_f64(args.warmup_seconds),
        window: Some(Duration::from_secs_f64(args.seconds)),
        timeout: Duration::from_secs_f64(args.timeout_seconds),
        seed: args.seed,
    };
    let mix = Mix {
        shares: args.shares(),
        command: args.command,
        naming: args.naming(),
        space: ready.space.clone(),
        value_bytes: args.value_bytes(),
    };
    let threads = u64::from(args.threads.min(args.clients));
    let workloads = (0..threads)
        .map(|thread| {
            let seed = args.seed.wrapping_mul(0x9E37_79B9).wrapping_add(thread);
            Mixed::new(mix.clone(), (thread, threads), seed)
        })
        .collect();
    let mut run = Run {
        started: SystemTime::now(),
        warmup: options.warmup,
        config: args.config(),
        command: std::env::args().collect(),
        breakdown: None,
    };
    let routes = ready.routes.as_ref();
    let _following = routes.map(|routes| routes.follow(ready.addresses[0])).transpose()?;
    let running = args.target.start(&options, workloads)?;
    let mut looks = Looks { pids: &args.pids, disk: args.disk()?, nodes: ready.nodes.as_mut() };
    let window = options.window.unwrap_or_default();
    let (before, after) = watch(&running, options.warmup, window, &mut looks)?;
    let (_, mut measured) = running.join()?;
    measured.used = (!args.pids.is_empty()).then(|| after.used.since(&before.used));
    if let (Some(before), Some(after)) = (before.stages, after.stages) {
        run.breakdown = Some(after.since(&before)?);
    }
    Ok((run, measured))
}

/// Runs it, prints and writes what was asked for, and judges it.
///
/// # Errors
/// If it could not run, or a file could not be written.
pub(super) fn run(args: &LoadArgs) -> io::Result<Exit> {
    let mut ready = prepare(args)?;
    let (run, measured) = measure(args, &mut ready)?;
    crate::cli::print(&measured.text());
    if let Some(breakdown) = &run.breakdown {
        crate::cli::print(&breakdown.text(&measured.writes));
    }
    write(args, &run, &measured)?;
    let mut broken = false;
    for condition in &args.conditions {
        if let Some(found) = condition.broken_by(&measured) {
            eprintln!("oarlock bench: {condition} does not hold: {found}");
            broken = true;
        }
    }
    let failed = measured.errors_total() > 0 && !args.allow_errors;
    Ok(if broken || failed { Exit::Failed } else { Exit::Ok })
}

fn write(args: &LoadArgs, run: &Run, measured: &Measured) -> io::Result<()> {
    if let Some(file) = &args.json {
        write_json(file, &export::json(run, measured))?;
    }
    if let Some(file) = &args.csv {
        write_file(file, export::csv(measured).as_bytes())?;
    }
    if let Some(file) = &args.hdr {
        write_file(file, export::hdr_log(run, measured)?.as_bytes())?;
    }
    if let Some(file) = &args.html {
        let run = Named { name: args.addresses.join(", "), json: export::json(run, measured) };
        write_file(file, page::of_runs(&[run]).as_bytes())?;
    }
    Ok(())
}

/// etcd has no ranges to route by, and of a load's commands SET and GET only.
fn fits_target(args: &LoadArgs) -> io::Result<()> {
    let why = match args.target {
        Target::Redis => return Ok(()),
        Target::Etcd if args.route == Route::Map => "--route map",
        Target::Etcd if args.shares().scan > 0.0 => "a load that scans",
        Target::Etcd if args.command != WriteCommand::Set => "--command",
        Target::Etcd => return Ok(()),
    };
    let text = format!("{why} is not for --target etcd: it takes SET and GET, at any node");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn can_scan(address: SocketAddr) -> io::Result<()> {
    let mut client = Client::connect(address, ASKING_TIMEOUT)?;
    let answer = client.call(&[b"OARLOCK", b"SCAN", b"", b"", b"LIMIT", b"1"])?;
    match answer.error_kind() {
        None => Ok(()),
        Some(_) => Err(io::Error::other(format!(
            "this load scans with OARLOCK SCAN, which {address} answers with {answer}: it runs \
             against Oarlock only"
        ))),
    }
}

fn fill(args: &LoadArgs, addresses: &[SocketAddr]) -> io::Result<()> {
    let options = RunOptions {
        routes: None,
        addresses: addresses.to_vec(),
        clients: count(args.clients),
        pipeline: 16,
        rate: None,
        arrival: Arrival::Fixed,
        warmup: Duration::ZERO,
        window: None,
        timeout: Duration::from_secs_f64(args.timeout_seconds),
        seed: args.seed,
    };
    let fill = Fill::new(args.naming(), 0..args.keys, args.value_bytes());
    let running = args.target.start(&options, vec![fill])?;
    let bar = bar(args.keys);
    while !running.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        bar.set_position(running.completed());
        bar.set_message(format!("{} of {} keys written", running.completed(), args.keys));
    }
    bar.finish_and_clear();
    let (filled, measured) = running.join()?;
    let missing: u64 = filled.iter().map(Fill::missing).sum();
    if missing > 0 {
        let kinds: Vec<&str> = measured.errors.keys().map(String::as_str).collect();
        let kinds = kinds.join(", ");
        return Err(io::Error::other(format!("{missing} keys could not be filled in ({kinds})")));
    }
    Ok(())
}

fn count(number: u32) -> usize {
    usize::try_from(number).expect("invariant: usize has at least 32 bits")
}

/// What is looked at when the window begins and when it ends.
struct Looks<'a> {
    pids: &'a [u32],
    disk: Option<Disk>,
    nodes: Option<&'a mut Nodes>,
}

struct Look {
    used: Used,
    stages: Option<Breakdown>,
}

impl Looks<'_> {
    fn now(&mut self) -> io::Result<Look> {
        let stages = self.nodes.as_mut().map(|nodes| nodes.ask()).transpose()?;
        Ok(Look { used: Used::now(self.pids, self.disk.as_ref())?, stages })
    }
}

/// Shows how a run goes, the rate anew each second. Returns how things stood at the beginning and at
/// the end of its window.
///
/// # Errors
/// If one of the processes has ended, or a node does not answer.
fn watch<W: Workload>(
    running: &Running<W>,
    warmup: Duration,
    window: Duration,
    looks: &mut Looks<'_>,
) -> io::Result<(Look, Look)> {
    let bar = progress(warmup + window);
    let start = Instant::now();
    let (mut second, mut before, mut rate) = (start, 0, 0.0);
    let (mut at_start, mut at_end) = (None, None);
    while !running.is_finished() {
        let elapsed = start.elapsed();
        if at_start.is_none() && elapsed >= warmup {
            at_start = Some(looks.now()?);
        }
        if at_end.is_none() && elapsed >= warmup + window {
            at_end = Some(looks.now()?);
        }
        let marks = [warmup, warmup + window].into_iter();
        let next = marks.filter_map(|mark| mark.checked_sub(elapsed)).filter(|d| !d.is_zero());
        std::thread::sleep(next.fold(Duration::from_millis(50), Duration::min));
        bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
        let (completed, length) = (running.completed(), second.elapsed());
        if length >= Duration::from_secs(1) {
            rate = (completed - before) as f64 / length.as_secs_f64();
            (second, before) = (Instant::now(), completed);
        }
        let errors = running.errors();
        bar.set_message(format!("{rate:.0} per second, {completed} operations, {errors} errors"));
    }
    bar.finish_and_clear();
    // It may end with its window, before that was seen.
    let at_start = at_start.map_or_else(|| looks.now(), Ok)?;
    Ok((at_start, at_end.map_or_else(|| looks.now(), Ok)?))
}
