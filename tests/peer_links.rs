//! Links and pulses between nodes over real loopback sockets, in one process: they come up, come
//! back, refuse whom they must, and neither nonsense nor a slow reader costs more than its bound.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_lite::future::or;
use oarlock::net::handshake::{HANDSHAKE_BYTES_MAX, Identity, PeerBook};
use oarlock::net::link::{LinkConfig, LinkLimits, PeerLink};
use oarlock::net::link_hub::{Incoming, LinkEvent, LinkHub};
use oarlock::net::link_reader::{AcceptedLink, read_link};
use oarlock::net::peer_listener::{ListenerLimits, PeerListener, bind_peer_port};
use oarlock::net::pulse_socket::{PulseParts, PulseThread};
use oarlock::node::inbox::{Receiver, inbox};
use oarlock::node::watchdog::{BEAT, CoreProgress};
use oarlock::runtime::{self, Runtime, sleep};
use oarlock_codec::{
    ForwardReply, Frame, Handshake, HandshakeRefusal, HandshakeReply, Header, Refusal, frame,
};
use oarlock_shard::pulse::PulseConfig;
use oarlock_shard::support_table::{SupportTable, TableConfig};
use oarlock_types::{
    ClusterId, CoreAddr, CoreId, DiskId, FeatureLevels, Incarnation, Limits, Mono, NodeId, Pulse,
};

const CLUSTER: ClusterId = ClusterId(77);
const PATIENCE: Duration = Duration::from_secs(20);
const FRAME_BYTES_MAX: usize = 1 << 20;

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity(node: u64, incarnation: u64, cores_count: u16) -> Identity {
    Identity {
        cluster: CLUSTER,
        node: NodeId(node),
        disk: DiskId(u128::from(node) * 100),
        incarnation: Incarnation(incarnation),
        cores_count,
        levels: FeatureLevels::BUILD,
    }
}

/// The book of one of nodes 1 to 3.
fn book(identity: Identity) -> Arc<PeerBook> {
    let peers: Vec<(NodeId, u16)> =
        (1..=3).map(NodeId).filter(|n| *n != identity.node).map(|n| (n, 0)).collect();
    let table = SupportTable::new(&TableConfig {
        node: identity.node,
        incarnation: identity.incarnation,
        cores: identity.cores_count,
        cores_max: 16,
        origin: Mono(0),
        peers: &peers,
    });
    Arc::new(PeerBook::new(identity, Arc::new(table), BTreeMap::new(), Box::new(|_, _| ())))
}

/// Runs `body` on a runtime, as a core would.
fn on_executor<F: Future<Output = ()> + 'static>(body: impl FnOnce() -> F + 'static) {
    Runtime::new().unwrap().run(async {
        let patience = async {
            sleep(PATIENCE * 3).await;
            panic!("the test hangs");
        };
        or(body(), patience).await;
    });
}

/// The receiving side of a node with one executor.
struct Server {
    addr: SocketAddr,
    table: Arc<SupportTable>,
    listener: Option<PeerListener>,
    hub: Rc<LinkHub>,
    bell: Receiver<()>,
    readers: Option<async_task::Task<()>>,
    events: Vec<LinkEvent>,
    frames: Vec<Incoming>,
    asked_for: Rc<RefCell<Vec<CoreId>>>,
}

