//! Golden scripts: a range's scenarios in the words of Redis's command line.
//!
//! Each line is one log entry (or one read) at the time that `time` has set. A prefix names a
//! client of its own, for `watch`, `multi` and `exec`. `once ID COMMAND…` carries a request id.
//! `UPDATE_GOLDENFILES=1` rewrites the expected output.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{Argument, Context, Runner};
use oarlock_store::{
    Batch, CheckpointProgress, Command, ErrorReply, ExpireCondition, Expiry, Loader, Reply,
    Request, SetCondition, SplitPoint, Store, StoreLimits, Watch, decode, encode, pack, unpack,
};
use oarlock_types::{Index, WallMs};

type Outcome = Result<String, Box<dyn Error>>;

const LIMITS: StoreLimits = StoreLimits {
    value_bytes_max: 100,
    once_count_max: 4,
    once_bytes_max: 10_000,
    once_keep_ms: 60_000,
    once_keep_min_ms: 10_000,
};

#[derive(Default)]
struct Client {
    watches: Vec<Watch>,
    queue: Option<Vec<Command>>,
}

struct Script {
    store: Store,
    now: u64,
    clients: BTreeMap<Option<String>, Client>,
    checkpoint: Vec<u8>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            store: Store::new(LIMITS),
            now: 1000,
            clients: BTreeMap::new(),
            checkpoint: Vec::new(),
        }
    }
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, line: &goldenscript::Command, context: &Context) -> Outcome {
        let args: Vec<String> = line.args.iter().map(text).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        match (line.name.as_str(), args.as_slice()) {
            ("time", [ms]) => {
                self.now = ms.parse()?;
                Ok(String::new())
            }
            ("sweep", []) => Ok(self.sweep()),
            ("dump", []) => Ok(self.dump()),
            ("checkpoint", rest) => self.checkpoint(rest),
            ("split", [at]) => Ok(self.split(at)),
            ("split-point", []) => Ok(self.split_point()),
            (name, rest) => self.client(context.prefix.clone(), name, rest),
        }
    }
}

fn text(argument: &Argument) -> String {
    if let Argument::Positional(text) = argument { text.clone() } else { argument.to_string() }
}

impl Script {
    fn client(&mut self, name: Option<String>, verb: &str, args: &[&str]) -> Outcome {
        let mut client = self.clients.remove(&name).unwrap_or_default();
        let outcome = self.verb(&mut client, verb, args);
        self.clients.insert(name, client);
        outcome
    }

    fn verb(&mut self, client: &mut Client, verb: &str, args: &[&str]) -> Outcome {
        match verb {
            "watch" => {
                for key in args {
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    let version = Command::Version { key: key.clone() };
                    let Reply::Int(version) = self.answer(Request::one(version)) else {
                        return Err("a version is an integer".into());
                    };
                    client.watches.push(Watch { key, version: u64::try_from(version)? });
                }
                return Ok("OK\n".to_owned());
            }
            "multi" => {
                client.queue = Some(Vec::new());
                return Ok("OK\n".to_owned());
            }
            "exec" => {
                let commands = client.queue.take().ok_or("EXEC without MULTI")?;
                let watches = std::mem::take(&mut client.watches);
                let request = Request { once: None, watches, transaction: true, commands };
                return Ok(print(&self.answer(request), ""));
            }
            _ => {}
        }
        let (once, verb, args) = match (verb, args) {
            ("once", [id, verb, rest @ ..]) => (Some(*id), *verb, rest),
            _ => (None, verb, args),
        };
        let command = parse(verb, args)?;
        if let Some(queue) = &mut client.queue {
            queue.push(command);
            return Ok("QUEUED\n".to_owned());
        }
        let once = once.map(|id| Bytes::copy_from_slice(id.as_bytes()));
        Ok(print(&self.answer(Request { once, ..Request::one(command) }), ""))
    }

