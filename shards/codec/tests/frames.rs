//! Properties of peer frames: what goes in comes out, and no bytes whatever do any harm.

mod support;

use oarlock_codec::frame::{self, Decoder, Frame, FrameError, Header, VERSION};
use oarlock_codec::{ForwardReply, GroupMessage, Handshake};
use oarlock_store::Reply;
use oarlock_types::FeatureLevels;
use proptest::prelude::*;
use support::frame;

const LIMIT: usize = 8 << 20;

fn encode(value: &Frame, out: &mut Vec<u8>) -> usize {
    match value {
        Frame::Handshake(value) => frame::encode(value, out),
        Frame::HandshakeReply(value) => frame::encode(value, out),
        Frame::Messages(value) => frame::encode(value, out),
        Frame::Forward(value) => frame::encode(value, out),
        Frame::ForwardReply(value) => frame::encode(value, out),
        Frame::Pulse(value) => frame::encode(value, out),
        Frame::LinkProbe(value) => frame::encode(value, out),
    }
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let Some(header) = frame::decode_header(bytes, LIMIT)? else { return Ok(None) };
    let Some(payload) = bytes.get(Header::BYTES..header.frame_bytes()) else { return Ok(None) };
    frame::decode(&header, payload).map(Some)
}

proptest! {
    /// Every kind comes back as it went in, also behind other bytes in one buffer.
    #[test]
    fn what_goes_in_comes_out(value in frame(), before in 0..20_usize) {
        let mut bytes = vec![0; before];
        let length = encode(&value, &mut bytes);
        prop_assert_eq!(bytes.len(), before + length);
        prop_assert_eq!(decode(&bytes[before..]), Ok(Some(value)));
    }

    /// A stream that is cut anywhere yields the same frames.
    #[test]
    fn a_stream_may_be_cut_anywhere(
        values in prop::collection::vec(frame(), 1..5),
        pieces in prop::collection::vec(1..400_usize, 1..8),
    ) {
        let mut bytes = Vec::new();
        for value in &values {
            encode(value, &mut bytes);
        }
        let mut decoder = Decoder::new(LIMIT);
        let mut found = Vec::new();
        let mut rest = bytes.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*piece));
            decoder.push(now);
            rest = later;
            while let Some(frame) = decoder.next_frame().expect("the stream is sound") {
                found.push(frame);
            }
        }
        prop_assert_eq!(found, values);
        prop_assert_eq!(decoder.buffered_bytes(), 0);
    }

    /// Truncated input asks for more; it is never an error and never a frame.
    #[test]
    fn a_truncated_frame_needs_more(value in frame(), cut: prop::sample::Index) {
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), Ok(None));
    }

    /// Any byte that changes on the way is noticed.
    #[test]
    fn a_changed_byte_is_refused(value in frame(), place: prop::sample::Index, change in 1..=255_u8) {
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        let at = place.index(bytes.len());
        bytes[at] ^= change;
        match decode(&bytes) {
            Err(_) => {}
            // A longer length within the limit: more bytes would be waited for.
            Ok(None) => prop_assert!((8..12).contains(&at)),
            Ok(Some(_)) => prop_assert!(false, "byte {at} was changed unnoticed"),
        }
    }

    /// An archive that was made to harm (its checksum is right) is refused or read, never a panic.
    #[test]
    fn a_hostile_archive_does_no_harm(
        value in frame(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        if bytes.len() > Header::BYTES {
            for (place, byte) in changes {
                let at = Header::BYTES + place.index(bytes.len() - Header::BYTES);
                bytes[at] = byte;
            }
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..12]);
        crc.update(&bytes[Header::BYTES..]);
        bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        match decode(&bytes) {
            Ok(Some(_)) | Err(FrameError::BadArchive) => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }

    /// Rubbish does no harm.
    #[test]
    fn rubbish_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let found = decode(&bytes);
        prop_assert!(!matches!(found, Ok(Some(_))));
    }
}

fn sample() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&Vec::<GroupMessage>::new(), &mut bytes);
    bytes
}

/// A newer peer is named with both versions, as soon as six bytes are there, whatever follows.
#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = sample();
    bytes[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let error = decode(&bytes[..6]).unwrap_err();
    assert_eq!(error, FrameError::NewerVersion { found: VERSION + 1 });
    assert_eq!(
        error.to_string(),
        "the peer speaks protocol version 2, this build only up to 1: upgrade this node"
    );
}

/// A Redis client on the peer port is told apart at once.
#[test]
fn another_protocol_is_told_apart() {
    assert_eq!(decode(b"*1\r\n"), Err(FrameError::NotOurs { found: *b"*1\r\n" }));
}

/// A length over the limit is refused from the header alone, before anything is waited for.
#[test]
fn a_length_over_the_limit_is_refused_at_once() {
    let mut bytes = sample();
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let bytes_whole = u64::from(u32::MAX) + 16;
    assert_eq!(
        decode(&bytes[..16]),
        Err(FrameError::TooLarge { bytes: bytes_whole, bytes_max: LIMIT })
    );
}

/// Another kind than the one that is due is named; an unknown one too.
#[test]
fn the_kind_is_checked() {
    let mut bytes = sample();
    let header = frame::decode_header(&bytes, LIMIT).unwrap().unwrap();
    let error = frame::decode_payload::<Handshake>(&header, &bytes[16..]).unwrap_err();
    assert!(matches!(error, FrameError::UnexpectedKind { .. }), "{error}");
    bytes[6] = 99;
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error, FrameError::UnknownKind { version: 1, found: 99 });
    let levels = FeatureLevels::BUILD.to_string();
    for told in [error, FrameError::BadArchive].map(|error| error.to_string()) {
        assert!(told.contains(&levels) && told.contains("start the build that"), "{told}");
    }
}

/// A datagram holds one frame and nothing else.
#[test]
fn a_datagram_holds_exactly_one_frame() {
    let mut bytes = sample();
    let whole = frame::decode_datagram::<Vec<GroupMessage>>(&bytes, LIMIT);
    assert_eq!(whole, Ok(Vec::new()));
    bytes.push(0);
    let longer = frame::decode_datagram::<Vec<GroupMessage>>(&bytes, LIMIT);
    assert_eq!(longer, Err(FrameError::WrongLength { found: bytes.len() }));
    let shorter = frame::decode_datagram::<Vec<GroupMessage>>(&bytes[..17], LIMIT);
    assert_eq!(shorter, Err(FrameError::WrongLength { found: 17 }));
}

/// A reply that nests without end is refused before it can exhaust the stack.
#[test]
fn endless_nesting_is_refused() {
    let nested = (0..500).fold(Reply::Nil, |inner, _| Reply::Array(vec![inner]));
    let mut bytes = Vec::new();
    frame::encode(&vec![ForwardReply { id: 1, outcome: Ok(nested) }], &mut bytes);
    assert_eq!(decode(&bytes), Err(FrameError::BadArchive));
}