impl Server {
    fn start(addr: SocketAddr, identity: Identity, hub_bytes_max: usize) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let book = book(identity);
        let table = Arc::clone(book.table());
        let (accepted, mut links) = inbox::<AcceptedLink>(64);
        let listener =
            PeerListener::start(listener, book, ListenerLimits::default(), move |link| {
                drop(accepted.send(link));
            })
            .unwrap();
        let (_, bell) = inbox::<()>(1);
        let hub = LinkHub::new(bell.doorbell(), hub_bytes_max);
        let asked_for = Rc::new(RefCell::new(Vec::new()));
        let readers = runtime::spawn({
            let (hub, table, asked_for) = (Rc::clone(&hub), Arc::clone(&table), asked_for.clone());
            async move {
                let (mut tasks, mut arrived) = (Vec::new(), Vec::new());
                loop {
                    links.wait().await;
                    links.receive_many(&mut arrived);
                    for link in arrived.drain(..) {
                        asked_for.borrow_mut().push(link.to_core);
                        let (hub, table) = (Rc::clone(&hub), Arc::clone(&table));
                        let read = read_link(link, table, hub, FRAME_BYTES_MAX);
                        tasks.push(runtime::spawn(read));
                    }
                }
            }
        });
        Self {
            addr,
            table,
            listener: Some(listener),
            hub,
            bell,
            readers: Some(readers),
            events: Vec::new(),
            frames: Vec::new(),
            asked_for,
        }
    }

    /// Closes the port and all connections.
    async fn stop(&mut self) {
        self.listener = None;
        if let Some(readers) = self.readers.take() {
            readers.cancel().await;
        }
    }

    async fn event(&mut self, wanted: LinkEvent) {
        until(&self.hub, &mut self.bell, &mut self.frames, &mut self.events, |_, events| {
            take_first(events, wanted)
        })
        .await;
    }

    async fn replies(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        until(&self.hub, &mut self.bell, &mut self.frames, &mut self.events, |frames, _| {
            for incoming in frames.drain(..) {
                let Frame::ForwardReply(replies) = incoming.frame else { panic!("unexpected") };
                ids.extend(replies.iter().map(|reply| reply.id));
            }
            ids.len() >= count
        })
        .await;
        ids
    }
}

/// The sending side.
struct Client {
    link: PeerLink,
    book: Arc<PeerBook>,
    hub: Rc<LinkHub>,
    bell: Receiver<()>,
    events: Vec<LinkEvent>,
}

impl Client {
    fn open(identity: Identity, core: u16, addr: SocketAddr, limits: LinkLimits) -> Self {
        let (_, bell) = inbox::<()>(1);
        let hub = LinkHub::new(bell.doorbell(), 1 << 20);
        let config =
            LinkConfig { core: CoreId(core), peer: NodeId(2), addr, limits, seed: identity.node.0 };
        let book = book(identity);
        let link = PeerLink::open(config, Arc::clone(&book), Rc::clone(&hub));
        Self { link, book, hub, bell, events: Vec::new() }
    }

    async fn event(&mut self, wanted: LinkEvent) {
        until(&self.hub, &mut self.bell, &mut Vec::new(), &mut self.events, |_, events| {
            take_first(events, wanted)
        })
        .await;
    }
}

fn take_first(events: &mut Vec<LinkEvent>, wanted: LinkEvent) -> bool {
    let found = events.iter().position(|event| *event == wanted);
    found.is_some_and(|at| {
        events.drain(..=at);
        true
    })
}

async fn until(
    hub: &LinkHub,
    bell: &mut Receiver<()>,
    frames: &mut Vec<Incoming>,
    events: &mut Vec<LinkEvent>,
    mut done: impl FnMut(&mut Vec<Incoming>, &mut Vec<LinkEvent>) -> bool,
) {
    let start = Instant::now();
    loop {
        hub.take(frames, events);
        if done(frames, events) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it never happened; events {events:?}");
        or(bell.wait(), async {
            sleep(Duration::from_secs(1)).await;
        })
        .await;
    }
}

fn up(incarnation: u64) -> LinkEvent {
    LinkEvent::OutgoingUp { node: NodeId(2), incarnation: Incarnation(incarnation) }
}

const DOWN: LinkEvent = LinkEvent::OutgoingDown { node: NodeId(2) };

fn replies(ids: std::ops::Range<u64>) -> Vec<ForwardReply> {
    ids.map(|id| ForwardReply { id, outcome: Err(Refusal::Busy) }).collect()
}

