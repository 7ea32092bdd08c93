//! Changes of the map by the commands that operators and placement have, one after the other, each under load: a
//! range is cut, a replica goes to another node or to another core, a leader hands over.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use oarlock_types::Random;

use super::episode::{Changes, Episode};
use super::{MovesOptions, start};
use crate::bench::client::{Answer, Client};
use crate::bench::cluster_map::{self, RangeRow};
use crate::bench::keys::Naming;
use crate::bench::paced::Paced;
use crate::bench::processes::{LocalCluster, poll};
use crate::bench::run::{self, RunOptions};
use crate::bench::scale::settle;
use crate::bench::schedule::Arrival;
use crate::bench::workload::Fill;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For one change.
const CHANGE_MAX: Duration = Duration::from_secs(120);
/// Bytes of each value that fills a range.
const FILL_VALUE_BYTES: usize = 1024;
/// What writes write meanwhile.
const VALUE: [u8; 128] = [b'v'; 128];
/// Keys that are written to, at most.
const KEYS_MAX: usize = 1_000;
/// Ranges of the cluster of which one goes to another node.
const RANGES: u32 = 16;

/// Cuts a full range in two, then its halves, and so on; what is written to lies in the range that is cut.
pub(super) fn split(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Changes> {
    tell("starts");
    let cluster = start(options, (3, 1, 1), folder)?;
    let (keys, _) = fill(options, &cluster, tell)?;
    let addresses = cluster.addresses();
    let mut client = client(&cluster, 1)?;
    let mut pieces = VecDeque::new();
    pieces.push_back(0..keys.len());
    let mut episodes = Vec::new();
    for n in 1..=options.splits {
        let piece = pieces.pop_front().expect("invariant: each cut makes two pieces of one");
        let middle = usize::midpoint(piece.start, piece.end);
        if middle == piece.start {
            return Err(io::Error::other("the range has too few keys for so many cuts"));
        }
        tell(&format!("{n} of {}", options.splits));
        let used = sample(&keys[piece.clone()]);
        let load = load(options, &addresses, &used);
        let cut = || cut(&mut client, &keys[middle]);
        episodes.push(Episode::run(&load, options.watch, cut)?);
        pieces.extend([piece.start..middle, middle..piece.end]);
    }
    Ok(Changes::new("split".to_owned(), "none later than 10 ms", &episodes))
}

/// Brings a replica of a full range to a node that has none, again and again; other ranges are written to.
pub(super) fn to_another_node(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Changes> {
    tell("starts");
    let cluster = start(options, (4, 1, RANGES), folder)?;
    let (_, moved) = fill(options, &cluster, tell)?;
    let others: Vec<Vec<u8>> = led(&cluster)?
        .iter()
        .filter(|range| range.group != moved)
        .map(|range| range.key_inside("moves"))
        .collect();
    let addresses = cluster.addresses();
    let mut client = client(&cluster, 1)?;
    let mut episodes = Vec::new();
    for n in 1..=options.moves {
        let range = range(&cluster, moved)?;
        let newcomer = cluster.nodes.iter().find(|node| !range.replicas.contains(&node.id));
        let leaves = range.replicas.iter().rfind(|node| **node != range.leader);
        let (Some(newcomer), Some(leaves)) = (newcomer, leaves) else {
            return Err(io::Error::other(format!("range {moved} is on {:?}", range.replicas)));
        };
        tell(&format!("{n} of {}: from node {leaves} to node {}", options.moves, newcomer.id));
        let stay = range.replicas.iter().filter(|node| *node != leaves);
        let words: Vec<u64> = [moved].iter().chain(stay).chain([&newcomer.id]).copied().collect();
        let load = load(options, &addresses, &others);
        let bring = || until_done(&mut client, "PLACE", &words);
        // A move takes longer than other changes.
        episodes.push(Episode::run(&load, options.watch * 4, bring)?);
    }
    let name = format!("{} to another node", mib(options));
    Ok(Changes::new(name, "p99 within twice", &episodes))
}

/// Lets the next node lead a range that is written to, again and again.
pub(super) fn transfer(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Changes> {
    tell("starts");
    let cluster = start(options, (3, 1, 1), folder)?;
    let group = led(&cluster)?[0].group;
    let keys: Vec<Vec<u8>> = (0..KEYS_MAX).map(|n| format!("key-{n}").into_bytes()).collect();
    let addresses = cluster.addresses();
    let mut client = client(&cluster, 1)?;
    let mut episodes = Vec::new();
    for n in 1..=options.transfers {
        let leader = range(&cluster, group)?.leader;
        let to = leader % 3 + 1;
        tell(&format!("{n} of {}: from node {leader} to node {to}", options.transfers));
        let load = load(options, &addresses, &keys);
        let hand_over = || until_done(&mut client, "TRANSFER", &[group, to]);
        episodes.push(Episode::run(&load, options.watch, hand_over)?);
    }
    Ok(Changes::new("leader transfer".to_owned(), "p99 of gaps under 20 ms", &episodes))
}

/// Brings the leader's replica of a full range that is written to to the other core of its node, again and again.
pub(super) fn to_another_core(
    options: &MovesOptions,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> io::Result<Changes> {
    tell("starts");
    let cluster = start(options, (3, 2, 1), folder)?;
    let (keys, group) = fill(options, &cluster, tell)?;
    let used = sample(&keys);
    let addresses = cluster.addresses();
    let mut client = client(&cluster, 1)?;
    poll("the newest feature level", CHANGE_MAX, || {
        let status = cluster_map::status(&mut client)?;
        let is_newest = status.levels.is_some_and(|(_, newest)| status.level == newest);
        Ok(if is_newest { Ok(()) } else { Err(format!("it is {}", status.level)) })
    })?;
    let mut episodes = Vec::new();
    for n in 1..=options.cores {
        let node = range(&cluster, group)?.leader;
        let status = cluster_map::status(&mut self::client(&cluster, node)?)?;
        let replica = status.groups.iter().find(|replica| replica.group == group);
        let replica = replica.ok_or_else(|| io::Error::other("the leader has no replica"))?;
        let (from, to) = (replica.core, 1 - replica.core);
        tell(&format!("{n} of {}: node {node}, from core {from} to core {to}", options.cores));
        let load = load(options, &addresses, &used);
        let go = || until_done(&mut client, "MOVECORE", &[group, node, to]);
        episodes.push(Episode::run(&load, options.watch, go)?);
    }
    Ok(Changes::new(format!("{} to another core", mib(options)), "none", &episodes))
}

fn mib(options: &MovesOptions) -> String {
    format!("{} MiB", options.fill_bytes >> 20)
}

fn load<'a>(
    options: &MovesOptions,
    addresses: &'a [std::net::SocketAddr],
    keys: &'a [Vec<u8>],
) -> Paced<'a> {
    Paced { addresses, keys, value: &VALUE, rate: options.rate }
}

/// Some of the keys, from everywhere among them and in no order.
fn sample(keys: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let step = keys.len().div_ceil(KEYS_MAX).max(1);
    let mut some: Vec<Vec<u8>> = keys.iter().step_by(step).cloned().collect();
    let mut random = Random::new(1);
    some.sort_by_cached_key(|_| random.next_u64());
    some
}

/// Fills the last range, and waits until nothing of that is left to do; its keys in order, and its group.
fn fill(
    options: &MovesOptions,
    cluster: &LocalCluster,
    tell: &dyn Fn(&str),
) -> io::Result<(Vec<Vec<u8>>, u64)> {
    tell(&format!("fills a range with {}", mib(options)));
    let ranges = led(cluster)?;
    let range = ranges.last().ok_or_else(|| io::Error::other("there is no range"))?;
    let count = options.fill_bytes / FILL_VALUE_BYTES as u64;
    let keys: Vec<Vec<u8>> =
        (0..count).map(|n| range.key_inside(&format!("key-{n:010}"))).collect();
    let run = RunOptions {
        addresses: cluster.addresses(),
        routes: None,
        clients: 16,
        pipeline: 16,
        rate: None,
        arrival: Arrival::Fixed,
        warmup: Duration::ZERO,
        window: None,
        timeout: CALL_TIMEOUT,
        seed: 1,
    };
    let workload = Fill::new(Naming::Listed(keys.clone()), 0..count, FILL_VALUE_BYTES);
    let (workloads, _) = run::start(&run, vec![workload])?.join()?;
    let missing: u64 = workloads.iter().map(Fill::missing).sum();
    if missing > 0 {
        return Err(io::Error::other(format!("{missing} keys could not be written")));
    }
    settle(cluster)?;
    Ok((keys, range.group))
}

fn client(cluster: &LocalCluster, node: u64) -> io::Result<Client> {
    Client::connect(cluster.node(node).client_address, CALL_TIMEOUT)
}

/// All ranges, once each has a leader.
fn led(cluster: &LocalCluster) -> io::Result<Vec<RangeRow>> {
    poll("a leader for every range", CHANGE_MAX, || Ok(cluster.led_ranges()))
}

fn range(cluster: &LocalCluster, group: u64) -> io::Result<RangeRow> {
    let found = led(cluster)?.into_iter().find(|range| range.group == group);
    found.ok_or_else(|| io::Error::other(format!("the map has no range {group} any more")))
}

/// Cuts a range so that one begins at `key`.
fn cut(client: &mut Client, key: &[u8]) -> io::Result<()> {
    poll("the range to be cut", CHANGE_MAX, || {
        let answer = client.call(&[b"OARLOCK", b"SPLIT", key])?;
        if matches!(answer, Answer::Int(_)) { Ok(Ok(())) } else { not_yet(&answer) }
    })
}

/// Asks for the next step of a change until there is none.
fn until_done(client: &mut Client, order: &str, numbers: &[u64]) -> io::Result<()> {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let mut words: Vec<&[u8]> = vec![b"OARLOCK", order.as_bytes()];
    words.extend(numbers.iter().map(String::as_bytes));
    poll(order, CHANGE_MAX, || {
        let answer = client.call(&words)?;
        if answer.is_ok() { Ok(Ok(())) } else { not_yet(&answer) }
    })
}

/// A step on the way, or that the range is busy just now; any other error is the end.
fn not_yet<T>(answer: &Answer) -> io::Result<Result<T, String>> {
    match answer.error_kind() {
        None | Some("BUSY") => Ok(Err(answer.to_string())),
        Some(_) => Err(io::Error::other(answer.to_string())),
    }
}
