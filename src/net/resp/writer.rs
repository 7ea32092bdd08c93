//! Replies as RESP2 or RESP3 bytes, appended to a buffer that the caller reuses. Pure.

use bytes::Bytes;
use oarlock_store::{ErrorReply, Reply};

use super::number::push_i64;

/// The protocol version that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2: every connection's first.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The number that `HELLO` names.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// A reply that the connection's own commands give: what [`Reply`] has, and what only RESP3 knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A simple string.
    Simple(&'static str),
    /// An error with its code, such as `ERR syntax error`.
    Error(String),
    /// An integer.
    Int(i64),
    /// A byte string.
    Bulk(Bytes),
    /// A text for people: verbatim in RESP3, a byte string in RESP2.
    Text(String),
    /// The null reply.
    Nil,
    /// Several values.
    Array(Vec<Value>),
    /// Pairs: a map in RESP3, a flat array in RESP2.
    Map(Vec<(Value, Value)>),
    /// Distinct values: a set in RESP3, an array in RESP2.
    Set(Vec<Value>),
}

impl Value {
    /// A byte string from a text.
    #[must_use]
    pub fn bulk(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }
}

/// Appends a range's reply.
pub fn write_reply(out: &mut Vec<u8>, reply: &Reply, protocol: Protocol) {
    match reply {
        Reply::Ok => out.extend_from_slice(b"+OK\r\n"),
        Reply::Simple(text) => write_line(out, b'+', text),
        Reply::Nil => write_nil(out, protocol),
        Reply::Int(number) => write_int(out, *number),
        Reply::Bulk(bytes) => write_bulk(out, bytes),
        Reply::Array(items) => {
            write_header(out, b'*', items.len());
            for item in items {
                write_reply(out, item, protocol);
            }
        }
        Reply::Error(error) => write_error(out, store_error(*error)),
    }
}

/// Appends a connection's own reply.
pub fn write_value(out: &mut Vec<u8>, value: &Value, protocol: Protocol) {
    let aggregate = |resp3: u8| if protocol == Protocol::Resp3 { resp3 } else { b'*' };
    match value {
        Value::Simple(text) => write_line(out, b'+', text),
        Value::Error(text) => write_error(out, text),
        Value::Int(number) => write_int(out, *number),
        Value::Bulk(bytes) => write_bulk(out, bytes),
        Value::Text(text) => match protocol {
            Protocol::Resp2 => write_bulk(out, text.as_bytes()),
            Protocol::Resp3 => {
                write_header(out, b'=', text.len() + 4);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        },
        Value::Nil => write_nil(out, protocol),
        Value::Array(items) | Value::Set(items) => {
            let kind = if matches!(value, Value::Set(_)) { aggregate(b'~') } else { b'*' };
            write_header(out, kind, items.len());
            for item in items {
                write_value(out, item, protocol);
            }
        }
        Value::Map(pairs) => {
            let count = if protocol == Protocol::Resp3 { pairs.len() } else { pairs.len() * 2 };
            write_header(out, aggregate(b'%'), count);
            for (name, value) in pairs {
                write_value(out, name, protocol);
                write_value(out, value, protocol);
            }
        }
    }
}

/// Appends an error. Line ends in its text become spaces, so that it stays one line.
pub fn write_error(out: &mut Vec<u8>, text: &str) {
    write_line(out, b'-', text);
}

/// Appends a null array, which RESP2 tells from a null string.
pub fn write_nil_array(out: &mut Vec<u8>, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => out.extend_from_slice(b"*-1\r\n"),
        Protocol::Resp3 => out.extend_from_slice(b"_\r\n"),
    }
}

/// Appends the header of an array whose items the caller appends.
pub fn write_array_header(out: &mut Vec<u8>, count: usize) {
    write_header(out, b'*', count);
}

/// Appends a byte string.
pub fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// At most how many bytes a reply takes.
#[must_use]
pub fn reply_bytes(reply: &Reply) -> usize {
    const HEADER: usize = 24;
    match reply {
        Reply::Ok | Reply::Nil | Reply::Int(_) => HEADER,
        Reply::Simple(text) => HEADER + text.len(),
        Reply::Bulk(bytes) => HEADER + bytes.len(),
        Reply::Array(items) => HEADER + items.iter().map(reply_bytes).sum::<usize>(),
        Reply::Error(error) => HEADER + store_error(*error).len(),
    }
}