#[test]
fn frames_flow_in_order_and_the_link_comes_back_after_a_restart() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(2, 5, 1), 1 << 20);
        let addr = server.addr;
        let mut client = Client::open(identity(1, 3, 1), 0, addr, LinkLimits::default());
        client.event(up(5)).await;
        let from = CoreAddr::new(NodeId(1), CoreId(0));
        server.event(LinkEvent::IncomingUp { from, incarnation: Incarnation(3) }).await;
        for n in 0..100 {
            assert!(client.link.send(&replies(n..n + 1)));
        }
        assert_eq!(server.replies(100).await, (0..100).collect::<Vec<_>>());

        server.stop().await;
        client.event(DOWN).await;
        assert_eq!(client.link.incarnation(), None);
        assert!(!client.link.send(&replies(0..1)), "nothing is kept for a link that is down");

        let mut server = Server::start(addr, identity(2, 6, 1), 1 << 20);
        client.event(up(6)).await;
        assert!(client.link.send(&replies(7..9)));
        assert_eq!(server.replies(2).await, [7, 8]);

        // Data flows one way: support needs the other way too.
        let to = CoreAddr::new(NodeId(2), CoreId(0));
        assert!(!client.book.table().links_up(to));
        client.book.table().incoming_up(to, Incarnation(6));
        assert!(client.book.table().links_up(to));
        let hub = Rc::clone(&client.hub);
        drop(client);
        server.event(LinkEvent::IncomingDown { from }).await;
        let mut events = Vec::new();
        hub.take(&mut Vec::new(), &mut events);
        assert_eq!(events, [DOWN]);
    });
}

#[test]
fn a_core_that_the_peer_does_not_have_dials_another() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(2, 5, 2), 1 << 20);
        let mut client = Client::open(identity(1, 3, 4), 3, server.addr, LinkLimits::default());
        client.event(up(5)).await;
        let from = CoreAddr::new(NodeId(1), CoreId(3));
        server.event(LinkEvent::IncomingUp { from, incarnation: Incarnation(3) }).await;
        assert_eq!(*server.asked_for.borrow(), [CoreId(1)]);
    });
}

#[test]
fn a_slow_reader_costs_bounded_memory_and_a_reset() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(2, 5, 1), 32 << 10);
        let queue_bytes_max = 1 << 20;
        let limits = LinkLimits { queue_bytes_max, ..LinkLimits::default() };
        let mut client = Client::open(identity(1, 3, 1), 0, server.addr, limits);
        client.event(up(5)).await;
        let frame = replies(0..1000);
        let mut sent = 0;
        while client.link.send(&frame) {
            sent += 1;
            assert!(sent < 10_000, "the bound never struck");
            assert!(client.link.queued_bytes() <= queue_bytes_max);
            // Lets the kernel's buffers fill before ours do.
            if sent % 8 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(sent > 10, "only {sent} frames fit");
        assert!(client.link.queued_bytes() <= queue_bytes_max);
        assert!(server.hub.waiting_bytes() >= 32 << 10, "the reader must have stopped for its hub");
        assert!(server.hub.waiting_bytes() < 512 << 10, "{}", server.hub.waiting_bytes());
        client.event(DOWN).await;
        client.event(up(5)).await;

        // Once the driver takes again, the new connection carries what is sent.
        let last = u64::MAX - 1;
        assert!(client.link.send(&replies(last..u64::MAX)));
        let mut seen = false;
        let Server { hub, bell, frames, events, .. } = &mut server;
        until(hub, bell, frames, events, |frames, _| {
            for incoming in frames.drain(..) {
                let Frame::ForwardReply(replies) = incoming.frame else { panic!("unexpected") };
                seen |= replies[0].id == last;
            }
            seen
        })
        .await;
    });
}

