//! Cuts a connection's bytes into commands. One per connection.
//!
//! It remembers how far it has looked, so that no byte is searched twice however small the pieces
//! are in which a command arrives. Every bound is checked at the header that announces the size:
//! an announcement reserves nothing. It knows no command and never waits.

use thiserror::Error;

use super::inline;
use super::number::strict_i64;

/// Longest header line, and longest inline command, as in Redis.
const LINE_BYTES_MAX: usize = 64 << 10;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
/// Argument places that stay reserved between commands.
const SPANS_KEPT: usize = 1 << 10;

/// What one command may weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParserLimits {
    /// Most arguments.
    pub args_max: usize,
    /// Longest argument, in bytes.
    pub bulk_bytes_max: usize,
    /// All arguments together, in bytes.
    pub command_bytes_max: usize,
}

/// Why the bytes are not the Redis protocol, in Redis's words. The connection ends after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// An array's length is no number, or too large.
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// A string's length is no number, negative, or too large.
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// A string's header does not begin with a dollar sign.
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// An array's header does not end.
    #[error("ERR Protocol error: too big mbulk count string")]
    MultibulkHeader,
    /// A string's header does not end.
    #[error("ERR Protocol error: too big bulk count string")]
    BulkHeader,
    /// An inline command does not end.
    #[error("ERR Protocol error: too big inline request")]
    InlineTooBig,
    /// An inline command's quotes do not match.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    Unbalanced,
    /// The arguments together are too large.
    #[error("ERR Protocol error: command too big, its arguments may have {0} bytes together")]
    CommandTooBig(usize),
}

/// A piece of the buffer, counted from the command's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// One command's arguments, the command's name first. There is at least one.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many there are, the name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none, which the parser never yields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`; the name is at zero.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| &self.bytes[span.start..span.end])
    }

    /// The arguments from `first` on, as if the one at `first` were the name.
    #[must_use]
    pub fn skip(&self, first: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.spans.iter().map(move |span| &bytes[span.start..span.end])
    }
}

/// Where in a command the parser stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a command's first byte.
    Start,
    /// In an inline command.
    Inline,
    /// In an array's header.
    Array,
    /// In a string's header, this one and `more` others to come.
    BulkHeader { more: usize },
    /// In a string of `length` bytes.
    Bulk { more: usize, length: usize },
    /// A whole command stands in the spans.
    Whole,
    /// The bytes were not the protocol; nothing more is read.
    Broken(ProtocolError),
}

/// A growing buffer and the place up to which it has been understood.
#[derive(Debug)]
pub struct Parser {
    limits: ParserLimits,
    buffer: Vec<u8>,
    /// The first byte of the command that is being read.
    start: usize,
    /// The first byte of the line or string that is being read.
    line: usize,
    /// Bytes before here hold no end of the line that is being read.
    searched: usize,
    spans: Vec<Span>,
    command_bytes: usize,
    state: State,
}

