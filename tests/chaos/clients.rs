//! Clients of a run: each is one connection at a time to some node and asks one thing after the
//! other of a few hot keys. What was asked and answered is recorded with times of one clock. They
//! know nothing of the faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock::bench::client::{Answer as Told, Client};
use oarlock_sim::linearizability::{Action, Answer, Operation};
use oarlock_types::Random;

use super::common::let_pass;

/// How long one answer is awaited.
const CALL_TIMEOUT: Duration = Duration::from_millis(1200);
/// How long what may be sent again is sent again.
const ONCE_PATIENCE: Duration = Duration::from_secs(6);
/// What a client waits after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);
/// What it waits, at most, before it asks the next thing.
const THINK: Duration = Duration::from_millis(16);
/// Keys of each sort.
const KEYS: u64 = 4;

/// The keys of one range in one round. No key is used again in another round, so that each round's
/// history is whole, also if something of it is applied late.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    /// The first bytes of all its keys, and of no others.
    pub(crate) prefix: Vec<u8>,
}

impl Space {
    fn key(&self, name: &str) -> Bytes {
        Bytes::from([&self.prefix, name.as_bytes()].concat())
    }

    /// Every key that any client uses.
    pub(crate) fn keys(&self) -> Vec<Bytes> {
        let plain = (0..KEYS).map(|n| self.key(&format!("k{n}")));
        plain.chain([self.key("n"), self.key("a")]).collect()
    }
}

/// What each range was asked, and what became of it. One per round.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// By range.
    pub(crate) histories: Vec<Vec<Operation>>,
    /// Operations by what became of them.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Answers that no client should get.
    pub(crate) odd: Vec<String>,
}

impl Records {
    pub(crate) fn new(ranges: usize) -> Self {
        Self { histories: vec![Vec::new(); ranges], ..Self::default() }
    }

    /// Adds what others recorded; histories are in the order of their calls.
    pub(crate) fn add(&mut self, other: Self) {
        for (mine, others) in self.histories.iter_mut().zip(other.histories) {
            mine.extend(others);
            mine.sort_by_key(|operation| operation.called_at);
        }
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        self.odd.extend(other.odd);
    }

    fn count(&mut self, outcome: &str) {
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
}

/// What one try at an operation came to.
enum Try {
    Answered(u64, Told),
    /// It was not applied, and why.
    Refused(String),
    /// It may have been applied.
    Unknown(&'static str),
}

/// One client.
pub(crate) struct Asker {
    number: u64,
    addresses: Vec<SocketAddr>,
    /// When the run began; times are counted from it.
    began: Instant,
    connection: Option<Client>,
    random: Random,
    values: u64,
    pub(crate) records: Records,
}

/// An operation and the command that stands for it.
struct Asked {
    range: usize,
    action: Action,
    command: Vec<Bytes>,
    /// It may be sent again.
    once: bool,
}

impl Asker {
    /// Asker `number` of a run that began then. No two of the same number use the same keys.
    pub(crate) fn new(
        number: u64,
        addresses: Vec<SocketAddr>,
        ranges: usize,
        began: Instant,
        seed: u64,
    ) -> Self {
        let random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let records = Records::new(ranges);
        Self { number, addresses, began, connection: None, random, values: 0, records }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    /// Asks until it is told to stop.
    fn work(&mut self, spaces: &[Space], stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let asked = self.draw(spaces);
            self.perform(asked);
            // Now and then somebody else is asked.
            if self.random.below(50) == 0 {
                self.connection = None;
            }
            let_pass(self.random.between(Duration::ZERO, THINK));
        }
    }