/// Connects as node 1 by hand and hands the connection to a reader.
async fn raw_link(server: &mut Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).unwrap();
    let reply = greet(&mut stream, &hello());
    assert!(matches!(reply, Some(HandshakeReply::Accepted { .. })), "{reply:?}");
    let from = CoreAddr::new(NodeId(1), CoreId(0));
    server.event(LinkEvent::IncomingUp { from, incarnation: Incarnation(3) }).await;
    stream
}

fn encoded<T: oarlock_codec::Framed>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(value, &mut bytes);
    bytes
}

#[test]
fn whatever_is_no_frame_ends_the_connection_and_nothing_else() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(2, 5, 1), 1 << 20);
        let good = encoded(&replies(0..3));
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let mut newer = good.clone();
        newer[4..6].copy_from_slice(&2_u16.to_le_bytes());
        let mut oversized = good.clone();
        oversized[8..12].copy_from_slice(&(2_u32 << 20).to_le_bytes());
        let garbage = vec![0x5a; 100_000];
        let out_of_place = [encoded(&hello()), encoded(&Pulse::default())];
        let from = CoreAddr::new(NodeId(1), CoreId(0));
        for bytes in [damaged, newer, oversized, garbage].iter().chain(&out_of_place) {
            let mut stream = raw_link(&mut server).await;
            stream.write_all(&good).unwrap();
            // The reader may hang up in the middle of it.
            let _ = stream.write_all(bytes);
            server.event(LinkEvent::IncomingDown { from }).await;
            assert_eq!(server.replies(3).await, [0, 1, 2], "what came before it counts");
            assert!(server.frames.is_empty());
        }
        // Half a frame is no error; its connection's end is.
        let mut stream = raw_link(&mut server).await;
        stream.write_all(&good[..good.len() - 1]).unwrap();
        drop(stream);
        server.event(LinkEvent::IncomingDown { from }).await;
        assert!(server.frames.is_empty());
    });
}

#[test]
fn frames_of_an_older_incarnation_are_dropped() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(2, 5, 1), 1 << 20);
        let mut stream = raw_link(&mut server).await;
        server.table.learn_incarnation(NodeId(1), Incarnation(4));
        stream.write_all(&encoded(&replies(0..1))).unwrap();
        let from = CoreAddr::new(NodeId(1), CoreId(0));
        server.event(LinkEvent::IncomingDown { from }).await;
        assert!(server.frames.is_empty());
    });
}

// ---- the listener, by hand ----

fn hello() -> Handshake {
    Handshake {
        cluster: CLUSTER,
        from: NodeId(1),
        disk: DiskId(100),
        incarnation: Incarnation(3),
        from_core: CoreId(0),
        cores_count: 1,
        levels: FeatureLevels::BUILD,
        to: NodeId(2),
        to_core: CoreId(0),
    }
}

/// The answer to a handshake; `None` if the other end hangs up instead.
fn greet(stream: &mut TcpStream, hello: &Handshake) -> Option<HandshakeReply> {
    stream.write_all(&encoded(hello)).unwrap();
    read_reply(stream)
}

fn read_reply(stream: &mut TcpStream) -> Option<HandshakeReply> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = [0; Header::BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = frame::decode_header(&head, HANDSHAKE_BYTES_MAX).unwrap().unwrap();
    let mut payload = vec![0; header.payload_bytes];
    stream.read_exact(&mut payload).unwrap();
    Some(frame::decode_payload(&header, &payload).unwrap())
}

/// Returns when the other end has hung up.
fn await_end(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0; 1]) {
        Ok(0) => (),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (),
        other => panic!("expected the end, got {other:?}"),
    }
}

fn listener(limits: ListenerLimits) -> (PeerListener, SocketAddr, mpsc::Receiver<AcceptedLink>) {
    let listener = TcpListener::bind(any_port()).unwrap();
    let addr = listener.local_addr().unwrap();
    let (accepted, links) = mpsc::channel();
    let listener = PeerListener::start(listener, book(identity(2, 5, 2)), limits, move |link| {
        accepted.send(link).unwrap();
    });
    (listener.unwrap(), addr, links)
}

