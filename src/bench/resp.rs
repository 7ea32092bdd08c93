//! The Redis protocol as a client speaks it: commands out, replies in. Pure functions over bytes.
//! Replies borrow from the buffer, because a generator that allocates per reply takes from the
//! machine what it is meant to measure. RESP2, and the nulls of RESP3.

use std::fmt;

/// A reply, borrowed from the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+text`.
    Simple(&'a [u8]),
    /// `-KIND text`.
    Error(&'a [u8]),
    /// `:number`.
    Int(i64),
    /// `$length`, bytes.
    Bulk(&'a [u8]),
    /// No value.
    Nil,
    /// `*count`, elements.
    Array(Vec<Reply<'a>>),
}

impl Reply<'_> {
    /// The first word of an error (`BUSY`, `UNKNOWN`, `ERR`…), or nothing if this is none.
    #[must_use]
    pub fn error_kind(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(error_kind(text)),
            Self::Simple(_) | Self::Int(_) | Self::Bulk(_) | Self::Nil | Self::Array(_) => None,
        }
    }
}

/// The first word of an error's text.
#[must_use]
pub fn error_kind(text: &[u8]) -> &str {
    let end = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap_or("not-utf8")
}

/// Bytes that are no reply: the connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's reply is not in the Redis protocol: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

const BULK_BYTES_MAX: usize = 512 << 20;
const LINE_BYTES_MAX: usize = 64 << 10;
const DEPTH_MAX: usize = 8;

/// Appends one command.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    header(out, b'*', args.len());
    for arg in args {
        argument(out, arg);
    }
}

/// Appends the head of a command of `count` arguments; [`argument`] adds each.
pub fn begin(out: &mut Vec<u8>, count: usize) {
    header(out, b'*', count);
}

/// Appends one argument.
pub fn argument(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    decimal(out, count as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits.
pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789"[usize::try_from(number % 10).expect("invariant: a digit")];
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reads the first reply of `bytes`: the reply and how many bytes it took, or nothing if it is not
/// all there yet.
///
/// # Errors
/// If no continuation could make these bytes a reply.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    Ok(reader.reply(0)?.map(|reply| (reply, reader.at)))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Option<Reply<'a>>, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed("arrays are nested too deeply"));
        }
        let Some(line) = self.line()? else { return Ok(None) };
        let Some((&kind, rest)) = line.split_first() else {
            return Err(Malformed("an empty line stands where a reply should"));
        };
        match kind {
            b'+' => Ok(Some(Reply::Simple(rest))),
            b'-' => Ok(Some(Reply::Error(rest))),
            b':' => Ok(Some(Reply::Int(integer(rest)?))),
            b'_' => Ok(Some(Reply::Nil)),
            b'$' => self.bulk(integer(rest)?),
            b'*' => self.array(integer(rest)?, depth),
            _ => Err(Malformed("a reply starts with an unknown byte")),
        }
    }

    fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            if rest.len() > LINE_BYTES_MAX {
                return Err(Malformed("a line is too long"));
            }
            return Ok(None);
        };
        if end == 0 || rest[end - 1] != b'\r' {
            return Err(Malformed("a line does not end in CR LF"));
        }
        self.at += end + 1;
        Ok(Some(&rest[..end - 1]))
    }

    fn bulk(&mut self, length: i64) -> Result<Option<Reply<'a>>, Malformed> {
        if length == -1 {
            return Ok(Some(Reply::Nil));
        }
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= BULK_BYTES_MAX)
            .ok_or(Malformed("a byte string's length is out of range"))?;
        let rest = &self.bytes[self.at..];
        if rest.len() < length + 2 {
            return Ok(None);
        }
        if &rest[length..length + 2] != b"\r\n" {
            return Err(Malformed("a byte string does not end in CR LF"));
        }
        self.at += length + 2;
        Ok(Some(Reply::Bulk(&rest[..length])))
    }

    fn array(&mut self, count: i64, depth: usize) -> Result<Option<Reply<'a>>, Malformed> {
        if count == -1 {
            return Ok(Some(Reply::Nil));
        }
        let count =
            usize::try_from(count).map_err(|_| Malformed("an array's length is negative"))?;
        // The header alone must not make us allocate what it claims.
        let mut elements = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let Some(element) = self.reply(depth + 1)? else { return Ok(None) };
            elements.push(element);
        }
        Ok(Some(Reply::Array(elements)))
    }
}

fn integer(digits: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed("a number is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Vec<u8> {
        b"*6\r\n+OK\r\n-BUSY try again\r\n:-42\r\n$5\r\na\r\nbc\r\n$-1\r\n*2\r\n$0\r\n\r\n*-1\r\n"
            .to_vec()
    }

    #[test]
    fn every_kind_of_reply_is_read() {
        let bytes = all_kinds();
        let (reply, used) = parse(&bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        assert_eq!(
            reply,
            Reply::Array(vec![
                Reply::Simple(b"OK"),
                Reply::Error(b"BUSY try again"),
                Reply::Int(-42),
                Reply::Bulk(b"a\r\nbc"),
                Reply::Nil,
                Reply::Array(vec![Reply::Bulk(b""), Reply::Nil]),
            ])
        );
    }

    #[test]
    fn every_proper_prefix_is_incomplete_and_never_an_error() {
        let bytes = all_kinds();
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn only_the_first_of_two_replies_is_taken() {
        assert_eq!(parse(b":1\r\n:2\r\n").unwrap(), Some((Reply::Int(1), 4)));
    }

    #[test]
    fn what_can_never_become_a_reply_is_refused() {
        for bytes in [
            &b"hello\r\n"[..],
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$2\r\nabcd",
            b"*-7\r\n",
            b"+OK\n",
            b"$99999999999\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let deep = b"*1\r\n".repeat(DEPTH_MAX + 2);
        assert!(parse(&deep).is_err());
        assert!(parse(&vec![b'+'; LINE_BYTES_MAX + 2]).is_err());
    }

    #[test]
    fn a_huge_array_header_allocates_little() {
        assert_eq!(parse(b"*1000000000\r\n:1\r\n").unwrap(), None);
    }

    #[test]
    fn a_command_is_an_array_of_byte_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"SET", b"key", &[0, 255], b""]);
        assert_eq!(out, b"*4\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2\r\n\x00\xff\r\n$0\r\n\r\n");
        out.clear();
        decimal(&mut out, u64::MAX);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }

    #[test]
    fn an_error_is_named_by_its_first_word() {
        assert_eq!(Reply::Error(b"UNKNOWN may have been applied").error_kind(), Some("UNKNOWN"));
        assert_eq!(Reply::Error(b"ERR").error_kind(), Some("ERR"));
        assert_eq!(Reply::Nil.error_kind(), None);
    }
}
