//! Carries a core's WAL frames to its ring, and keeps segments ready for them.
//!
//! One per core. It must never retry a write that failed: what the disk holds then is not known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oarlock_types::{Lsn, SegmentId};
use oarlock_wal::{FrameWrite, Wal, WalConfig};

use super::counters::Counters;
use super::watchdog::CoreProgress;
use crate::disk::job::DiskJob;
use crate::disk::ring::{WalRing, WalWriteError};
use crate::disk::segments::SegmentFile;

/// The log can not go on; the process must stop.
pub type LogFailure = WalWriteError;

/// A core's end of the log.
pub struct LogWriter {
    ring: WalRing,
    config: WalConfig,
    counters: Arc<Counters>,
    progress: Arc<[CoreProgress]>,
    core: usize,
    in_flight: Option<Lsn>,
    /// Segments that are ready and not yet begun.
    ready: BTreeMap<SegmentId, SegmentFile>,
    /// The segment that the disk worker prepares.
    awaited: Option<SegmentId>,
    /// How many bytes of the present segment are used; all there can be while the log waits for the next.
    used: Arc<AtomicU64>,
}

impl LogWriter {
    /// A writer over a ring of this core. `ready` are the segments that the log knows as prepared.
    pub fn new(
        ring: WalRing,
        config: WalConfig,
        core: usize,
        counters: Arc<Counters>,
        progress: Arc<[CoreProgress]>,
        ready: BTreeMap<SegmentId, SegmentFile>,
    ) -> Self {
        let used = Arc::default();
        let in_flight = None;
        Self { ring, config, counters, progress, core, in_flight, ready, awaited: None, used }
    }

    /// The frame that became durable since the last call, if there is one.
    ///
    /// # Errors
    /// The write failed. That is final.
    pub fn completed(&mut self) -> Result<Option<Lsn>, LogFailure> {
        let Some(outcome) = self.ring.try_complete() else { return Ok(None) };
        let written = outcome?;
        self.progress[self.core].count_wal_completed();
        self.counters.wal_frames.add(1);
        self.counters.wal_bytes.add(written.len as u64);
        Ok(self.in_flight.take())
    }

    /// Writes the next frame, unless one is in flight, none waits, or no segment is ready. Returns
    /// the newest record in it.
    ///
    /// # Errors
    /// The kernel did not take it. That is final.
    pub fn write_next(&mut self, wal: &mut Wal) -> Result<Option<Lsn>, LogFailure> {
        if self.ring.is_in_flight() {
            return Ok(None);
        }
        let Some(bytes) = wal.next_frame_bytes() else { return Ok(None) };
        let buffer = self.ring.buffer();
        let Some(FrameWrite { segment, offset, len, lsn }) = wal.seal(buffer.resize(bytes)) else {
            buffer.clear();
            self.used.store(u64::MAX, Ordering::Relaxed);
            return Ok(None);
        };
        assert_eq!(len, bytes, "invariant: the frame fills what it asked for");
        if self.ring.segment() != Some(segment) {
            let file = self.ready.remove(&segment);
            let file = file.expect("invariant: a segment is prepared before a frame goes there");
            drop(self.ring.set_segment(file)?);
        }
        self.ring.submit(offset);
        self.used.store(offset + len as u64, Ordering::Relaxed);
        self.progress[self.core].count_wal_submitted();
        self.in_flight = Some(lsn);
        Ok(self.in_flight)
    }

    /// The preparation of the segment that is wanted next; asked once for each.
    pub fn next_to_prepare(&mut self, wal: &Wal) -> Option<DiskJob> {
        let segment = wal.next_segment_wanted().filter(|_| self.awaited.is_none())?;
        self.awaited = Some(segment);
        let (header, used) = (self.config.segment_header(segment), Arc::clone(&self.used));
        Some(DiskJob::PrepareSegment { segment, header, used })
    }

    /// The awaited segment is ready.
    pub fn prepared(&mut self, wal: &mut Wal, file: SegmentFile) {
        self.awaited = None;
        wal.segment_prepared(file.id);
        self.ready.insert(file.id, file);
    }

    /// The awaited segment could not be made; it is asked for again.
    pub fn not_prepared(&mut self) {
        self.awaited = None;
    }
}
