//! Clients: each has one operation at a time, follows redirects, gives up after a while, and keeps
//! the history by which the range is judged. What was refused without having been applied is not
//! part of the history; what ended without an answer is, as one of unknown outcome.
//!
//! They must not know what goes wrong in the world.

mod lost;
mod order;

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_codec::Refusal;
use oarlock_shard::Outcome;
use oarlock_store::{Command, Expiry, Reply, Request, SetCondition};
use oarlock_types::{GroupId, NodeId, RangeEpoch};

use crate::cluster::prefix;
use crate::config::Config;
use crate::linearizability::{Action, Answer, Operation};
use crate::random::Stream;
use crate::ranges::Ranges;
use crate::words;

/// How long a client waits for a write without an id.
const PATIENCE_US: u64 = 2_000_000;
/// How long for one that it may send again.
const ONCE_PATIENCE_US: u64 = 8_000_000;
/// How long it waits before it sends that again.
const ONCE_ATTEMPT_US: u64 = 700_000;
/// How long it waits after a refusal.
const RETRY_US: u64 = 8_000;

/// A client's operation under way.
#[derive(Debug)]
pub(crate) struct Doing {
    /// Of which family of groups its keys are.
    pub(crate) group: GroupId,
    /// The group that was asked last.
    asked: GroupId,
    request: Request,
    /// Its place in the group's history.
    place: usize,
    ends_at: u64,
    /// The attempt that it waits for.
    attempt: Option<u64>,
    attempt_ends_at: u64,
    /// An attempt of it may have been applied.
    is_uncertain: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) doing: Option<Doing>,
    /// When it acts next.
    pub(crate) acts_at: u64,
}

/// What became of an operation.
#[derive(Clone, Debug)]
struct Entry {
    /// Its values and ids have this number.
    number: u64,
    operation: Operation,
    was_applied: Option<bool>,
}

/// All clients and their histories.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) all: Vec<Client>,
    histories: BTreeMap<GroupId, Vec<Entry>>,
    leaders: BTreeMap<GroupId, NodeId>,
    /// Which range has which keys, as they heard last.
    ranges: Ranges,
    /// Whose attempt a token is.
    attempts: BTreeMap<u64, usize>,
    next_token: u64,
    next_value: u64,
    random: Stream,
    pub(crate) answered: u64,
    pub(crate) unknown: u64,
    /// Operations whose entries are lost, and until when clients may have heard of them.
    lost: BTreeMap<u64, u64>,
    /// They ask for nothing new.
    pub(crate) is_resting: bool,
    /// Whose next act was put off or brought forward by what it heard.
    pub(crate) changed: Option<usize>,
}

/// A request that goes to a node.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) token: u64,
    pub(crate) to: NodeId,
    pub(crate) group: GroupId,
    pub(crate) epoch: RangeEpoch,
    pub(crate) request: Request,
}

impl Clients {
    pub(crate) fn new(config: &Config, seed: u64) -> Self {
        let mut random = Stream::new(seed, 3);
        let client = |_| Client { doing: None, acts_at: 100_000 + random.below(500_000) };
        Self {
            all: (0..config.clients).map(client).collect(),
            histories: BTreeMap::new(),
            leaders: BTreeMap::new(),
            ranges: Ranges::new(config),
            attempts: BTreeMap::new(),
            next_token: 0,
            next_value: 0,
            random,
            answered: 0,
            unknown: 0,
            lost: BTreeMap::new(),
            is_resting: false,
            changed: None,
        }
    }

