//! The disk worker prepares and recycles segments and keeps checkpoints.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use oarlock::disk::job::{DiskDone, DiskError, DiskJob, DiskOutcome, DiskRequest};
use oarlock::disk::layout::{CheckpointName, CoreDir};
use oarlock::disk::segments::SegmentFile;
use oarlock::disk::worker::{DiskHandle, DiskWorker, WorkerOptions};
use oarlock_types::{CoreId, GroupId, Index, SegmentId, Term};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const SEGMENT_BYTES: u64 = 3 << 20;
const CORE: CoreId = CoreId(0);
const NAME: CheckpointName = CheckpointName { group: GroupId(7), index: Index(40), term: Term(3) };

struct Bench {
    directory: TempDir,
    answers: mpsc::Receiver<DiskDone>,
    handle: DiskHandle,
    _worker: DiskWorker,
}

impl Bench {
    fn new() -> Self {
        let options = WorkerOptions {
            segment_bytes: SEGMENT_BYTES,
            spares_max: 2,
            ..WorkerOptions::default()
        };
        Self::over(TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), options)
    }

    fn over(directory: TempDir, options: WorkerOptions) -> Self {
        for core in [CORE, CoreId(1)] {
            fs::create_dir_all(CoreDir::new(directory.path(), core).checkpoints()).unwrap();
        }
        let (done, answers) = mpsc::channel();
        let deliver = Box::new(move |answer| done.send(answer).map_err(|back| back.0));
        let worker = DiskWorker::start(directory.path(), options, deliver).unwrap();
        Self { directory, answers, handle: worker.handle(), _worker: worker }
    }

    fn core(&self) -> CoreDir {
        CoreDir::new(self.directory.path(), CORE)
    }

    fn ask(&self, core: CoreId, token: u64, job: DiskJob) {
        self.handle.submit(DiskRequest { core, token, job }).unwrap();
    }

    fn answer(&self) -> DiskDone {
        self.answers.recv_timeout(LIMIT).expect("the worker answers")
    }

    fn do_on(&self, core: CoreId, job: DiskJob) -> Result<DiskOutcome, DiskError> {
        self.ask(core, 77, job);
        let done = self.answer();
        assert_eq!((done.core, done.token), (core, 77));
        done.result
    }

    fn perform(&self, job: DiskJob) -> Result<DiskOutcome, DiskError> {
        self.do_on(CORE, job)
    }

    fn prepare(&self, segment: u64) -> Result<SegmentFile, DiskError> {
        let outcome = self.perform(prepare(segment))?;
        let DiskOutcome::Segment(file) = outcome else { panic!("{outcome:?}") };
        Ok(file)
    }

    fn append(&self, core: CoreId, offset_bytes: u64, data: &[u8]) -> Result<u64, DiskError> {
        let data = Bytes::copy_from_slice(data);
        let job = DiskJob::CheckpointAppend { name: NAME, offset_bytes, data };
        let outcome = self.do_on(core, job)?;
        let DiskOutcome::Appended { size_bytes } = outcome else { panic!("{outcome:?}") };
        Ok(size_bytes)
    }

    fn read(&self, offset_bytes: u64, len: usize) -> Bytes {
        let job = DiskJob::CheckpointRead { name: NAME, offset_bytes, len };
        let outcome = self.perform(job).unwrap();
        let DiskOutcome::Bytes { data, .. } = outcome else { panic!("{outcome:?}") };
        data
    }
}

