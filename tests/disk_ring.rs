//! The WAL ring and inboxes on real executors, also when these are starved of CPU.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oarlock::disk::buffer::BLOCK_BYTES;
use oarlock::disk::probe;
use oarlock::disk::ring::{FIXED_FRAME_BYTES, WalRing, WalWriteError, Written};
use oarlock::disk::segments::SegmentFile;
use oarlock::node::executor::{ExecutorError, assign_cpus, cpus_available, spawn_pinned};
use oarlock::node::inbox::{Receiver, Sender, inbox};
use oarlock::runtime;
use oarlock_types::{CoreId, SegmentId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Runs `body` on an executor of its own; panics when it takes too long.
fn on_executor<F: Future<Output = ()> + 'static>(body: impl FnOnce() -> F + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let mut body = Some(body);
    let executors = spawn_pinned(&cpus_available().unwrap()[..1], "test", |_| {
        let (body, done) = (body.take().unwrap(), done.clone());
        move || async move {
            body().await;
            done.send(()).unwrap();
        }
    })
    .unwrap();
    is_done.recv_timeout(LIMIT).expect("the executor hangs");
    executors.join();
}

fn segment(directory: &Path, id: u64, blocks: usize) -> SegmentFile {
    let path = directory.join(format!("segment-{id}"));
    fs::write(&path, vec![0; blocks * BLOCK_BYTES]).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&path)
        .unwrap();
    SegmentFile { id: SegmentId(id), path, file }
}

fn fill(ring: &mut WalRing, byte: u8, blocks: usize) {
    ring.buffer().extend_from_slice(&vec![byte; blocks * BLOCK_BYTES]);
}

/// A ring, and the bell that its completions ring.
fn open_ring() -> (WalRing, Receiver<()>) {
    let nothing = File::open("/dev/null").unwrap();
    ring_that_holds(&nothing)
}

fn ring_that_holds(lock: &File) -> (WalRing, Receiver<()>) {
    let (_, bell) = inbox::<()>(1);
    let doorbell = bell.doorbell();
    (WalRing::open(CoreId(0), lock.as_fd(), move || doorbell.ring()).unwrap(), bell)
}

/// So a process that was killed with a write under way keeps its data directory locked until that
/// write has ended.
#[test]
fn a_ring_holds_the_lock_when_nobody_else_does_any_more() {
    let path = directory();
    let file = path.path().join("lock");
    let lock = File::create(&file).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let again = move || flock(File::open(&file).unwrap(), FlockOperation::NonBlockingLockExclusive);
    on_executor(move || async move {
        let (ring, _bell) = ring_that_holds(&lock);
        drop(lock);
        assert_eq!(again(), Err(Errno::WOULDBLOCK), "the ring holds it");
        drop(ring);
        again().unwrap();
    });
}

async fn outcome(ring: &mut WalRing, bell: &mut Receiver<()>) -> Result<Written, WalWriteError> {
    loop {
        bell.wait().await;
        if let Some(outcome) = ring.try_complete() {
            return outcome;
        }
    }
}

#[test]
fn frames_are_written_in_order_and_each_completion_wakes_the_executor() {
    const FRAMES: usize = 200;
    let directory = directory();
    let segment = segment(directory.path(), 1, FRAMES);
    let path = segment.path.clone();
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        assert_eq!(ring.segment(), None);
        ring.set_segment(segment).unwrap();
        for n in 0..FRAMES {
            fill(&mut ring, u8::try_from(n).unwrap(), 1);
            let offset = (n * BLOCK_BYTES) as u64;
            ring.submit(offset);
            assert!(ring.is_in_flight() && ring.buffer().is_empty());
            let written = outcome(&mut ring, &mut bell).await.unwrap();
            assert_eq!(written, Written { segment: SegmentId(1), offset, len: BLOCK_BYTES });
            assert!(!ring.is_in_flight());
            assert!(ring.try_complete().is_none(), "a completion is reported once");
        }
    });
    for (n, block) in fs::read(path).unwrap().chunks(BLOCK_BYTES).enumerate() {
        assert_eq!(block, [u8::try_from(n).unwrap(); BLOCK_BYTES]);
    }
}

