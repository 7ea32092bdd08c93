//! What a node says of the cluster: its ranges (`OARLOCK RANGES`), its own state
//! (`OARLOCK STATUS`), its counters (`INFO oarlock`). Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_cluster::capacities;
use oarlock_cluster::rules::{self, Rule, RuleSet};
use serde::{Deserialize, Serialize};

use super::client::{Answer, Client};

/// How long another node may take that is asked who leads.
const OTHER_TIMEOUT: Duration = Duration::from_secs(1);

/// One range, as a node's copy of the map has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRow {
    /// The group that owns it.
    pub group: u64,
    /// Its first key.
    pub start: Vec<u8>,
    /// The first key that is no longer its own; empty: it has no end.
    pub end: Vec<u8>,
    /// The version of its bounds and replicas.
    pub epoch: u64,
    /// The node that leads it; 0: none that this node knows.
    pub leader: u64,
    /// The core of that node.
    pub leader_core: u64,
    /// The nodes that hold it.
    pub replicas: Vec<u64>,
    /// Where clients reach the core of each of these that holds it; empty if it is not known.
    pub addresses: Vec<String>,
    /// The version of the map that it is from.
    pub map_version: u64,
}

impl RangeRow {
    /// A key inside the range, named after it.
    #[must_use]
    pub fn key_inside(&self, name: &str) -> Vec<u8> {
        let mut key = self.start.clone();
        key.extend_from_slice(name.as_bytes());
        // Only bounds closer together than the name is long could leave it outside.
        if !self.end.is_empty() && key >= self.end { self.start.clone() } else { key }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its number.
    pub node: u64,
    /// How often its data directory was started.
    pub incarnation: u64,
    /// Since it started.
    pub uptime_ms: u64,
    /// The cluster's feature level, as it knows it; 0: its build knows of none.
    pub level: u16,
    /// The oldest and the newest feature level that it understands.
    pub levels: Option<(u16, u16)>,
    /// Replicas of a range for which nothing else is said; 0: its build does not tell.
    pub replication_factor: u8,
    /// Its cores.
    pub cores: Vec<CoreStatus>,
    /// Its replicas.
    pub groups: Vec<GroupStatus>,
    /// Its replicas that are lost or being rebuilt.
    pub damaged: Vec<DamagedStatus>,
    /// The other nodes as it sees them.
    pub peers: Vec<PeerStatus>,
    /// All nodes of the cluster.
    pub nodes: Vec<NodeAddress>,
}

/// One core of a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CoreStatus {
    /// Its number.
    pub core: u64,
    /// Frames written to its log.
    pub wal_frames: u64,
    /// Bytes written to its log.
    pub wal_bytes: u64,
    /// Requests that it answered as a leader, reads and writes.
    pub requests_answered: u64,
    /// Writes among them.
    pub writes_acknowledged: u64,
}

/// One replica on a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// Its group.
    pub group: u64,
    /// The core that it is on.
    pub core: u64,
    /// `leader`, `follower`, `candidate`…
    pub role: String,
    /// Its term.
    pub term: u64,
    /// Its committed index.
    pub commit: u64,
    /// Its applied index.
    pub applied: u64,
    /// Its last index.
    pub last: u64,
    /// The node that it follows; 0: none.
    pub leader: u64,
    /// Bytes of its log since the last checkpoint.
    pub log_bytes: u64,
    /// Keys that it holds.
    pub keys: u64,
    /// Their bytes and those of their values.
    pub state_bytes: u64,
    /// At a leader, how many reads it gets.
    pub reads_per_s: u64,
    /// At a leader, how many writes it gets.
    pub writes_per_s: u64,
    /// Whether it may vote: not for one support duration after a start.
    pub may_vote: bool,
    /// A leader's voters; those to come of a joint configuration.
    pub voters: Vec<u64>,
    /// The voters so far, while a leader's configuration is joint.
    pub outgoing: Vec<u64>,
    /// Who gets a leader's log and has no vote.
    pub learners: Vec<u64>,
    /// A leader's view of all replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica that is lost or being rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DamagedStatus {
    /// Its group.
    pub group: u64,
    /// `damaged`, `leaving`, `beginning`, `joining`.
    pub stage: String,
}

