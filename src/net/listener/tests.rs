//! Clients on real sockets: order under load, bounds, and ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream as StdStream};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use super::*;
use crate::net::client_port::{bind, check_free};
use crate::net::testing::FakeBackend;
use crate::runtime::Runtime;

/// A node's client side on a thread of its own: ended when dropped.
struct Node {
    address: SocketAddr,
    stop: Arc<Stop>,
    connected: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Tells the node's thread to end.
#[derive(Default)]
struct Stop {
    told: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Node {
    fn start(limits: ClientLimits) -> Self {
        let stop = Arc::new(Stop::default());
        let connected = Arc::new(AtomicUsize::new(0));
        let (stopped, gauge) = (Arc::clone(&stop), Arc::clone(&connected));
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            Runtime::new().unwrap().run(async move {
                let backend = Rc::new(RefCell::new(FakeBackend::new(&[b"h", b"p"])));
                let shared: Rc<RefCell<dyn Backend>> = Rc::clone(&backend) as _;
                let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &limits).unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let clients = Clients::new(CoreId(0), limits, shared, gauge, 7);
                let task = runtime::spawn(Rc::clone(&clients).accept(listener));
                let sweep = runtime::spawn(Rc::clone(&clients).sweep());
                drive(&clients, &backend, &stopped).await;
                clients.close_all();
                task.cancel().await;
                sweep.cancel().await;
            });
        });
        Self { address: told.recv().unwrap(), stop, connected, thread: Some(thread) }
    }

    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

/// Answers what was submitted, newest first but for writes, until told to stop.
async fn drive(clients: &Clients, backend: &RefCell<FakeBackend>, stop: &Stop) {
    poll_fn(|context| {
        *stop.waker.lock().unwrap() = Some(context.waker().clone());
        backend.borrow_mut().waker = Some(context.waker().clone());
        while !backend.borrow().queue.is_empty() {
            let last = backend.borrow().queue.len() - 1;
            let at = if backend.borrow().queue[last].request.is_read() { last } else { 0 };
            let (connection, ticket, outcome) = backend.borrow_mut().carry_out(at);
            clients.complete(&mut *backend.borrow_mut(), connection, ticket, outcome, None);
        }
        if stop.told.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.told.store(true, Ordering::Relaxed);
        if let Some(waker) = self.stop.waker.lock().unwrap().take() {
            waker.wake();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_exactly(stream: &mut StdStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_to_end(stream: &mut StdStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that was ended with bytes unread is reset: what came before counts.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn clients_are_served_and_let_go() {
    let node = Node::start(ClientLimits::default());
    let mut client = node.connect();
    client.write_all(b"SET a 1\r\nGET a\r\nPING\r\nMGET a k z\r\n").unwrap();
    let expected = b"+OK\r\n$1\r\n1\r\n+PONG\r\n*3\r\n$1\r\n1\r\n$-1\r\n$-1\r\n";
    assert_eq!(read_exactly(&mut client, expected.len()), expected);

    // A pipeline that is larger than every buffer, written by one thread and read by another.
    let mut writer = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let pipeline: Vec<u8> = (0..20_000)
            .flat_map(|n| format!("SET k{n} {n:0>100}\r\nGET k{n}\r\n").into_bytes())
            .collect();
        writer.write_all(&pipeline).unwrap();
    });
    for n in 0..20_000 {
        let expected = format!("+OK\r\n$100\r\n{n:0>100}\r\n");
        assert_eq!(read_exactly(&mut client, expected.len()), expected.as_bytes());
    }
    thread.join().unwrap();

    // Half-closed: what was sent is answered, then the connection ends.
    client.write_all(b"GET a\r\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"$1\r\n1\r\n");

    let mut client = node.connect();
    client.write_all(b"*1\r\n$1073741824\r\n").unwrap();
    assert_eq!(read_to_end(&mut client), b"-ERR Protocol error: invalid bulk length\r\n");
    assert!(check_free(node.address).is_err(), "the port is taken");
}

#[test]
fn too_many_and_idle_clients_are_ended() {
    let limits = ClientLimits {
        clients_max: 2,
        idle_timeout: Some(Duration::from_millis(1500)),
        ..ClientLimits::default()
    };
    let node = Node::start(limits);
    let mut first = node.connect();
    let mut second = node.connect();
    for client in [&mut first, &mut second] {
        client.write_all(b"PING\r\n").unwrap();
        assert_eq!(read_exactly(client, 7), b"+PONG\r\n");
    }
    let mut third = node.connect();
    assert_eq!(read_to_end(&mut third), b"-ERR max number of clients reached\r\n");
    drop(second);
    // The place is given back once the node has seen the end.
    let mut fourth = loop {
        let mut client = node.connect();
        let _ = client.write_all(b"PING\r\n");
        let mut answer = [0; 1];
        if client.read(&mut answer).is_ok() && answer == *b"+" {
            break client;
        }
    };
    assert_eq!(read_exactly(&mut fourth, 6), b"PONG\r\n");
    assert_eq!(read_to_end(&mut first), b"", "an idle client is ended");
    assert_eq!(read_to_end(&mut fourth), b"");
    while node.connected.load(Ordering::Relaxed) > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    let limits = ClientLimits { output_bytes_max: 4 << 20, ..ClientLimits::default() };
    let node = Node::start(limits);
    let mut good = node.connect();
    let value = vec![b'v'; 1 << 20];
    good.write_all(&[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n", &value[..], b"\r\n"].concat())
        .unwrap();
    assert_eq!(read_exactly(&mut good, 5), b"+OK\r\n");
    let mut bad = node.connect();
    let flood = b"GET k\r\n".repeat(10_000);
    // It may be cut off while it still writes.
    let _ = bad.write_all(&flood);
    for _ in 0..100 {
        good.write_all(b"PING\r\n").unwrap();
        assert_eq!(read_exactly(&mut good, 7), b"+PONG\r\n");
    }
    // It is ended: what it then reads is far less than what it asked for.
    assert!(read_to_end(&mut bad).len() < 64 << 20);
}
