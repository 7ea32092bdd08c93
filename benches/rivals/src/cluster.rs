//! Starts a rival's processes on this machine's loopback, waits until every key is answered for,
//! and ends them with itself.

use std::error::Error;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use oarlock::bench::client::{Answer, Client};
use oarlock::bench::ports::{free_addresses, is_in_memory};
use oarlock::bench::processes::poll;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a cluster may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// So many keys that each of 64 groups has one.
const PROBES: u32 = 1_000;

/// Which rival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// raft-rs with raft-engine, behind the front in this package.
    RaftRs,
    /// openraft with its log in raft-engine, behind the same front.
    Openraft,
    /// Dragonboat behind a like front in Go, built as it is started, where Go is installed.
    Dragonboat,
    /// `redis-server` with `appendfsync always`: one process, for it acknowledges alone.
    Redis,
    /// etcd as it comes; it speaks gRPC and HTTP, not the Redis protocol.
    Etcd,
}

/// A rival on this machine.
#[derive(clap::Args)]
pub struct Args {
    /// Which rival.
    #[arg(long)]
    pub kind: Kind,
    /// How many nodes; these rivals are set up for three.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=3))]
    pub nodes: u64,
    /// The folder for all data, on a real file system.
    #[arg(long)]
    pub data: PathBuf,
    /// Threads of each node in Rust that drive connections and groups.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Log entries of a group between two snapshots, in rivals in Rust.
    #[arg(long, default_value_t = 20_000)]
    pub snapshot_every: u64,
}

/// Runs a cluster until the input ends or a signal comes.
///
/// # Errors
/// If a program is missing or a node does not come up.
pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let (end, ended) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let on_signal = end.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = on_signal.send(());
        }
    });
    let mut cluster = Cluster::prepare(args)?;
    for node in 0..cluster.commands.len() {
        cluster.start(node)?;
    }
    cluster.wait_until_ready()?;
    let addresses: Vec<_> = cluster.clients.iter().map(ToString::to_string).collect();
    println!("ready {}", addresses.join(" "));
    std::io::stdout().flush()?;
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = end.send(());
    });
    // Until one of the two; the nodes end as the cluster is dropped.
    let _ = ended.recv();
    Ok(())
}

/// A program with its arguments.
struct Line {
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
}

/// A rival's processes. They end when this is dropped.
pub struct Cluster {
    kind: Kind,
    /// Where clients connect, node by node.
    pub clients: Vec<SocketAddr>,
    commands: Vec<Line>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Chooses ports and writes the command lines; nothing runs yet.
    ///
    /// # Errors
    /// If the folder lies in memory or there are no ports.
    pub fn prepare(args: Args) -> Result<Self, Box<dyn Error>> {
        std::fs::create_dir_all(&args.data)?;
        let data = args.data.canonicalize()?;
        if is_in_memory(&data)? {
            return Err(
                format!("{} is kept in memory: nothing is durable there", data.display()).into()
            );
        }
        let program = match args.kind {
            Kind::RaftRs | Kind::Openraft => std::env::current_exe()?,
            Kind::Dragonboat => build_dragonboat()?,
            Kind::Redis => "redis-server".into(),
            Kind::Etcd => "etcd".into(),
        };
        let addresses = free_addresses(6)?;
        let (clients, peers) = addresses.split_at(3);
        let count = if args.kind == Kind::Redis { 1 } else { 3 };
        let mut commands = Vec::new();
        for node in 0..count {
            let folder = data.join(format!("node-{}", node + 1));
            std::fs::create_dir_all(&folder)?;
            let line = match args.kind {
                Kind::RaftRs | Kind::Openraft | Kind::Dragonboat => {
                    own_args(&args, node, clients[node], peers, &folder)
                }
                Kind::Redis => redis_args(clients[node], &folder),
                Kind::Etcd => etcd_args(node, clients, peers, &folder),
            };
            let log = data.join(format!("node-{}.log", node + 1));
            commands.push(Line { program: program.clone(), args: line, log });
        }
        let children = commands.iter().map(|_| None).collect();
        let clients = clients[..count].to_vec();
        Ok(Self { kind: args.kind, clients, commands, children })
    }

    /// Starts a node.
    ///
    /// # Errors
    /// If its program is not installed.
    pub fn start(&mut self, node: usize) -> Result<(), Box<dyn Error>> {
        let line = &self.commands[node];
        let log = File::options().create(true).append(true).open(&line.log)?;
        let child = Command::new(&line.program)
            .args(&line.args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}; is it installed?", line.program.display()))?;
        self.children[node] = Some(child);
        Ok(())
    }

