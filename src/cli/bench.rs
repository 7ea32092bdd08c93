//! `oarlock bench`: puts load on any server that speaks the Redis protocol and tells what it
//! measured. Reads its arguments and prints; measuring is [`crate::bench`]'s.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::exit::Exit;
use crate::bench::client::Client;
use crate::bench::keys::{Distribution, Naming};
use crate::bench::report::Measured;
use crate::bench::routes::Routes;
use crate::bench::run::{self, RunOptions, Running};
use crate::bench::schedule::Arrival;
use crate::bench::workload::{Fill, Mixed, Workload, WriteCommand};

/// How long a server may take to answer before the run.
const ASKING_TIMEOUT: Duration = Duration::from_secs(3);

/// Put load on a server and measure it.
///
/// With --rate the loop is open: operations are due on a schedule whatever the server does, and
/// a latency runs from the time at which the operation was due. Without it the loop is closed:
/// each client keeps its pipeline full.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Where the server is; may be given several times, clients are spread over them.
    #[arg(long = "addr", value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub addresses: Vec<String>,
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
    /// How many keys there are.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Name keys by this text and their number. Without it, each name begins with two bytes of a
    /// hash, so that keys fall evenly on a cluster's initial ranges.
    #[arg(long, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=536_870_912))]
    pub value_bytes: u32,
    /// Which share of the operations reads, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub read_share: f64,
    /// What the other operations are.
    #[arg(long, value_enum, default_value_t)]
    pub command: WriteCommand,
    /// How keys are drawn.
    #[arg(long, value_enum, default_value_t)]
    pub distribution: Distribution,
    /// Write every key once before.
    #[arg(long)]
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
    /// Write all figures to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// End with success though operations failed.
    #[arg(long)]
    pub allow_errors: bool,
}

/// Where operations are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
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

fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|n| if n > 0.0 { Ok(n) } else { Err("must be over 0".to_owned()) })
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|n| if n >= 0.0 { Ok(n) } else { Err("must not be negative".to_owned()) })
}

fn share(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|n| if n <= 1.0 { Ok(n) } else { Err("must be 0 to 1".to_owned()) })
}

/// Runs it: 0 if no operation failed (or that is allowed), 1 otherwise.
#[must_use]
pub fn run(args: &BenchArgs) -> Exit {
    match measure(args) {
        Ok(measured) if measured.errors_total() == 0 || args.allow_errors => Exit::Ok,
        Ok(_) => Exit::Failed,
        Err(error) => {
            eprintln!("oarlock bench: {error}");
            Exit::Failed
        }
    }
}

fn measure(args: &BenchArgs) -> io::Result<Measured> {
    let addresses =
        args.addresses.iter().map(|text| run::resolve(text)).collect::<io::Result<Vec<_>>>()?;
    addresses.iter().try_for_each(|address| greet(*address))?;
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
    let options = RunOptions {
        routes,
        addresses,
        clients: count(args.clients),
        pipeline: count(args.pipeline.unwrap_or(if args.rate.is_some() { 256 } else { 1 })),
        rate: args.rate,
        arrival: args.arrival,
        warmup: Duration::from_secs_f64(args.warmup_seconds),
        window: Some(Duration::from_secs_f64(args.seconds)),
        timeout: Duration::from_secs_f64(args.timeout_seconds),
        seed: args.seed,
    };
    let workloads = (0..u64::from(args.threads.min(args.clients)))
        .map(|thread| {
            let seed = args.seed.wrapping_mul(0x9E37_79B9).wrapping_add(thread);
            let choice = (args.keys, args.distribution);
            let value_bytes = count(args.value_bytes);
            Mixed::new(args.command, args.read_share, naming(args), choice, value_bytes, seed)
        })
        .collect();
    let running = run::start(&options, workloads)?;
    watch(&running, options.warmup + options.window.unwrap_or_default());
    let (_, measured) = running.join()?;
    super::print(&measured.text());
    if let Some(file) = &args.json {
        write_json(file, &measured.json())?;
    }
    Ok(measured)
}

/// Writes a JSON document to a file.
///
/// # Errors
/// If the file cannot be written; the message names it.
pub(crate) fn write_json(file: &std::path::Path, json: &serde_json::Value) -> io::Result<()> {
    std::fs::write(file, format!("{json:#}\n")).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display()))
    })
}

fn naming(args: &BenchArgs) -> Naming {
    let prefix = args.key_prefix.as_ref().map(|prefix| prefix.clone().into_bytes());
    prefix.map_or(Naming::Spread, Naming::Prefixed)
}

/// A server that is not there should be told in one line, not in a million failed operations.
fn greet(address: SocketAddr) -> io::Result<()> {
    let greeted =
        Client::connect(address, ASKING_TIMEOUT).and_then(|mut client| client.call(&[b"PING"]));
    match greeted {
        Ok(answer) if answer.error_kind().is_some() => {
            Err(io::Error::other(format!("{address} answers PING with {answer}")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("no server answers at {address} ({error}); start one, or give its --addr"),
        )),
    }
}

fn fill(args: &BenchArgs, addresses: &[SocketAddr]) -> io::Result<()> {
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
    let fill = Fill::new(naming(args), 0..args.keys, count(args.value_bytes));
    let (filled, measured) = run::start(&options, vec![fill])?.join()?;
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

/// A progress bar over a time, on a terminal only.
pub(crate) fn progress(total: Duration) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let millis = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
    ProgressBar::new(millis).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn watch<W: Workload>(running: &Running<W>, total: Duration) {
    let bar = progress(total);
    let start = Instant::now();
    while !running.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
        bar.set_message(format!("{} operations, {} errors", running.completed(), running.errors()));
    }
    bar.finish_and_clear();
}