/// The text of an error that a range's store gives.
#[must_use]
pub const fn store_error(error: ErrorReply) -> &'static str {
    match error {
        ErrorReply::NotAnInteger => "ERR value is not an integer or out of range",
        ErrorReply::NotAFloat => "ERR value is not a valid float",
        ErrorReply::Overflow => "ERR increment or decrement would overflow",
        ErrorReply::NotFinite => "ERR increment would produce NaN or Infinity",
        ErrorReply::ValueTooLarge => "ERR string exceeds maximum allowed size (value_bytes_max)",
        ErrorReply::InvalidExpire => "ERR invalid expire time",
        ErrorReply::OnceTableFull => {
            "BUSY the range remembers as many ONCE ids as it may, nothing was applied; try again later"
        }
        ErrorReply::OrderNotAlone => "ERR what is asked of a range must be asked alone",
        ErrorReply::NothingToSplit => {
            "ERR a range begins at that key already; nothing was changed (OARLOCK RANGES shows them)"
        }
        ErrorReply::NoSuchNode => {
            "ERR the cluster has no such node; nothing was changed (OARLOCK STATUS shows the nodes)"
        }
        ErrorReply::NoSuchCore => {
            "ERR the node has no such core; nothing was changed (OARLOCK STATUS shows the cores)"
        }
        ErrorReply::LevelTooLow => {
            "ERR not all nodes of the cluster understand that yet; nothing was changed (oarlock status shows \
             the levels)"
        }
        ErrorReply::NothingToMerge => {
            "ERR no range ends where that one begins; nothing was changed (OARLOCK RANGES shows them)"
        }
        ErrorReply::TooLargeToMerge => {
            "ERR the range is too large to be merged: with 176 bytes for each key, and its ONCE ids, it may \
             hold half of value_bytes_max"
        }
        ErrorReply::RangeIsChanging => {
            "BUSY the range is being split, merged or moved, or has just changed leaders; try again"
        }
    }
}

fn write_nil(out: &mut Vec<u8>, protocol: Protocol) {
    match protocol {
        Protocol::Resp2 => out.extend_from_slice(b"$-1\r\n"),
        Protocol::Resp3 => out.extend_from_slice(b"_\r\n"),
    }
}

fn write_int(out: &mut Vec<u8>, number: i64) {
    out.push(b':');
    push_i64(out, number);
    out.extend_from_slice(b"\r\n");
}

fn write_header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    push_i64(out, i64::try_from(length).expect("invariant: a length fits"));
    out.extend_from_slice(b"\r\n");
}

fn write_line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    let flat = |byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte };
    out.extend(text.bytes().map(flat));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(value: &Value) -> [String; 2] {
        [Protocol::Resp2, Protocol::Resp3].map(|protocol| {
            let mut out = Vec::new();
            write_value(&mut out, value, protocol);
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn values_in_both_protocols() {
        let map = Value::Map(vec![(Value::bulk("a"), Value::Int(-1))]);
        assert_eq!(both(&map), ["*2\r\n$1\r\na\r\n:-1\r\n", "%1\r\n$1\r\na\r\n:-1\r\n"]);
        assert_eq!(both(&Value::Nil), ["$-1\r\n", "_\r\n"]);
        assert_eq!(both(&Value::Set(vec![])), ["*0\r\n", "~0\r\n"]);
        assert_eq!(both(&Value::Text("x".into())), ["$1\r\nx\r\n", "=5\r\ntxt:x\r\n"]);
        assert_eq!(both(&Value::Error("ERR a\r\nb".into())), ["-ERR a  b\r\n"; 2]);
    }

    #[test]
    fn a_replys_size_is_never_underestimated() {
        let reply = Reply::Array(vec![
            Reply::Ok,
            Reply::Nil,
            Reply::Int(i64::MIN),
            Reply::Bulk(Bytes::from_static(b"abc")),
            Reply::Simple("string".into()),
            Reply::Error(ErrorReply::OnceTableFull),
        ]);
        let mut out = Vec::new();
        write_reply(&mut out, &reply, Protocol::Resp2);
        assert!(out.len() <= reply_bytes(&reply));
    }
}
