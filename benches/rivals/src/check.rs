//! Whether a rival keeps what it acknowledges: writers over all nodes, all nodes killed at once,
//! restarted, and every acknowledged write looked for over every node; then one node killed alone,
//! written past, and brought back by a snapshot.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oarlock::bench::client::{Answer, Client};
use oarlock::bench::ports::data_folder;
use oarlock::bench::processes::poll;

use crate::cluster::{self, Cluster};

const WRITERS: usize = 8;
const KEYS_PER_WRITER: u64 = 500;
/// Longer than any rival lets a command wait.
const CALL_WITHIN: Duration = Duration::from_secs(30);
const WRITTEN_WITHIN: Duration = Duration::from_secs(120);

/// A rival, killed and looked through.
#[derive(clap::Args)]
pub struct Args {
    /// Which rival.
    #[arg(long)]
    kind: cluster::Kind,
    /// Writes before the nodes are killed, each time.
    #[arg(long, default_value_t = 40_000)]
    writes: u64,
    /// Log entries of a group between two snapshots.
    #[arg(long, default_value_t = 100)]
    snapshot_every: u64,
    /// How often all nodes are killed.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The folder for all data; a new one that is gone afterwards unless given.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// For each key the last number that was acknowledged, and the last that was sent.
type Ledger = BTreeMap<String, (u64, u64)>;

/// Runs the check.
///
/// # Errors
/// At the first write that is missing.
pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let folder = data_folder()?;
    let data = args.data.unwrap_or_else(|| folder.path().to_owned());
    let snapshot_every = args.snapshot_every;
    let options = cluster::Args { kind: args.kind, nodes: 3, data, threads: 1, snapshot_every };
    let mut cluster = Cluster::prepare(options)?;
    let nodes = cluster.clients.len();
    for node in 0..nodes {
        cluster.start(node)?;
    }
    cluster.wait_until_ready()?;
    let mut ledger = Ledger::new();
    for round in 1..=args.rounds {
        write(&mut cluster, &mut ledger, args.writes, &(0..nodes).collect::<Vec<_>>(), true)?;
        for node in 0..nodes {
            cluster.start(node)?;
        }
        cluster.wait_until_ready()?;
        look(&cluster, &ledger, &(0..nodes).collect::<Vec<_>>())?;
        println!(
            "round {round}: all nodes killed under load, {} keys as acknowledged",
            ledger.len()
        );
    }
    if nodes == 3 {
        cluster.kill(2);
        cluster.wait_until_ready()?;
        write(&mut cluster, &mut ledger, 2 * args.writes, &[0, 1], false)?;
        cluster.start(2)?;
        cluster.wait_until_ready()?;
        write(&mut cluster, &mut ledger, args.writes, &[0, 1, 2], false)?;
        cluster.kill(0);
        cluster.wait_until_ready()?;
        look(&cluster, &ledger, &[1, 2])?;
        println!("a node away and back, another gone: {} keys as acknowledged", ledger.len());
    }
    Ok(())
}

/// Has writers write over the nodes until so many writes are acknowledged; then stops them, or
/// kills all nodes while they write.
fn write(
    cluster: &mut Cluster,
    ledger: &mut Ledger,
    writes: u64,
    nodes: &[usize],
    kill: bool,
) -> Result<(), Box<dyn Error>> {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let shared = Arc::new(Mutex::new(std::mem::take(ledger)));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let address = cluster.clients[nodes[writer % nodes.len()]];
        let (done, stop, shared) = (Arc::clone(&done), Arc::clone(&stop), Arc::clone(&shared));
        writers.push(std::thread::spawn(move || {
            // The connection's end is how a kill under load looks from here.
            let _ = keep_writing(writer, address, &done, &stop, &shared);
        }));
    }
    poll("the writes", WRITTEN_WITHIN, || {
        if writers.iter().all(std::thread::JoinHandle::is_finished) {
            return Err(std::io::Error::other("all writers have lost their nodes"));
        }
        let count = done.load(Ordering::Relaxed);
        Ok(if count < writes { Err(format!("{count} of {writes} are done")) } else { Ok(()) })
    })?;
    if kill {
        for node in 0..cluster.clients.len() {
            cluster.kill(node);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().map_err(|_| "a writer panicked")?;
    }
    *ledger = std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

fn keep_writing(
    writer: usize,
    address: SocketAddr,
    done: &AtomicU64,
    stop: &AtomicBool,
    shared: &Mutex<Ledger>,
) -> std::io::Result<()> {
    const IN_FLIGHT: u64 = 16;
    let ledger = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let mut client = Client::connect(address, CALL_WITHIN)?;
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut sent = Vec::new();
        for _ in 0..IN_FLIGHT {
            let key = format!("key-{writer}-{}", next % KEYS_PER_WRITER);
            next += 1;
            let number = {
                let mut ledger = ledger();
                let entry = ledger.entry(key.clone()).or_default();
                entry.1 += 1;
                entry.1
            };
            client.send(&[b"SET", key.as_bytes(), number.to_string().as_bytes()])?;
            sent.push((key, number));
        }
        for (key, number) in sent {
            if client.receive()?.is_ok() {
                ledger().entry(key).or_default().0 = number;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Reads every key over every one of these nodes.
fn look(cluster: &Cluster, ledger: &Ledger, nodes: &[usize]) -> Result<(), Box<dyn Error>> {
    for &node in nodes {
        let mut client = Client::connect(cluster.clients[node], CALL_WITHIN)?;
        for (key, (acknowledged, sent)) in ledger {
            // While a group's leadership moves, an error is a fair answer; not for long.
            let found = poll(key, CALL_WITHIN, || {
                Ok(match client.call(&[b"GET", key.as_bytes()])? {
                    Answer::Bulk(bytes) => {
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        Ok(text.parse::<u64>().map_err(std::io::Error::other)?)
                    }
                    Answer::Nil => Ok(0),
                    other @ (Answer::Simple(_)
                    | Answer::Error(_)
                    | Answer::Int(_)
                    | Answer::Array(_)) => Err(other.to_string()),
                })
            })?;
            if !(*acknowledged..=*sent).contains(&found) {
                let lost = format!(
                    "{key} over node {}: {found}, but {acknowledged} of {sent} were acknowledged",
                    node + 1
                );
                return Err(lost.into());
            }
        }
    }
    Ok(())
}