fn prepare(segment: u64) -> DiskJob {
    let header = format!("header of {segment}").into_bytes();
    DiskJob::PrepareSegment { segment: SegmentId(segment), header, used: Arc::default() }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_prepared_segment_has_its_header_and_then_zeros_and_can_be_written() {
    let bench = Bench::new();
    let segment = bench.prepare(5).unwrap();
    assert_eq!(segment.path, bench.core().segment(SegmentId(5)));
    let bytes = fs::read(&segment.path).unwrap();
    assert_eq!(bytes.len() as u64, SEGMENT_BYTES);
    assert!(bytes.starts_with(b"header of 5"));
    assert!(bytes[11..].iter().all(|&b| b == 0));
    let blocks = fs::metadata(&segment.path).unwrap().blocks();
    assert!(blocks * 512 >= SEGMENT_BYTES, "its room is taken, not a hole");

    let read = |offset_bytes, len| {
        let read = DiskJob::ReadWal { segment: SegmentId(5), offset_bytes, len };
        let DiskOutcome::Bytes { data } = bench.perform(read).unwrap() else {
            panic!("bytes were asked for")
        };
        data
    };
    assert_eq!(read(0, 4096), bytes[..4096]);
    assert_eq!(read(SEGMENT_BYTES - 4096, 8192), bytes[bytes.len() - 4096..], "to the file's end");
    assert!(segment.file.write_at(&[1; 5], 3).is_err(), "it is open for direct I/O only");
    SegmentFile::open(&bench.core(), SegmentId(5)).unwrap();
}

/// A core that could use up what it has before its next segment is ready goes before one that looks ahead.
#[test]
fn a_segment_that_is_needed_soon_is_ready_first() {
    let bench = Bench::new();
    let other = CoreId(CORE.get() + 1);
    let used = Arc::new(AtomicU64::new(0));
    let ask = |core, token, used: &Arc<AtomicU64>| {
        let (segment, header, used) = (SegmentId(1), b"header".to_vec(), Arc::clone(used));
        bench.ask(core, token, DiskJob::PrepareSegment { segment, header, used });
    };
    ask(CORE, 1, &Arc::default());
    ask(other, 2, &used);
    used.store(u64::MAX, Ordering::Relaxed);
    let order = [bench.answer(), bench.answer()].map(|done| done.token);
    assert_eq!(order, [2, 1]);
}

/// While a log stands still nothing else is done, however long it would take.
#[test]
fn a_segment_that_is_waited_for_goes_before_other_jobs() {
    let bench = Bench::new();
    let (segment, header) = (SegmentId(1), b"header".to_vec());
    let used = Arc::new(AtomicU64::new(u64::MAX));
    bench.ask(CORE, 1, DiskJob::PrepareSegment { segment, header, used });
    bench.ask(CORE, 2, DiskJob::FreeSpace);
    assert_eq!([bench.answer(), bench.answer()].map(|done| done.token), [1, 2]);
}

#[test]
fn a_segment_in_use_is_not_overwritten() {
    let bench = Bench::new();
    bench.prepare(5).unwrap();
    assert!(matches!(bench.prepare(5), Err(DiskError::SegmentInUse { .. })));
    assert!(fs::read(bench.core().segment(SegmentId(5))).unwrap().starts_with(b"header of 5"));
}

#[test]
fn retired_segments_are_used_again_and_superfluous_ones_removed() {
    let bench = Bench::new();
    let files = [1, 2, 3].map(|id| inode(&bench.prepare(id).unwrap().path));
    for id in [1, 2, 3].map(SegmentId) {
        bench.perform(DiskJob::RecycleSegment { segment: id }).unwrap();
    }
    assert_eq!(bench.core().segments().unwrap(), []);
    assert_eq!(bench.core().spares().unwrap().len(), 2, "two are kept, the third is removed");

    // Two at once must not take the same spare.
    bench.ask(CORE, 4, prepare(4));
    bench.ask(CORE, 5, prepare(5));
    let mut again = [bench.answer(), bench.answer()].map(|done| match done.result {
        Ok(DiskOutcome::Segment(segment)) => inode(&segment.path),
        other => panic!("{other:?}"),
    });
    again.sort_unstable();
    let mut kept = [files[0], files[1]];
    kept.sort_unstable();
    assert_eq!(again, kept, "the very files are used again");
    for id in [4, 5] {
        let header = format!("header of {id}");
        let bytes = fs::read(bench.core().segment(SegmentId(id))).unwrap();
        assert!(bytes.starts_with(header.as_bytes()));
    }
    assert_eq!(bench.core().spares().unwrap(), []);
    bench.prepare(6).unwrap();
}

/// The frames that it has from that life would be valid again.
#[test]
fn a_spare_is_not_used_for_an_id_that_it_had_or_an_older_one() {
    for segment in [4, 5] {
        let bench = Bench::new();
        let former = fs::File::create(bench.core().spare(SegmentId(5))).unwrap();
        former.write_all_at(b"a frame of segment 5", 4096).unwrap();
        former.set_len(SEGMENT_BYTES).unwrap();
        let file = bench.prepare(segment).unwrap();
        let bytes = fs::read(&file.path).unwrap();
        assert!(bytes[4096..].iter().all(|&b| b == 0), "segment {segment}");
        assert_eq!(bench.core().spares().unwrap(), []);
    }
}

#[test]
fn a_spare_of_another_length_is_not_used() {
    let bench = Bench::new();
    fs::write(bench.core().spare(SegmentId(1)), "short").unwrap();
    let segment = bench.prepare(2).unwrap();
    assert_eq!(fs::metadata(&segment.path).unwrap().len(), SEGMENT_BYTES);
    assert_eq!(bench.core().spares().unwrap(), []);
}

#[test]
fn other_jobs_do_not_wait_for_a_segment_to_be_filled() {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bench = Bench::over(directory, WorkerOptions::default());
    bench.ask(CORE, 1, prepare(1));
    bench.ask(CORE, 2, DiskJob::FreeSpace);
    bench.ask(CoreId(1), 3, DiskJob::CheckpointList);
    assert_eq!([bench.answer(), bench.answer(), bench.answer()].map(|done| done.token), [2, 3, 1]);
}

#[test]
fn an_answer_that_finds_a_full_inbox_is_offered_again_in_order() {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::create_dir_all(CoreDir::new(directory.path(), CORE).checkpoints()).unwrap();
    let (done, answers) = mpsc::channel();
    let mut offers = 0;
    let deliver = Box::new(move |answer: DiskDone| {
        offers += 1;
        if offers % 3 == 0 { done.send(answer.token).map_err(|_| answer) } else { Err(answer) }
    });
    let worker = DiskWorker::start(directory.path(), WorkerOptions::default(), deliver).unwrap();
    for token in 0..50 {
        let job = DiskJob::FreeSpace;
        worker.handle().submit(DiskRequest { core: CORE, token, job }).unwrap();
    }
    for token in 0..50 {
        assert_eq!(answers.recv_timeout(LIMIT), Ok(token));
    }
}

#[test]
fn more_requests_than_may_wait_are_given_back() {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (entered, has_entered) = mpsc::channel();
    let (let_go, may_go) = mpsc::channel::<()>();
    let deliver = Box::new(move |_| {
        entered.send(()).unwrap();
        may_go.recv().unwrap();
        Ok(())
    });
    let options = WorkerOptions { queue_count_max: 2, ..WorkerOptions::default() };
    let worker = DiskWorker::start(directory.path(), options, deliver).unwrap();
    let handle = worker.handle();
    let request = |token| DiskRequest { core: CORE, token, job: DiskJob::FreeSpace };
    handle.submit(request(0)).unwrap();
    has_entered.recv_timeout(LIMIT).unwrap();
    handle.submit(request(1)).unwrap();
    handle.submit(request(2)).unwrap();
    assert_eq!(handle.submit(request(3)).unwrap_err().token, 3);
    for _ in 0..3 {
        let_go.send(()).unwrap();
    }
}

#[test]
fn a_checkpoint_is_written_in_pieces_sealed_and_read_in_pieces() {
    let bench = Bench::new();
    assert_eq!(bench.append(CORE, 0, &[]).unwrap(), 0, "an empty piece asks how much there is");
    assert_eq!(bench.append(CORE, 0, b"hello ").unwrap(), 6);
    assert_eq!(bench.append(CORE, 6, b"world").unwrap(), 11);
    let DiskOutcome::Finished { size_bytes } =
        bench.perform(DiskJob::CheckpointSeal { name: NAME }).unwrap()
    else {
        panic!("a seal finishes")
    };
    assert_eq!(size_bytes, 11);
    assert_eq!(bench.read(6, 5), "world");
    assert_eq!(bench.read(6, 100).len(), 5, "the file ends there");
    let DiskOutcome::Checkpoints(list) = bench.perform(DiskJob::CheckpointList).unwrap() else {
        panic!("a list was asked for")
    };
    assert_eq!(list, [(NAME, size_bytes)]);

    bench.perform(DiskJob::CheckpointDelete { name: NAME }).unwrap();
    bench.perform(DiskJob::CheckpointDelete { name: NAME }).unwrap();
    let gone =
        bench.perform(DiskJob::CheckpointRead { name: NAME, offset_bytes: 0, len: 1 }).unwrap_err();
    assert!(gone.is_missing() && gone.to_string().contains("g7-40-3.ckpt"), "{gone}");
}

#[test]
fn an_empty_checkpoint_is_one_too() {
    let bench = Bench::new();
    bench.perform(DiskJob::CheckpointSeal { name: NAME }).unwrap();
    assert_eq!(fs::read(bench.core().checkpoint(NAME)).unwrap(), b"");
}

#[test]
fn a_received_checkpoint_resumes_where_it_ended() {
    let bench = Bench::new();
    let data: Vec<u8> =
        (0..6_000_000u32).map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0]).collect();
    for (at, piece) in data.chunks(1 << 20).enumerate() {
        bench.append(CORE, (at << 20) as u64, piece).unwrap();
    }
    bench.perform(DiskJob::CheckpointSeal { name: NAME }).unwrap();

    let to = CoreId(1);
    let whole = fs::read(bench.core().checkpoint(NAME)).unwrap();
    bench.append(to, 0, &whole[..1000]).unwrap();
    // The connection breaks; another sender goes on where the first one ended.
    let error = bench.append(to, 5000, &whole[5000..]).unwrap_err();
    assert!(matches!(error, DiskError::OutOfPlace { size_bytes: 1000, .. }), "{error}");
    let error = bench.append(to, 10, &whole[10..]).unwrap_err();
    assert!(matches!(error, DiskError::OutOfPlace { size_bytes: 1000, .. }), "a late one: {error}");
    assert_eq!(bench.append(to, 0, &[]).unwrap(), 1000);
    bench.append(to, 1000, &whole[1000..]).unwrap();
    bench.do_on(to, DiskJob::CheckpointSeal { name: NAME }).unwrap();
    let target = CoreDir::new(bench.directory.path(), to).checkpoint(NAME);
    assert_eq!(fs::read(target).unwrap(), whole);
}