    fn answer(&mut self, request: Request) -> Reply {
        if request.is_read() {
            return self.store.read(&request, WallMs(self.now));
        }
        self.apply(vec![request]).pop().expect("one request has one reply")
    }

    fn apply(&mut self, requests: Vec<Request>) -> Vec<Reply> {
        let batch = Batch { stamp: WallMs(self.now), requests };
        assert_eq!(unpack(&pack(&batch)).as_ref(), Ok(&batch), "it is read as it is packed");
        let batch = decode(&encode(&batch)).expect("it was just encoded");
        let mut replies = Vec::new();
        self.store.apply(self.store.applied().next(), batch, &mut replies);
        replies
    }

    fn sweep(&mut self) -> String {
        let before = self.store.len();
        self.apply(Vec::new());
        format!("{} of {before} keys left\n", self.store.len())
    }

    fn dump(&self) -> String {
        let read = |command| self.store.read(&Request::one(command), WallMs(self.now));
        let (start, end) = (Bytes::new(), None);
        let scan = Command::Scan { start, end, limit: 100, reverse: false, values: true };
        let Reply::Array(pairs) = read(scan) else { unreachable!("a scan gives an array") };
        let mut out = String::new();
        for pair in pairs.chunks(2) {
            let [Reply::Bulk(key), value] = pair else { unreachable!("pairs with values") };
            let int = |command| {
                let Reply::Int(value) = read(command) else { unreachable!("no integer") };
                value
            };
            let version = int(Command::Version { key: key.clone() });
            let ttl = match int(Command::Ttl { key: key.clone(), in_ms: true }) {
                -1 => String::new(),
                ms => format!(", ends in {ms} ms"),
            };
            let value = print(value, "");
            let _ = writeln!(out, "{key:?} = {}, version {version}{ttl}", value.trim_end());
        }
        let (applied, len, once) = (self.store.applied(), self.store.len(), self.store.once_len());
        let _ = writeln!(out, "applied {applied}, {len} keys held, {once} ids");
        out
    }

    fn checkpoint(&mut self, args: &[&str]) -> Outcome {
        match args {
            ["begin"] => {
                self.store.checkpoint_begin();
                self.checkpoint.clear();
                Ok(String::new())
            }
            ["next", budget] => {
                let progress = self.store.checkpoint_next(budget.parse()?, &mut self.checkpoint);
                Ok(format!("{progress:?}\n"))
            }
            ["finish"] => {
                let mut slices = 1;
                while self.store.checkpoint_next(100, &mut self.checkpoint)
                    == CheckpointProgress::More
                {
                    slices += 1;
                }
                Ok(format!("{slices} slices, {} bytes\n", self.checkpoint.len()))
            }
            ["abort"] => {
                self.store.checkpoint_abort();
                Ok(String::new())
            }
            ["load"] => {
                let mut loader = Loader::new(LIMITS);
                loader.feed(&self.checkpoint)?;
                self.store = loader.finish()?;
                Ok(String::new())
            }
            ["damage", at] => {
                let at: usize = at.parse()?;
                self.checkpoint[at] ^= 1;
                Ok(String::new())
            }
            ["cut", at] => {
                self.checkpoint.truncate(at.parse()?);
                Ok(String::new())
            }
            _ => Err("checkpoint begin | next BYTES | finish | abort | load | damage | cut".into()),
        }
    }

    /// Splits, shows both halves, goes on with the right one.
    fn split(&mut self, at: &str) -> String {
        let right = self.store.split_off(&Bytes::copy_from_slice(at.as_bytes()), Index(1));
        let left = self.dump();
        self.store = right;
        format!("left:\n{left}right:\n{}", self.dump())
    }

    fn split_point(&self) -> String {
        let mut search = self.store.split_search();
        loop {
            match self.store.split_search_next(&mut search, 2) {
                SplitPoint::More => {}
                found @ (SplitPoint::At(_) | SplitPoint::None) => return format!("{found:?}\n"),
            }
        }
    }
}