    /// A client acts: begins, tries again, or gives up. Gives what it sends and, for the trace,
    /// what it does.
    pub(crate) fn act(
        &mut self,
        config: &Config,
        at: usize,
        now: u64,
    ) -> (Option<Sending>, Option<(GroupId, String)>) {
        if self.all[at].doing.is_none() {
            if self.is_resting {
                self.all[at].acts_at = u64::MAX;
                return (None, None);
            }
            let told = self.begin(config, at, now);
            let sending = self.attempt(config, at, now);
            return (sending, Some(told));
        }
        let Some(doing) = &mut self.all[at].doing else { return (None, None) };
        if now >= doing.ends_at {
            let told = self.give_up(config, at, now);
            return (None, Some(told));
        }
        if doing.attempt.is_some() {
            if now < doing.attempt_ends_at {
                self.all[at].acts_at = doing.attempt_ends_at.min(doing.ends_at);
                return (None, None);
            }
            // It hears nothing: somebody else may lead.
            doing.is_uncertain = true;
            doing.attempt = None;
            self.leaders.remove(&doing.asked);
        }
        let Some(sending) = self.attempt(config, at, now) else {
            // Its keys are of several ranges by now: no one can do it at one moment.
            let told = self.give_up(config, at, now);
            return (None, Some(told));
        };
        (Some(sending), None)
    }

    fn begin(&mut self, config: &Config, at: usize, now: u64) -> (GroupId, String) {
        let group = GroupId(1 + self.random.below(config.groups));
        self.next_value += 1;
        let number = self.next_value;
        // What touches several ranges is not asked for: nobody does that at one moment.
        let (action, request) = loop {
            let drawn = draw(config, group, &mut self.random, number);
            if self.ranges.of_action(group, &drawn.0).is_some() {
                break drawn;
            }
        };
        let told = (group, format!("asks {number}: {}", words::action(&action)));
        let patience = if request.once.is_some() { ONCE_PATIENCE_US } else { PATIENCE_US };
        let history = self.histories.entry(group).or_default();
        let operation = Operation { client: at as u64, called_at: now, action, answer: None };
        history.push(Entry { number, operation, was_applied: None });
        self.all[at].doing = Some(Doing {
            group,
            asked: group,
            request,
            place: history.len() - 1,
            ends_at: now + patience,
            attempt: None,
            attempt_ends_at: 0,
            is_uncertain: false,
        });
        told
    }

    fn attempt(&mut self, config: &Config, at: usize, now: u64) -> Option<Sending> {
        let random = NodeId(1 + self.random.below(config.nodes));
        let Client { doing, acts_at } = &mut self.all[at];
        let doing = doing.as_mut()?;
        let action = &self.histories.get(&doing.group)?.get(doing.place)?.operation.action;
        let (group, epoch) = self.ranges.of_action(doing.group, action)?;
        doing.asked = group;
        let to = self.leaders.get(&group).copied().unwrap_or(random);
        self.next_token += 1;
        let token = self.next_token;
        let repeatable = doing.request.once.is_some() || doing.request.is_read();
        let waits = if repeatable { ONCE_ATTEMPT_US } else { PATIENCE_US };
        doing.attempt = Some(token);
        doing.attempt_ends_at = now + waits;
        *acts_at = doing.attempt_ends_at.min(doing.ends_at);
        self.attempts.insert(token, at);
        Some(Sending { token, to, group, epoch, request: doing.request.clone() })
    }

    /// The outcome of an attempt arrives.
    pub(crate) fn hear(
        &mut self,
        (config, ranges): (&Config, &Ranges),
        token: u64,
        from: NodeId,
        outcome: Outcome,
        now: u64,
    ) -> Option<(u64, GroupId, String)> {
        let at = self.attempts.remove(&token)?;
        self.changed = Some(at);
        let doing = self.all[at].doing.as_mut()?;
        // An answer to an attempt before the present one of an operation with an id is as good.
        let is_present = doing.attempt == Some(token);
        let group = doing.asked;
        match outcome {
            Ok(reply) if is_present => {
                self.leaders.insert(group, from);
                Some(self.answer(config, at, now, &reply))
            }
            Ok(_) => None,
            Err(_) if !is_present => None,
            Err(refusal) => {
                let repeatable = doing.request.once.is_some() || doing.request.is_read();
                if refusal == Refusal::Unknown {
                    doing.is_uncertain = true;
                    if !repeatable {
                        let (group, text) = self.give_up(config, at, now);
                        return Some((at as u64, group, text));
                    }
                }
                doing.attempt = None;
                if matches!(refusal, Refusal::StaleEpoch | Refusal::NoSuchGroup) {
                    self.ranges.clone_from(ranges);
                }
                self.leaders.remove(&group);
                if let Refusal::NotLeader { leader: Some(leader) } = refusal
                    && leader != from
                {
                    self.leaders.insert(group, leader);
                }
                self.all[at].acts_at = now + self.random.within(RETRY_US / 4, RETRY_US);
                None
            }
        }
    }