/// A leader's view of one replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// Its node.
    pub node: u64,
    /// The last index that it is known to have.
    pub matched: u64,
    /// `probe`, `replicate`, `snapshot`.
    pub state: String,
    /// Whether the leader's link to it is up.
    pub reachable: bool,
}

/// One node as another sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its number.
    pub node: u64,
    /// Whether the data links are up.
    pub link_up: bool,
    /// Whether it is being supported.
    pub supported: bool,
}

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// Its number.
    pub node: u64,
    /// Where it serves clients.
    pub client_address: String,
    /// Where it stands; empty: nothing is known.
    pub zone: String,
    /// The oldest and the newest feature level that it understands, as far as the node that was asked knows.
    pub levels: Option<(u16, u16)>,
}

/// Counters of one node's `INFO oarlock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that its cores made durable, each with one write.
    pub wal_frames: u64,
    /// Their bytes.
    pub wal_bytes: u64,
    /// Client writes that it acknowledged as a leader.
    pub writes_acknowledged: u64,
    /// Requests that it answered as a leader, reads and writes.
    pub requests_answered: u64,
    /// Requests of its clients that it sent to other nodes.
    pub requests_forwarded: u64,
}

impl Counters {
    /// Adds another node's.
    pub fn add(&mut self, other: &Self) {
        self.wal_frames += other.wal_frames;
        self.wal_bytes += other.wal_bytes;
        self.writes_acknowledged += other.writes_acknowledged;
        self.requests_answered += other.requests_answered;
        self.requests_forwarded += other.requests_forwarded;
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            wal_frames: self.wal_frames.saturating_sub(before.wal_frames),
            wal_bytes: self.wal_bytes.saturating_sub(before.wal_bytes),
            writes_acknowledged: self
                .writes_acknowledged
                .saturating_sub(before.writes_acknowledged),
            requests_answered: self.requests_answered.saturating_sub(before.requests_answered),
            requests_forwarded: self.requests_forwarded.saturating_sub(before.requests_forwarded),
        }
    }
}

/// Asks a node for its copy of the map, sorted by first key.
///
/// # Errors
/// If it does not answer, or not so.
pub fn ranges(client: &mut Client) -> io::Result<Vec<RangeRow>> {
    rows(&client.call(&[b"OARLOCK", b"RANGES"])?)
}

/// As [`ranges`], with the leaders that this node does not know: one surely knows who leads only where it has a
/// replica itself, so others are asked that have one. Those that do not answer are passed over.
///
/// # Errors
/// If the first node does not answer, or not so.
pub fn ranges_with_leaders(client: &mut Client) -> io::Result<Vec<RangeRow>> {
    let mut ranges = ranges(client)?;
    let mut asked = BTreeSet::new();
    while let Some(address) = ranges
        .iter()
        .filter(|range| range.leader == 0)
        .flat_map(|range| range.addresses.iter().filter_map(|text| text.parse().ok()))
        .find(|address| asked.insert(*address))
    {
        let others =
            Client::connect(address, OTHER_TIMEOUT).and_then(|mut other| self::ranges(&mut other));
        learn_leaders(&mut ranges, &others.unwrap_or_default());
    }
    Ok(ranges)
}

/// Takes from another node's ranges who leads, where that is not known yet.
pub(super) fn learn_leaders(ranges: &mut [RangeRow], others: &[RangeRow]) {
    let others: BTreeMap<u64, &RangeRow> =
        others.iter().filter(|range| range.leader != 0).map(|range| (range.group, range)).collect();
    for range in ranges.iter_mut().filter(|range| range.leader == 0) {
        if let Some(other) = others.get(&range.group) {
            (range.leader, range.leader_core) = (other.leader, other.leader_core);
        }
    }
}

