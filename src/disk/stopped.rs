//! The logs of a node that does not run, for tools: read as at a start, and added to. Whoever adds must
//! hold the directory's lock ([`super::data_dir::lock_stopped`]).

use std::os::unix::fs::FileExt;

use oarlock_types::{CoreId, SegmentId};
use oarlock_wal::layout::{BLOCK_BYTES, read_segment_header};
use oarlock_wal::{Addition, Owner, Recovered, Recovery, Wal, WalConfig};

use super::buffer::AlignedBytes;
use super::data_dir::{DataDirError, SegmentReads};
use super::identity::Identity;
use super::job::{Action, DiskError, refused};
use super::layout::CoreDir;
use super::segments::{Preparation, SLICE_BYTES, SegmentFile, newest_marked};

/// The longest frame that is looked for behind the last one of a log.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// Its directory cannot be listed.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A segment cannot be read.
    #[error(transparent)]
    Segment(#[from] DiskError),
}

/// Reads a core's log.
///
/// # Errors
/// When a file cannot be read. Damage is no error: what comes back tells it.
pub fn read_log(
    dir: &CoreDir,
    core: CoreId,
    identity: &Identity,
) -> Result<Recovered, ReadLogError> {
    let Identity { cluster, node, disk, .. } = *identity;
    let owner = Owner { cluster, node, disk, core };
    let mut bytes = AlignedBytes::default();
    let mut recovery: Option<Recovery> = None;
    let mut reads = SegmentReads::new(dir)?;
    while let Some((id, _)) = reads.next_into(&mut bytes)? {
        let recovery =
            recovery.get_or_insert_with(|| Recovery::new(configuration(owner, bytes.as_slice())));
        recovery.feed(id, bytes.as_slice());
    }
    let mut recovery = recovery.unwrap_or_else(|| Recovery::new(configuration(owner, &[])));
    if let Some(newest) = newest_marked(dir) {
        recovery.expect_up_to(newest);
    }
    Ok(recovery.finish())
}

/// The sizes that the log was written with, as far as its first segment tells.
fn configuration(owner: Owner, first: &[u8]) -> WalConfig {
    let header = read_segment_header(first).ok();
    let block = BLOCK_BYTES as u64;
    let told = header.map(|header| header.segment_bytes);
    let told = told.filter(|bytes| bytes.is_multiple_of(block) && *bytes >= 2 * block);
    let segment_bytes = told.unwrap_or(WalConfig::SEGMENT_BYTES_DEFAULT);
    let longest = usize::try_from(segment_bytes - block).unwrap_or(FRAME_BYTES_MAX);
    WalConfig { owner, segment_bytes, frame_bytes_max: longest.min(FRAME_BYTES_MAX) }
}

/// Adds to the end of a log that [`read_log`] gave. When this returns, all of it is durable; after a crash
/// a part from the beginning is. What fits into one frame is there as a whole or not at all.
///
/// # Errors
/// When the system refuses. What the disk holds then is not known before it is read again.
pub fn add(
    dir: &CoreDir,
    core: CoreId,
    identity: &Identity,
    wal: &mut Wal,
    additions: &[Addition],
) -> Result<(), DiskError> {
    for addition in additions {
        wal.add(addition);
    }
    let Identity { cluster, node, disk, .. } = *identity;
    let owner = Owner { cluster, node, disk, core };
    let config = WalConfig { owner, segment_bytes: wal.segment_bytes(), frame_bytes_max: 0 };
    let mut frame = AlignedBytes::default();
    while let Some(len) = wal.next_frame_bytes() {
        frame.resize(len);
        let Some(write) = wal.seal(frame.as_mut_slice()) else {
            if let Some(segment) = wal.next_segment_wanted() {
                prepare(dir, segment, &config)?;
                wal.segment_prepared(segment);
            }
            continue;
        };
        let file = SegmentFile::open(dir, write.segment)?;
        let bytes = &frame.as_slice()[..write.len];
        let refused = refused(Action::Write, &file.path);
        file.file.write_all_at(bytes, write.offset).map_err(refused)?;
        wal.durable(write.lsn);
    }
    Ok(())
}

fn prepare(dir: &CoreDir, segment: SegmentId, config: &WalConfig) -> Result<(), DiskError> {
    let header = config.segment_header(segment);
    let zeros = AlignedBytes::zeroed(SLICE_BYTES);
    let mut preparation = Preparation::begin(dir, segment, &header, config.segment_bytes)?;
    while preparation.step(&zeros)?.is_none() {}
    Ok(())
}