    fn answer(
        &mut self,
        config: &Config,
        at: usize,
        now: u64,
        reply: &Reply,
    ) -> (u64, GroupId, String) {
        let doing = self.all[at].doing.take().expect("invariant: it waits for this answer");
        let entry = self.entry(doing.group, doing.place);
        let answer = understand(&entry.operation.action, reply);
        let text = format!("is answered: {}", words::reply(reply));
        entry.operation.answer = Some((now, answer));
        entry.was_applied = Some(true);
        self.answered += 1;
        self.rest(config, at, now);
        (at as u64, doing.group, text)
    }

    fn give_up(&mut self, config: &Config, at: usize, now: u64) -> (GroupId, String) {
        let doing = self.all[at].doing.take().expect("invariant: it does something");
        let is_unknown = doing.is_uncertain || doing.attempt.is_some();
        self.entry(doing.group, doing.place).was_applied = (!is_unknown).then_some(false);
        self.unknown += u64::from(is_unknown);
        self.leaders.remove(&doing.asked);
        self.rest(config, at, now);
        let what = if is_unknown { "outcome unknown" } else { "not applied" };
        (doing.group, format!("gives up: {what}"))
    }

    fn rest(&mut self, config: &Config, at: usize, now: u64) {
        self.all[at].acts_at = now + 1 + self.random.below(config.think_us);
    }

    fn entry(&mut self, group: GroupId, place: usize) -> &mut Entry {
        let history = self.histories.get_mut(&group).expect("invariant: it has begun");
        &mut history[place]
    }

    /// A read of the world's own, as of a client that reads nothing else.
    pub(crate) fn note_read(
        &mut self,
        family: GroupId,
        action: Action,
        called_at: u64,
        answer: (u64, Answer),
    ) {
        let history = self.histories.entry(family).or_default();
        let client = self.all.len() as u64 + history.len() as u64;
        let operation = Operation { client, called_at, action, answer: Some(answer) };
        history.push(Entry { number: 0, operation, was_applied: Some(true) });
    }

    /// The client whose attempt a token is, as a connection.
    pub(crate) fn connection_of(&self, token: u64) -> u64 {
        self.attempts.get(&token).map_or(u64::MAX, |client| *client as u64)
    }

    /// Whether any client waits for something.
    pub(crate) fn are_done(&self) -> bool {
        self.all.iter().all(|client| client.doing.is_none())
    }
}

/// Keys of a family that clients use, and a split may cut at.
pub(crate) fn client_keys(config: &Config, family: GroupId) -> impl Iterator<Item = Bytes> {
    let prefix = prefix(config, family);
    let key = move |name: &str, number: u64| Bytes::from(format!("{prefix}{name}{number}"));
    let others = [key("a", 0), key("a", 1), key("n", 0)];
    (0..config.keys).map(move |number| key("k", number)).chain(others)
}

