//! The ring that writes a core's WAL: one durable write in flight, its completion wakes the
//! executor. It must not retry a failed write, and knows nothing of what it writes. One per core,
//! made and used on that core's executor.
//!
//! How the executor is woken: glommio cannot await a foreign descriptor, so the write is hard-linked
//! to a one-byte send on a socket pair whose other end the executor reads like any socket. A hard
//! link, unlike a soft one, lets the send go out even when the write failed: a failure must wake
//! the core as well.
#![allow(unsafe_code, reason = "hands pointers to the kernel, which the language cannot check")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use futures_lite::AsyncReadExt;
use io_uring::{IoUring, opcode, squeue, types};
use oarlock_types::{CoreId, SegmentId};

use super::buffer::{BLOCK_BYTES, FrameBuffer};
use super::segments::SegmentFile;

/// The part of each of the two frame buffers that is registered with the kernel, and so locked in
/// memory: larger frames are written from ordinary memory.
pub const FIXED_FRAME_BYTES: usize = 128 << 10;

const RING_ENTRIES: u32 = 8;
const SLOT_SEGMENT: u32 = 0;
const SLOT_WAKE: u32 = 1;
const TOKEN_WRITE: u64 = 1;
const TOKEN_WAKE: u64 = 2;
/// How often a submission that the kernel could not take for lack of memory is offered again.
const SUBMIT_ATTEMPTS_MAX: u32 = 10_000;
static WAKE_BYTE: [u8; 1] = [1];

