//! What a look at a cluster is for people: lines of text, made for a width and a height. Pure.
//!
//! Rates and latencies are differences between two looks; of a node that was started anew in between
//! there are none.

use std::collections::BTreeMap;

use oarlock_cluster::hex;

use super::look::{Look, NodeLook};
use crate::bench::breakdown::Breakdown;
use crate::bench::cluster_map::{CoreStatus, GroupStatus, RangeRow};
use crate::cli::keys::shown;
use crate::cli::table::render;

/// Ranges that are shown where there is no end of room.
const RANGES_SHOWN: usize = 20;
/// Longer bounds of ranges are cut.
const BOUND_CHARS_MAX: usize = 14;
/// Lines that are neither a node, nor a task, nor a range.
const FIXED_LINES: usize = 10;

/// Room for the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Characters of a line.
    pub(crate) width: usize,
    /// Lines.
    pub(crate) height: usize,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// What it says.
    pub(crate) text: String,
    /// Whether it stands above others.
    pub(crate) is_head: bool,
}

/// Two looks, the second of which is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picture<'a> {
    before: &'a Look,
    now: &'a Look,
}

/// How many lines of each kind there is room for.
struct Room {
    nodes: usize,
    tasks: usize,
    ranges: usize,
}

/// What was counted between the looks, each second.
#[derive(Clone, Copy, Default)]
struct Rates {
    writes: f64,
    reads: f64,
}

type Leaders<'a> = BTreeMap<u64, (u64, &'a GroupStatus)>;

impl<'a> Picture<'a> {
    /// Of what happened between two looks, and how it is at the second.
    pub(crate) fn new(before: &'a Look, now: &'a Look) -> Self {
        Self { before, now }
    }

    /// The picture, without a limit or cut to a size.
    pub(crate) fn lines(&self, size: Option<Size>) -> Vec<Line> {
        let leaders = self.leaders();
        let tasks = self.tasks();
        let room = self.room(size, tasks.len());
        let mut lines = vec![head(self.summary(&leaders)), plain(String::new())];
        lines.extend(self.nodes(&leaders, room.nodes));
        lines.push(plain(String::new()));
        lines.push(head("placement".to_owned()));
        let (shown, rest) = tasks.split_at(tasks.len().min(room.tasks));
        lines.extend(shown.iter().map(|task| plain(format!("  {task}"))));
        lines.extend(more(rest.len()));
        lines.push(plain(String::new()));
        lines.extend(self.ranges(&leaders, room.ranges));
        if let Some(size) = size {
            lines.truncate(size.height);
            for line in &mut lines {
                line.text = line.text.chars().take(size.width).collect();
                line.text.truncate(line.text.trim_end().len());
            }
        }
        lines
    }

    /// Nodes first, then what is under way; ranges get what is left.
    fn room(&self, size: Option<Size>, tasks: usize) -> Room {
        let nodes = self.now.nodes.len();
        let Some(size) = size else { return Room { nodes, tasks, ranges: RANGES_SHOWN } };
        let rows = size.height.saturating_sub(FIXED_LINES);
        let nodes = nodes.min(rows / 2);
        let tasks = tasks.min((rows / 4).max(1));
        Room { nodes, tasks, ranges: rows.saturating_sub(nodes + tasks) }
    }

