//! Block-aligned memory for direct I/O. It must not know what is in it, and does no I/O.
//! A WAL ring owns two [`FrameBuffer`]s; the disk worker owns a zeroed [`AlignedBytes`].
#![allow(unsafe_code, reason = "views whole blocks as bytes, which the language cannot say safely")]

/// Direct I/O happens in units of this many bytes: addresses, offsets and lengths.
pub const BLOCK_BYTES: usize = 4096;

/// The next multiple of [`BLOCK_BYTES`].
#[must_use]
pub const fn round_up_to_block(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

#[derive(Clone)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES && align_of::<Block>() == BLOCK_BYTES);

/// Bytes whose memory starts on a block boundary and is a whole number of blocks long.
/// Its memory moves only in [`AlignedBytes::reserve`].
#[derive(Default)]
pub struct AlignedBytes {
    blocks: Vec<Block>,
    len: usize,
}

impl AlignedBytes {
    /// Empty, with room for `bytes`, rounded up to whole blocks.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let blocks = vec![Block([0; BLOCK_BYTES]); bytes.div_ceil(BLOCK_BYTES)];
        Self { blocks, len: 0 }
    }

    /// `bytes` zeros.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        Self { len: bytes, ..Self::with_capacity(bytes) }
    }

    /// How many bytes it has room for without moving.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets the bytes, keeps the room.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `bytes` in all; may move.
    pub fn reserve(&mut self, bytes: usize) {
        let wanted = bytes.div_ceil(BLOCK_BYTES);
        if wanted > self.blocks.len() {
            self.blocks.resize(wanted.max(self.blocks.len() * 2), Block([0; BLOCK_BYTES]));
        }
    }

    /// Makes it `bytes` long; what is new holds whatever was there before.
    pub fn resize(&mut self, bytes: usize) {
        self.reserve(bytes);
        self.len = bytes;
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.reserve(end);
        let start = self.len;
        self.len = end;
        self.as_mut_slice()[start..].copy_from_slice(bytes);
    }

    /// Adds zeros up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        let start = self.len;
        self.len = round_up_to_block(start);
        debug_assert!(self.len <= self.capacity());
        self.as_mut_slice()[start..].fill(0);
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        assert!(self.len <= self.capacity());
        // SAFETY: `blocks` owns `capacity` initialised bytes without padding between them (asserted
        // above for the type), `len` is within them, and the borrow of self keeps them in place.
        unsafe { std::slice::from_raw_parts(self.blocks.as_ptr().cast::<u8>(), self.len) }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        assert!(self.len <= self.capacity());
        // SAFETY: as in `as_slice`; the unique borrow of self makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast::<u8>(), self.len) }
    }

    /// All the room that there is, for registering it with a ring.
    pub(super) fn whole(&mut self) -> (*mut u8, usize) {
        (self.blocks.as_mut_ptr().cast::<u8>(), self.capacity())
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBytes({} of {} bytes)", self.len, self.capacity())
    }
}

/// Room that a frame buffer keeps beyond its fixed part once a large frame has needed it.
const LARGE_KEPT_BYTES: usize = 1 << 20;

/// Collects the bytes of one WAL frame: in a fixed part that never moves, so that a ring can
/// register it, or, when the frame outgrows that, in a part that grows.
#[derive(Debug)]
pub struct FrameBuffer {
    fixed: AlignedBytes,
    large: AlignedBytes,
    is_large: bool,
}

impl FrameBuffer {
    /// An empty buffer whose fixed part holds `fixed_bytes`.
    #[must_use]
    pub fn new(fixed_bytes: usize) -> Self {
        Self {
            fixed: AlignedBytes::with_capacity(fixed_bytes),
            large: AlignedBytes::default(),
            is_large: false,
        }
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        if !self.is_large && self.fixed.len() + bytes.len() > self.fixed.capacity() {
            self.is_large = true;
            self.large.reserve(self.fixed.len() + bytes.len());
            self.large.extend_from_slice(self.fixed.as_slice());
        }
        self.part_mut().extend_from_slice(bytes);
    }

    /// Adds zeros up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        self.part_mut().pad_to_block();
    }

    /// Makes it `bytes` long, whatever is in it: the caller writes over all of it.
    pub fn resize(&mut self, bytes: usize) -> &mut [u8] {
        self.is_large = bytes > self.fixed.capacity();
        self.part_mut().resize(bytes);
        self.part_mut().as_mut_slice()
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.part().len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.part().as_slice()
    }

    /// The bytes, to be changed: a header is filled in when the payload is known.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.part_mut().as_mut_slice()
    }

    /// Forgets the bytes; gives memory back that only an unusually large frame needed.
    pub fn clear(&mut self) {
        self.fixed.clear();
        self.large.clear();
        self.is_large = false;
        if self.large.capacity() > LARGE_KEPT_BYTES {
            self.large = AlignedBytes::default();
        }
    }

    /// Whether the bytes lie in the part that a ring may have registered.
    pub(super) fn is_fixed(&self) -> bool {
        !self.is_large
    }

    pub(super) fn fixed_mut(&mut self) -> &mut AlignedBytes {
        &mut self.fixed
    }

    fn part(&self) -> &AlignedBytes {
        if self.is_large { &self.large } else { &self.fixed }
    }

    fn part_mut(&mut self) -> &mut AlignedBytes {
        if self.is_large { &mut self.large } else { &mut self.fixed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_start_on_a_block_boundary_and_survive_growth() {
        let mut bytes = AlignedBytes::with_capacity(1);
        assert_eq!(bytes.capacity(), BLOCK_BYTES);
        for n in 0..100u8 {
            bytes.extend_from_slice(&[n; 1000]);
            assert_eq!(bytes.as_slice().as_ptr().addr() % BLOCK_BYTES, 0);
        }
        for (n, chunk) in (0..100u8).zip(bytes.as_slice().chunks(1000)) {
            assert_eq!(chunk, [n; 1000]);
        }
    }

    #[test]
    fn padding_is_zero_even_over_old_bytes() {
        let mut frame = FrameBuffer::new(2 * BLOCK_BYTES);
        frame.extend_from_slice(&[7; BLOCK_BYTES]);
        frame.clear();
        frame.extend_from_slice(&[1, 2, 3]);
        frame.pad_to_block();
        assert_eq!(frame.len(), BLOCK_BYTES);
        assert_eq!(&frame.as_slice()[..3], [1, 2, 3]);
        assert!(frame.as_slice()[3..].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_frame_that_outgrows_the_fixed_part_keeps_its_bytes_and_comes_back() {
        let mut frame = FrameBuffer::new(BLOCK_BYTES);
        frame.extend_from_slice(&[1; 4000]);
        assert!(frame.is_fixed());
        frame.extend_from_slice(&[2; 4000]);
        assert!(!frame.is_fixed());
        frame.as_mut_slice()[0] = 9;
        assert_eq!(frame.as_slice()[0], 9);
        assert_eq!(&frame.as_slice()[1..4000], [1; 3999]);
        assert_eq!(&frame.as_slice()[4000..], [2; 4000]);
        frame.extend_from_slice(&vec![3; 4 << 20]);
        frame.clear();
        assert!(frame.is_empty() && frame.is_fixed());
        assert_eq!(frame.large.capacity(), 0, "an unusually large part is given back");
    }
}