/// Why a ring could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel refused.
    #[error("core {core}: cannot set up the write-ahead log's io_uring ({step}): {source}")]
    Setup {
        /// Whose ring.
        core: CoreId,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel is too old.
    #[error(
        "core {core}: this kernel's io_uring cannot skip completions on success; Linux 5.17 or \
         newer is needed"
    )]
    KernelTooOld {
        /// Whose ring.
        core: CoreId,
    },
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
    /// The ring itself no longer works.
    #[error(
        "core {core}: the write-ahead log's io_uring failed ({step}): {source}. The node stops; \
         start it again"
    )]
    Ring {
        /// Whose ring.
        core: CoreId,
        /// What was being done.
        step: &'static str,
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
/// 2. Whatever the outcome, [`RingWakeups::next`] returns after it.
/// 3. After a failure nothing is written any more.
pub struct WalRing {
    core: CoreId,
    ring: IoUring,
    wake: UnixStream,
    segment: Option<SegmentFile>,
    buffers: [FrameBuffer; 2],
    filling: usize,
    in_flight: Option<Written>,
    has_failed: bool,
    are_buffers_registered: bool,
}

/// The end of the socket pair at which an executor learns that a write has completed.
#[derive(Debug)]
pub struct RingWakeups {
    stream: glommio::net::UnixStream,
}

impl RingWakeups {
    /// Returns when a write has completed, well or badly, since the last call; then
    /// [`WalRing::try_complete`] has its outcome unless it was asked before. Safe to drop half-way.
    ///
    /// # Errors
    /// When the ring is gone.
    pub async fn next(&mut self) -> io::Result<()> {
        // Longer than any number of bytes that can be waiting, or glommio would not poll early.
        let mut bytes = [0; 64];
        match self.stream.read(&mut bytes).await? {
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        }
    }
}

impl WalRing {
    /// Sets up a ring. Must run on the executor of `core`.
    ///
    /// # Errors
    /// [`RingError`] when the kernel refuses.
    pub fn open(core: CoreId) -> Result<(Self, RingWakeups), RingError> {
        let setup = |step| move |source| RingError::Setup { core, step, source };
        // Neither DEFER_TASKRUN nor COOP_TASKRUN: completions must be run, and the linked send with
        // them, while this thread sleeps in another ring.
        let ring = IoUring::builder().build(RING_ENTRIES).map_err(setup("io_uring_setup"))?;
        if !ring.params().is_feature_skip_cqe_on_success() {
            return Err(RingError::KernelTooOld { core });
        }
        let (wake, woken) = UnixStream::pair().map_err(setup("socketpair"))?;
        ring.submitter()
            .register_files(&[-1, wake.as_raw_fd()])
            .map_err(setup("registering files"))?;
        let mut buffers = [FIXED_FRAME_BYTES; 2].map(FrameBuffer::new);
        let are_buffers_registered = register(&ring, &mut buffers);
        if !are_buffers_registered {
            tracing::warn!(
                %core,
                "cannot lock the write-ahead log's buffers in memory (RLIMIT_MEMLOCK, ulimit -l); \
                 going on with ordinary ones, which are slower"
            );
        }
        // SAFETY: the descriptor is open and owned by nobody else: `into_raw_fd` gave it up.
        let stream = unsafe { glommio::net::UnixStream::from_raw_fd(woken.into_raw_fd()) };
        let this = Self {
            core,
            ring,
            wake,
            segment: None,
            buffers,
            filling: 0,
            in_flight: None,
            has_failed: false,
            are_buffers_registered,
        };
        Ok((this, RingWakeups { stream }))
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
        let fd = segment.file.as_raw_fd();
        self.ring
            .submitter()
            .register_files_update(SLOT_SEGMENT, &[fd])
            .map_err(|source| self.broken("registering a segment", source))?;
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

    /// Writes what is in [`WalRing::buffer`], a whole number of blocks, at `offset`.
    ///
    /// # Errors
    /// When the kernel does not take it. That is final, as a failed write is.
    ///
    /// # Panics
    /// When a write is in flight or failed, no segment is set, or the frame is empty or not whole
    /// blocks on a block boundary.
    pub fn submit(&mut self, offset: u64) -> Result<(), WalWriteError> {
        assert!(self.in_flight.is_none(), "one write in flight");
        assert!(!self.has_failed, "a failed write is final");
        let segment = self.segment.as_ref().expect("invariant: a segment is set before a write");
        let frame = &self.buffers[self.filling];
        let len = frame.len();
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "a frame is whole blocks");
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "a frame starts on a block boundary");
        self.in_flight = Some(Written { segment: segment.id, offset, len });

        let entries = [self.write_entry(offset), wake_entry()];
        // SAFETY: the buffer stays where it is until the completion: `filling` moves on to the
        // other one and comes back only after `in_flight` is cleared; `Drop` waits for the kernel.
        // The wake byte is static.
        let pushed = unsafe { self.ring.submission().push_multiple(&entries) };
        pushed.expect("invariant: the queue is empty, as one write is in flight");
        self.filling = 1 - self.filling;
        self.buffers[self.filling].clear();
        self.enter()
    }

    /// The outcome of the write in flight, if it is known: without a system call, so that a turn
    /// can ask each time.
    ///
    /// # Errors
    /// The write is not durable. That is final.
    pub fn try_complete(&mut self) -> Option<Result<Written, WalWriteError>> {
        self.in_flight?;
        let mut outcome = None;
        let mut wake_error = None;
        for entry in self.ring.completion() {
            match entry.user_data() {
                TOKEN_WRITE => outcome = Some(entry.result()),
                // The socket is full of wakes that the executor has yet to read: it will come.
                TOKEN_WAKE if entry.result() == -libc::EAGAIN => {}
                _ => wake_error = Some(io::Error::from_raw_os_error(-entry.result())),
            }
        }
        if let Some(source) = wake_error {
            self.has_failed = true;
            self.in_flight = None;
            return Some(Err(self.broken("waking the executor", source)));
        }
        let result = outcome?;
        let write = self.in_flight.take()?;
        let judged = self.judge(write, result);
        self.has_failed |= judged.is_err();
        Some(judged)
    }

    fn judge(&self, write: Written, result: i32) -> Result<Written, WalWriteError> {
        let Written { segment, offset, len } = write;
        let path = self.segment.as_ref().map(|s| s.path.clone()).unwrap_or_default();
        match usize::try_from(result) {
            Ok(written) if written == len => Ok(write),
            Ok(written) => Err(WalWriteError::Short { segment, path, offset, len, written }),
            Err(_) => {
                let source = io::Error::from_raw_os_error(-result);
                Err(WalWriteError::Failed { segment, path, offset, len, source })
            }
        }
    }

    fn write_entry(&self, offset: u64) -> squeue::Entry {
        let frame = &self.buffers[self.filling];
        let (pointer, len) = (frame.as_slice().as_ptr(), frame.len());
        let len = u32::try_from(len).expect("invariant: a frame is far smaller than 4 GiB");
        let file = types::Fixed(SLOT_SEGMENT);
        let entry = if self.are_buffers_registered && frame.is_fixed() {
            let index = u16::try_from(self.filling).expect("invariant: there are two buffers");
            opcode::WriteFixed::new(file, pointer, len, index).offset(offset).build()
        } else {
            opcode::Write::new(file, pointer, len).offset(offset).build()
        };
        entry.flags(squeue::Flags::IO_HARDLINK).user_data(TOKEN_WRITE)
    }

    fn enter(&mut self) -> Result<(), WalWriteError> {
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            match self.ring.submit() {
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    _ => return Err(self.fail("submitting", error)),
                },
            }
        }
        Err(self.fail("submitting", io::Error::from_raw_os_error(libc::EAGAIN)))
    }

    fn fail(&mut self, step: &'static str, source: io::Error) -> WalWriteError {
        self.has_failed = true;
        self.broken(step, source)
    }

    fn broken(&self, step: &'static str, source: io::Error) -> WalWriteError {
        WalWriteError::Ring { core: self.core, step, source }
    }
}

fn wake_entry() -> squeue::Entry {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    opcode::Send::new(types::Fixed(SLOT_WAKE), WAKE_BYTE.as_ptr(), 1)
        .flags(flags)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(TOKEN_WAKE)
}

fn register(ring: &IoUring, buffers: &mut [FrameBuffer; 2]) -> bool {
    let areas = buffers.each_mut().map(|buffer| {
        let (start, len) = buffer.fixed_mut().whole();
        libc::iovec { iov_base: start.cast(), iov_len: len }
    });
    // SAFETY: the fixed parts neither move nor go before the ring does: `WalRing` owns both, and
    // its fields are dropped in order, the ring first.
    unsafe { ring.submitter().register_buffers(&areas) }.is_ok()
}

impl Drop for WalRing {
    /// Waits for the kernel, which still reads the buffer of a write in flight.
    fn drop(&mut self) {
        while self.in_flight.is_some() && !self.has_failed {
            if self.ring.submit_and_wait(1).is_err() || self.try_complete().is_some() {
                break;
            }
        }
    }
}

impl std::fmt::Debug for WalRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalRing")
            .field("core", &self.core)
            .field("wake", &self.wake)
            .field("segment", &self.segment)
            .field("in_flight", &self.in_flight)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}
