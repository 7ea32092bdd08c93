//! Frames between nodes: a fixed header, then one archive. Decoding never panics, whatever the
//! bytes, and holds every length against its bound before it waits for or allocates that much.
//!
//! The header's first six bytes (magic, version) keep their place in every version to come, so
//! that a newer peer is recognised and refused by name.

use thiserror::Error;

use crate::archive;
use crate::peer::{
    ForwardReply, ForwardRequest, GroupMessage, Handshake, HandshakeReply, LinkProbe,
};
use oarlock_types::{FeatureLevels, Pulse};

/// Opens every frame: `OARF` in a hex dump.
const MAGIC: [u8; 4] = *b"OARF";
/// The version that this build speaks.
pub const VERSION: u16 = 1;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// [`Handshake`].
    Handshake = 1,
    /// [`HandshakeReply`].
    HandshakeReply = 2,
    /// Raft messages: `Vec<GroupMessage>`.
    Messages = 3,
    /// Forwarded requests: `Vec<ForwardRequest>`.
    Forward = 4,
    /// Their outcomes: `Vec<ForwardReply>`.
    ForwardReply = 5,
    /// [`Pulse`], alone in a datagram.
    Pulse = 6,
    /// [`LinkProbe`].
    LinkProbe = 7,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Handshake,
        Self::HandshakeReply,
        Self::Messages,
        Self::Forward,
        Self::ForwardReply,
        Self::Pulse,
        Self::LinkProbe,
    ];

    fn code(self) -> u16 {
        self as u16
    }
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a link.
    Handshake(Handshake),
    /// Answers it.
    HandshakeReply(HandshakeReply),
    /// Raft messages.
    Messages(Vec<GroupMessage>),
    /// Forwarded requests.
    Forward(Vec<ForwardRequest>),
    /// Their outcomes.
    ForwardReply(Vec<ForwardReply>),
    /// A sign of life.
    Pulse(Pulse),
    /// Times the link.
    LinkProbe(LinkProbe),
}

/// Why bytes are not a frame that this build takes. The link is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Something else speaks.
    #[error("the peer does not speak Oarlock's protocol (it sent {found:02x?})")]
    NotOurs {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A newer build speaks.
    #[error(
        "the peer speaks protocol version {found}, this build only up to {VERSION}: upgrade this node"
    )]
    NewerVersion {
        /// Its version.
        found: u16,
    },
    /// No version has this kind, or version 0.
    #[error(
        "a frame of version {version} has the unknown kind {found}; this build understands feature {}: start the \
         build that the peer runs",
        FeatureLevels::BUILD
    )]
    UnknownKind {
        /// The version.
        version: u16,
        /// The kind.
        found: u16,
    },
    /// Another kind was due here.
    #[error("a frame of kind {found:?} came where {expected:?} was due")]
    UnexpectedKind {
        /// What came.
        found: Kind,
        /// What was due.
        expected: Kind,
    },
    /// Longer than is read.
    #[error("a frame of {bytes} bytes is over the limit of {bytes_max} (frame_bytes_max)")]
    TooLarge {
        /// Its length, header included.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// A datagram ends before its frame does, or goes on behind it.
    #[error("a datagram of {found} bytes does not hold exactly one frame")]
    WrongLength {
        /// The datagram's length.
        found: usize,
    },
    /// Bits changed on the way.
    #[error("a frame's checksum does not match: bits changed on the way")]
    BadChecksum,
    /// The checksum is right, the content is none that this build knows.
    #[error(
        "a frame is whole, but its content is none that this build knows, which understands feature {}: start \
         the build that the peer runs",
        FeatureLevels::BUILD
    )]
    BadArchive,
}

/// The head of a frame, held against all its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// The sender's version.
    pub version: u16,
    /// How many bytes follow.
    pub payload_bytes: usize,
    crc: u32,
    head: [u8; 12],
}

impl Header {
    /// Its own length.
    pub const BYTES: usize = 16;

    /// The length of the whole frame.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        Self::BYTES + self.payload_bytes
    }
}

/// A value that makes a frame of its own.
pub trait Framed: Sized {
    /// Its kind.
    const KIND: Kind;
    /// Appends its archive.
    fn append_archive(&self, out: &mut Vec<u8>);
    /// Reads its archive, validated.
    fn read_archive(payload: &[u8]) -> Option<Self>;
}

macro_rules! framed {
    ($($type:ty => $kind:ident),* $(,)?) => {
        $(impl Framed for $type {
            const KIND: Kind = Kind::$kind;
            fn append_archive(&self, out: &mut Vec<u8>) {
                archive::append(self, out);
            }
            fn read_archive(payload: &[u8]) -> Option<Self> {
                archive::read(payload)
            }
        })*
    };
}

framed! {
    Handshake => Handshake,
    HandshakeReply => HandshakeReply,
    Vec<GroupMessage> => Messages,
    Vec<ForwardRequest> => Forward,
    Vec<ForwardReply> => ForwardReply,
    Pulse => Pulse,
    LinkProbe => LinkProbe,
}

