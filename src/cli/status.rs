//! `oarlock status`: asks one node, then every node that it names, and shows nodes, ranges,
//! leaders and lag. Reads only; a node that does not answer in time is shown as down.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use oarlock_cluster::hex;
use serde_json::{Value, json};

use super::asked::Asked;
use super::exit::Exit;
use super::keys::shown;
use super::table::{render, shown_levels};
use crate::bench::client::Client;
use crate::bench::cluster_map::{self, GroupStatus, NodeAddress, NodeStatus, RangeRow};
use crate::bench::run::resolve;

/// Show a cluster's nodes, ranges, leaders and lag.
///
/// Ends with 1 if a range has no leader or the node does not answer.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// How long to wait for each node.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub timeout_ms: u64,
}

/// Runs it.
#[must_use]
pub fn run(args: &StatusArgs) -> Exit {
    let timeout = Duration::from_millis(args.timeout_ms);
    let picture = resolve(&args.asked.address).and_then(|address| look(address, timeout));
    match picture {
        Ok(picture) => {
            let text = if args.json { format!("{:#}\n", picture.json()) } else { picture.text() };
            super::print(&text);
            if picture.leaderless() == 0 { Exit::Ok } else { Exit::Failed }
        }
        Err(error) => {
            eprintln!("oarlock status: {}: {error}", args.asked.address);
            Exit::Failed
        }
    }
}

/// The cluster as it looked while its nodes were asked, one after the other.
struct Picture {
    nodes: Vec<(NodeAddress, Option<NodeStatus>)>,
    ranges: Vec<RangeRow>,
}

fn look(address: SocketAddr, timeout: Duration) -> io::Result<Picture> {
    let mut client = Client::connect(address, timeout)?;
    let ranges = cluster_map::ranges(&mut client)?;
    let asked = cluster_map::status(&mut client)?;
    let mut addresses = asked.nodes.clone();
    if !addresses.iter().any(|other| other.node == asked.node) {
        let client_address = address.to_string();
        addresses.push(NodeAddress { node: asked.node, client_address, ..NodeAddress::default() });
    }
    addresses.sort_by_key(|other| other.node);
    let nodes = addresses
        .into_iter()
        .map(|other| {
            let status = if other.node == asked.node {
                Some(asked.clone())
            } else {
                ask(&other, timeout).ok()
            };
            (other, status)
        })
        .collect();
    Ok(Picture { nodes, ranges })
}

fn ask(node: &NodeAddress, timeout: Duration) -> io::Result<NodeStatus> {
    cluster_map::status(&mut Client::connect(resolve(&node.client_address)?, timeout)?)
}