#[test]
fn the_next_frame_is_collected_while_one_is_in_flight() {
    let directory = directory();
    let segment = segment(directory.path(), 1, 8);
    let path = segment.path.clone();
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        ring.set_segment(segment).unwrap();
        fill(&mut ring, 1, 1);
        for n in 0..8u8 {
            ring.submit(u64::from(n) * BLOCK_BYTES as u64);
            fill(&mut ring, n + 2, 1);
            outcome(&mut ring, &mut bell).await.unwrap();
        }
    });
    for (n, block) in fs::read(path).unwrap().chunks(BLOCK_BYTES).enumerate() {
        assert_eq!(block, [u8::try_from(n + 1).unwrap(); BLOCK_BYTES]);
    }
}

#[test]
fn frames_larger_than_the_registered_part_and_other_segments_are_written_too() {
    let directory = directory();
    let large = 3 * FIXED_FRAME_BYTES / BLOCK_BYTES;
    let segments = [1, 2].map(|id| segment(directory.path(), id, large + 1));
    let paths = segments.each_ref().map(|segment| segment.path.clone());
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        for segment in segments {
            let id = segment.id;
            ring.set_segment(segment).unwrap();
            fill(&mut ring, 1, large);
            ring.submit(0);
            let written = outcome(&mut ring, &mut bell).await.unwrap();
            assert_eq!((written.segment, written.len), (id, large * BLOCK_BYTES));
            fill(&mut ring, 2, 1);
            ring.submit((large * BLOCK_BYTES) as u64);
            outcome(&mut ring, &mut bell).await.unwrap();
        }
    });
    for path in paths {
        let bytes = fs::read(path).unwrap();
        assert!(bytes[..large * BLOCK_BYTES].iter().all(|&b| b == 1));
        assert!(bytes[large * BLOCK_BYTES..].iter().all(|&b| b == 2));
    }
}

/// CPU time of this thread so far, in clock ticks of 10 ms.
fn thread_cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_executor_that_waits_for_its_ring_uses_no_cpu() {
    let directory = directory();
    let segment = segment(directory.path(), 1, 1);
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        ring.set_segment(segment).unwrap();
        let waiting = runtime::spawn(async move { bell.wait().await });
        let before = thread_cpu_ticks();
        runtime::sleep(Duration::from_secs(1)).await;
        let used = thread_cpu_ticks() - before;
        assert!(used < 10, "{used} ticks of 10 ms in a second of waiting");
        fill(&mut ring, 1, 1);
        ring.submit(0);
        waiting.await;
        ring.try_complete().expect("woken after the completion").unwrap();
    });
}

#[test]
fn a_failed_write_wakes_the_executor_and_is_reported_once() {
    let directory = directory();
    let good = segment(directory.path(), 1, 1);
    let path = good.path.clone();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let read_only = SegmentFile { id: SegmentId(1), path: path.clone(), file };
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        ring.set_segment(read_only).unwrap();
        fill(&mut ring, 1, 1);
        ring.submit(0);
        let error = outcome(&mut ring, &mut bell).await.unwrap_err();
        assert!(matches!(error, WalWriteError::Failed { segment: SegmentId(1), .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("cannot write 4096 bytes at offset 0 of"), "{text}");
        assert!(text.contains("segment-1: Bad file descriptor"), "{text}");
        assert!(ring.try_complete().is_none(), "it is reported once");

        // Nothing is written after it, not even where it would succeed.
        ring.set_segment(good).unwrap();
        fill(&mut ring, 1, 1);
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ring.submit(0)));
        assert!(again.is_err(), "a failed write is final");
    });
    assert!(fs::read(path).unwrap().iter().all(|&b| b == 0));
}