/// Asks a node for its copy of the map if that is newer than `version`; no ranges if not.
///
/// # Errors
/// If it does not answer, or not so.
pub fn ranges_since(client: &mut Client, version: u64) -> io::Result<Vec<RangeRow>> {
    let version = version.to_string();
    rows(&client.call(&[b"OARLOCK", b"RANGES", b"SINCE", version.as_bytes()])?)
}

fn rows(answer: &Answer) -> io::Result<Vec<RangeRow>> {
    let Answer::Array(rows) = answer else { return Err(unexpected("OARLOCK RANGES", answer)) };
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        ranges.push(range(row).ok_or_else(|| unexpected("a row of OARLOCK RANGES", row))?);
    }
    ranges.sort_by(|a, b| a.start.cmp(&b.start));
    Ok(ranges)
}

/// A row is pairs of names and values; names that this build does not know are passed over.
fn range(row: &Answer) -> Option<RangeRow> {
    let Answer::Array(pairs) = row else { return None };
    let field = |wanted: &str| {
        let is_it =
            |pair: &&[Answer]| matches!(&pair[0], Answer::Bulk(name) if name == wanted.as_bytes());
        pairs.chunks_exact(2).find(is_it).map(|pair| &pair[1])
    };
    let numbers = |name| {
        let Answer::Array(items) = field(name)? else { return None };
        items.iter().map(number).collect::<Option<Vec<u64>>>()
    };
    let (leader, replicas, cores) =
        (number(field("leader")?)?, numbers("replicas")?, numbers("cores")?);
    let place = replicas.iter().position(|node| *node == leader);
    Some(RangeRow {
        group: number(field("group")?)?,
        start: bytes(field("start")?)?,
        end: bytes(field("end")?)?,
        epoch: number(field("epoch")?)?,
        leader,
        leader_core: place.and_then(|place| cores.get(place).copied()).unwrap_or(0),
        replicas,
        addresses: texts(field("addresses")),
        // An older node does not tell.
        map_version: field("map_version").and_then(number).unwrap_or(0),
    })
}

/// Texts, each empty where there is none; nothing at all from an older node.
fn texts(answer: Option<&Answer>) -> Vec<String> {
    let Some(Answer::Array(items)) = answer else { return Vec::new() };
    let text = |item| bytes(item).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    items.iter().map(|item| text(item).unwrap_or_default()).collect()
}

fn number(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Int(number) => u64::try_from(*number).ok(),
        Answer::Nil => Some(0),
        Answer::Simple(_) | Answer::Error(_) | Answer::Bulk(_) | Answer::Array(_) => None,
    }
}

fn bytes(answer: &Answer) -> Option<Vec<u8>> {
    match answer {
        Answer::Bulk(bytes) => Some(bytes.clone()),
        Answer::Nil => Some(Vec::new()),
        Answer::Simple(_) | Answer::Error(_) | Answer::Int(_) | Answer::Array(_) => None,
    }
}

/// Asks a node for its own state.
///
/// # Errors
/// If it does not answer, or not so.
pub fn status(client: &mut Client) -> io::Result<NodeStatus> {
    let answer = client.call(&[b"OARLOCK", b"STATUS"])?;
    let Answer::Bulk(json) = &answer else { return Err(unexpected("OARLOCK STATUS", &answer)) };
    serde_json::from_slice(json)
        .map_err(|error| io::Error::other(format!("OARLOCK STATUS gave no such document: {error}")))
}

/// Asks which nodes are to be emptied (`draining`) or are given up (`removed`).
///
/// # Errors
/// If the node does not answer, or not so: an older one does not know the question.
pub fn duties(client: &mut Client) -> io::Result<BTreeMap<u64, String>> {
    let answer = client.call(&[b"OARLOCK", b"DUTIES"])?;
    Ok(pairs("OARLOCK DUTIES", &answer)?.into_iter().filter_map(duty).collect())
}

