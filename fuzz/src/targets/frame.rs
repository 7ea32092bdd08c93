//! Peer frames, pulses, and the batches and splits in log entries: what other nodes send.
//!
//! What holds: a stream gives the same however it is cut into portions; a frame is refused, or it
//! is one that was sent; what was read can be sent and read again; memory is bounded by the frame
//! limit and what was fed.

use std::marker::PhantomData;
use std::mem::{Discriminant, discriminant};

use oarlock_codec::frame::{self, Decoder, Frame, FrameError, Header};
use oarlock_codec::{
    ForwardReply, ForwardRequest, GroupMessage, Handshake, HandshakeReply, SplitEntry,
};
use oarlock_types::Pulse;

use crate::memory;
use crate::source::{Source, generate};
use crate::targets::outcome;

#[path = "../../../shards/codec/tests/support/mod.rs"]
mod values;

pub(super) const WORDS: &[&[u8]] = &[
    b"OARF\x01\0\x01\0",
    b"OARF\x01\0\x03\0",
    b"OARF\x01\0\x06\0",
    b"OARF\x02\0",
    b"\x02",
    b"\x01",
];

const FRAME_BYTES_MAX: usize = 64 << 10;
/// A value in memory is at most so many times as long as its archive.
const ARCHIVE_FACTOR: usize = 16;

pub(super) fn run(input: &[u8]) -> u64 {
    let mut source = Source::new(input);
    match source.byte() % 4 {
        0 => {
            let lengths = Source::new(source.piece());
            outcome(&kinds(&stream(source.rest(), lengths)))
        }
        1 => sealed(source),
        2 => damaged(source),
        _ => entry(source.rest()),
    }
}

type Read = (Vec<Frame>, Option<FrameError>);

fn kinds((frames, error): &Read) -> (Vec<Discriminant<Frame>>, Option<Discriminant<FrameError>>) {
    let error = error.as_ref().map(discriminant);
    (frames.iter().map(discriminant).collect(), error)
}

fn encode(value: &Frame, out: &mut Vec<u8>) -> usize {
    match value {
        Frame::Handshake(value) => frame::encode(value, out),
        Frame::HandshakeReply(value) => frame::encode(value, out),
        Frame::Messages(value) => frame::encode(value, out),
        Frame::Forward(value) => frame::encode(value, out),
        Frame::ForwardReply(value) => frame::encode(value, out),
        Frame::LinkProbe(value) => frame::encode(value, out),
        Frame::Pulse(value) => frame::encode(value, out),
    }
}

fn read<'a>(portions: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    for portion in portions {
        decoder.push(portion);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Reads a stream as a whole and in portions, and as a datagram.
fn stream(bytes: &[u8], mut lengths: Source<'_>) -> Read {
    let portions = Source::new(lengths.rest()).cut(bytes);
    let bytes_max = FRAME_BYTES_MAX + bytes.len() * ARCHIVE_FACTOR;
    let whole = memory::bounded(bytes_max, || read([bytes]));
    let cut = memory::bounded(bytes_max, || read(portions));
    assert_eq!(whole, cut, "it matters how a stream is cut");
    for value in &whole.0 {
        let mut again = Vec::new();
        encode(value, &mut again);
        assert_eq!(read([&again[..]]), (vec![value.clone()], None), "it is not read as it is sent");
    }
    let pulse = frame::decode_datagram::<Pulse>(bytes, FRAME_BYTES_MAX);
    if let Ok(pulse) = pulse {
        assert_eq!(whole, (vec![Frame::Pulse(pulse)], None));
    }
    whole
}

