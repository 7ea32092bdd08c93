//! Rules for spans of keys, as they stand in the meta group's keys: `rule/<first key>`, a line of JSON each.
//! Which of them a key is under, and where a range is under more than one. Pure.
//!
//! Spans may lie one in another or overlap: of those that have a key, the one that begins last counts. So
//! there is one answer whatever was set in whatever order, and no two writers need to agree. A rule counts as
//! a whole: what it leaves open is as for keys without a rule.

use bytes::Bytes;
use oarlock_placement::Rules;
use oarlock_store::{Command, Reply};
use oarlock_types::NodeId;
use serde::{Deserialize, Serialize};

use crate::hex;

/// How many voters a range may have by a rule.
pub const REPLICAS: [u8; 3] = [1, 3, 5];

/// What the keys of all rules begin with.
const RULES: &[u8] = b"rule/";
/// The first key behind those of all rules.
const RULES_END: Bytes = Bytes::from_static(b"rule0");
/// Rules that one request reads.
const RULES_PER_READ: u32 = 1024;
/// A read of so many bytes may have been cut short.
const LONG_READ_BYTES: usize = 512 << 10;

/// What is wanted for a span of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its first key.
    pub start: Bytes,
    /// The first key behind it; `None`: it has no end.
    pub end: Option<Bytes>,
    /// Voters of its ranges.
    pub replicas: Option<u8>,
    /// The zone where these should be led.
    pub leader_zone: Option<String>,
    /// The only nodes that may hold them; none: all may.
    pub pinned: Vec<NodeId>,
}

/// The fields, in their order. Keys are hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replicas: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pinned: Vec<u64>,
}

/// Where the rule of a span stands that begins at a key.
#[must_use]
pub fn key(start: &[u8]) -> Bytes {
    [RULES, start].concat().into()
}

/// Where the span begins whose rule stands at a key.
#[must_use]
pub fn start(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(RULES)
}

/// Reads rules, from the one on that begins at `from` or behind it.
#[must_use]
pub fn from(from: &[u8]) -> Command {
    let (start, end) = (key(from), Some(RULES_END));
    Command::Scan { start, end, limit: RULES_PER_READ, reverse: false, values: true }
}

/// What [`from`] found, and where to go on if there may be more. What this build can not read is passed over.
#[must_use]
pub fn found(reply: &Reply) -> (Vec<Rule>, Option<Bytes>) {
    let Reply::Array(entries) = reply else { return (Vec::new(), None) };
    let (mut rules, mut bytes, mut last) = (Vec::new(), 0, None);
    for pair in entries.chunks_exact(2) {
        let [Reply::Bulk(key), Reply::Bulk(value)] = pair else { continue };
        bytes += key.len() + value.len();
        last = start(key);
        rules.extend(Rule::read(key, value));
    }
    let may_be_cut = entries.len() / 2 >= RULES_PER_READ as usize || bytes >= LONG_READ_BYTES;
    let next = last.filter(|_| may_be_cut).map(|last| Bytes::from([last, b"\0"].concat()));
    (rules, next)
}

impl Rule {
    /// The rule that a key and its value stand for; a field that this build does not know is passed over.
    #[must_use]
    pub fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let start = Bytes::copy_from_slice(start(key)?);
        let text: Text = serde_json::from_slice(value).ok()?;
        let end = match text.end {
            Some(end) => Some(Bytes::from(hex::decode(&end)?)),
            None => None,
        };
        let is_span = end.as_ref().is_none_or(|end| *end > start);
        let is_count = text.replicas.is_none_or(|count| REPLICAS.contains(&count));
        let pinned = text.pinned.into_iter().map(NodeId).collect();
        let (replicas, leader_zone) = (text.replicas, text.leader_zone);
        (is_span && is_count).then_some(Self { start, end, replicas, leader_zone, pinned })
    }

    /// Its value at its [`key`].
    #[must_use]
    pub fn write(&self) -> String {
        let text = Text {
            end: self.end.as_deref().map(hex::encode),
            replicas: self.replicas,
            leader_zone: self.leader_zone.clone(),
            pinned: self.pinned.iter().map(|node| node.get()).collect(),
        };
        serde_json::to_string(&text).expect("invariant: numbers and texts")
    }

    /// Its keys, in words.
    #[must_use]
    pub fn span(&self) -> String {
        let (start, end) = (self.start.escape_ascii(), &self.end);
        match end.as_deref().map(<[u8]>::escape_ascii) {
            None if self.start.is_empty() => "all keys".to_owned(),
            None => format!("keys from \"{start}\" on"),
            Some(end) if self.start.is_empty() => format!("keys before \"{end}\""),
            Some(end) => format!("keys from \"{start}\" to \"{end}\""),
        }
    }

    /// Whether it has keys in common with another.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let begins_before =
            |one: &Self, end: &Option<Bytes>| end.as_ref().is_none_or(|end| one.start < *end);
        begins_before(self, &other.end) && begins_before(other, &self.end)
    }

    fn rules(&self, replicas: u8) -> Rules {
        Rules {
            replicas: self.replicas.unwrap_or(replicas),
            leader_zone: self.leader_zone.clone(),
            pinned: self.pinned.clone(),
        }
    }
}

