//! The log on disk: raft-engine behind one writer thread. What is asked for while a write is under
//! way goes into the next one together: one record and one fsync for many groups.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

/// Jobs that go into one write at most; raft-engine bounds a batch's size.
const JOBS_MAX: usize = 256;
const JOB_BYTES_MAX: usize = 8 << 20;
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// How raft-engine reads an entry's index.
#[derive(Clone, Debug)]
pub struct Log;

impl MessageExt for Log {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

struct Job {
    batch: LogBatch,
    done: Box<dyn FnOnce() + Send>,
}

/// The node's log.
#[derive(Clone)]
pub struct Wal {
    /// For reading.
    pub engine: Arc<Engine>,
    jobs: Sender<Job>,
    /// The purger ends with the log.
    _open: SyncSender<()>,
}

impl Wal {
    /// Opens or makes the log in a folder.
    ///
    /// # Errors
    /// As raft-engine gives them.
    pub fn open(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let engine = Arc::new(Engine::open(Config {
            dir: folder.join("log").to_string_lossy().into_owned(),
            target_file_size: ReadableSize::mb(64),
            purge_threshold: ReadableSize::gb(1),
            // Writing over a file that is there spares the file system's journal at each fsync.
            enable_log_recycle: true,
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize::mb(256)),
            ..Config::default()
        })?);
        let (jobs, queue) = mpsc::channel();
        let writer = Arc::clone(&engine);
        std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || write(&writer, &queue))?;
        let purger = Arc::clone(&engine);
        let (open, closed) = mpsc::sync_channel::<()>(0);
        std::thread::Builder::new().name("log-purger".to_owned()).spawn(move || {
            while closed.recv_timeout(PURGE_EVERY) == Err(RecvTimeoutError::Timeout) {
                purger.purge_expired_files().expect("the log can be purged");
            }
        })?;
        Ok(Self { engine, jobs, _open: open })
    }

    /// Writes and syncs, then says so; in the order of the calls.
    pub fn write(&self, batch: LogBatch, done: impl FnOnce() + Send + 'static) {
        let job = Job { batch, done: Box::new(done) };
        assert!(self.jobs.send(job).is_ok(), "the log's writer lives as long as the process");
    }
}

fn write(engine: &Engine, queue: &Receiver<Job>) {
    let mut waiting = Vec::new();
    while let Ok(first) = queue.recv() {
        let mut batch = first.batch;
        waiting.push(first.done);
        while waiting.len() < JOBS_MAX && batch.approximate_size() < JOB_BYTES_MAX {
            let Ok(mut job) = queue.try_recv() else { break };
            batch.merge(&mut job.batch).expect("a batch under raft-engine's bound");
            waiting.push(job.done);
        }
        // A log that cannot be written ends the process: nothing may be acknowledged any more.
        if !batch.is_empty() {
            engine.write(&mut batch, true).expect("the log can be written");
        }
        for done in waiting.drain(..) {
            done();
        }
    }
}