#[test]
fn every_reason_to_refuse_a_dialler_is_told() {
    let (_listener, addr, links) = listener(ListenerLimits::default());
    let answer = |hello: Handshake| greet(&mut TcpStream::connect(addr).unwrap(), &hello);
    let refused = |why| Some(HandshakeReply::Refused(why));

    let first = Handshake { incarnation: Incarnation(4), to_core: CoreId(1), ..hello() };
    let accepted = HandshakeReply::Accepted {
        node: NodeId(2),
        disk: DiskId(200),
        incarnation: Incarnation(5),
        cores_count: 2,
        levels: FeatureLevels::BUILD,
    };
    assert_eq!(answer(first), Some(accepted));
    let link = links.recv_timeout(PATIENCE).unwrap();
    assert_eq!((link.from, link.to_core), (CoreAddr::new(NodeId(1), CoreId(0)), CoreId(1)));
    assert_eq!(link.incarnation, Incarnation(4));

    let known = Incarnation(4);
    assert_eq!(answer(hello()), refused(HandshakeRefusal::StaleIncarnation { known }));
    let cluster = Handshake { cluster: ClusterId(1), ..first };
    assert_eq!(answer(cluster), refused(HandshakeRefusal::WrongCluster { cluster: CLUSTER }));
    let elsewhere = Handshake { to: NodeId(3), ..first };
    assert_eq!(answer(elsewhere), refused(HandshakeRefusal::WrongNode { node: NodeId(2) }));
    let oneself = Handshake { from: NodeId(2), to: NodeId(3), ..first };
    assert_eq!(answer(oneself), refused(HandshakeRefusal::WrongNode { node: NodeId(2) }));
    let double = Handshake { from: NodeId(2), ..first };
    assert_eq!(answer(double), refused(HandshakeRefusal::UnknownNode));
    let stranger = Handshake { from: NodeId(9), ..first };
    assert_eq!(answer(stranger), refused(HandshakeRefusal::UnknownNode));
    let disk = Handshake { disk: DiskId(101), incarnation: Incarnation(9), ..first };
    assert_eq!(answer(disk), refused(HandshakeRefusal::WrongDisk { known: DiskId(100) }));
    let core = Handshake { to_core: CoreId(2), ..first };
    assert_eq!(answer(core), refused(HandshakeRefusal::NoSuchCore { cores_count: 2 }));
    let odd = Handshake { from_core: CoreId(1), ..first };
    assert_eq!(answer(odd), None, "it contradicts itself");
    let huge = Handshake { cores_count: 17, ..first };
    assert_eq!(answer(huge), None, "more cores than are kept account of");
    assert_eq!(answer(first), Some(accepted), "none of that has left a trace");
}

#[test]
fn an_address_that_leads_back_to_the_node_makes_no_link() {
    on_executor(|| async {
        let mut server = Server::start(any_port(), identity(1, 5, 1), 1 << 20);
        let mut client = Client::open(identity(1, 5, 1), 0, server.addr, LinkLimits::default());
        let addr = server.addr;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(client.link.incarnation(), None);
        server.stop().await;
        let _right = Server::start(addr, identity(2, 8, 1), 1 << 20);
        let Client { hub, bell, events, .. } = &mut client;
        until(hub, bell, &mut Vec::new(), events, |_, events| !events.is_empty()).await;
        assert_eq!(client.events, [up(8)], "nothing came up before");
    });
}