/// What a range is under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled {
    /// The rules of its first key.
    pub rules: Rules,
    /// The span for which they were set; `None`: none has that key.
    pub span: Option<String>,
    /// The first of its keys that is under other rules.
    pub border: Option<Bytes>,
}

/// All rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// In the order of their first keys.
    rules: Vec<Rule>,
    /// Where another rule, or none, begins to count, in order, and its place.
    pieces: Vec<(Bytes, Option<usize>)>,
}

impl RuleSet {
    /// The rules; of two that begin at one key the last.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let by_start: std::collections::BTreeMap<Bytes, Rule> =
            rules.into_iter().map(|rule| (rule.start.clone(), rule)).collect();
        let rules: Vec<Rule> = by_start.into_values().collect();
        let mut borders: Vec<&Bytes> = rules
            .iter()
            .flat_map(|rule| [Some(&rule.start), rule.end.as_ref()])
            .flatten()
            .collect();
        borders.sort_unstable();
        borders.dedup();
        let mut pieces: Vec<(Bytes, Option<usize>)> = Vec::with_capacity(borders.len());
        // Those that have begun, the last one on top; some below it may have ended already.
        let mut begun: Vec<usize> = Vec::new();
        let mut next = 0;
        for border in borders {
            if rules.get(next).is_some_and(|rule| rule.start == *border) {
                begun.push(next);
                next += 1;
            }
            let has_ended = |at: usize| rules[at].end.as_ref().is_some_and(|end| end <= border);
            while begun.last().is_some_and(|at| has_ended(*at)) {
                begun.pop();
            }
            pieces.push((border.clone(), begun.last().copied()));
        }
        Self { rules, pieces }
    }

    /// The rules, in the order of their first keys.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule that a key is under.
    #[must_use]
    pub fn of_key(&self, key: &[u8]) -> Option<&Rule> {
        self.rule_at(self.pieces_before(key))
    }

    /// How many pieces begin at a key or before it.
    fn pieces_before(&self, key: &[u8]) -> usize {
        self.pieces.partition_point(|(start, _)| start <= key)
    }

    /// The rule of the piece before this one.
    fn rule_at(&self, next: usize) -> Option<&Rule> {
        let (_, rule) = self.pieces.get(next.checked_sub(1)?)?;
        rule.map(|at| &self.rules[at])
    }

    /// What the range of these bounds is under, if keys without a rule have so many replicas.
    #[must_use]
    pub fn of_range(&self, start: &[u8], end: Option<&[u8]>, replicas: u8) -> Ruled {
        let own = Rules { replicas, ..Rules::default() };
        let rules_at = |next| self.rule_at(next).map_or(own.clone(), |rule| rule.rules(replicas));
        let next = self.pieces_before(start);
        let rules = rules_at(next);
        let inside =
            self.pieces[next..].iter().take_while(|(at, _)| end.is_none_or(|end| at < end));
        let mut others = inside.zip(next + 1..);
        let border = others.find(|(_, next)| rules_at(*next) != rules).map(|((at, _), _)| at);
        let span = self.rule_at(next).map(Rule::span);
        Ruled { border: border.cloned(), rules, span }
    }
}

#[cfg(test)]
mod tests;