impl Parser {
    /// A parser of a new connection.
    #[must_use]
    pub fn new(limits: ParserLimits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            line: 0,
            searched: 0,
            spans: Vec::new(),
            command_bytes: 0,
            state: State::Start,
        }
    }

    /// Adds what the connection has sent.
    pub fn feed(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Broken(_)) {
            return;
        }
        // Moving what is left costs less than what has gone, so all moves together are linear.
        if self.start > 0 && self.start >= self.buffer.len() / 2 && self.state != State::Whole {
            self.buffer.drain(..self.start);
            self.line -= self.start;
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held and not yet part of a command that was handed out.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes that the parser has reserved. For tests of its bounds.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.buffer.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// The next whole command, which is gone at the next call; `None` if its end is not there yet.
    ///
    /// # Errors
    /// The first error stays: every later call returns it again.
    pub fn next_command(&mut self) -> Result<Option<Args<'_>>, ProtocolError> {
        if self.state == State::Whole {
            self.forget_command();
        }
        match self.read() {
            Ok(true) => {
                self.state = State::Whole;
                Ok(Some(Args { bytes: &self.buffer[self.start..], spans: &self.spans }))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                self.state = State::Broken(error);
                self.buffer = Vec::new();
                self.spans = Vec::new();
                (self.start, self.line, self.searched) = (0, 0, 0);
                Err(error)
            }
        }
    }

    /// Goes on reading; whether a whole, non-empty command stands in the spans.
    fn read(&mut self) -> Result<bool, ProtocolError> {
        loop {
            let go_on = match self.state {
                State::Start => match self.buffer.get(self.start) {
                    None => return Ok(false),
                    Some(b'*') => {
                        self.state = State::Array;
                        true
                    }
                    Some(_) => {
                        self.state = State::Inline;
                        true
                    }
                },
                State::Inline => self.read_inline()?,
                State::Array => self.read_array_header()?,
                State::BulkHeader { more } => self.read_bulk_header(more)?,
                State::Bulk { more, length } => self.read_bulk(more, length),
                State::Whole => return Ok(true),
                State::Broken(error) => return Err(error),
            };
            if !go_on {
                return Ok(false);
            }
        }
    }

    fn read_inline(&mut self) -> Result<bool, ProtocolError> {
        let Some(end) = self.find(b'\n') else {
            return if self.buffer.len() - self.line > LINE_BYTES_MAX {
                Err(ProtocolError::InlineTooBig)
            } else {
                Ok(false)
            };
        };
        if end - self.line > LINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        let trimmed = if end > self.line && self.buffer[end - 1] == b'\r' { end - 1 } else { end };
        let offset = self.line - self.start;
        inline::split(&mut self.buffer[self.line..trimmed], offset, &mut self.spans)
            .map_err(|inline::Unbalanced| ProtocolError::Unbalanced)?;
        self.begin_line(end + 1);
        self.end_command();
        Ok(true)
    }

    fn read_array_header(&mut self) -> Result<bool, ProtocolError> {
        let Some(number) = self.header(ProtocolError::MultibulkHeader)? else { return Ok(false) };
        let number = number.ok_or(ProtocolError::MultibulkLength)?;
        if number <= 0 {
            // Redis takes an empty or null array for nothing at all.
            self.end_command();
            return Ok(true);
        }
        let count = usize::try_from(number).map_err(|_| ProtocolError::MultibulkLength)?;
        if count > self.limits.args_max {
            return Err(ProtocolError::MultibulkLength);
        }
        self.state = State::BulkHeader { more: count - 1 };
        Ok(true)
    }

    fn read_bulk_header(&mut self, more: usize) -> Result<bool, ProtocolError> {
        match self.buffer.get(self.line) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
        }
        let Some(number) = self.header(ProtocolError::BulkHeader)? else { return Ok(false) };
        let length = number
            .and_then(|number| usize::try_from(number).ok())
            .filter(|&length| length <= self.limits.bulk_bytes_max)
            .ok_or(ProtocolError::BulkLength)?;
        self.command_bytes += length;
        if self.command_bytes > self.limits.command_bytes_max {
            return Err(ProtocolError::CommandTooBig(self.limits.command_bytes_max));
        }
        self.state = State::Bulk { more, length };
        Ok(true)
    }

    fn read_bulk(&mut self, more: usize, length: usize) -> bool {
        // The two bytes of the line end are skipped unread, as in Redis.
        let end = self.line + length;
        if self.buffer.len() < end + 2 {
            return false;
        }
        self.spans.push(Span { start: self.line - self.start, end: end - self.start });
        self.begin_line(end + 2);
        match more.checked_sub(1) {
            Some(more) => self.state = State::BulkHeader { more },
            None => self.end_command(),
        }
        true
    }

    /// Reads the number of a header line; outer `None`: its end is not there yet.
    fn header(&mut self, too_long: ProtocolError) -> Result<Option<Option<i64>>, ProtocolError> {
        let end = match self.find(b'\r') {
            Some(end) if end + 1 < self.buffer.len() => end,
            Some(_) => return Ok(None),
            None if self.buffer.len() - self.line > LINE_BYTES_MAX => return Err(too_long),
            None => return Ok(None),
        };
        let number = strict_i64(&self.buffer[self.line + 1..end]);
        self.begin_line(end + 2);
        Ok(Some(number))
    }

    /// Finds `byte` from where the last search ended; stops on it, so that it is found again.
    fn find(&mut self, byte: u8) -> Option<usize> {
        let from = self.searched.max(self.line);
        let found = self.buffer[from..].iter().position(|&b| b == byte).map(|at| from + at);
        self.searched = found.unwrap_or(self.buffer.len());
        found
    }

    fn begin_line(&mut self, at: usize) {
        self.line = at;
        self.searched = at;
    }

    /// The command ends at the current line; one without arguments is nothing.
    fn end_command(&mut self) {
        if self.spans.is_empty() {
            self.forget_command();
        } else {
            self.state = State::Whole;
        }
    }

    fn forget_command(&mut self) {
        self.start = self.line;
        self.command_bytes = 0;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
        self.state = State::Start;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            if self.buffer.capacity() > BUFFER_KEPT_BYTES {
                self.buffer = Vec::new();
            }
            self.start = 0;
            self.begin_line(0);
        }
    }
}

#[cfg(test)]
mod tests;