#[test]
fn what_is_no_handshake_is_hung_up_on() {
    let (_listener, addr, _links) = listener(ListenerLimits::default());
    let mut newer = encoded(&hello());
    newer[4..6].copy_from_slice(&2_u16.to_le_bytes());
    let mut long = encoded(&hello());
    long[8..12].copy_from_slice(&4096_u32.to_le_bytes());
    let mut damaged = encoded(&hello());
    *damaged.last_mut().unwrap() ^= 1;
    let other = encoded(&replies(0..1));
    let random: Vec<u8> = (0..60_000_u32).flat_map(u32::to_le_bytes).collect();
    for bytes in [newer, long, damaged, other, random, b"GET / HTTP/1.0\r\n\r\n".to_vec()] {
        let mut stream = TcpStream::connect(addr).unwrap();
        // It may be hung up on in the middle of the write.
        let _ = stream.write_all(&bytes);
        await_end(&mut stream);
    }
    let reply = greet(&mut TcpStream::connect(addr).unwrap(), &hello());
    assert!(matches!(reply, Some(HandshakeReply::Accepted { .. })));
}

#[test]
fn half_a_handshake_runs_out_of_time_and_holds_nobody_up() {
    let handshake_timeout = Duration::from_millis(300);
    let (_listener, addr, _links) =
        listener(ListenerLimits { handshake_timeout, ..ListenerLimits::default() });
    let start = Instant::now();
    let mut half = TcpStream::connect(addr).unwrap();
    half.write_all(&encoded(&hello())[..20]).unwrap();
    let mut silent = TcpStream::connect(addr).unwrap();
    let reply = greet(&mut TcpStream::connect(addr).unwrap(), &hello());
    assert!(matches!(reply, Some(HandshakeReply::Accepted { .. })));
    await_end(&mut half);
    await_end(&mut silent);
    assert!(start.elapsed() >= handshake_timeout);
}

#[test]
fn a_handshake_that_comes_byte_by_byte_is_understood() {
    let (_listener, addr, _links) = listener(ListenerLimits::default());
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in encoded(&hello()) {
        stream.write_all(&[byte]).unwrap();
    }
    assert!(matches!(read_reply(&mut stream), Some(HandshakeReply::Accepted { .. })));
}

#[test]
fn in_a_crowd_of_silent_callers_the_oldest_gives_way() {
    let limits = ListenerLimits { handshakes_max: 4, handshake_timeout: PATIENCE * 2 };
    let (_listener, addr, _links) = listener(limits);
    let mut silent: Vec<_> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let reply = greet(&mut TcpStream::connect(addr).unwrap(), &hello());
    assert!(matches!(reply, Some(HandshakeReply::Accepted { .. })));
    for stream in &mut silent[..16] {
        await_end(stream);
    }
}

#[test]
fn a_listener_that_is_dropped_gives_its_port_back() {
    let (listener, addr, _links) = listener(ListenerLimits::default());
    let error = bind_peer_port(addr).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen for peers on TCP 127.0.0.1:"), "{error}");
    drop(listener);
    bind_peer_port(addr).unwrap();
}

// ---- pulses ----

struct Pulsing {
    addr: SocketAddr,
    table: Arc<SupportTable>,
    thread: Option<PulseThread>,
    progress: Arc<[CoreProgress]>,
}

/// Three nodes with one core each, all links up.
fn pulsing_nodes(origin: Instant) -> Vec<Pulsing> {
    let clock = move || Mono(u64::try_from(origin.elapsed().as_micros()).unwrap());
    let sockets: Vec<_> = (0..3).map(|_| bind_peer_port(any_port()).unwrap().1).collect();
    let addrs: Vec<_> = (1..)
        .map(NodeId)
        .zip(&sockets)
        .map(|(node, socket)| (node, socket.local_addr().unwrap()))
        .collect();
    let nodes = (1_u64..).zip(sockets).map(|(node, socket)| {
        let addr = socket.local_addr().unwrap();
        let table = Arc::clone(book(identity(node, 1, 1)).table());
        for peer in table.peers() {
            table.learn_incarnation(peer, Incarnation(1));
            table.outgoing_up(peer, CoreId(0), Incarnation(1));
            table.incoming_up(CoreAddr::new(peer, CoreId(0)), Incarnation(1));
        }
        let progress = CoreProgress::of_cores(1);
        let thread = PulseThread::start(PulseParts {
            socket,
            peers: addrs.clone(),
            joined: std::sync::mpsc::channel().1,
            config: PulseConfig::new(CLUSTER, &Limits::default(), node),
            table: Arc::clone(&table),
            progress: Arc::clone(&progress),
            clock,
        });
        Pulsing { addr, table, thread: Some(thread.unwrap()), progress }
    });
    nodes.collect()
}