/// A small file system of its own; needs the rights to mount one.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mounted = directory.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        let run = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        (run(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted)))
        .then_some(Self { directory })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.directory.path().join("mounted")).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_freed_room_is_used() {
    let Some(disk) = SmallDisk::mount(64 << 20) else {
        eprintln!("not run: this user may not mount a file system");
        return;
    };
    let directory = TempDir::new_in(disk.directory.path().join("mounted")).unwrap();
    let options =
        WorkerOptions { segment_bytes: 12 << 20, spares_max: 0, ..WorkerOptions::default() };
    let bench = Bench::over(directory, options);
    let mut made = 0;
    let error = loop {
        match bench.prepare(made) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(made >= 2, "some fit");
    let DiskError::DiskFull { available_bytes, .. } = &error else { panic!("{error}") };
    assert!(*available_bytes < 12 << 20, "{error}");
    assert_eq!(bench.core().leftovers().unwrap(), Vec::<std::path::PathBuf>::new());

    let piece = vec![1; 1 << 20];
    let full = (0..64).find_map(|n| bench.append(CORE, n << 20, &piece).err());
    assert!(matches!(full, Some(DiskError::DiskFull { .. })), "{full:?}");
    assert_eq!(bench.append(CORE, 0, &[]).unwrap(), 0, "the checkpoint is given up");

    bench.perform(DiskJob::RecycleSegment { segment: SegmentId(0) }).unwrap();
    bench.prepare(made).unwrap();
}