/// Any archive behind a right checksum: what no accident makes, but a hostile or a buggy peer.
fn sealed(mut source: Source<'_>) -> u64 {
    let kind = source.byte() % 6;
    let is_raw = source.byte().is_multiple_of(2);
    let lengths = Source::new(source.piece());
    let mut payload = if is_raw {
        source.piece().to_vec()
    } else {
        let Some(value) = generate(&values::frame(), source.long()) else { return 0 };
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        bytes[Header::BYTES..].to_vec()
    };
    source.damage(&mut payload);
    let mut bytes = Vec::new();
    match kind {
        0 => frame::encode(&Sealed::<Handshake>(payload, PhantomData), &mut bytes),
        1 => frame::encode(&Sealed::<HandshakeReply>(payload, PhantomData), &mut bytes),
        2 => frame::encode(&Sealed::<Vec<GroupMessage>>(payload, PhantomData), &mut bytes),
        3 => frame::encode(&Sealed::<Vec<ForwardRequest>>(payload, PhantomData), &mut bytes),
        4 => frame::encode(&Sealed::<Vec<ForwardReply>>(payload, PhantomData), &mut bytes),
        _ => frame::encode(&Sealed::<Pulse>(payload, PhantomData), &mut bytes),
    };
    outcome(&kinds(&stream(&bytes, lengths)))
}

/// Any bytes in the place of an archive.
struct Sealed<T>(Vec<u8>, PhantomData<T>);

impl<T: frame::Framed> frame::Framed for Sealed<T> {
    const KIND: frame::Kind = T::KIND;
    fn append_archive(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn read_archive(_: &[u8]) -> Option<Self> {
        None
    }
}

/// A stream of sound frames that changed on the way.
fn damaged(mut source: Source<'_>) -> u64 {
    let count = 1 + source.byte() % 3;
    let (mut values, mut sent, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let Some(value) = generate(&values::frame(), source.long()) else { continue };
        encode(&value, &mut sent);
        ends.push(sent.len());
        values.push(value);
    }
    let lengths = Source::new(source.piece());
    let mut arrived = sent.clone();
    source.damage(&mut arrived);
    let (frames, error) = stream(&arrived, lengths);
    if arrived == sent {
        assert_eq!(
            (&frames, error),
            (&values, None),
            "sound frames are not read as they were sent"
        );
    }
    let sound = sent.iter().zip(&arrived).take_while(|(sent, arrived)| sent == arrived).count();
    let whole = ends.iter().filter(|end| **end <= sound).count();
    assert!(frames.len() >= whole && frames[..whole] == values[..whole], "a sound frame is lost");
    assert!(
        frames.iter().all(|frame| values.contains(frame)),
        "a frame was taken that nobody sent"
    );
    outcome(&kinds(&(frames, error)))
}

/// The archive in a log entry: it has only the checksum of what carries it. Which of both it is says the
/// entry.
fn entry(bytes: &[u8]) -> u64 {
    outcome(&(batch(bytes), packed(bytes), split(bytes)))
}

fn batch(bytes: &[u8]) -> Option<usize> {
    let read = memory::bounded(bytes.len() * ARCHIVE_FACTOR, || oarlock_store::decode(bytes));
    let batch = read.ok()?;
    let again = oarlock_store::decode(&oarlock_store::encode(&batch));
    assert_eq!(again.as_ref(), Ok(&batch), "it is not read as it is written");
    Some(batch.requests.len())
}

/// What a sequence claims to hold is reserved up to a bound before it is read, in each of three sequences within
/// each other.
const CLAIMED_BYTES_MAX: usize = 3 << 20;

fn packed(bytes: &[u8]) -> Option<usize> {
    let bound = bytes.len() * ARCHIVE_FACTOR + CLAIMED_BYTES_MAX;
    let batch = memory::bounded(bound, || oarlock_store::unpack(bytes)).ok()?;
    let again = oarlock_store::unpack(&oarlock_store::pack(&batch));
    assert_eq!(again.as_ref(), Ok(&batch), "it is not read as it is written");
    Some(batch.requests.len())
}

fn split(bytes: &[u8]) -> Option<[usize; 3]> {
    let split = memory::bounded(bytes.len() * ARCHIVE_FACTOR, || SplitEntry::decode(bytes))?;
    let again = SplitEntry::decode(&split.encode());
    assert_eq!(again.as_ref(), Some(&split), "it is not read as it is written");
    let members = &split.configuration;
    Some([members.voters.len(), members.outgoing.len(), members.learners.len()])
}