    /// The processes that run, node by node.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().flatten().map(Child::id).collect()
    }

    /// Ends a node at once, as a power cut of its process would.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.children[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until every node that runs answers for every group.
    ///
    /// # Errors
    /// If that takes too long, or a node ends.
    pub fn wait_until_ready(&mut self) -> Result<(), Box<dyn Error>> {
        for node in 0..self.clients.len() {
            let Some(child) = &mut self.children[node] else { continue };
            let log = self.commands[node].log.display();
            let what = format!("node {}, see {log}", node + 1);
            let (kind, address) = (self.kind, self.clients[node]);
            poll(&what, READY_WITHIN, || {
                if let Some(status) = child.try_wait()? {
                    return Err(std::io::Error::other(format!("{what}: it has ended ({status})")));
                }
                Ok(if is_ready(kind, address) { Ok(()) } else { Err("not ready".to_owned()) })
            })?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.children.len() {
            self.kill(node);
        }
    }
}

fn own_args(
    args: &Args,
    node: usize,
    listen: SocketAddr,
    peers: &[SocketAddr],
    folder: &Path,
) -> Vec<String> {
    let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
    let threads = args.threads;
    let before = match args.kind {
        Kind::RaftRs => format!("node --kind raft-rs --threads {threads} "),
        Kind::Openraft => format!("node --kind openraft --threads {threads} "),
        Kind::Dragonboat | Kind::Redis | Kind::Etcd => String::new(),
    };
    let line = format!(
        "{before}--id {} --listen {listen} --peers {} --snapshot-every {}",
        node + 1,
        peers.join(","),
        args.snapshot_every,
    );
    let data = ["--data".to_owned(), folder.to_string_lossy().into_owned()];
    line.split(' ').map(str::to_owned).chain(data).collect()
}

/// Builds the rival in Go beside this program.
fn build_dragonboat() -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("rival-dragonboat");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/dragonboat"))
        .stdout(Stdio::null())
        .status();
    match built {
        Ok(status) if status.success() => Ok(program),
        Ok(_) => Err("Dragonboat is left out: it does not build here".into()),
        Err(_) => Err("Dragonboat is left out: Go is not installed".into()),
    }
}

/// As it is packaged, but each write is on disk before it is acknowledged.
fn redis_args(listen: SocketAddr, folder: &Path) -> Vec<String> {
    let line = format!(
        "--bind {} --port {} --appendonly yes --appendfsync always --dir",
        listen.ip(),
        listen.port()
    );
    let folder = folder.to_string_lossy().into_owned();
    line.split(' ').map(str::to_owned).chain([folder]).collect()
}

/// As it is packaged: fsync before each acknowledgement is what it does.
fn etcd_args(
    node: usize,
    clients: &[SocketAddr],
    peers: &[SocketAddr],
    folder: &Path,
) -> Vec<String> {
    let all: Vec<_> =
        peers.iter().enumerate().map(|(at, peer)| format!("n{at}=http://{peer}")).collect();
    let (client, peer) = (clients[node], peers[node]);
    let line = format!(
        "--name n{node} --listen-client-urls http://{client} \
         --advertise-client-urls http://{client} \
         --listen-peer-urls http://{peer} --initial-advertise-peer-urls http://{peer} \
         --initial-cluster {} --data-dir",
        all.join(",")
    );
    let folder = folder.to_string_lossy().into_owned();
    line.split(' ').map(str::to_owned).chain([folder]).collect()
}

fn is_ready(kind: Kind, address: SocketAddr) -> bool {
    match kind {
        Kind::Etcd => is_healthy(address).unwrap_or(false),
        Kind::RaftRs | Kind::Openraft | Kind::Dragonboat | Kind::Redis => {
            answers_for_all(address).unwrap_or(false)
        }
    }
}

fn answers_for_all(address: SocketAddr) -> std::io::Result<bool> {
    let mut client = Client::connect(address, CALL_WITHIN)?;
    for number in 0..PROBES {
        let answer = client.call(&[b"GET", format!("probe-{number}").as_bytes()])?;
        if matches!(answer, Answer::Error(_)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// etcd's own word, which it gives when its group has a leader.
fn is_healthy(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, CALL_WITHIN)?;
    stream.set_read_timeout(Some(CALL_WITHIN))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains("\"health\":\"true\""))
}
