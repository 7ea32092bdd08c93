//! The disk worker: a thread that does everything slow with files, so that no executor ever waits
//! for one. It must not touch a WAL write in flight. One per node.
//!
//! One thread and not one per core: the jobs of a file stay in order without further ado, and the
//! disk, which all cores share, is not asked for more background work at once than it bears beside
//! the WAL writes. Segments are filled in slices, with a pause after each, and between slices other jobs
//! go first; but not while a core could come to wait for its segment.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use oarlock_types::CoreId;

use super::buffer::AlignedBytes;
use super::checkpoint::{Parts, adopt};
use super::job::{Action, DiskDone, DiskError, DiskJob, DiskOutcome, DiskRequest, refused, space};
use super::layout::CoreDir;
use super::map_copy;
use super::segments::{
    Preparation, SEGMENT_BYTES, SLICE_BYTES, SPARES_MAX, read_blocks, read_piece, recycle,
};
use crate::abort::AbortOnPanic;

/// Takes answers to the core that they are for. Gives an answer back when that core's inbox is
/// full; it is offered again.
pub type Deliver = Box<dyn FnMut(DiskDone) -> Result<(), DiskDone> + Send>;

/// After a slice of a segment the worker rests so many times as long as it took: so much more of the
/// disk is the WAL's. It does not rest while a core could come to wait for its segment.
const REST_FACTOR: u32 = 4;
/// While a segment presses, so many of its slices go before each other job: one job may take as long as the
/// disk takes to make a whole file durable.
const PRESSING_SLICES: u32 = 16;
/// How long the worker waits before it offers answers to a full inbox again.
const REDELIVERY_DELAY: Duration = Duration::from_millis(1);

/// How the worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    /// The length of the segments that it prepares.
    pub segment_bytes: u64,
    /// Segments out of use that it keeps for each core.
    pub spares_max: usize,
    /// Requests that may wait.
    pub queue_count_max: usize,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, spares_max: SPARES_MAX, queue_count_max: 4096 }
    }
}

/// Asks the worker for something. Any thread, any number of them.
#[derive(Clone, Debug)]
pub struct DiskHandle {
    queue: Arc<ArrayQueue<DiskRequest>>,
    thread: Thread,
}

impl DiskHandle {
    /// Hands a request over. Never blocks.
    ///
    /// # Errors
    /// Too many requests wait: it comes back, to be tried again in a later turn.
    pub fn submit(&self, request: DiskRequest) -> Result<(), DiskRequest> {
        self.queue.push(request)?;
        self.thread.unpark();
        Ok(())
    }
}

/// The worker's thread. Dropping it ends the thread after the job at hand.
#[derive(Debug)]
pub struct DiskWorker {
    handle: DiskHandle,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DiskWorker {
    /// Starts the worker over a data directory.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(data: &Path, options: WorkerOptions, deliver: Deliver) -> io::Result<Self> {
        let queue = Arc::new(ArrayQueue::new(options.queue_count_max));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let work = Work {
            data: data.to_owned(),
            options,
            deliver,
            queue: Arc::clone(&queue),
            is_stopped: Arc::clone(&is_stopped),
            preparations: VecDeque::new(),
            next_slice: Instant::now(),
            zeros: AlignedBytes::zeroed(SLICE_BYTES),
            parts: Parts::default(),
            undelivered: VecDeque::new(),
        };
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
            let _guard = AbortOnPanic::new("disk");
            work.run();
        })?;
        let handle = DiskHandle { queue, thread: thread.thread().clone() };
        Ok(Self { handle, is_stopped, thread: Some(thread) })
    }

    /// A handle for asking it.
    #[must_use]
    pub fn handle(&self) -> DiskHandle {
        self.handle.clone()
    }
}

impl Drop for DiskWorker {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Work {
    data: PathBuf,
    options: WorkerOptions,
    deliver: Deliver,
    queue: Arc<ArrayQueue<DiskRequest>>,
    is_stopped: Arc<AtomicBool>,
    preparations: VecDeque<Pending>,
    next_slice: Instant,
    zeros: AlignedBytes,
    parts: Parts,
    /// Answers to full inboxes, about as many as requests may wait at most.
    undelivered: VecDeque<DiskDone>,
}

/// A segment that is being made ready, with whom it is for.
struct Pending {
    core: CoreId,
    token: u64,
    /// How much the core has used of its present segment.
    used: Arc<AtomicU64>,
    preparation: Preparation,
}

impl Pending {
    /// Whether the core's log stands still until this is ready.
    fn is_awaited(&self) -> bool {
        self.used.load(Ordering::Relaxed) == u64::MAX
    }

    /// Whether the core could use up what it has before this is ready: it was asked for when half of that was
    /// left, so it must come on twice as fast.
    fn is_pressing(&self) -> bool {
        let left =
            self.preparation.segment_bytes().saturating_sub(self.used.load(Ordering::Relaxed));
        self.preparation.unfilled_bytes() > left.saturating_mul(2)
    }
}

impl Work {
    fn run(mut self) {
        let mut pressing_slices = 0;
        while !self.is_stopped.load(Ordering::Acquire) {
            self.redeliver();
            if let Some(place) = self.pressing()
                && (pressing_slices < PRESSING_SLICES || self.preparations[place].is_awaited())
            {
                pressing_slices += 1;
                self.fill_slice(place);
                continue;
            }
            pressing_slices = 0;
            // While nobody takes answers, no more are made.
            let may_serve = self.undelivered.len() < self.options.queue_count_max;
            let request = if may_serve { self.queue.pop() } else { None };
            let was_asked = request.is_some();
            if let Some(request) = request {
                self.serve(request);
            }
            let due = self.due();
            if let Some(place) = due {
                self.fill_slice(place);
            }
            if !was_asked && due.is_none() {
                self.sleep();
            }
        }
        self.preparations.iter().for_each(|pending| pending.preparation.abandon());
    }

