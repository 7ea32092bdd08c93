//! Starts a node and keeps it until it is told to stop: probes, directory, ports, threads, cores.
//!
//! Once per process. Whatever can be wrong is found before the first replica is taken up, and said
//! in one line.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier, Mutex, mpsc};

use oarlock_cluster::departures::Departures;
use oarlock_cluster::executor::{Placement, PlacementParts};
use oarlock_cluster::levels::NotUnderstood;
use oarlock_cluster::map_keeper::MapKeeper;
use oarlock_cluster::members;
use oarlock_cluster::partings::Partings;
use oarlock_cluster::reporter::Reporter;
use oarlock_shard::pulse::PulseConfig;
use oarlock_shard::support_table::TableConfig;
use oarlock_shard::{Homes, SharedHomes, SharedSupport, SplitSettings, SupportTable};
use oarlock_types::range_map::MapError;
use oarlock_types::{CoreAddr, CoreId, Limits, Mono, NodeId};
use oarlock_wal::{Owner, WalConfig};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::clock::Clock;
use super::counters::Counters;
use super::driver::{Driver, Kept};
use super::executor::{self, ExecutorError, Executors};
use super::files::Files;
use super::front::{Front, NodeFacts};
use super::inbox::{self, Doorbell, Receiver, Sender};
use super::join::{JoinError, join};
use super::known::Known;
use super::links::Links;
use super::log_writer::LogWriter;
use super::mail::Mail;
use super::message::CoreMessage;
use super::outbox::Outbox;
use super::planner::Planner;
use super::recover::{RecoverParts, recover};
use super::watchdog::{BEAT, CoreProgress};
use crate::config::{Config, Cores};
use crate::disk::buffer::BLOCK_BYTES;
use crate::disk::data_dir::{DataDir, DataDirError, DataDirOptions, peek_identity};
use crate::disk::job::space;
use crate::disk::map_copy::CopyError;
use crate::disk::probe::{self, ProbeError};
use crate::disk::ring::WalRing;
use crate::disk::segments::SegmentFile;
use crate::disk::worker::{DiskHandle, DiskWorker, WorkerOptions};
use crate::net::client_port;
use crate::net::handshake::{Identity, PeerBook};
use crate::net::link::LinkLimits;
use crate::net::link_hub::LinkHub;
use crate::net::listener::Clients;
use crate::net::peer_listener::{ListenerLimits, PeerBindError, PeerListener, bind_peer_port};
use crate::net::pulse_socket::{PulseParts, PulseThread};
use crate::net::session::{Backend, ClientLimits};
use crate::runtime;

/// Letters that an inbox holds. A letter is a batch, so this is plenty; a full one pushes back.
const INBOX_LETTERS: usize = 4096;
/// Bytes of frames from other nodes that may wait for a core, and so what one turn takes: a turn over many
/// thousand small messages would last for seconds.
const HUB_BYTES_MAX: usize = 2 << 20;
/// The most cores that a node may have: the bound of the tables that are made at the start.
const CORES_MAX: u16 = 256;
/// A frame of the log holds the largest entry and what goes around it.
const FRAME_SLACK_BYTES: usize = 1 << 20;