/// Looks every few milliseconds, for support leaves no event behind.
async fn poll_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn pulse_threads_support_each_other_until_one_stops_or_gets_stuck() {
    on_executor(|| async {
        let origin = Instant::now();
        let mut nodes = pulsing_nodes(origin);
        // The cores' loops, one turn a beat: node 3's stops when told.
        let is_stuck = Rc::new(Cell::new(false));
        let loops: Vec<_> = (0..3)
            .map(|at: usize| {
                let (core, is_stuck) = (Arc::clone(&nodes[at].progress), Rc::clone(&is_stuck));
                runtime::spawn(async move {
                    loop {
                        sleep(BEAT).await;
                        if at != 2 || !is_stuck.get() {
                            core[0].count_turn();
                        }
                    }
                })
            })
            .collect();
        let supported = |leader: &Pulsing, by: u64| {
            let now = Mono(u64::try_from(origin.elapsed().as_micros()).unwrap());
            leader.table.received(NodeId(by), CoreId(0), now)
        };
        poll_until("everybody supports everybody", || {
            [(0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)]
                .iter()
                .all(|(leader, by)| supported(&nodes[*leader], *by).is_some())
        })
        .await;
        let epoch = supported(&nodes[0], 2).unwrap().epoch;

        is_stuck.set(true);
        poll_until("a stuck core loses its support, its node lives", || {
            supported(&nodes[2], 1).is_none() && supported(&nodes[2], 2).is_none()
        })
        .await;
        assert!(supported(&nodes[0], 3).is_some(), "it still supports others");

        nodes[2].thread = None;
        poll_until("a node that is gone supports nobody", || {
            supported(&nodes[0], 3).is_none() && supported(&nodes[1], 3).is_none()
        })
        .await;
        assert_eq!(supported(&nodes[0], 2).unwrap().epoch, epoch, "the others never lapsed");
        drop(loops);
    });
}

#[test]
fn datagrams_that_are_no_pulse_change_nothing() {
    on_executor(|| async {
        let nodes = pulsing_nodes(Instant::now());
        let sender = UdpSocket::bind(any_port()).unwrap();
        let pulse = Pulse {
            cluster: CLUSTER,
            from: NodeId(1),
            to: NodeId(2),
            incarnation: Incarnation(7),
            sequence: 1,
            alive: vec![true],
            map_version: 12,
            ..Pulse::default()
        };
        let good = encoded(&pulse);
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let mut long = good.clone();
        long.push(0);
        let foreign = encoded(&Pulse { cluster: ClusterId(1), ..pulse.clone() });
        let stranger = encoded(&Pulse { from: NodeId(9), ..pulse.clone() });
        let cores = encoded(&Pulse { alive: vec![true; 17], ..pulse });
        let garbage = vec![0x5a; 20_000];
        let bad = [damaged, long, foreign, stranger, cores, encoded(&hello()), garbage, Vec::new()];
        for bytes in bad {
            sender.send_to(&bytes, nodes[1].addr).unwrap();
        }
        // Loopback keeps the order: what came before has been looked at when this one shows.
        sender.send_to(&good, nodes[1].addr).unwrap();
        poll_until("a good pulse is taken", || nodes[1].table.peer_map_version(NodeId(1)) == 12)
            .await;
        assert_eq!(nodes[1].table.peer_incarnation(NodeId(1)), Incarnation(7));
        assert_eq!(nodes[1].table.peer_cores(NodeId(1)), 1);
    });
}