/// Appends a whole frame to `out` and returns its length. The archive is written in place.
pub fn encode<T: Framed>(value: &T, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; Header::BYTES]);
    value.append_archive(out);
    let frame = &mut out[start..];
    let bytes = frame.len();
    let payload_bytes = u32::try_from(bytes - Header::BYTES)
        .expect("invariant: what a frame carries was admitted under limits far below 4 GiB");
    frame[0..4].copy_from_slice(&MAGIC);
    frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
    frame[6..8].copy_from_slice(&T::KIND.code().to_le_bytes());
    frame[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
    let (head, payload) = frame.split_at(Header::BYTES);
    let crc = checksum(&head[0..12], payload);
    frame[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the header at the start of `bytes`; `None` while more bytes are needed to tell. A wrong
/// magic or a newer version is told as soon as its bytes are there.
///
/// # Errors
/// When no frame that this build takes can start so, or it is over `frame_bytes_max`.
pub fn decode_header(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<Header>, FrameError> {
    if let Some(found) = bytes.first_chunk::<4>()
        && *found != MAGIC
    {
        return Err(FrameError::NotOurs { found: *found });
    }
    let Some(version) = bytes.get(4..6) else { return Ok(None) };
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version > VERSION {
        return Err(FrameError::NewerVersion { found: version });
    }
    let Some(bytes) = bytes.first_chunk::<{ Header::BYTES }>() else { return Ok(None) };
    let code = u16::from_le_bytes([bytes[6], bytes[7]]);
    let kind = Kind::ALL.into_iter().find(|kind| kind.code() == code && version == VERSION);
    let Some(kind) = kind else {
        return Err(FrameError::UnknownKind { version, found: code });
    };
    let payload_bytes = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let whole = u64::from(payload_bytes) + Header::BYTES as u64;
    let payload_bytes = match usize::try_from(payload_bytes) {
        Ok(payload) if payload.saturating_add(Header::BYTES) <= frame_bytes_max => payload,
        Ok(_) | Err(_) => {
            return Err(FrameError::TooLarge { bytes: whole, bytes_max: frame_bytes_max });
        }
    };
    let crc = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
    let head = *bytes.first_chunk::<12>().expect("invariant: sixteen bytes hold twelve");
    Ok(Some(Header { kind, version, payload_bytes, crc, head }))
}

/// Reads the payload that belongs to `header`; it must be exactly `header.payload_bytes` long.
///
/// # Errors
/// When the kind is another one, bits changed, or the content is not valid.
pub fn decode_payload<T: Framed>(header: &Header, payload: &[u8]) -> Result<T, FrameError> {
    if header.kind != T::KIND {
        return Err(FrameError::UnexpectedKind { found: header.kind, expected: T::KIND });
    }
    if payload.len() != header.payload_bytes || checksum(&header.head, payload) != header.crc {
        return Err(FrameError::BadChecksum);
    }
    T::read_archive(payload).ok_or(FrameError::BadArchive)
}

/// Reads the payload that belongs to `header`, whatever its kind.
///
/// # Errors
/// When bits changed or the content is not valid.
pub fn decode(header: &Header, payload: &[u8]) -> Result<Frame, FrameError> {
    Ok(match header.kind {
        Kind::Handshake => Frame::Handshake(decode_payload(header, payload)?),
        Kind::HandshakeReply => Frame::HandshakeReply(decode_payload(header, payload)?),
        Kind::Messages => Frame::Messages(decode_payload(header, payload)?),
        Kind::Forward => Frame::Forward(decode_payload(header, payload)?),
        Kind::ForwardReply => Frame::ForwardReply(decode_payload(header, payload)?),
        Kind::Pulse => Frame::Pulse(decode_payload(header, payload)?),
        Kind::LinkProbe => Frame::LinkProbe(decode_payload(header, payload)?),
    })
}

/// Reads a datagram that must hold exactly one frame.
///
/// # Errors
/// As [`decode_header`] and [`decode_payload`], or when the length is not the frame's.
pub fn decode_datagram<T: Framed>(bytes: &[u8], bytes_max: usize) -> Result<T, FrameError> {
    match decode_header(bytes, bytes_max)? {
        Some(header) if header.frame_bytes() == bytes.len() => {
            decode_payload(&header, &bytes[Header::BYTES..])
        }
        Some(_) | None => Err(FrameError::WrongLength { found: bytes.len() }),
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(payload);
    crc.finalize()
}

/// Cuts a stream of bytes into frames. One per link. Holds at most one frame's limit and what one
/// read brought.
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: usize,
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// A decoder that takes frames of at most `frame_bytes_max` bytes, header included.
    #[must_use]
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, buffer: Vec::new(), start: 0 }
    }

    /// Takes the bytes of one read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// As [`decode_header`] and [`decode`]; after an error the stream is lost.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some(header) = decode_header(rest, self.frame_bytes_max)? else { return Ok(None) };
        let Some(payload) = rest.get(Header::BYTES..header.frame_bytes()) else { return Ok(None) };
        let frame = decode(&header, payload)?;
        self.start += header.frame_bytes();
        Ok(Some(frame))
    }

    /// Bytes that wait for the rest of their frame.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }
}