/// An operation and the request that stands for it.
fn draw(config: &Config, family: GroupId, random: &mut Stream, number: u64) -> (Action, Request) {
    let prefix = prefix(config, family);
    let key = |name: &str, number: u64| Bytes::from(format!("{prefix}{name}{number}"));
    let plain = key("k", random.below(config.keys));
    let value = Bytes::from(format!("v{number}"));
    match random.below(100) {
        0..25 => {
            let action = Action::Read(vec![plain.clone()]);
            (action, Request::one(Command::Get { key: plain }))
        }
        25..50 => (Action::Write(vec![(plain.clone(), value.clone())]), set(plain, value)),
        50..57 => {
            let action = Action::Delete(plain.clone());
            let request = Request::one(Command::Del { keys: vec![plain] });
            // Where entries may be lost it must be told which.
            let once = config.loses_quorum.then(|| Bytes::from(format!("id{number}")));
            (action, Request { once, ..request })
        }
        57..64 => {
            let expected = (number > 8 && random.per_mille(700))
                .then(|| Bytes::from(format!("v{}", number - 1 - random.below(8))));
            let action =
                Action::Swap { key: plain.clone(), expected: expected.clone(), new: value.clone() };
            (action, Request::one(Command::Cas { key: plain, expected, new: value }))
        }
        64..72 => {
            let key = key("n", 0);
            let delta = i64::try_from(random.within(1, 9)).unwrap_or(1);
            let once = Some(Bytes::from(format!("id{number}")));
            let request = Request::one(Command::IncrBy { key: key.clone(), delta });
            (Action::Add(key, delta), Request { once, ..request })
        }
        72..76 => {
            let key = key("a", random.below(2));
            let action = Action::Append(key.clone(), value.clone());
            (action, Request::one(Command::Append { key, value }))
        }
        76..78 => {
            let key = key("a", random.below(2));
            (Action::Write(vec![(key.clone(), value.clone())]), set(key, value))
        }
        78..86 => pair_of(config, &key, random, &value),
        86..93 => {
            let keys: Vec<Bytes> = (0..config.keys).map(|number| key("k", number)).collect();
            let action = Action::Read(keys.clone());
            (action, Request::one(Command::MGet { keys }))
        }
        _ => {
            let (start, end) = if random.per_mille(500) {
                (Bytes::from(prefix.clone()), Some(Bytes::from(format!("{prefix}~"))))
            } else {
                (key("k", 0), Some(key("k", config.keys)))
            };
            let action = Action::Scan(start.clone(), end.clone());
            let scan = Command::Scan { start, end, limit: 1000, reverse: false, values: true };
            (action, Request::one(scan))
        }
    }
}

fn set(key: Bytes, value: Bytes) -> Request {
    Request::one(set_command(key, value))
}

fn set_command(key: Bytes, value: Bytes) -> Command {
    let (condition, expiry) = (SetCondition::Always, Expiry::None);
    Command::Set { key, value, condition, expiry, get: false }
}

/// Two keys at one moment: in one command, or in a transaction.
fn pair_of(
    config: &Config,
    key: &impl Fn(&str, u64) -> Bytes,
    random: &mut Stream,
    value: &Bytes,
) -> (Action, Request) {
    let first = random.below(config.keys);
    let second = (first + 1) % config.keys.max(2);
    let pairs: Vec<(Bytes, Bytes)> =
        [first, second].iter().map(|number| (key("k", *number), value.clone())).collect();
    let action = Action::Write(pairs.clone());
    if random.per_mille(500) {
        return (action, Request::one(Command::MSet { pairs }));
    }
    let commands = pairs.into_iter().map(|(key, value)| set_command(key, value)).collect();
    (action, Request { transaction: true, commands, ..Request::default() })
}

/// What a reply says, in the words of histories. One that says nothing sensible becomes an answer
/// that nothing explains.
fn understand(action: &Action, reply: &Reply) -> Answer {
    let value = |reply: &Reply| match reply {
        Reply::Bulk(bytes) => Some(bytes.clone()),
        Reply::Nil
        | Reply::Ok
        | Reply::Simple(_)
        | Reply::Int(_)
        | Reply::Array(_)
        | Reply::Error(_) => None,
    };
    match (action, reply) {
        (Action::Read(keys), reply) if keys.len() == 1 && !matches!(reply, Reply::Array(_)) => {
            Answer::Values(vec![value(reply)])
        }
        (Action::Read(_), Reply::Array(replies)) => {
            Answer::Values(replies.iter().map(value).collect())
        }
        (Action::Scan(..), Reply::Array(replies)) => {
            let flat: Vec<Bytes> = replies.iter().filter_map(value).collect();
            let pairs = flat.chunks(2).filter(|pair| pair.len() == 2);
            Answer::Pairs(pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
        (_, Reply::Ok) => Answer::Done,
        (Action::Write(_), Reply::Array(replies)) if replies.iter().all(|r| *r == Reply::Ok) => {
            Answer::Done
        }
        (_, Reply::Int(number)) => Answer::Number(*number),
        _ => Answer::Number(i64::MIN),
    }
}
