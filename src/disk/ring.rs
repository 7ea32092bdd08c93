//! Writes a core's WAL through the core's ring: one durable write in flight, its completion wakes
//! whoever awaits it. It must not retry a failed write, and knows nothing of what it writes. One
//! per core, made and used on that core's executor.
#![allow(unsafe_code, reason = "hands pointers to the kernel, which the language cannot check")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;

use io_uring::{opcode, squeue, types};
use oarlock_types::{CoreId, Guard, SegmentId};

use super::buffer::{BLOCK_BYTES, FrameBuffer};
use super::segments::SegmentFile;
use crate::runtime::{self, Completion, Ring};

/// The part of each of the two frame buffers that is registered with the kernel, and so locked in
/// memory: larger frames are written from ordinary memory.
pub const FIXED_FRAME_BYTES: usize = 128 << 10;

const SLOT_SEGMENT: u32 = 0;

/// The log's part of a ring could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{core}: io_uring does not take the write-ahead log's files: {source}")]
pub struct RingError {
    /// Whose ring.
    pub core: CoreId,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Why a WAL write is not known to be durable. It is final: the process must stop.
#[derive(Debug, thiserror::Error)]
pub enum WalWriteError {
    /// The kernel reported an error.
    #[error(
        "cannot write {len} bytes at offset {offset} of {path}: {source}. What the log holds from \
         there on is unknown, so the node stops and does not try again. Check the disk (dmesg, \
         smartctl), then start the node: it cuts the torn tail and catches up from its peers",
        path = path.display()
    )]
    Failed {
        /// Which segment.
        segment: SegmentId,
        /// Its file.
        path: PathBuf,
        /// Where the frame was to go.
        offset: u64,
        /// How long it was.
        len: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Fewer bytes than asked for were written.
    #[error(
        "only {written} of {len} bytes were written at offset {offset} of {path}. The node stops \
         and does not try again. Check that nobody truncated the file and that the disk is sound, \
         then start the node: it cuts the torn tail and catches up from its peers",
        path = path.display()
    )]
    Short {
        /// Which segment.
        segment: SegmentId,
        /// Its file.
        path: PathBuf,
        /// Where the frame was to go.
        offset: u64,
        /// How long it was.
        len: usize,
        /// How much of it was written.
        written: usize,
    },
    /// The ring does not take the segment's file.
    #[error(
        "{core}: the kernel does not take {path} for the write-ahead log: {source}. The node \
         stops; start it again",
        path = path.display()
    )]
    Segment {
        /// Whose log.
        core: CoreId,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A frame that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// In which segment.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u64,
    /// How long.
    pub len: usize,
}

/// Writes one core's WAL frames.
///
/// Two buffers take turns: one is with the kernel while the next frame is collected in the other.
///
/// 1. A completion is reported exactly once, by [`WalRing::try_complete`].
/// 2. Whatever the outcome, whoever opened the ring is notified of it.
/// 3. After a failure nothing is written any more.
pub struct WalRing {
    core: CoreId,
    ring: Rc<Ring>,
    segment: Option<SegmentFile>,
    buffers: [FrameBuffer; 2],
    filling: usize,
    in_flight: Option<Written>,
    completion: Rc<Completion>,
    has_failed: bool,
    are_buffers_registered: bool,
}

impl WalRing {
    /// Sets up the log's part of the ring of `core`, on whose executor it must be called; `notify`
    /// is called there when a write has completed.
    ///
    /// The kernel drops a ring's files once its last write has ended, which for a process that was
    /// killed may be after the process. So the ring holds on to `lock`, the open file with the lock
    /// on the data directory: who takes the lock next finds all that was ever written.
    ///
    /// # Errors
    /// [`RingError`] when the kernel refuses.
    pub fn open(
        core: CoreId,
        lock: BorrowedFd<'_>,
        notify: impl Fn() + 'static,
    ) -> Result<Self, RingError> {
        let ring = runtime::ring();
        let held = if Guard::LockOutlivesProcess.is_on() { lock.as_raw_fd() } else { -1 };
        ring.register_files(&[-1, held]).map_err(|source| RingError { core, source })?;
        let mut buffers = [FIXED_FRAME_BYTES; 2].map(FrameBuffer::new);
        let are_buffers_registered = register(&ring, &mut buffers);
        if !are_buffers_registered {
            tracing::warn!(
                %core,
                "cannot lock the write-ahead log's buffers in memory (RLIMIT_MEMLOCK, ulimit -l); \
                 going on with ordinary ones, which are slower"
            );
        }
        Ok(Self {
            core,
            ring,
            segment: None,
            buffers,
            filling: 0,
            in_flight: None,
            completion: Completion::new(notify),
            has_failed: false,
            are_buffers_registered,
        })
    }

