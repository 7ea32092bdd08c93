//! The floor: the least that a write costs which is on the disks of two of three processes before
//! it is acknowledged. No Raft, no state, no recovery; one process takes all clients, keeps what
//! they send in one file, and has two others keep it, too. Same runtime, same disk writes, same
//! protocol as Oarlock, so what Oarlock needs beyond it is the price of being a database.
//!
//! `cargo run --release -p oarlock-floor`, then `oarlock bench --addr` with the address it prints.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use clap::Parser as _;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use oarlock::bench::ports::data_folder;
use oarlock::disk::buffer::BLOCK_BYTES;
use oarlock::disk::ring::WalRing;
use oarlock::disk::segments::SegmentFile;
use oarlock::net::resp::{Parser, ParserLimits};
use oarlock::node::executor::{assign_cpus, cpus_available, spawn_pinned};
use oarlock::node::inbox::{Doorbell, inbox};
use oarlock::runtime::{self, TcpListener, TcpStream};
use oarlock_types::{CoreId, SegmentId};

type Outcome<T> = Result<T, Box<dyn Error>>;

const FILE_BYTES: u64 = 64 << 20;
const READ_BYTES: usize = 64 << 10;
/// Room for the length before each batch that goes to a follower.
const LENGTH_BYTES: usize = 8;

/// A bare quorum write: three processes, no Raft. Prints the address that takes `SET`s, and ends
/// when its input does.
#[derive(clap::Parser)]
struct Args {
    /// Be a follower: keep what comes, in this folder.
    #[arg(long, hide = true)]
    follow: Option<PathBuf>,
    /// Which of the machine's CPUs, counted from 0.
    #[arg(long, hide = true, default_value_t = 0)]
    cpu: usize,
}