/// Why a node can not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system lacks something.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The data directory can not be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The peer port can not be had.
    #[error("{0}: stop what listens there, or choose another peer_listen")]
    PeerPort(#[from] PeerBindError),
    /// The client port can not be had.
    #[error(
        "cannot listen for clients on {address}: {source}: stop what listens there, or choose \
         another client_listen"
    )]
    ClientPort {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// It can not join the cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The executors can not be started.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A thread can not be started.
    #[error("cannot start the {what} thread: {source}")]
    Thread {
        /// Which.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The copy of the map is a newer build's.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The cluster has come to a level that this node does not understand.
    #[error(transparent)]
    Level(#[from] NotUnderstood),
    /// The split points do not make a map.
    #[error("the configured split points do not cut the keyspace: {0:?}")]
    Map(MapError),
}

/// All that the cores of a node share, and each needs a copy of.
#[derive(Clone)]
struct Shared {
    config: Arc<Config>,
    limits: Limits,
    data: Arc<DataDir>,
    facts: Arc<NodeFacts>,
    known: Arc<Known>,
    table: SharedSupport,
    homes: SharedHomes,
    all_cores: Arc<Barrier>,
    book: Arc<PeerBook>,
    progress: Arc<[CoreProgress]>,
    inboxes: Vec<Sender<CoreMessage>>,
    disk: DiskHandle,
    planner: Planner,
    seed: u64,
}

/// Runs a node until SIGINT or SIGTERM.
///
/// # Errors
/// One line that says why it can not start, and how to mend it.
pub fn serve(mut config: Config) -> Result<(), ServeError> {
    probe::memlock()?;
    probe::io_uring()?;
    let cores = u16::try_from(config.cores().count()).unwrap_or(CORES_MAX).min(CORES_MAX);
    let joins = config.joins().next().is_some();
    let joined = if joins { Some(join(&mut config)?) } else { None };
    if let Ok(found) = peek_identity(&config.node.data_dir) {
        config.keep_cluster_id(found.cluster, CORES_MAX);
    }
    let (cluster, node) = (config.cluster_id(), config.node.node_id);
    let disk = joined.as_ref().map(|joined| joined.disk);
    let options = DataDirOptions { cluster, node, cores, disk };
    let data = Arc::new(DataDir::open(&config.node.data_dir, &options)?);
    let known = Known::of(&config, data.path(), joined)?;
    let stop = stop_signal().map_err(|source| ServeError::Thread { what: "signal", source })?;
    let client_listen = config.client_listen();
    for address in [client_listen].into_iter().chain(config.core_listens()) {
        client_port::check_free(address)
            .map_err(|source| ServeError::ClientPort { address, source })?;
    }
    let (peer_tcp, peer_udp) = bind_peer_port(config.peer_listen())?;

    let (inboxes, receivers): (Vec<_>, Vec<_>) =
        (0..cores).map(|_| inbox::inbox(INBOX_LETTERS)).unzip();
    let worker = start_worker(&data, &inboxes)?;
    let shared = share(config, data, known, inboxes, worker.handle(), cores)?;
    let (tell_pulses, joined) = mpsc::channel();
    let executors = start_cores(&shared, receivers, &tell_pulses)?;
    let pulses = start_pulses(&shared, peer_udp, joined)?;
    let to_cores = shared.inboxes.clone();
    let deliver = move |link: crate::net::link_reader::AcceptedLink| {
        let core = usize::from(link.to_core.get()) % to_cores.len();
        // A core whose inbox is full gets no link now; the peer dials again.
        let _ = to_cores[core].send(CoreMessage::Link(link));
    };
    let door = PeerListener::start(
        peer_tcp,
        Arc::clone(&shared.book),
        ListenerLimits {
            handshakes_max: shared.config.limits.peer_handshakes_max,
            handshake_timeout: shared.config.limits.peer_connect_timeout_ms,
        },
        deliver,
    )
    .map_err(|source| ServeError::Thread { what: "peer listener", source })?;
    tracing::info!(
        "{} of {} serves clients on {client_listen}, peers on {}, from {}",
        shared.facts.node,
        shared.facts.cluster,
        shared.config.peer_listen(),
        shared.data.path().display()
    );
    // Nothing is left to be made durable at a stop: what was acknowledged is on disk already.
    let signal = stop.recv().unwrap_or(SIGTERM);
    tracing::info!("stopping at signal {signal}");
    drop((door, pulses, worker));
    drop(executors);
    Ok(())
}

fn start_worker(
    data: &Arc<DataDir>,
    inboxes: &[Sender<CoreMessage>],
) -> Result<DiskWorker, ServeError> {
    let inboxes = inboxes.to_vec();
    let deliver = Box::new(move |done: crate::disk::job::DiskDone| {
        let core = usize::from(done.core.get());
        inboxes[core].send(CoreMessage::Disk(done)).map_err(|letter| {
            let CoreMessage::Disk(done) = letter else {
                unreachable!("the letter comes back as it was sent")
            };
            done
        })
    });
    DiskWorker::start(data.path(), WorkerOptions::default(), deliver)
        .map_err(|source| ServeError::Thread { what: "disk", source })
}

fn share(
    config: Config,
    data: Arc<DataDir>,
    known: Known,
    inboxes: Vec<Sender<CoreMessage>>,
    disk: DiskHandle,
    cores: u16,
) -> Result<Shared, ServeError> {
    let planner = Planner::start(&inboxes)
        .map_err(|source| ServeError::Thread { what: "planner", source })?;
    let clock = Clock;
    let (node, cluster, incarnation) = (data.node(), data.cluster(), data.incarnation());
    let peers: Vec<(NodeId, u16)> = members::reachable(&known.nodes)
        .filter(|entry| entry.id != node)
        .map(|entry| (entry.id, entry.cores))
        .collect();
    let table = Arc::new(SupportTable::new(&TableConfig {
        node,
        incarnation,
        cores,
        cores_max: CORES_MAX,
        origin: Mono(0),
        peers: &peers,
    }));
    table.raise_map_version(known.map.version());
    table.raise_level(known.copy.level);
    let levels = config.levels();
    let identity =
        Identity { cluster, node, disk: data.disk(), incarnation, cores_count: cores, levels };
    let book = peer_book(&data, identity, &table, &peers)?;
    let facts = NodeFacts {
        node,
        cluster,
        incarnation,
        cores,
        client_listen: config.client_listen(),
        started: clock.mono(),
        counters: (0..cores).map(|_| Arc::new(Counters::default())).collect(),
        connected: Arc::new(AtomicUsize::new(0)),
        settings: config.settings(),
        shared_settings: config.shared_settings(),
        replication_factor: config.replication_factor(),
        formed_of: config.initial_nodes(),
        levels,
        table: Arc::clone(&table),
    };
    // Each start draws other delays: two nodes must not go on in step for ever.
    let seed = u64::try_from(data.disk().get() & u128::from(u64::MAX)).unwrap_or(0)
        ^ incarnation.get().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Ok(Shared {
        limits: config.limits(),
        config: Arc::new(config),
        data,
        facts: Arc::new(facts),
        known: Arc::new(known),
        table,
        homes: Homes::new(cores),
        all_cores: Arc::new(Barrier::new(usize::from(cores))),
        book,
        progress: CoreProgress::of_cores(cores),
        inboxes,
        disk,
        planner,
        seed,
    })
}

fn peer_book(
    data: &Arc<DataDir>,
    identity: Identity,
    table: &SharedSupport,
    peers: &[(NodeId, u16)],
) -> Result<Arc<PeerBook>, ServeError> {
    let known = data.peer_disks()?;
    let disks = peers
        .iter()
        .filter_map(|(peer, _)| known.known_disk(*peer).map(|disk| (*peer, disk)))
        .collect();
    let known = Mutex::new(known);
    let learned = Box::new(move |node, disk| {
        let Ok(mut known) = known.lock() else { return };
        if let Err(error) = known.remember_disk(node, disk) {
            tracing::error!("cannot write down the disk of {node}: {error}");
        }
    });
    Ok(Arc::new(PeerBook::new(identity, Arc::clone(table), disks, learned)))
}

fn start_pulses(
    shared: &Shared,
    socket: UdpSocket,
    joined: mpsc::Receiver<(NodeId, SocketAddr)>,
) -> Result<PulseThread, ServeError> {
    let nodes = members::reachable(&shared.known.nodes);
    let peers = nodes.filter(|entry| entry.id != shared.facts.node);
    let clock = Clock;
    let parts = PulseParts {
        socket,
        peers: peers.map(|entry| (entry.id, entry.peer_address)).collect(),
        joined,
        config: PulseConfig::new(shared.facts.cluster, &shared.limits, shared.seed),
        table: Arc::clone(&shared.table),
        progress: Arc::clone(&shared.progress),
        clock: move || clock.mono(),
    };
    PulseThread::start(parts).map_err(|source| ServeError::Thread { what: "pulse", source })
}

fn start_cores(
    shared: &Shared,
    receivers: Vec<Receiver<CoreMessage>>,
    tell_pulses: &mpsc::Sender<(NodeId, SocketAddr)>,
) -> Result<Executors, ServeError> {
    let configured = match shared.config.cores() {
        Cores::Count(_) => Vec::new(),
        Cores::Cpus(cpus) => cpus.into_iter().map(usize::from).collect(),
    };
    let available = executor::cpus_available()?;
    let cpus = executor::assign_cpus(shared.facts.cores, &configured, &available)?;
    let mut receivers = receivers.into_iter();
    let name = format!("n{}", shared.facts.node.get());
    Ok(executor::spawn_pinned(&cpus, &name, |core| {
        let shared = shared.clone();
        let inbox = receivers.next().expect("invariant: an inbox for each core");
        let tell_pulses = (core == CoreId(0)).then(|| tell_pulses.clone());
        move || run_core(shared, core, inbox, tell_pulses)
    })?)
}

/// A core's life. Whatever it can not go on from ends the process: half a node is worse than none.
async fn run_core(
    shared: Shared,
    core: CoreId,
    inbox: Receiver<CoreMessage>,
    pulses: Option<mpsc::Sender<(NodeId, SocketAddr)>>,
) {
    let failure = match open_core(&shared, core, inbox) {
        Ok(mut driver) => {
            driver.pulses = pulses;
            let (bell, beat) = (driver.inbox.doorbell(), Rc::clone(&driver.beat));
            runtime::spawn(async move {
                loop {
                    runtime::sleep(beat.get()).await;
                    bell.ring();
                }
            })
            .detach();
            driver.run().await.to_string()
        }
        Err(reason) => reason,
    };
    tracing::error!("{core}: {failure}");
    eprintln!("oarlock: core {}: {failure}", core.get());
    std::process::exit(i32::from(crate::cli::exit::Exit::CannotStart.code()));
}

fn open_core(
    shared: &Shared,
    core: CoreId,
    inbox: Receiver<CoreMessage>,
) -> Result<Driver, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let addr = CoreAddr::new(shared.facts.node, core);
    let bell = inbox.doorbell();
    let wal_bell = bell.clone();
    let ring = WalRing::open(core, shared.data.lock(), move || wal_bell.ring());
    let ring = ring.map_err(|error| text(&error))?;
    let wal = wal_config(shared, core);
    let parts = RecoverParts {
        addr,
        directory: shared.data.core(core),
        wal,
        is_new: shared.data.is_new(),
        limits: shared.limits.clone(),
        formation: Arc::clone(&shared.known.formation),
        map: Arc::clone(&shared.known.map),
        homes: SharedHomes::clone(&shared.homes),
        all_cores: Arc::clone(&shared.all_cores),
        support: Arc::clone(&shared.table),
        seed: shared.seed ^ u64::from(core.get()) << 32,
        now: Clock.mono(),
        incarnation: shared.facts.incarnation,
    };
    let mut shard = recover(&parts).map_err(|error| text(&error))?;
    shard.set_feature_level(shared.table.level());
    let open = |id| SegmentFile::open(&parts.directory, id).map(|file| (id, file));
    let ready = shard.wal().prepared().map(open).collect::<Result<_, _>>();
    let ready = ready.map_err(|error| text(&error))?;
    let counters = Arc::clone(&shared.facts.counters[usize::from(core.get())]);
    let hub = LinkHub::new(bell.clone(), HUB_BYTES_MAX);
    let front = Rc::new(RefCell::new(open_front(shared, core, bell)));
    let clients = open_clients(shared, core, &front).map_err(|error| text(&error))?;
    Ok(Driver {
        addr,
        shard,
        log: LogWriter::new(
            ring,
            wal,
            usize::from(core.get()),
            Arc::clone(&counters),
            Arc::clone(&shared.progress),
            ready,
        ),
        files: Files::new(core, shared.disk.clone(), shared.config.limits.disk_reserve_bytes),
        inbox,
        mail: Mail::new(&shared.inboxes),
        outbox: Outbox::default(),
        links: open_links(shared, core, &hub),
        pulses: None,
        hub,
        table: Arc::clone(&shared.table),
        homes: SharedHomes::clone(&shared.homes),
        departures: Departures::default(),
        partings: Partings::default(),
        reporter: Reporter::new(&split_settings(&shared.config)),
        split_settings: split_settings(&shared.config),
        placement: Placement::new(placement_parts(shared)),
        planner: shared.planner.clone(),
        formation: Arc::clone(&shared.known.formation),
        frame_bytes_max: shared.limits.frame_bytes_max,
        levels: shared.facts.levels,
        map_keeper: (core == CoreId(0)).then(|| map_keeper(shared, addr)),
        front,
        clients,
        counters,
        progress: Arc::clone(&shared.progress),
        beat: Rc::new(Cell::new(BEAT)),
        kept: Kept::default(),
    })
}

fn open_front(shared: &Shared, core: CoreId, bell: Doorbell) -> Front {
    let Known { map, nodes, .. } = &*shared.known;
    let patience = shared.config.limits.request_timeout_ms;
    let facts = Arc::clone(&shared.facts);
    Front::new(core, facts, Arc::clone(nodes), Arc::clone(map), patience, bell)
}

fn map_keeper(shared: &Shared, addr: CoreAddr) -> MapKeeper {
    let Known { formation, copy, .. } = &*shared.known;
    let formed_of = shared.facts.formed_of.iter().map(|node| node.id).collect();
    let mut keeper = MapKeeper::new(
        (copy.clone(), shared.facts.levels),
        (formation, formed_of),
        addr,
        shared.limits.value_bytes_max,
    );
    match capacity_bytes(shared) {
        Ok(bytes) => keeper.tell_capacity(bytes),
        // Then it counts as the others do on average.
        Err(error) => tracing::warn!("the size of the file system is not known: {error}"),
    }
    keeper
}

/// What this node has room for.
fn capacity_bytes(shared: &Shared) -> io::Result<u64> {
    let given = shared.config.node.capacity_bytes;
    given.map_or_else(|| Ok(space(shared.data.path())?.total_bytes), Ok)
}

/// Zero stands for no bound at all.
fn split_settings(config: &Config) -> SplitSettings {
    let bound = |most: u64| if most == 0 { u64::MAX } else { most };
    let ranges = &config.ranges;
    SplitSettings {
        bytes: bound(ranges.range_bytes_max),
        keys: bound(ranges.range_keys_max),
        requests_per_s: bound(ranges.range_requests_per_s_max),
        load_rest: ranges.range_load_rest_ms,
    }
}

fn placement_parts(shared: &Shared) -> PlacementParts {
    let settings = &shared.config.placement;
    PlacementParts {
        node: shared.facts.node,
        nodes: shared.known.nodes.to_vec(),
        replicas: u8::try_from(shared.config.replication_factor()).unwrap_or(u8::MAX),
        moves_max: settings.placement_moves_max,
        gone_after: settings.placement_gone_after_ms,
        splits: split_settings(&shared.config),
        merge_bytes_max: (shared.limits.value_bytes_max / 2) as u64,
        merge_rest: shared.config.ranges.range_merge_rest_ms,
    }
}

fn wal_config(shared: &Shared, core: CoreId) -> WalConfig {
    let owner = Owner {
        cluster: shared.facts.cluster,
        node: shared.facts.node,
        disk: shared.data.disk(),
        core,
    };
    let frame_bytes_max =
        (shared.limits.entry_bytes_max + FRAME_SLACK_BYTES).next_multiple_of(BLOCK_BYTES);
    WalConfig { owner, segment_bytes: WalConfig::SEGMENT_BYTES_DEFAULT, frame_bytes_max }
}

fn open_links(shared: &Shared, core: CoreId, hub: &Rc<LinkHub>) -> Links {
    let limits = &shared.config.limits;
    let limits = LinkLimits {
        queue_bytes_max: limits.peer_queue_bytes_max,
        frame_bytes_max: limits.frame_bytes_max,
        connect_timeout: limits.peer_connect_timeout_ms,
        write_timeout: limits.peer_write_timeout_ms,
        backoff_min: limits.peer_backoff_min_ms,
        backoff_max: limits.peer_backoff_max_ms,
    };
    let mut links = Links::new(core, Arc::clone(&shared.book), Rc::clone(hub), limits, shared.seed);
    links.meet(&shared.known.nodes);
    links
}

fn open_clients(
    shared: &Shared,
    core: CoreId,
    front: &Rc<RefCell<Front>>,
) -> io::Result<Rc<Clients>> {
    let limits = client_limits(shared);
    let own = shared.config.core_listens().nth(usize::from(core.get()));
    let listeners = [Some(shared.facts.client_listen), own].into_iter().flatten();
    let listeners = listeners.map(|address| client_port::bind(address, &limits));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let backend: Rc<RefCell<dyn Backend>> = Rc::clone(front) as Rc<RefCell<dyn Backend>>;
    let connected = Arc::clone(&shared.facts.connected);
    let seed = shared.seed ^ u64::from(core.get()) << 48;
    let clients = Clients::new(core, limits, backend, connected, seed);
    for listener in listeners {
        runtime::spawn(Rc::clone(&clients).accept(listener)).detach();
    }
    runtime::spawn(Rc::clone(&clients).sweep()).detach();
    Ok(clients)
}

fn client_limits(shared: &Shared) -> ClientLimits {
    let limits = &shared.config.limits;
    ClientLimits {
        clients_max: limits.clients_max,
        pending_count_max: limits.client_pending_count_max,
        pending_bytes_max: limits.client_pending_bytes_max,
        output_pause_bytes: limits.client_output_pause_bytes,
        output_bytes_max: limits.client_output_bytes_max,
        idle_timeout: Some(limits.client_idle_timeout_ms).filter(|timeout| !timeout.is_zero()),
        keepalive: limits.client_keepalive_ms,
        ..ClientLimits::new(&shared.limits)
    }
}

/// Tells of the first signal that asks the process to stop.
fn stop_signal() -> io::Result<mpsc::Receiver<i32>> {
    let (tell, told) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // Nobody is left to hear of the second one: the node is stopping already.
            let _ = tell.send(signal);
        }
    })?;
    Ok(told)
}