impl Picture {
    /// The replica of a range on its leader's node, if that node answered and says so too.
    fn leader_of(&self, range: &RangeRow) -> Option<(u64, &GroupStatus)> {
        let leads = |status: &'_ NodeStatus| {
            let leader =
                |group: &&GroupStatus| group.group == range.group && group.role == "leader";
            status.groups.iter().position(|group| leader(&group))
        };
        // Two may say so while one has not heard of the other: the higher term is right.
        let statuses = self.nodes.iter().filter_map(|(_, status)| status.as_ref());
        statuses
            .filter_map(|status| Some((status.node, &status.groups[leads(status)?])))
            .max_by_key(|(_, group)| group.term)
    }

    fn leader_node(&self, range: &RangeRow) -> u64 {
        self.leader_of(range).map_or(range.leader, |(node, _)| node)
    }

    fn leaderless(&self) -> usize {
        self.ranges.iter().filter(|range| self.leader_node(range) == 0).count()
    }

    /// How many entries each replica lacks, by node, as the leader knows.
    fn lag(&self, range: &RangeRow) -> BTreeMap<u64, Option<u64>> {
        let leader = self.leader_of(range);
        let lag = |node: u64| {
            let (leader_node, group) = leader?;
            if node == leader_node {
                return Some(0);
            }
            let replica = group.replicas.iter().find(|replica| replica.node == node)?;
            Some(group.last.saturating_sub(replica.matched))
        };
        range.replicas.iter().map(|node| (*node, lag(*node))).collect()
    }

    fn replicas_on(&self, node: u64) -> usize {
        self.ranges.iter().filter(|range| range.replicas.contains(&node)).count()
    }

    fn leaders_on(&self, node: u64) -> usize {
        self.ranges.iter().filter(|range| self.leader_node(range) == node).count()
    }

    fn lag_max(&self) -> u64 {
        let lags = self.ranges.iter().flat_map(|range| self.lag(range).into_values());
        lags.flatten().max().unwrap_or(0)
    }

    fn nodes_up(&self) -> usize {
        self.nodes.iter().filter(|(_, status)| status.is_some()).count()
    }

    /// The cluster's feature level: the highest that any knows of, since it never falls.
    fn level(&self) -> u16 {
        let levels = self.nodes.iter().filter_map(|(_, status)| status.as_ref());
        levels.map(|status| status.level).max().unwrap_or(0)
    }

    fn text(&self) -> String {
        let nodes = self.nodes.iter().map(|(node, status)| {
            let of = |show: &dyn Fn(&NodeStatus) -> String| {
                status.as_ref().map_or_else(|| "?".to_owned(), show)
            };
            vec![
                node.node.to_string(),
                node.client_address.clone(),
                if status.is_some() { "up" } else { "down" }.to_owned(),
                of(&|status| format!("{:.1?}", Duration::from_millis(status.uptime_ms))),
                of(&|status| status.incarnation.to_string()),
                of(&|status| status.cores.len().to_string()),
                of(&|status| shown_levels(status.levels)),
                self.leaders_on(node.node).to_string(),
                self.replicas_on(node.node).to_string(),
            ]
        });
        let headers = [
            "node",
            "address",
            "state",
            "uptime",
            "incarnation",
            "cores",
            "levels",
            "leaders",
            "replicas",
        ];
        let mut out = render(&headers, &nodes.collect::<Vec<_>>());
        out.push('\n');
        let ranges = self.ranges.iter().map(|range| self.range_cells(range));
        let headers = ["group", "from", "to", "leader", "term", "commit", "keys", "lag"];
        out.push_str(&render(&headers, &ranges.collect::<Vec<_>>()));
        out.push('\n');
        out.push_str(&format!(
            "{} of {} nodes up, feature level {}, {} ranges, {} without a leader, most lag {} entries\n",
            self.nodes_up(),
            self.nodes.len(),
            self.level(),
            self.ranges.len(),
            self.leaderless(),
            self.lag_max()
        ));
        out
    }

    fn range_cells(&self, range: &RangeRow) -> Vec<String> {
        let of = |show: &dyn Fn(&GroupStatus) -> u64| {
            self.leader_of(range).map_or_else(|| "?".to_owned(), |(_, g)| show(g).to_string())
        };
        let lag = self.lag(range).into_iter().map(|(node, lag)| {
            let lag = lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
            format!("n{node}:{lag}")
        });
        vec![
            range.group.to_string(),
            shown(&range.start),
            shown(&range.end),
            match self.leader_node(range) {
                0 => "none".to_owned(),
                leader => format!("n{leader}"),
            },
            of(&|group| group.term),
            of(&|group| group.commit),
            of(&|group| group.keys),
            lag.collect::<Vec<_>>().join(" "),
        ]
    }

    fn json(&self) -> Value {
        let nodes = self.nodes.iter().map(|(node, status)| {
            json!({
                "node": node.node,
                "client_address": node.client_address,
                "up": status.is_some(),
                "leaders": self.leaders_on(node.node),
                "replicas": self.replicas_on(node.node),
                "status": status,
            })
        });
        let ranges = self.ranges.iter().map(|range| {
            let leader = self.leader_of(range);
            let lag =
                self.lag(range).into_iter().map(|(node, lag)| json!({"node": node, "lag": lag}));
            json!({
                "group": range.group,
                "start": hex::encode(&range.start),
                "end": hex::encode(&range.end),
                "epoch": range.epoch,
                "leader": self.leader_node(range),
                "term": leader.map(|(_, group)| group.term),
                "commit": leader.map(|(_, group)| group.commit),
                "replicas": lag.collect::<Vec<_>>(),
            })
        });
        json!({
            "nodes": nodes.collect::<Vec<_>>(),
            "ranges": ranges.collect::<Vec<_>>(),
            "summary": {
                "nodes": self.nodes.len(),
                "nodes_up": self.nodes_up(),
                "level": self.level(),
                "ranges": self.ranges.len(),
                "leaderless": self.leaderless(),
                "lag_max": self.lag_max(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cluster_map::ReplicaStatus;

    fn range(group: u64, leader: u64) -> RangeRow {
        let (start, end) = (vec![0x80, 0], Vec::new());
        RangeRow {
            group,
            start,
            end,
            epoch: 1,
            leader,
            leader_core: 0,
            replicas: vec![1, 2, 3],
            addresses: Vec::new(),
            map_version: 1,
        }
    }

    fn picture() -> Picture {
        let address = |node| {
            let client_address = format!("127.0.0.1:{node}");
            NodeAddress { node, client_address, ..NodeAddress::default() }
        };
        let replica = |node, matched| ReplicaStatus { node, matched, ..Default::default() };
        let group = GroupStatus {
            group: 7,
            role: "leader".to_owned(),
            term: 4,
            commit: 90,
            last: 100,
            replicas: vec![replica(1, 100), replica(2, 97)],
            ..GroupStatus::default()
        };
        let old = GroupStatus { term: 3, ..group.clone() };
        let status = |node, group| NodeStatus {
            node,
            groups: vec![group],
            level: u16::try_from(node).unwrap(),
            levels: Some((1, 2)),
            ..Default::default()
        };
        Picture {
            nodes: vec![
                (address(1), Some(status(1, group))),
                (address(2), Some(status(2, old))),
                (address(3), None),
            ],
            ranges: vec![range(7, 1), range(8, 0)],
        }
    }

    #[test]
    fn the_leader_of_the_highest_term_counts_and_tells_the_lag() {
        let picture = picture();
        assert_eq!(picture.leader_node(&picture.ranges[0]), 1);
        let lag = picture.lag(&picture.ranges[0]);
        assert_eq!(lag, BTreeMap::from([(1, Some(0)), (2, Some(3)), (3, None)]));
        assert_eq!((picture.leaderless(), picture.lag_max(), picture.nodes_up()), (1, 3, 2));
    }

    #[test]
    fn what_is_down_or_without_a_leader_is_shown_so() {
        let text = picture().text();
        assert!(text.contains("down"), "{text}");
        assert!(text.contains("n1:0 n2:3 n3:?"), "{text}");
        assert!(
            text.contains("2 of 3 nodes up, feature level 2, 2 ranges, 1 without a leader"),
            "{text}"
        );
        assert!(text.contains("1-2"), "{text}");
        let json = picture().json();
        assert_eq!(json["summary"]["level"], 2);
        assert_eq!(json["summary"]["leaderless"], 1);
        assert_eq!(json["nodes"][2]["up"], false);
        assert_eq!(json["ranges"][0]["start"], "8000");
        assert_eq!(json["ranges"][0]["replicas"][1]["lag"], 3);
    }
}