fn main() -> Outcome<()> {
    let args = Args::parse();
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    if let Some(folder) = args.follow {
        let file = prepare(&folder)?;
        return on_cpu(args.cpu, move || async move { follow(file, listener).await });
    }
    let folder = data_folder()?;
    let mut followers = Vec::new();
    for number in 1..=2 {
        followers.push(Follower::start(&folder.path().join(number.to_string()), number)?);
    }
    let links: Vec<_> = followers.iter().map(|follower| follower.address).collect();
    let file = prepare(&folder.path().join("0"))?;
    std::thread::spawn(|| {
        // The end of the input is the wish to end.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    on_cpu(0, move || async move { lead(file, listener, links).await })
}

struct Follower {
    address: SocketAddr,
    child: Child,
}

impl Follower {
    fn start(folder: &Path, cpu: usize) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--follow")
            .arg(folder)
            .args(["--cpu", &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        Ok(Self { address: line.trim().parse()?, child })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn on_cpu<B, F>(cpu: usize, body: B) -> Outcome<()>
where
    B: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let available = cpus_available()?;
    let cpus = assign_cpus(u16::try_from(cpu + 1)?, &[], &available)?;
    let mut body = Some(body);
    let executors = spawn_pinned(&cpus[cpu..], "floor", |_| body.take().expect("one core"))?;
    executors.join();
    Ok(())
}

/// A file that was written with zeros before, as the log's segments are.
fn prepare(folder: &Path) -> Outcome<SegmentFile> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("log");
    std::fs::write(&path, vec![0; usize::try_from(FILE_BYTES)?])?;
    File::open(&path)?.sync_all()?;
    let file =
        OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(&path)?;
    Ok(SegmentFile { id: SegmentId(1), path, file })
}

/// A file in which one durable write after the other is made.
struct Log {
    ring: WalRing,
    offset: u64,
    /// What waits for the write in flight.
    gathered: Vec<u8>,
    gathered_until: u64,
    writing_until: u64,
    durable_until: u64,
}

impl Log {
    fn open(file: SegmentFile, bell: Doorbell) -> Self {
        let ring = WalRing::open(CoreId(0), file.file.as_fd(), move || bell.ring());
        let mut ring = ring.expect("a ring");
        ring.set_segment(file).expect("a file");
        Self {
            ring,
            offset: 0,
            gathered: Vec::new(),
            gathered_until: 0,
            writing_until: 0,
            durable_until: 0,
        }
    }

    fn go_on(&mut self) {
        if let Some(outcome) = self.ring.try_complete() {
            outcome.expect("a durable write");
            self.durable_until = self.writing_until;
        }
        if self.ring.is_in_flight() || self.gathered.is_empty() {
            return;
        }
        let buffer = self.ring.buffer();
        buffer.extend_from_slice(&self.gathered);
        buffer.pad_to_block();
        let bytes = buffer.len() as u64;
        if self.offset + bytes > FILE_BYTES {
            self.offset = 0;
        }
        debug_assert!(bytes.is_multiple_of(BLOCK_BYTES as u64));
        self.ring.submit(self.offset);
        self.offset += bytes;
        self.gathered.clear();
        self.writing_until = self.gathered_until;
    }
}

/// What the tasks of a process share.
struct Shared {
    bell: Doorbell,
    /// Writes that came in, and how many of them the third process (or the leader's link) has.
    arrived: RefCell<Vec<(u64, Vec<u8>)>>,
    acknowledged: RefCell<[u64; 2]>,
}

async fn follow(file: SegmentFile, listener: StdListener) {
    let (_, mut wake) = inbox::<()>(1);
    let mut log = Log::open(file, wake.doorbell());
    let listener = TcpListener::new(listener).expect("a port");
    let stream = listener.accept().await.expect("the leader");
    let socket = stream.duplicate().expect("a descriptor");
    socket.set_nodelay(true).expect("a socket");
    let shared = Rc::new(Shared {
        bell: wake.doorbell(),
        arrived: RefCell::default(),
        acknowledged: RefCell::default(),
    });
    runtime::spawn(receive(stream, Rc::clone(&shared))).detach();
    let mut socket = TcpStream::new(socket).expect("a socket");
    let mut told = 0;
    loop {
        for (until, bytes) in shared.arrived.borrow_mut().drain(..) {
            log.gathered.extend_from_slice(&bytes);
            log.gathered_until = until;
        }
        log.go_on();
        if log.durable_until > told {
            told = log.durable_until;
            socket.write_all(&told.to_le_bytes()).await.expect("the leader");
        }
        wake.wait().await;
    }
}

/// Takes batches in: length, number of the last write, bytes.
async fn receive(mut stream: TcpStream, shared: Rc<Shared>) {
    let (mut buffer, mut rest) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let count = stream.read(&mut buffer).await.expect("the leader");
        if count == 0 {
            std::process::exit(0);
        }
        rest.extend_from_slice(&buffer[..count]);
        let mut begin = 0;
        while let Some(head) = rest.get(begin..begin + 2 * LENGTH_BYTES) {
            let number = |at: usize| {
                let bytes = head[at..at + LENGTH_BYTES].try_into();
                u64::from_le_bytes(bytes.expect("eight bytes"))
            };
            let length = usize::try_from(number(0)).expect("a length");
            let from = begin + 2 * LENGTH_BYTES;
            let Some(batch) = rest.get(from..from + length) else { break };
            shared.arrived.borrow_mut().push((number(LENGTH_BYTES), batch.to_vec()));
            begin = from + length;
        }
        rest.drain(..begin);
        shared.bell.ring();
    }
}

/// A client: how many of its writes wait, by the number of each, and what it is owed.
struct Client {
    waiting: RefCell<VecDeque<u64>>,
    socket: RefCell<TcpStream>,
}

async fn lead(file: SegmentFile, listener: StdListener, links: Vec<SocketAddr>) {
    let (_, mut wake) = inbox::<()>(1);
    let mut log = Log::open(file, wake.doorbell());
    let shared = Rc::new(Shared {
        bell: wake.doorbell(),
        arrived: RefCell::default(),
        acknowledged: RefCell::default(),
    });
    let mut followers = Vec::new();
    for (number, address) in links.into_iter().enumerate() {
        let stream = StdStream::connect(address).expect("a follower");
        stream.set_nodelay(true).expect("a socket");
        let reading = TcpStream::new(stream.try_clone().expect("a descriptor"));
        let reading = reading.expect("a socket");
        runtime::spawn(acknowledgements(reading, number, Rc::clone(&shared))).detach();
        followers.push(TcpStream::new(stream).expect("a socket"));
    }
    let clients = Rc::new(RefCell::new(Vec::<Rc<Client>>::new()));
    let pending = Rc::new(RefCell::new((Vec::<u8>::new(), 0_u64)));
    runtime::spawn(accept(listener, Rc::clone(&clients), Rc::clone(&pending), Rc::clone(&shared)))
        .detach();
    let mut answered = 0;
    let mut batch = Vec::new();
    loop {
        {
            let (bytes, until) = &mut *pending.borrow_mut();
            if !bytes.is_empty() {
                batch.clear();
                batch.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
                batch.extend_from_slice(&until.to_le_bytes());
                batch.extend_from_slice(bytes);
                log.gathered.append(bytes);
                log.gathered_until = *until;
            }
        }
        log.go_on();
        runtime::flush();
        if !batch.is_empty() {
            for follower in &mut followers {
                follower.write_all(&batch).await.expect("a follower");
            }
            batch.clear();
        }
        let [first, second] = *shared.acknowledged.borrow();
        let mut kept = [first, second, log.durable_until];
        kept.sort_unstable();
        if kept[1] > answered {
            answered = kept[1];
            let clients = clients.borrow().clone();
            answer(&clients, answered).await;
        }
        wake.wait().await;
    }
}

#[allow(clippy::await_holding_refcell_ref, reason = "nobody else writes to a client")]
async fn answer(clients: &[Rc<Client>], until: u64) {
    for client in clients {
        let mut replies = Vec::new();
        let mut waiting = client.waiting.borrow_mut();
        while waiting.front().is_some_and(|number| *number <= until) {
            waiting.pop_front();
            replies.extend_from_slice(b"+OK\r\n");
        }
        drop(waiting);
        if !replies.is_empty() {
            // A client that has gone is owed nothing.
            let _ = client.socket.borrow_mut().write_all(&replies).await;
        }
    }
}

async fn acknowledgements(mut stream: TcpStream, number: usize, shared: Rc<Shared>) {
    let mut bytes = [0; LENGTH_BYTES];
    loop {
        stream.read_exact(&mut bytes).await.expect("a follower");
        shared.acknowledged.borrow_mut()[number] = u64::from_le_bytes(bytes);
        shared.bell.ring();
    }
}

async fn accept(
    listener: StdListener,
    clients: Rc<RefCell<Vec<Rc<Client>>>>,
    pending: Rc<RefCell<(Vec<u8>, u64)>>,
    shared: Rc<Shared>,
) {
    let listener = TcpListener::new(listener).expect("a port");
    loop {
        let stream = listener.accept().await.expect("a client");
        let socket = stream.duplicate().expect("a descriptor");
        socket.set_nodelay(true).expect("a socket");
        let client = Rc::new(Client {
            waiting: RefCell::default(),
            socket: RefCell::new(TcpStream::new(socket).expect("a socket")),
        });
        clients.borrow_mut().push(Rc::clone(&client));
        runtime::spawn(serve(stream, client, Rc::clone(&pending), Rc::clone(&shared))).detach();
    }
}

async fn serve(
    mut stream: TcpStream,
    client: Rc<Client>,
    pending: Rc<RefCell<(Vec<u8>, u64)>>,
    shared: Rc<Shared>,
) {
    let mut parser = Parser::new(ParserLimits {
        args_max: 16,
        bulk_bytes_max: 1 << 20,
        command_bytes_max: 1 << 20,
    });
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        parser.feed(&buffer[..count]);
        while let Ok(Some(args)) = parser.next_command() {
            let (bytes, until) = &mut *pending.borrow_mut();
            for arg in args.iter() {
                bytes.extend_from_slice(arg);
            }
            *until += 1;
            client.waiting.borrow_mut().push_back(*until);
        }
        shared.bell.ring();
    }
}
