//! A blocking client for one connection: asks, waits, answers, never longer than its time-out.
//! For administrative questions and for tests; the load goes through the driver.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::resp::{self, Reply};

/// A reply that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A simple string.
    Simple(String),
    /// An error with its whole text.
    Error(String),
    /// A number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// No value.
    Nil,
    /// Several answers.
    Array(Vec<Answer>),
}

impl From<Reply<'_>> for Answer {
    fn from(reply: Reply<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match reply {
            Reply::Simple(bytes) => Self::Simple(text(bytes)),
            Reply::Error(bytes) => Self::Error(text(bytes)),
            Reply::Int(number) => Self::Int(number),
            Reply::Bulk(bytes) => Self::Bulk(bytes.to_vec()),
            Reply::Nil => Self::Nil,
            Reply::Array(elements) => Self::Array(elements.into_iter().map(Self::from).collect()),
        }
    }
}

impl Answer {
    /// The first word of an error, or nothing if this is none.
    #[must_use]
    pub fn error_kind(&self) -> Option<&str> {
        match self {
            Self::Error(text) => Some(resp::error_kind(text.as_bytes())),
            Self::Simple(_) | Self::Int(_) | Self::Bulk(_) | Self::Nil | Self::Array(_) => None,
        }
    }

    /// Whether this is `+OK`.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => f.write_str(text),
            Self::Error(text) => write!(f, "error \"{text}\""),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Nil => f.write_str("nothing"),
            Self::Array(elements) => write!(f, "an array of {}", elements.len()),
        }
    }
}

/// A connection to one node.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    used: usize,
    timeout: Duration,
}

impl Client {
    /// Connects; `timeout` bounds this and every call.
    ///
    /// # Errors
    /// If nobody accepts in time.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, input: Vec::new(), used: 0, timeout })
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// If the connection breaks or the time-out passes; then this client is of no further use,
    /// and nobody knows whether the command was carried out.
    pub fn call(&mut self, args: &[&[u8]]) -> io::Result<Answer> {
        self.send(args)?;
        self.receive()
    }

    /// Sends one command whose reply [`Client::receive`] gives.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn send(&mut self, args: &[&[u8]]) -> io::Result<()> {
        let mut out = Vec::new();
        resp::command(&mut out, args);
        self.send_raw(&out)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub fn receive(&mut self) -> io::Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        let mut chunk = [0; 64 << 10];
        loop {
            if let Some((reply, length)) =
                resp::parse(&self.input[self.used..]).map_err(io::Error::other)?
            {
                let answer = Answer::from(reply);
                self.used += length;
                if self.used == self.input.len() {
                    self.input.clear();
                    self.used = 0;
                }
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn server(script: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || script(listener.accept().unwrap().0));
        address
    }

    #[test]
    fn a_reply_in_pieces_is_put_together_and_the_next_one_is_kept() {
        let address = server(|mut stream| {
            let mut request = [0; 14];
            stream.read_exact(&mut request).unwrap();
            for piece in [&b"$5\r"[..], b"\nhe", b"llo\r\n:7", b"\r\n"] {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
        });
        let mut client = Client::connect(address, Duration::from_secs(5)).unwrap();
        assert_eq!(client.call(&[b"PING"]).unwrap(), Answer::Bulk(b"hello".to_vec()));
        assert_eq!(client.receive().unwrap(), Answer::Int(7));
        assert_eq!(client.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_is_a_time_out() {
        let (keep, kept) = std::sync::mpsc::channel::<()>();
        let address = server(move |stream| {
            kept.recv().ok();
            drop(stream);
        });
        let mut client = Client::connect(address, Duration::from_millis(30)).unwrap();
        assert_eq!(client.call(&[b"PING"]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(keep);
    }
}