fn bytes(text: &str) -> Bytes {
    // Characters up to U+00FF stand for their byte, so that scripts can name any byte.
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("one byte a character")).collect()
}

fn keys(args: &[&str]) -> Vec<Bytes> {
    args.iter().map(|key| bytes(key)).collect()
}

fn pairs(args: &[&str]) -> Vec<(Bytes, Bytes)> {
    args.chunks_exact(2).map(|pair| (bytes(pair[0]), bytes(pair[1]))).collect()
}

fn parse(verb: &str, args: &[&str]) -> Result<Command, Box<dyn Error>> {
    if let ("count", []) = (verb, args) {
        return Ok(Command::Count);
    }
    let (&first, rest) = args.split_first().ok_or("which key?")?;
    let key = bytes(first);
    let all = || keys(args);
    Ok(match (verb, rest) {
        ("get", []) => Command::Get { key },
        ("getrange", [start, end]) => {
            Command::GetRange { key, start: start.parse()?, end: end.parse()? }
        }
        ("strlen", []) => Command::StrLen { key },
        ("exists", _) => Command::Exists { keys: all() },
        ("mget", _) => Command::MGet { keys: all() },
        ("ttl", []) => Command::Ttl { key, in_ms: false },
        ("pttl", []) => Command::Ttl { key, in_ms: true },
        ("type", []) => Command::Type { key },
        ("version", []) => Command::Version { key },
        ("scan", [end, limit, flags @ ..]) => Command::Scan {
            start: key,
            end: Some(bytes(end)).filter(|end| !end.is_empty()),
            limit: limit.parse()?,
            reverse: flags.contains(&"REVERSE"),
            values: flags.contains(&"VALUES"),
        },
        ("setnx", [value]) => Command::SetNx { key, value: bytes(value) },
        ("getdel", []) => Command::GetDel { key },
        ("getex", options) => Command::GetEx { key, expiry: expiry(options, Expiry::Keep)? },
        ("mset", _) => Command::MSet { pairs: pairs(args) },
        ("msetnx", _) => Command::MSetNx { pairs: pairs(args) },
        ("del", _) => Command::Del { keys: all() },
        ("persist", []) => Command::Persist { key },
        ("set", [value, options @ ..]) => set(key, bytes(value), options)?,
        ("expire", [seconds, options @ ..]) => Command::Expire {
            key,
            expiry: Expiry::In(seconds.parse::<i64>()? * 1000),
            condition: condition(options)?,
        },
        ("pexpireat", [at, options @ ..]) => {
            Command::Expire { key, expiry: Expiry::At(at.parse()?), condition: condition(options)? }
        }
        ("cas", ["nil", new]) => Command::Cas { key, expected: None, new: bytes(new) },
        ("cas", [old, new]) => Command::Cas { key, expected: Some(bytes(old)), new: bytes(new) },
        _ => edit(verb, key, rest)?,
    })
}

fn edit(verb: &str, key: Bytes, rest: &[&str]) -> Result<Command, Box<dyn Error>> {
    Ok(match (verb, rest) {
        ("append", [value]) => Command::Append { key, value: bytes(value) },
        ("setrange", [offset, value]) => {
            Command::SetRange { key, offset: offset.parse()?, value: bytes(value) }
        }
        ("incr", []) => Command::IncrBy { key, delta: 1 },
        ("decr", []) => Command::IncrBy { key, delta: -1 },
        ("incrby", [delta]) => Command::IncrBy { key, delta: delta.parse()? },
        ("incrbyfloat", [delta]) => {
            Command::IncrByFloat { key, delta_bits: delta.parse::<f64>()?.to_bits() }
        }
        _ => return Err(format!("{verb}: unknown, or wrong number of arguments").into()),
    })
}

