//! One client connection: commands in, replies out in the order of the commands. One task each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use oarlock::net::resp::{Args, Parser, ParserLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::router::Router;

const READ_BYTES: usize = 64 << 10;
const LIMITS: ParserLimits =
    ParserLimits { args_max: 16, bulk_bytes_max: 8 << 20, command_bytes_max: 16 << 20 };

/// What a group does for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The value of a key.
    Get { key: Bytes },
    /// A key's new value.
    Set { key: Bytes, value: Bytes },
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done, and durable on most nodes.
    Ok,
    /// The answer to a `PING` without a text.
    Pong,
    /// There is no such key.
    Nil,
    /// A value.
    Value(Bytes),
    /// It failed, or its fate is unknown.
    Error(String),
}

impl Reply {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.extend_from_slice(b"+OK\r\n"),
            Self::Pong => out.extend_from_slice(b"+PONG\r\n"),
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::Value(bytes) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
        }
    }
}

/// The replies of a connection that are still awaited, oldest first.
#[derive(Debug, Default)]
pub struct Session {
    slots: Mutex<Slots>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    first: u64,
    replies: VecDeque<Option<Reply>>,
}

impl Session {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect_reply(&self) -> u64 {
        let mut slots = self.slots();
        slots.replies.push_back(None);
        slots.first + slots.replies.len() as u64 - 1
    }

    /// Gives the reply to the command of this number.
    pub fn answer(&self, number: u64, reply: Reply) {
        let mut slots = self.slots();
        let at = usize::try_from(number - slots.first).unwrap_or(usize::MAX);
        if let Some(slot) = slots.replies.get_mut(at) {
            *slot = Some(reply);
            if at == 0 {
                self.ready.notify_one();
            }
        }
    }

    fn take_ready(&self, out: &mut Vec<u8>) {
        let mut slots = self.slots();
        while let Some(Some(reply)) = slots.replies.front() {
            reply.write(out);
            slots.replies.pop_front();
            slots.first += 1;
        }
    }
}

/// Serves a client until it leaves.
pub async fn serve(mut stream: TcpStream, router: Arc<Router>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let session = Arc::new(Session::default());
    let mut parser = Parser::new(LIMITS);
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let mut out = Vec::new();
    loop {
        tokio::select! {
            count = reader.read_buf(&mut input) => {
                if count? == 0 {
                    return Ok(());
                }
                parser.feed(&input);
                input.clear();
                loop {
                    match parser.next_command() {
                        Ok(Some(args)) => take(args, &session, &router),
                        Ok(None) => break,
                        Err(error) => {
                            writer.write_all(format!("-{error}\r\n").as_bytes()).await?;
                            return Ok(());
                        }
                    }
                }
            }
            () = session.ready.notified() => {}
        }
        session.take_ready(&mut out);
        if !out.is_empty() {
            writer.write_all(&out).await?;
            out.clear();
        }
    }
}

fn take(args: Args<'_>, session: &Arc<Session>, router: &Arc<Router>) {
    let number = session.expect_reply();
    let bytes = |at: usize| Bytes::copy_from_slice(args.get(at).unwrap_or_default());
    let name = args.get(0).unwrap_or_default();
    let command = match (name.to_ascii_uppercase().as_slice(), args.len()) {
        (b"SET", 3) => Command::Set { key: bytes(1), value: bytes(2) },
        (b"GET", 2) => Command::Get { key: bytes(1) },
        (b"PING", 1) => return session.answer(number, Reply::Pong),
        (b"PING", 2) => return session.answer(number, Reply::Value(bytes(1))),
        _ => {
            let text = "ERR only PING, GET key, and SET key value are known here".to_owned();
            return session.answer(number, Reply::Error(text));
        }
    };
    router.route(command, super::router::Replier::client(Arc::clone(session), number));
}
