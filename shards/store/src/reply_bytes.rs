//! A reply as compact bytes, for the table of `ONCE` ids and so for checkpoints. Pure functions.
//!
//! The layout is part of the checkpoint format: a change here is a new version there.
//!
//! One tag byte, then: 0 `Ok`: nothing. 1 `Simple`, 4 `Bulk`: length u32, bytes. 2 `Nil`: nothing.
//! 3 `Int`: i64. 5 `Array`: count u32, that many replies. 6 `Error`: one byte, the error's number.
//! Integers are little-endian.

use bytes::Bytes;

use crate::reply::{ErrorReply, Reply};

/// A transaction's array holds arrays of single commands; nothing nests deeper.
const DEPTH_MAX: usize = 4;

const ERRORS: [ErrorReply; 15] = [
    ErrorReply::NotAnInteger,
    ErrorReply::NotAFloat,
    ErrorReply::Overflow,
    ErrorReply::NotFinite,
    ErrorReply::ValueTooLarge,
    ErrorReply::InvalidExpire,
    ErrorReply::OnceTableFull,
    ErrorReply::OrderNotAlone,
    ErrorReply::NothingToSplit,
    ErrorReply::RangeIsChanging,
    ErrorReply::NoSuchNode,
    ErrorReply::NothingToMerge,
    ErrorReply::TooLargeToMerge,
    ErrorReply::LevelTooLow,
    ErrorReply::NoSuchCore,
];

/// Appends `reply` to `out`.
pub(crate) fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    match reply {
        Reply::Ok => out.push(0),
        Reply::Simple(text) => write_bytes(1, text.as_bytes(), out),
        Reply::Nil => out.push(2),
        Reply::Int(value) => {
            out.push(3);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Reply::Bulk(bytes) => write_bytes(4, bytes, out),
        Reply::Array(replies) => {
            out.push(5);
            write_length(replies.len(), out);
            for reply in replies {
                write_reply(reply, out);
            }
        }
        Reply::Error(error) => {
            let number = ERRORS.iter().position(|e| e == error).map(u8::try_from);
            out.extend([6, number.expect("invariant: all errors are listed").unwrap_or(u8::MAX)]);
        }
    }
}

fn write_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    write_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn write_length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("invariant: replies are shorter than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

/// Reads exactly one reply out of `bytes`; `None` if they are not one.
pub(crate) fn read_reply(bytes: &[u8]) -> Option<Reply> {
    let mut rest = bytes;
    let reply = read_nested(&mut rest, DEPTH_MAX)?;
    rest.is_empty().then_some(reply)
}

fn read_nested(rest: &mut &[u8], depth: usize) -> Option<Reply> {
    let (&tag, tail) = rest.split_first()?;
    *rest = tail;
    match tag {
        0 => Some(Reply::Ok),
        1 => Some(Reply::Simple(String::from_utf8(read_bytes(rest)?.to_vec()).ok()?)),
        2 => Some(Reply::Nil),
        3 => {
            let (value, tail) = rest.split_first_chunk()?;
            *rest = tail;
            Some(Reply::Int(i64::from_le_bytes(*value)))
        }
        4 => Some(Reply::Bulk(Bytes::copy_from_slice(read_bytes(rest)?))),
        5 => {
            let count = read_length(rest)?;
            // Each reply takes a byte at least, so a count beyond the bytes is a lie; growing
            // as they come bounds the memory by what was really fed.
            if count > rest.len() || depth == 0 {
                return None;
            }
            let replies: Option<Vec<Reply>> =
                (0..count).map(|_| read_nested(rest, depth - 1)).collect();
            Some(Reply::Array(replies?))
        }
        6 => {
            let (&number, tail) = rest.split_first()?;
            *rest = tail;
            ERRORS.get(usize::from(number)).copied().map(Reply::Error)
        }
        7..=u8::MAX => None,
    }
}

fn read_length(rest: &mut &[u8]) -> Option<usize> {
    let (length, tail) = rest.split_first_chunk()?;
    *rest = tail;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = read_length(rest)?;
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reply {
        let mut all = vec![
            Reply::Ok,
            Reply::Simple("none".to_owned()),
            Reply::Nil,
            Reply::Int(i64::MIN),
            Reply::Bulk(Bytes::from_static(b"\0\xff")),
            Reply::Array(vec![Reply::Array(Vec::new()), Reply::Int(7)]),
        ];
        all.extend(ERRORS.map(Reply::Error));
        Reply::Array(all)
    }

    #[test]
    fn every_reply_comes_back_and_no_prefix_is_one() {
        let mut bytes = Vec::new();
        write_reply(&sample(), &mut bytes);
        assert_eq!(read_reply(&bytes), Some(sample()));
        for cut in 0..bytes.len() {
            assert_eq!(read_reply(&bytes[..cut]), None, "cut at {cut}");
        }
        bytes.push(0);
        assert_eq!(read_reply(&bytes), None, "a byte too many");
    }

    #[test]
    fn deep_nesting_and_false_counts_are_refused() {
        let mut nested = Vec::new();
        for _ in 0..100_000 {
            nested.extend([5, 1, 0, 0, 0]);
        }
        nested.push(0);
        assert_eq!(read_reply(&nested), None);
        assert_eq!(read_reply(&[5, 255, 255, 255, 255, 0]), None);
        assert_eq!(read_reply(&[4, 255, 255, 255, 255, 0]), None);
    }
}