fn set(key: Bytes, value: Bytes, options: &[&str]) -> Result<Command, Box<dyn Error>> {
    let mut options = options.to_vec();
    let mut take = |name: &str| {
        let before = options.len();
        options.retain(|option| *option != name);
        options.len() < before
    };
    let get = take("GET");
    let condition = match (take("NX"), take("XX")) {
        (true, _) => SetCondition::Absent,
        (_, true) => SetCondition::Present,
        _ => SetCondition::Always,
    };
    let expiry = expiry(&options, Expiry::None)?;
    Ok(Command::Set { key, value, condition, expiry, get })
}

fn expiry(options: &[&str], otherwise: Expiry) -> Result<Expiry, Box<dyn Error>> {
    Ok(match options {
        [] => otherwise,
        ["KEEPTTL"] => Expiry::Keep,
        ["PERSIST"] => Expiry::None,
        ["EX", seconds] => Expiry::In(seconds.parse::<i64>()? * 1000),
        ["PX", ms] => Expiry::In(ms.parse()?),
        ["PXAT", at] => Expiry::At(at.parse()?),
        _ => return Err(format!("{options:?}: unknown options").into()),
    })
}

fn condition(options: &[&str]) -> Result<ExpireCondition, Box<dyn Error>> {
    Ok(match options {
        [] => ExpireCondition::Always,
        ["NX"] => ExpireCondition::Absent,
        ["XX"] => ExpireCondition::Present,
        ["GT"] => ExpireCondition::Later,
        ["LT"] => ExpireCondition::Earlier,
        ["XX", "LT"] => ExpireCondition::PresentEarlier,
        _ => return Err(format!("{options:?}: unknown options").into()),
    })
}

/// A reply as `redis-cli` shows it.
fn print(reply: &Reply, indent: &str) -> String {
    match reply {
        Reply::Ok => "OK\n".to_owned(),
        Reply::Simple(text) => format!("{text}\n"),
        Reply::Nil => "(nil)\n".to_owned(),
        Reply::Int(value) => format!("(integer) {value}\n"),
        Reply::Bulk(bytes) => format!("\"{}\"\n", bytes.escape_ascii()),
        Reply::Error(error) => format!("(error) {}\n", name(*error)),
        Reply::Array(replies) if replies.is_empty() => "(empty array)\n".to_owned(),
        Reply::Array(replies) => {
            let mut out = String::new();
            for (n, reply) in replies.iter().enumerate() {
                let lead = if n == 0 { "" } else { indent };
                let _ = write!(out, "{lead}{}) {}", n + 1, print(reply, &format!("{indent}   ")));
            }
            out
        }
    }
}

fn name(error: ErrorReply) -> &'static str {
    match error {
        ErrorReply::NotAnInteger => "ERR value is not an integer or out of range",
        ErrorReply::NotAFloat => "ERR value is not a valid float",
        ErrorReply::Overflow => "ERR increment or decrement would overflow",
        ErrorReply::NotFinite => "ERR increment would produce NaN or Infinity",
        ErrorReply::ValueTooLarge => "ERR string exceeds maximum allowed size (value_bytes_max)",
        ErrorReply::InvalidExpire => "ERR invalid expire time",
        ErrorReply::OnceTableFull => "BUSY the range holds as many ONCE ids as it may",
        ErrorReply::OrderNotAlone => "ERR what is asked of a range stands alone",
        ErrorReply::NothingToSplit => "ERR a range begins there already",
        ErrorReply::NothingToMerge => "ERR nothing ends where the range begins",
        ErrorReply::LevelTooLow => "ERR not all nodes understand it",
        ErrorReply::TooLargeToMerge => "ERR the range is too large",
        ErrorReply::RangeIsChanging => "BUSY the range is changing already",
        ErrorReply::NoSuchNode => "ERR no such node",
        ErrorReply::NoSuchCore => "ERR no such core",
    }
}

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut count = 0;
    for file in std::fs::read_dir(folder).expect("the scripts' folder is there") {
        let path = file.expect("its entries can be read").path();
        if let Err(error) = goldenscript::run(&mut Script::default(), &path) {
            panic!("{}: {error}", path.display());
        }
        count += 1;
    }
    assert!(count >= 8, "only {count} scripts were found");
}