/// Runs the test `name` again in a process of its own, in which `CHILD` is set.
fn child(name: &str) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

const CHILD: &str = "OARLOCK_TEST_CHILD";

fn limit(resource: rustix::process::Resource, bytes: u64) {
    let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
    rustix::process::setrlimit(resource, limit).unwrap();
}

#[test]
fn a_short_write_is_an_error() {
    if std::env::var_os(CHILD).is_none() {
        let output = child("a_short_write_is_an_error");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let directory = directory();
    let path: PathBuf = directory.path().join("short");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&path)
        .unwrap();
    limit(rustix::process::Resource::Fsize, 2 * BLOCK_BYTES as u64);
    on_executor(move || async move {
        let (mut ring, mut bell) = open_ring();
        ring.set_segment(SegmentFile { id: SegmentId(1), path, file }).unwrap();
        fill(&mut ring, 1, 4);
        ring.submit(0);
        let error = outcome(&mut ring, &mut bell).await.unwrap_err();
        assert!(matches!(error, WalWriteError::Short { written: 8192, len: 16384, .. }), "{error}");
    });
}

#[test]
fn a_ring_with_a_write_in_flight_can_be_dropped() {
    let directory = directory();
    let segment = segment(directory.path(), 1, 1);
    let path = segment.path.clone();
    on_executor(move || async move {
        let (mut ring, _bell) = open_ring();
        ring.set_segment(segment).unwrap();
        fill(&mut ring, 9, 1);
        ring.submit(0);
        drop(ring);
    });
    assert!(fs::read(path).unwrap().iter().all(|&b| b == 9), "the drop waited for the write");
}

#[test]
fn too_low_a_memlock_limit_is_a_clear_message_and_no_panic() {
    if std::env::var_os(CHILD).is_none() {
        let output = child("too_low_a_memlock_limit_is_a_clear_message_and_no_panic");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    limit(rustix::process::Resource::Memlock, 256 << 10);
    let text = probe::memlock().unwrap_err().to_string();
    for words in ["RLIMIT_MEMLOCK", "is 262144 bytes", "ulimit -l", "LimitMEMLOCK"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn this_machine_can_run_a_node() {
    probe::memlock().unwrap();
    probe::io_uring().unwrap();
}

#[test]
fn a_panic_on_an_executor_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let cpus = cpus_available().unwrap();
        let executors =
            spawn_pinned(&cpus[..1], "test", |_| || async { panic!("as the test wants") }).unwrap();
        executors.join();
        return;
    }
    let output = child("a_panic_on_an_executor_ends_the_process");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("as the test wants") && text.contains("so the node ends"), "{text}");
}

#[test]
fn executors_are_pinned_and_none_runs_unless_all_could_be_set_up() {
    let available = cpus_available().unwrap();
    let cpus = assign_cpus(3, &[], &available).unwrap();
    let (tell, told) = mpsc::channel();
    let executors = spawn_pinned(&cpus, "test", |core| {
        let tell = tell.clone();
        move || async move { tell.send((core, cpus_available().unwrap())).unwrap() }
    })
    .unwrap();
    executors.join();
    let mut seen: Vec<_> = told.try_iter().collect();
    seen.sort_unstable();
    let wanted: Vec<_> = (0u16..).map(CoreId).zip(cpus.iter().map(|&cpu| vec![cpu])).collect();
    assert_eq!(seen, wanted);

    let no_such_cpu = rustix::thread::CpuSet::MAX_CPU - 1;
    let has_run = Arc::new(AtomicBool::new(false));
    let started = spawn_pinned(&[available[0], no_such_cpu], "test", |_| {
        let has_run = Arc::clone(&has_run);
        move || async move { has_run.store(true, Ordering::SeqCst) }
    });
    assert!(matches!(started, Err(ExecutorError::Pin { core: CoreId(1), .. })), "{started:?}");
    assert_eq!(Arc::strong_count(&has_run), 1, "the threads of the others have ended");
    assert!(!has_run.load(Ordering::SeqCst));
}