    fn draw(&mut self, spaces: &[Space]) -> Asked {
        self.values += 1;
        let value = Bytes::from(format!("c{}.{}", self.number, self.values));
        let range = usize::try_from(self.random.below(spaces.len() as u64)).unwrap();
        let space = &spaces[range];
        let number = self.random.below(KEYS);
        let key = space.key(&format!("k{number}"));
        let word = |text: &'static str| Bytes::from_static(text.as_bytes());
        let (action, command) = match self.random.below(100) {
            0..28 => (Action::Read(vec![key.clone()]), vec![word("GET"), key]),
            28..50 => {
                (Action::Write(vec![(key.clone(), value.clone())]), vec![word("SET"), key, value])
            }
            50..55 => (Action::Delete(key.clone()), vec![word("DEL"), key]),
            55..65 => {
                let expected = self.guess(range, &key);
                let command = vec![
                    word("OARLOCK"),
                    word("CAS"),
                    key.clone(),
                    expected.clone(),
                    value.clone(),
                ];
                (Action::Swap { key, expected: Some(expected), new: value }, command)
            }
            65..73 => {
                let key = space.key("n");
                let delta = 1 + self.random.below(9);
                let text = Bytes::from(delta.to_string());
                let delta = i64::try_from(delta).unwrap();
                (Action::Add(key.clone(), delta), vec![word("INCRBY"), key, text])
            }
            73..78 => {
                let key = space.key("a");
                let action = Action::Append(key.clone(), value.clone());
                (action, vec![word("APPEND"), key, value])
            }
            78..80 => {
                let key = space.key("a");
                let action = Action::Write(vec![(key.clone(), value.clone())]);
                (action, vec![word("SET"), key, value])
            }
            80..87 => {
                let next = space.key(&format!("k{}", (number + 1) % KEYS));
                let pairs = vec![(key.clone(), value.clone()), (next.clone(), value.clone())];
                (Action::Write(pairs), vec![word("MSET"), key, value.clone(), next, value])
            }
            87..94 => {
                let keys = space.keys();
                let command = [word("MGET")].into_iter().chain(keys.iter().cloned()).collect();
                (Action::Read(keys), command)
            }
            _ => {
                let (from, to) = (space.key(""), space.key("~"));
                let command = vec![word("OARLOCK"), word("SCAN"), from.clone(), to.clone()];
                (Action::Scan(from, Some(to)), command)
            }
        };
        let once = !action.is_read() && self.random.below(3) == 0;
        let mut asked = Asked { range, action, command, once };
        if once {
            let id = Bytes::from(format!(
                "{}.{}.{}",
                self.began.elapsed().as_nanos(),
                self.number,
                self.values
            ));
            asked.command.splice(0..0, [word("OARLOCK"), word("ONCE"), id]);
        }
        asked
    }

    /// What a key may hold: what this client was told of it last.
    fn guess(&self, range: usize, key: &Bytes) -> Bytes {
        let told = |operation: &Operation| match (&operation.action, &operation.answer) {
            (Action::Read(keys), Some((_, Answer::Values(values)))) => {
                let at = keys.iter().position(|read| read == key)?;
                values.get(at)?.clone()
            }
            (Action::Write(pairs), Some(_)) => {
                pairs.iter().find(|(written, _)| written == key).map(|(_, value)| value.clone())
            }
            _ => None,
        };
        let recent = self.records.histories[range].iter().rev().take(40);
        recent.filter_map(told).next().unwrap_or(Bytes::from_static(b"none"))
    }

    /// Asks, again if it may, and records what became of it.
    fn perform(&mut self, asked: Asked) {
        let Asked { range, action, command, once } = asked;
        let called_at = self.now();
        let started = Instant::now();
        let mut uncertain = None;
        let answer = loop {
            let refused = match self.attempt(&command) {
                Try::Answered(at, told) => break Some((at, understand(&action, &told))),
                Try::Unknown(how) => {
                    uncertain = Some(how);
                    None
                }
                Try::Refused(why) => Some(why),
            };
            if once && started.elapsed() < ONCE_PATIENCE {
                let_pass(AFTER_REFUSAL);
                continue;
            }
            if let (None, Some(why)) = (uncertain, refused) {
                self.records.count(&why);
                let_pass(AFTER_REFUSAL);
                return;
            }
            break None;
        };
        match &answer {
            Some((_, Ok(_))) if uncertain.is_some() => self.records.count("answered at last"),
            Some((_, Ok(_))) => self.records.count("answered"),
            Some((_, Err(odd))) => self.records.odd.push(odd.clone()),
            None => self.records.count(uncertain.unwrap_or("unknown")),
        }
        let answer = answer.and_then(|(at, answer)| Some((at, answer.ok()?)));
        let operation = Operation { client: self.number, called_at, action, answer };
        self.records.histories[range].push(operation);
    }