    /// Who leads each group, and how the group is there. Two may say that they lead while one has not
    /// heard of the other: the higher term is right.
    fn leaders(&self) -> Leaders<'a> {
        let mut leaders = Leaders::new();
        let statuses = self.now.nodes.values().filter_map(|node| node.status.as_ref());
        for status in statuses {
            for group in status.groups.iter().filter(|group| group.role == "leader") {
                let newest = leaders.entry(group.group).or_insert((status.node, group));
                if newest.1.term < group.term {
                    *newest = (status.node, group);
                }
            }
        }
        leaders
    }

    fn summary(&self, leaders: &Leaders<'_>) -> String {
        let nodes = &self.now.nodes;
        let up = nodes.values().filter(|node| node.status.is_some()).count();
        let is_leaderless =
            |range: &&RangeRow| range.leader == 0 && !leaders.contains_key(&range.group);
        let leaderless = self.now.ranges.iter().filter(is_leaderless).count();
        let mut all = Rates::default();
        for rates in nodes.keys().filter_map(|node| self.rates(*node)) {
            all.writes += rates.writes;
            all.reads += rates.reads;
        }
        format!(
            "{up} of {} nodes up   {} ranges, {leaderless} without a leader   {:.0} writes/s   \
             {:.0} reads/s   writes p99 {} ms",
            nodes.len(),
            self.now.ranges.len(),
            all.writes,
            all.reads,
            ms(self.writes_us(nodes.keys()))
        )
    }

    fn rates(&self, node: u64) -> Option<Rates> {
        let (now, before) = (self.now.nodes.get(&node)?, self.before.nodes.get(&node)?);
        let (now, before) = (now.status.as_ref()?, before.status.as_ref()?);
        let seconds = self.now.at.duration_since(self.before.at).as_secs_f64();
        if now.incarnation != before.incarnation || seconds <= 0.0 {
            return None;
        }
        let count = |of: fn(&CoreStatus) -> u64| {
            let sum = |cores: &[_]| cores.iter().map(of).sum::<u64>();
            sum(&now.cores).saturating_sub(sum(&before.cores))
        };
        let (all, writes) = (count(|c| c.requests_answered), count(|c| c.writes_acknowledged));
        let per_second = |count: u64| count as f64 / seconds;
        Some(Rates { writes: per_second(writes), reads: per_second(all.saturating_sub(writes)) })
    }

    /// What 99 of 100 writes of the nodes' clients took at most.
    fn writes_us<'b>(&self, nodes: impl Iterator<Item = &'b u64>) -> Option<u64> {
        let mut all: Option<Breakdown> = None;
        for of_node in nodes.filter_map(|node| self.writes_since(*node)) {
            match &mut all {
                Some(all) => all.add(&of_node).ok()?,
                None => all = Some(of_node),
            }
        }
        all?.write_us(0.99)
    }

    fn writes_since(&self, node: u64) -> Option<Breakdown> {
        let writes = |look: &'a Look| look.nodes.get(&node)?.writes.as_ref();
        writes(self.now)?.since(writes(self.before)?).ok()
    }

    fn nodes(&self, leaders: &Leaders<'_>, room: usize) -> Vec<Line> {
        let nodes = &self.now.nodes;
        let rows = nodes.iter().take(room).map(|(id, node)| self.node_cells(*id, node, leaders));
        let headers = [
            "node",
            "address",
            "zone",
            "state",
            "replicas",
            "leaders",
            "writes/s",
            "reads/s",
            "p99 ms",
            "leaders/replicas of each core",
        ];
        let mut lines = table(&headers, &rows.collect::<Vec<_>>());
        lines.extend(more(nodes.len().saturating_sub(room)));
        lines
    }

    fn node_cells(&self, id: u64, node: &NodeLook, leaders: &Leaders<'_>) -> Vec<String> {
        let holds = |range: &&RangeRow| range.replicas.contains(&id);
        let leads = |range: &&RangeRow| {
            leaders.get(&range.group).map_or(range.leader, |(node, _)| *node) == id
        };
        let count = |what: &dyn Fn(&&RangeRow) -> bool| {
            self.now.ranges.iter().filter(|range| what(range)).count().to_string()
        };
        let rates = self.rates(id);
        let rate = |of: fn(Rates) -> f64| {
            rates.map_or_else(|| "-".to_owned(), |rates| format!("{:.0}", of(rates)))
        };
        vec![
            format!("n{id}"),
            node.address.client_address.clone(),
            if node.address.zone.is_empty() { "-".to_owned() } else { node.address.zone.clone() },
            self.state(id, node),
            count(&holds),
            count(&leads),
            rate(|rates| rates.writes),
            rate(|rates| rates.reads),
            ms(self.writes_us([id].iter())),
            cores(node, leaders),
        ]
    }

    fn state(&self, id: u64, node: &NodeLook) -> String {
        let state = if node.status.is_some() { "up" } else { "down" };
        match self.now.duties.as_ref().map(|duties| duties.get(&id)) {
            None => format!("{state}, duty unknown"),
            Some(None) => state.to_owned(),
            Some(Some(duty)) => format!("{state}, {duty}"),
        }
    }

    fn tasks(&self) -> Vec<&'a str> {
        match &self.now.placement {
            None => vec!["nobody leads the meta group just now, which plans all moves"],
            Some(text) => text.lines().collect(),
        }
    }

    fn ranges(&self, leaders: &Leaders<'_>, room: usize) -> Vec<Line> {
        let requests = |range: &RangeRow| {
            leaders.get(&range.group).map_or(0, |(_, at)| at.reads_per_s + at.writes_per_s)
        };
        let mut busiest: Vec<&RangeRow> = self.now.ranges.iter().collect();
        busiest.sort_by_key(|range| (std::cmp::Reverse(requests(range)), range.group));
        let rows = busiest.iter().take(room).map(|range| range_cells(range, leaders));
        let headers =
            ["range", "from", "to", "leader", "replicas", "writes/s", "reads/s", "keys", "bytes"];
        let mut lines = table(&headers, &rows.collect::<Vec<_>>());
        lines.extend(more(busiest.len().saturating_sub(room)));
        lines
    }
}