fn duty((key, duty): (&[u8], &[u8])) -> Option<(u64, String)> {
    let node = std::str::from_utf8(key).ok()?.strip_prefix("node/")?.parse().ok()?;
    Some((node, String::from_utf8_lossy(duty).into_owned()))
}

/// Asks what nodes have room for, in bytes; those that have not told are missing.
///
/// # Errors
/// If the node does not answer, or not so: an older one does not know the question.
pub fn capacities(client: &mut Client) -> io::Result<BTreeMap<u64, u64>> {
    let answer = client.call(&[b"OARLOCK", b"CAPACITIES"])?;
    let found = pairs("OARLOCK CAPACITIES", &answer)?;
    let found = found.into_iter().filter_map(|(key, value)| capacities::read(key, value));
    Ok(found.map(|(node, bytes)| (node.get(), bytes)).collect())
}

/// Asks for all rules for keys.
///
/// # Errors
/// If the node does not answer, or not so: an older one does not know the question.
pub fn rules(client: &mut Client) -> io::Result<RuleSet> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut from: Vec<u8> = Vec::new();
    loop {
        let answer = client.call(&[b"OARLOCK", b"RULES", b"LIST", &from])?;
        let found = pairs("OARLOCK RULES", &answer)?;
        let Some(last) = found.last().and_then(|(key, _)| rules::start(key)) else {
            return Ok(RuleSet::new(rules));
        };
        from = [last, b"\0"].concat();
        rules.extend(found.iter().filter_map(|(key, value)| Rule::read(key, value)));
    }
}

/// Keys of the meta group with their values.
fn pairs<'a>(asked: &str, answer: &'a Answer) -> io::Result<Vec<(&'a [u8], &'a [u8])>> {
    let Answer::Array(entries) = answer else { return Err(unexpected(asked, answer)) };
    let pair = |pair: &'a [Answer]| match pair {
        [Answer::Bulk(key), Answer::Bulk(value)] => Some((key.as_slice(), value.as_slice())),
        _ => None,
    };
    Ok(entries.chunks_exact(2).filter_map(pair).collect())
}

/// Asks what placement plans and does, in words.
///
/// # Errors
/// If the node does not answer, or not so.
pub fn placement(client: &mut Client) -> io::Result<String> {
    let answer = client.call(&[b"OARLOCK", b"PLACEMENT"])?;
    let text = bytes(&answer).ok_or_else(|| unexpected("OARLOCK PLACEMENT", &answer))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Asks a node for its counters.
///
/// # Errors
/// If it does not answer, or not so.
pub fn counters(client: &mut Client) -> io::Result<Counters> {
    let answer = client.call(&[b"INFO", b"oarlock"])?;
    let Answer::Bulk(text) = &answer else { return Err(unexpected("INFO oarlock", &answer)) };
    Ok(parse_counters(&String::from_utf8_lossy(text)))
}

/// One number of a node's `INFO oarlock`, by its name.
///
/// # Errors
/// If the node does not answer, or has no such number.
pub fn gauge(client: &mut Client, name: &str) -> io::Result<u64> {
    let answer = client.call(&[b"INFO", b"oarlock"])?;
    let Answer::Bulk(text) = &answer else { return Err(unexpected("INFO oarlock", &answer)) };
    let text = String::from_utf8_lossy(text);
    let mut fields = text.lines().filter_map(|line| line.trim().split_once(':'));
    let found = fields.find(|(field, _)| *field == name).and_then(|(_, value)| value.parse().ok());
    found.ok_or_else(|| io::Error::other(format!("the node's INFO has no number {name}")))
}

fn parse_counters(text: &str) -> Counters {
    let mut counters = Counters::default();
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        let value = value.parse().unwrap_or(0);
        match name {
            "wal_frames" => counters.wal_frames = value,
            "wal_bytes" => counters.wal_bytes = value,
            "writes_acknowledged" => counters.writes_acknowledged = value,
            "requests_answered" => counters.requests_answered = value,
            "requests_forwarded" => counters.requests_forwarded = value,
            _ => {}
        }
    }
    counters
}