    /// Directs what is submitted from now on to another segment; gives back the one before.
    ///
    /// # Errors
    /// When the kernel refuses the file.
    ///
    /// # Panics
    /// When a write is in flight.
    pub fn set_segment(
        &mut self,
        segment: SegmentFile,
    ) -> Result<Option<SegmentFile>, WalWriteError> {
        assert!(self.in_flight.is_none(), "a segment is changed between writes only");
        let exchanged = self.ring.exchange_file(SLOT_SEGMENT, segment.file.as_raw_fd());
        exchanged.map_err(|source| WalWriteError::Segment {
            core: self.core,
            path: segment.path.clone(),
            source,
        })?;
        Ok(self.segment.replace(segment))
    }

    /// The segment that is being written.
    #[must_use]
    pub fn segment(&self) -> Option<SegmentId> {
        self.segment.as_ref().map(|segment| segment.id)
    }

    /// The buffer in which the next frame is collected. Empty after each [`WalRing::submit`].
    pub fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffers[self.filling]
    }

    /// Whether a write is in flight, so that [`WalRing::submit`] must wait.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Writes what is in [`WalRing::buffer`], a whole number of blocks, at `offset`. The kernel
    /// gets it when the core next enters it, at the latest at the end of the pass.
    ///
    /// # Panics
    /// When a write is in flight or failed, no segment is set, or the frame is empty or not whole
    /// blocks on a block boundary.
    pub fn submit(&mut self, offset: u64) {
        assert!(self.in_flight.is_none(), "one write in flight");
        assert!(!self.has_failed, "a failed write is final");
        let segment = self.segment.as_ref().expect("invariant: a segment is set before a write");
        let frame = &self.buffers[self.filling];
        let len = frame.len();
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "a frame is whole blocks");
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a frame starts on a block boundary");
        self.in_flight = Some(Written { segment: segment.id, offset, len });
        let entry = self.write_entry(offset);
        // SAFETY: the buffer stays where it is until the completion: `filling` moves on to the
        // other one and comes back only after `in_flight` is cleared; `Drop` waits for the kernel.
        unsafe { self.ring.start(entry, Rc::clone(&self.completion)) };
        self.filling = 1 - self.filling;
        self.buffers[self.filling].clear();
    }

    /// The outcome of the write in flight, if it is known: without a system call, so that a turn
    /// can ask each time.
    ///
    /// # Errors
    /// The write is not durable. That is final.
    pub fn try_complete(&mut self) -> Option<Result<Written, WalWriteError>> {
        self.in_flight?;
        let result = self.completion.take()?;
        let write = self.in_flight.take()?;
        let judged = self.judge(write, result);
        self.has_failed |= judged.is_err();
        Some(judged)
    }

    fn judge(&self, write: Written, result: i32) -> Result<Written, WalWriteError> {
        let Written { segment, offset, len } = write;
        let path = || self.segment.as_ref().map(|s| s.path.clone()).unwrap_or_default();
        match usize::try_from(result) {
            Ok(written) if written == len => Ok(write),
            Ok(written) => {
                Err(WalWriteError::Short { segment, path: path(), offset, len, written })
            }
            Err(_) => {
                let source = io::Error::from_raw_os_error(-result);
                Err(WalWriteError::Failed { segment, path: path(), offset, len, source })
            }
        }
    }

    fn write_entry(&self, offset: u64) -> squeue::Entry {
        let frame = &self.buffers[self.filling];
        let (pointer, len) = (frame.as_slice().as_ptr(), frame.len());
        let len = u32::try_from(len).expect("invariant: a frame is far smaller than 4 GiB");
        let file = types::Fixed(SLOT_SEGMENT);
        if self.are_buffers_registered && frame.is_fixed() {
            let index = u16::try_from(self.filling).expect("invariant: there are two buffers");
            opcode::WriteFixed::new(file, pointer, len, index).offset(offset).build()
        } else {
            opcode::Write::new(file, pointer, len).offset(offset).build()
        }
    }
}

fn register(ring: &Ring, buffers: &mut [FrameBuffer; 2]) -> bool {
    let areas = buffers.each_mut().map(|buffer| {
        let (start, len) = buffer.fixed_mut().whole();
        libc::iovec { iov_base: start.cast(), iov_len: len }
    });
    // SAFETY: the fixed parts do not move, and `WalRing`, which owns them, takes them back from the
    // kernel when it goes.
    unsafe { ring.register_buffers(&areas) }.is_ok()
}

impl Drop for WalRing {
    /// Waits for the kernel, which still reads the buffer of a write in flight.
    fn drop(&mut self) {
        if self.in_flight.is_some() {
            self.ring.wait_for(&self.completion);
        }
        self.ring.unregister();
    }
}

impl std::fmt::Debug for WalRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalRing")
            .field("core", &self.core)
            .field("segment", &self.segment)
            .field("in_flight", &self.in_flight)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}