/// Two threads for each CPU that never rest.
fn hog_cpus(is_over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    (0..cpus_available().unwrap().len().min(4) * 2)
        .map(|_| {
            let is_over = Arc::clone(is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect()
}

/// What the two executors of the starvation test have done, counted for the message of a failure.
#[derive(Debug, Default)]
struct Counts {
    writes: [AtomicU32; 2],
    rounds: [AtomicU32; 2],
}

const WRITES: u32 = 1000;
const ROUNDS: u32 = 1000;

/// Writes to the WAL and passes a ball to the other executor, with tasks that hog this one.
async fn starved_body(
    core: usize,
    segment: SegmentFile,
    to_other: Sender<u32>,
    mut here: Receiver<u32>,
    counts: Arc<Counts>,
) {
    let is_over = Rc::new(RefCell::new(false));
    for _ in 0..2 {
        let is_over = Rc::clone(&is_over);
        runtime::spawn(async move {
            while !*is_over.borrow() {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(300) {
                    std::hint::spin_loop();
                }
                runtime::sleep(Duration::from_micros(500)).await;
            }
        })
        .detach();
    }
    let writing = runtime::spawn({
        let counts = Arc::clone(&counts);
        async move {
            let (mut ring, mut bell) = open_ring();
            ring.set_segment(segment).unwrap();
            for n in 0..WRITES {
                fill(&mut ring, 1, 1);
                ring.submit(u64::from(n % 64) * BLOCK_BYTES as u64);
                outcome(&mut ring, &mut bell).await.unwrap();
                counts.writes[core].store(n + 1, Ordering::Relaxed);
            }
        }
    });
    let mut got = Vec::new();
    if core == 0 {
        to_other.send(0).unwrap();
    }
    for n in 0..ROUNDS {
        got.clear();
        while got.is_empty() {
            here.wait().await;
            here.receive_many(&mut got);
        }
        to_other.send(got[0] + 1).unwrap();
        counts.rounds[core].store(n + 1, Ordering::Relaxed);
    }
    writing.await;
    *is_over.borrow_mut() = true;
}

/// The executors share their CPUs with threads that never rest, and each has tasks that hog it:
/// everything still gets done.
#[test]
fn nothing_hangs_on_starved_executors() {
    let directory = directory();
    let available = cpus_available().unwrap();
    let cpus = assign_cpus(2, &[], &available).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let hogs = hog_cpus(&is_over);
    let counts = Arc::new(Counts::default());
    let (to_first, at_first) = inbox(4);
    let (to_second, at_second) = inbox(4);
    let mut parts = [
        Some((segment(directory.path(), 1, 64), to_second, at_first)),
        Some((segment(directory.path(), 2, 64), to_first, at_second)),
    ];
    let (done, is_done) = mpsc::channel();
    let executors = spawn_pinned(&cpus, "starved", |core| {
        let index = usize::from(core.get());
        let (segment, to_other, here) = parts[index].take().unwrap();
        let (counts, done) = (Arc::clone(&counts), done.clone());
        move || async move {
            starved_body(index, segment, to_other, here, counts).await;
            done.send(()).unwrap();
        }
    })
    .unwrap();
    let begun = Instant::now();
    for _ in 0..2 {
        let left = LIMIT.saturating_sub(begun.elapsed());
        is_done.recv_timeout(left).unwrap_or_else(|_| panic!("it hangs: {counts:?}"));
    }
    eprintln!("{} writes and {} rounds took {:?}", 2 * WRITES, ROUNDS, begun.elapsed());
    is_over.store(true, Ordering::Relaxed);
    executors.join();
    hogs.into_iter().for_each(|hog| hog.join().unwrap());
}
