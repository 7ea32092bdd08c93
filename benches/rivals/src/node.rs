//! One process of a rival in Rust: opens its links and its consensus, then serves clients. It ends
//! when its input does, so that it never outlives whoever started it.

use std::error::Error;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::open_raft::OpenRaft;
use crate::raft_rs::RaftRs;
use crate::shared::mesh::Mesh;
use crate::shared::router::Router;
use crate::shared::session;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Which consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// raft-rs with raft-engine.
    RaftRs,
    /// openraft, its log in raft-engine.
    Openraft,
}

/// One node.
#[derive(clap::Args)]
pub struct Args {
    /// Which consensus.
    #[arg(long)]
    kind: Kind,
    /// This node's number, from 1.
    #[arg(long)]
    id: u64,
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the nodes find each other, node 1 first.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<SocketAddr>,
    /// The folder for everything that is kept.
    #[arg(long)]
    data: PathBuf,
    /// Threads that drive connections and groups.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Log entries of a group between two snapshots.
    #[arg(long, default_value_t = 20_000)]
    snapshot_every: u64,
}

/// Runs a node until its input ends.
///
/// # Errors
/// If a port is taken or what is on disk cannot be read.
pub fn run(args: Args) -> Outcome {
    // As Oarlock's nodes do, whose allocator this is.
    rustix::thread::disable_transparent_huge_pages(true)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    std::fs::create_dir_all(&args.data)?;
    let threads = args.threads.max(1);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    // In a task of the runtime's own: what blocks its entering thread would be woken from afar.
    runtime.block_on(async { tokio::spawn(serve(args, threads)).await? })
}

async fn serve(args: Args, threads: usize) -> Outcome {
    let own_address = usize::try_from(args.id).ok().and_then(|id| args.peers.get(id - 1));
    let links =
        TcpListener::bind(own_address.ok_or("a node has a number among its peers")?).await?;
    let clients = TcpListener::bind(args.listen).await?;
    let peers = (1..).zip(args.peers.iter().copied()).filter(|(id, _)| *id != args.id);
    let mesh = Arc::new(Mesh::new(peers));
    let router = Arc::new(Router::new(args.id, Arc::clone(&mesh)));
    let (id, every) = (args.id, args.snapshot_every);
    let start_links = || mesh.start(id, links, Arc::<Router>::clone(&router));
    match args.kind {
        Kind::RaftRs => {
            let started = RaftRs::start(id, &args.data, threads, every, &mesh, &router);
            router.set_backend(Arc::new(started.map_err(|error| error.to_string())?));
            start_links();
        }
        Kind::Openraft => {
            let groups = Arc::new(OpenRaft::new(&mesh));
            router.set_backend(Arc::<OpenRaft>::clone(&groups));
            start_links();
            groups.start(id, &args.data, every, &router).await?;
        }
    }
    loop {
        let (stream, _) = clients.accept().await?;
        let router = Arc::clone(&router);
        // A connection that breaks is its client's affair.
        tokio::spawn(async move { drop(session::serve(stream, router).await) });
    }
}