    /// The segment that a core waits for, or may come to wait for.
    fn pressing(&self) -> Option<usize> {
        let awaited = self.preparations.iter().position(Pending::is_awaited);
        awaited.or_else(|| self.preparations.iter().position(Pending::is_pressing))
    }

    /// The segment that is to be gone on with now, if any.
    fn due(&self) -> Option<usize> {
        let is_rested = !self.preparations.is_empty() && Instant::now() >= self.next_slice;
        self.pressing().or(is_rested.then_some(0))
    }

    /// A request that comes between the look at the queue and the sleep leaves the thread's token,
    /// so that the sleep ends at once.
    fn sleep(&self) {
        if !self.undelivered.is_empty() {
            std::thread::park_timeout(REDELIVERY_DELAY);
        } else if self.preparations.is_empty() {
            std::thread::park();
        } else {
            let pause = self.next_slice.saturating_duration_since(Instant::now());
            std::thread::park_timeout(pause);
        }
    }

    fn serve(&mut self, DiskRequest { core, token, job }: DiskRequest) {
        let directory = CoreDir::new(&self.data, core);
        if let DiskJob::PrepareSegment { segment, header, used } = job {
            let bytes = self.options.segment_bytes;
            match Preparation::begin(&directory, segment, &header, bytes) {
                Ok(preparation) => {
                    self.preparations.push_back(Pending { core, token, used, preparation });
                }
                Err(error) => self.answer(DiskDone { core, token, result: Err(error) }),
            }
            return;
        }
        let result = self.perform(core, &directory, job);
        self.answer(DiskDone { core, token, result });
    }

    fn perform(
        &mut self,
        core: CoreId,
        directory: &CoreDir,
        job: DiskJob,
    ) -> Result<DiskOutcome, DiskError> {
        match job {
            DiskJob::PrepareSegment { .. } => {
                unreachable!("a segment is prepared in slices, not at once")
            }
            DiskJob::RecycleSegment { segment } => {
                recycle(directory, segment, self.options.spares_max)?;
                Ok(DiskOutcome::Recycled)
            }
            DiskJob::ReadWal { segment, offset_bytes, len } => {
                let data = read_blocks(&directory.segment(segment), offset_bytes, len)?;
                Ok(DiskOutcome::Bytes { data })
            }
            DiskJob::CheckpointAppend { name, offset_bytes, data } => {
                let size_bytes = self.parts.append(core, directory, name, offset_bytes, &data)?;
                Ok(DiskOutcome::Appended { size_bytes })
            }
            DiskJob::CheckpointSeal { name } => {
                let size_bytes = self.parts.seal(core, directory, name)?;
                Ok(DiskOutcome::Finished { size_bytes })
            }
            DiskJob::CheckpointRead { name, offset_bytes, len } => {
                let data = read_piece(&directory.checkpoint(name), offset_bytes, len)?;
                Ok(DiskOutcome::Bytes { data })
            }
            DiskJob::CheckpointAdopt { name, from } => {
                adopt(&CoreDir::new(&self.data, from), directory, name)?;
                Ok(DiskOutcome::Adopted)
            }
            DiskJob::CheckpointDelete { name } => {
                self.parts.delete(core, directory, name)?;
                Ok(DiskOutcome::Deleted)
            }
            DiskJob::CheckpointList => {
                let path = directory.checkpoints();
                let list = directory.checkpoint_list().map_err(refused(Action::List, &path))?;
                Ok(DiskOutcome::Checkpoints(list))
            }
            DiskJob::FreeSpace => {
                let space = space(&self.data).map_err(refused(Action::List, &self.data))?;
                Ok(DiskOutcome::Space(space))
            }
            DiskJob::CopyMap(copy) => {
                let path = map_copy::path(&self.data);
                map_copy::write(&self.data, &copy).map_err(refused(Action::Write, &path))?;
                Ok(DiskOutcome::MapCopied)
            }
        }
    }

    fn fill_slice(&mut self, place: usize) {
        let Some(pending) = self.preparations.get_mut(place) else { return };
        let begun = Instant::now();
        let step = pending.preparation.step(&self.zeros);
        let ended = Instant::now();
        self.next_slice = ended + (ended - begun) * REST_FACTOR;
        let (core, token) = (pending.core, pending.token);
        if let Some(result) = step.transpose() {
            self.preparations.remove(place);
            self.answer(DiskDone { core, token, result: result.map(DiskOutcome::Segment) });
        }
    }

    /// The answers of a core stay in order: none overtakes one that could not be delivered.
    fn answer(&mut self, done: DiskDone) {
        if self.undelivered.iter().any(|waiting| waiting.core == done.core) {
            self.undelivered.push_back(done);
        } else if let Err(done) = (self.deliver)(done) {
            self.undelivered.push_back(done);
        }
    }

    fn redeliver(&mut self) {
        for done in std::mem::take(&mut self.undelivered) {
            self.answer(done);
        }
    }
}