fn range_cells(range: &RangeRow, leaders: &Leaders<'_>) -> Vec<String> {
    let at = leaders.get(&range.group);
    let of = |show: fn(&GroupStatus) -> u64| {
        at.map_or_else(|| "?".to_owned(), |(_, group)| show(group).to_string())
    };
    let leader = match at.map_or(range.leader, |(node, _)| *node) {
        0 => "none".to_owned(),
        leader => format!("n{leader}"),
    };
    let replicas: Vec<String> = range.replicas.iter().map(|node| format!("n{node}")).collect();
    let bytes = at.map_or_else(|| "?".to_owned(), |(_, group)| bytes(group.state_bytes));
    vec![
        format!("g{}", range.group),
        bound(&range.start),
        bound(&range.end),
        leader,
        replicas.join(" "),
        of(|group| group.writes_per_s),
        of(|group| group.reads_per_s),
        of(|group| group.keys),
        bytes,
    ]
}

/// What each core has, the meta group aside, as it is no range.
fn cores(node: &NodeLook, leaders: &Leaders<'_>) -> String {
    let Some(status) = &node.status else { return "?".to_owned() };
    let leads = |group: &GroupStatus| {
        leaders.get(&group.group).is_some_and(|(leader, _)| *leader == status.node)
    };
    let core = |core: u64| {
        let held = status.groups.iter().filter(|group| group.group != 0 && group.core == core);
        let (led, all) =
            held.fold((0, 0), |(led, all), group| (led + u64::from(leads(group)), all + 1));
        format!("{led}/{all}")
    };
    let cores: Vec<String> = status.cores.iter().map(|of| core(of.core)).collect();
    // A letter first: a text, and not a number, in a table.
    format!("c {}", cores.join(" "))
}

/// The beginning of a range's bound, in characters that are each as wide as another.
fn bound(key: &[u8]) -> String {
    let mut text = shown(key);
    if !text.is_ascii() {
        text = format!("0x{}", hex::encode(key));
    }
    if text.len() > BOUND_CHARS_MAX {
        text.truncate(BOUND_CHARS_MAX - 1);
        text.push('…');
    }
    text
}

fn head(text: String) -> Line {
    Line { text, is_head: true }
}

fn plain(text: String) -> Line {
    Line { text, is_head: false }
}

fn more(count: usize) -> Option<Line> {
    (count > 0).then(|| plain(format!("  and {count} more")))
}

fn table(headers: &[&str], rows: &[Vec<String>]) -> Vec<Line> {
    let text = render(headers, rows);
    let lines = text.lines().enumerate();
    lines.map(|(at, line)| Line { text: line.to_owned(), is_head: at == 0 }).collect()
}

fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| format!("{:.1}", us as f64 / 1000.0))
}

/// Bytes with a unit that leaves few digits.
fn bytes(count: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.iter().find(|(size, _)| count >= *size);
    fits.map_or_else(
        || format!("{count} B"),
        |(size, unit)| format!("{:.1} {unit}", count as f64 / *size as f64),
    )
}

#[cfg(test)]
mod tests;