fn unexpected(what: &str, answer: &Answer) -> io::Error {
    io::Error::other(format!("the server answered {what} with {answer}: is it an Oarlock node?"))
}

/// The address that a node gave for another, if it is one.
#[must_use]
pub fn client_address(node: &NodeAddress) -> Option<SocketAddr> {
    super::run::resolve(&node.client_address).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<Answer> {
        let name = |text: &str| Answer::Bulk(text.as_bytes().to_vec());
        let ints = |all: [i64; 3]| Answer::Array(all.map(Answer::Int).to_vec());
        vec![
            name("group"),
            Answer::Int(7),
            name("what a later version adds"),
            Answer::Int(9),
            name("start"),
            Answer::Bulk(vec![0x40, 0]),
            name("end"),
            Answer::Nil,
            name("leader"),
            Answer::Int(2),
            name("replicas"),
            ints([1, 2, 3]),
            name("cores"),
            ints([0, 1, 0]),
            name("addresses"),
            Answer::Array(vec![Answer::Nil, name("127.0.0.1:7"), name("127.0.0.1:8")]),
            name("epoch"),
            Answer::Int(1),
            name("map_version"),
            Answer::Int(12),
        ]
    }

    #[test]
    fn a_row_is_read_and_what_is_new_in_it_is_left_alone() {
        let range = range(&Answer::Array(row())).unwrap();
        assert_eq!((range.group, range.leader, range.leader_core), (7, 2, 1));
        assert_eq!(range.replicas, [1, 2, 3]);
        assert_eq!(range.addresses, ["", "127.0.0.1:7", "127.0.0.1:8"]);
        assert_eq!(range.map_version, 12);
    }

    #[test]
    fn a_row_of_another_shape_is_refused() {
        assert_eq!(range(&Answer::Array(row()[..16].to_vec())), None);
        let mut wrong = row();
        wrong[5] = Answer::Int(3);
        assert_eq!(range(&Answer::Array(wrong)), None);
    }

    #[test]
    fn a_key_inside_a_range_is_inside() {
        let mut range = range(&Answer::Array(row())).unwrap();
        assert_eq!(range.key_inside("probe"), b"@\0probe");
        range.end = b"@\0a".to_vec();
        assert_eq!(range.key_inside("probe"), b"@\0");
    }

    #[test]
    fn a_duty_is_read_and_what_is_odd_passed_over() {
        assert_eq!(duty((b"node/12", b"draining")), Some((12, "draining".to_owned())));
        assert_eq!(duty((b"node/x", b"draining")), None);
    }

    #[test]
    fn counters_are_found_among_other_lines() {
        let text = "# oarlock\r\nversion:1\r\nwal_frames:10\r\nwal_bytes:40960\r\nwrites_acknowledged:25\r\nrequests_forwarded:7\r\n";
        let counters = parse_counters(text);
        assert_eq!(
            counters,
            Counters {
                wal_frames: 10,
                wal_bytes: 40960,
                writes_acknowledged: 25,
                requests_forwarded: 7,
                ..Counters::default()
            }
        );
    }

    #[test]
    fn a_status_may_have_more_and_fewer_fields_than_are_known() {
        let json = r#"{"node":2,"new":1,"groups":[{"group":3,"role":"leader","commit":9}]}"#;
        let status: NodeStatus = serde_json::from_str(json).unwrap();
        assert_eq!((status.node, status.groups[0].commit, status.peers.len()), (2, 9, 0));
    }
}