    fn attempt(&mut self, command: &[Bytes]) -> Try {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let at = usize::try_from(self.random.below(self.addresses.len() as u64)).unwrap();
                match Client::connect(self.addresses[at], CALL_TIMEOUT / 3) {
                    Ok(connection) => connection,
                    Err(_) => return Try::Refused("no connection".to_owned()),
                }
            }
        };
        let words: Vec<&[u8]> = command.iter().map(|word| &word[..]).collect();
        let told = connection.call(&words);
        let at = self.now();
        let told = match told {
            Ok(told) => told,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Try::Unknown("timed out");
            }
            Err(_) => return Try::Unknown("connection broke"),
        };
        let outcome = match told.error_kind() {
            Some("UNKNOWN") => Try::Unknown("UNKNOWN"),
            Some(kind @ ("BUSY" | "NOQUORUM" | "DISKFULL")) => Try::Refused(kind.to_owned()),
            Some(_) | None => return self.answered(connection, at, told),
        };
        // Another node may know more.
        if self.random.below(3) > 0 {
            self.connection = Some(connection);
        }
        outcome
    }

    fn answered(&mut self, connection: Client, at: u64, told: Told) -> Try {
        self.connection = Some(connection);
        Try::Answered(at, told)
    }

    /// Reads all keys of a space, as one operation; why not, if it is refused or not answered.
    pub(crate) fn read_all(&mut self, range: usize, space: &Space) -> Result<(), String> {
        let keys = space.keys();
        let command: Vec<Bytes> =
            [Bytes::from_static(b"MGET")].into_iter().chain(keys.iter().cloned()).collect();
        let called_at = self.now();
        match self.attempt(&command) {
            Try::Answered(at, told) => {
                let action = Action::Read(keys);
                let answer = Some((at, understand(&action, &told)?));
                let operation = Operation { client: self.number, called_at, action, answer };
                self.records.histories[range].push(operation);
                Ok(())
            }
            Try::Refused(why) => Err(why),
            Try::Unknown(why) => Err(why.to_owned()),
        }
    }
}

/// What an answer says in the words of histories. One that fits nothing is told.
fn understand(action: &Action, told: &Told) -> Result<Answer, String> {
    let odd = || Err(format!("{action:?} was answered {told:?}"));
    let value = |told: &Told| match told {
        Told::Bulk(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
        Told::Nil => Ok(None),
        Told::Simple(_) | Told::Error(_) | Told::Int(_) | Told::Array(_) => {
            Err(format!("{told:?} as a value"))
        }
    };
    match (action, told) {
        (Action::Read(keys), Told::Bulk(_) | Told::Nil) if keys.len() == 1 => {
            Ok(Answer::Values(vec![value(told)?]))
        }
        (Action::Read(keys), Told::Array(all)) if keys.len() == all.len() => {
            Ok(Answer::Values(all.iter().map(value).collect::<Result<_, _>>()?))
        }
        (Action::Scan(..), Told::Array(all)) if all.len() % 2 == 0 => {
            let flat: Vec<Option<Bytes>> = all.iter().map(value).collect::<Result<_, _>>()?;
            let flat: Vec<Bytes> = flat.into_iter().map(Option::unwrap_or_default).collect();
            let pairs = flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Ok(Answer::Pairs(pairs.collect()))
        }
        (Action::Write(_), told) if told.is_ok() => Ok(Answer::Done),
        (Action::Delete(_) | Action::Append(..) | Action::Add(..), Told::Int(number)) => {
            Ok(Answer::Number(*number))
        }
        (Action::Swap { .. }, Told::Int(number @ (0 | 1))) => Ok(Answer::Number(*number)),
        _ => odd(),
    }
}

/// Clients at work, each on a thread of its own.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Records>>,
    ranges: usize,
}

impl Crowd {
    pub(crate) fn start(askers: Vec<Asker>, spaces: &[Space]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let go = |mut asker: Asker| {
            let (stop, spaces) = (Arc::clone(&stop), spaces.to_vec());
            std::thread::spawn(move || {
                asker.work(&spaces, &stop);
                asker.records
            })
        };
        let threads = askers.into_iter().map(go).collect();
        Self { stop, threads, ranges: spaces.len() }
    }

    /// Stops them; each ends what it is at.
    pub(crate) fn stop(self) -> Records {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Records::new(self.ranges);
        for thread in self.threads {
            all.add(thread.join().unwrap());
        }
        all
    }
}
