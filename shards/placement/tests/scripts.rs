//! Golden scripts: one scenario each. `UPDATE_GOLDENFILES=1` rewrites them.

mod cluster;

use std::error::Error;
use std::fmt::Write as _;

use cluster::{Cluster, MIB};
use goldenscript::{Command, Context};
use oarlock_placement::{Duty, LoadSample, ReplicaRole, explain, plan};
use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId, WallMs};

type Outcome = Result<String, Box<dyn Error>>;

struct Script {
    cluster: Cluster,
}

impl Default for Script {
    fn default() -> Self {
        Self { cluster: Cluster::new(Vec::new()) }
    }
}

fn id(text: &str) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(text.strip_prefix('n').ok_or("a node is n1, n2, …")?.parse()?))
}

fn ids(list: &str) -> Result<Vec<NodeId>, Box<dyn Error>> {
    list.split(',').filter(|text| !text.is_empty()).map(id).collect()
}

fn group(text: &str) -> Result<GroupId, Box<dyn Error>> {
    Ok(GroupId(text.strip_prefix('g').ok_or("a range is g1, g2, …")?.parse()?))
}

fn place(text: &str) -> Result<CoreAddr, Box<dyn Error>> {
    let (node, core) = text.split_once("/c").ok_or("a place is n1/c0")?;
    Ok(CoreAddr::new(id(node)?, CoreId(core.parse()?)))
}

impl Script {
    /// `nodes n1 n2 cores=4 zone=a capacity-mib=1000`
    fn nodes(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let cores = args.take_key("cores").unwrap_or("1").parse()?;
        let zone = args.take_key("zone").unwrap_or("a");
        let capacity: u64 = args.take_key("capacity-mib").unwrap_or("1048576").parse()?;
        while let Some(arg) = args.next_pos() {
            let mut node = cluster::node(id(arg)?.0, cores, zone);
            node.capacity_bytes = capacity * MIB;
            self.cluster.view.nodes.push(node);
        }
        args.reject_next()?;
        Ok(String::new())
    }

    /// `ranges 12 on=n1,n2,n3 replicas=3`, and whatever `range` takes.
    fn ranges(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let on = ids(args.take_key("on").ok_or("on=n1,n2,…")?)?;
        let replicas = args.take_key("replicas").unwrap_or("3").parse()?;
        let count: usize = args.next_pos().ok_or("how many?")?.parse()?;
        let before = self.cluster.view.ranges.len();
        self.cluster.form(&on, count, replicas);
        for at in before..before + count {
            let group = self.cluster.view.ranges[at].group;
            self.cluster.view.ranges[at].rules.replicas = u8::try_from(replicas)?;
            self.describe(group, command)?;
        }
        Ok(String::new())
    }

    /// `range g7 n1/c0 n2/c0 n3/c1 leader=n2 mib=32 keys=100 writes=10 reads=10 …`
    fn range(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let group = group(args.next_pos().ok_or("which?")?)?;
        let mut replicas = Vec::new();
        while let Some(arg) = args.next_pos() {
            let at = place(arg)?;
            replicas.push(cluster::voter(at.node.0, at.core.0));
        }
        if !self.cluster.view.ranges.iter().any(|range| range.group == group) {
            self.cluster.push(cluster::range(group.0, replicas));
        } else if !replicas.is_empty() {
            self.cluster.range(group).replicas = replicas;
        }
        self.describe(group, command)?;
        Ok(String::new())
    }

    fn describe(&mut self, group: GroupId, command: &Command) -> Result<(), Box<dyn Error>> {
        let now = self.cluster.view.now;
        let range = self.cluster.range(group);
        let mut args = command.consume_args();
        while let Some((key, value)) = args.next_key() {
            match key {
                "mib" => range.bytes = value.parse::<u64>()? * MIB,
                "keys" => range.keys = value.parse()?,
                "writes" => range.writes_per_s = value.parse()?,
                "reads" => range.reads_per_s = value.parse()?,
                "leader" if value == "none" => range.leader = None,
                "leader" => range.leader = Some(id(value)?),
                "split-s-ago" => {
                    range.last_split = Some(WallMs(now.0 - value.parse::<u64>()? * 1_000));
                }
                "sample" if value == "hot-key" => range.sample = LoadSample::HotKey,
                "sample" => range.sample = LoadSample::SplitPoint,
                "want" => range.rules.replicas = value.parse()?,
                "leader-zone" => range.rules.leader_zone = Some(value.to_owned()),
                "pin" => range.rules.pinned = ids(value)?,
                "set-for" => range.rules_of = Some(value.to_owned()),
                "border" => range.border = Some(value.as_bytes().to_vec()),
                "behind" | "learner" => {
                    let node = id(value)?;
                    let replica = range.replicas.iter_mut().find(|r| r.at.node == node);
                    let replica = replica.ok_or("no replica there")?;
                    replica.caught_up = false;
                    if key == "learner" {
                        replica.role = ReplicaRole::Learner;
                    }
                }
                "on" | "replicas" => {}
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(())
    }

    /// `set moves=2 per-node=1 gone-s=300 ranges-per-core=1`
    fn set(&mut self, command: &Command) -> Outcome {
        let settings = &mut self.cluster.view.settings;
        let mut args = command.consume_args();
        while let Some((key, value)) = args.next_key() {
            match key {
                "moves" => settings.moves_max = value.parse()?,
                "per-node" => settings.moves_per_node_max = value.parse()?,
                "transfers" => settings.transfers_max = value.parse()?,
                "gone-s" => settings.gone_after_ms = value.parse::<u64>()? * 1_000,
                "merge-mib" => settings.merge_bytes_max = value.parse::<u64>()? << 20,
                "merges" => settings.plans_merges = value == "yes",
                "ranges-per-core" => settings.ranges_per_core_min = value.parse()?,
                other => return Err(format!("unknown setting {other}").into()),
            }
        }
        Ok(String::new())
    }

    /// `down n1`, `up n1`, `drain n1`, `serve n1`, `remove n1`
    fn node(&mut self, command: &Command) -> Outcome {
        let now = self.cluster.view.now;
        let mut args = command.consume_args();
        while let Some(arg) = args.next_pos() {
            let node = self.cluster.node(id(arg)?);
            match command.name.as_str() {
                "down" => node.down_since = Some(now),
                "up" => node.down_since = None,
                "drain" => node.duty = Duty::Draining,
                "serve" => node.duty = Duty::Serving,
                _ => node.duty = Duty::Removed,
            }
        }
        self.elect();
        Ok(String::new())
    }

    /// Groups whose leader is down elect another.
    fn elect(&mut self) {
        let nodes = self.cluster.view.nodes.clone();
        let up = |id| {
            let node = nodes.iter().find(|node| node.id == id);
            node.is_some_and(|node| node.down_since.is_none() && node.duty != Duty::Removed)
        };
        for range in &mut self.cluster.view.ranges {
            if range.leader.is_some_and(up) {
                continue;
            }
            let voters = range.voters().count();
            let mut alive: Vec<NodeId> = range.voters().map(|r| r.at.node).collect();
            alive.retain(|id| up(*id));
            range.leader = alive.first().copied().filter(|_| alive.len() > voters / 2);
        }
    }

    /// Where everything is.
    fn show(&mut self) -> Outcome {
        let mut text = String::new();
        for (node, (replicas, leaders, cores)) in self.cluster.spread() {
            let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
            let cores = cores.join(" ");
            writeln!(text, "{node}: {replicas} replicas, {leaders} leaders, on cores {cores}")?;
        }
        Ok(text)
    }

    fn show_ranges(&mut self, command: &Command) -> Outcome {
        let mut text = String::new();
        let mut args = command.consume_args();
        let mut wanted = Vec::new();
        while let Some(arg) = args.next_pos() {
            wanted.push(group(arg)?);
        }
        for range in &self.cluster.view.ranges {
            if !wanted.is_empty() && !wanted.contains(&range.group) {
                continue;
            }
            let places: Vec<String> = range.replicas.iter().map(|r| r.at.to_string()).collect();
            let leader = range.leader.map_or("nobody".to_owned(), |leader| leader.to_string());
            let mib = range.bytes / MIB;
            writeln!(text, "{}: {}, {leader} leads, {mib} MiB", range.group, places.join(" "))?;
        }
        Ok(text)
    }

    /// Bytes of the replicas of each node.
    fn sizes(&self) -> String {
        let view = &self.cluster.view;
        let bytes = |id: NodeId| -> u64 {
            let held = view.ranges.iter().filter(|r| r.replicas.iter().any(|r| r.at.node == id));
            held.map(|range| range.bytes).sum()
        };
        let line = |node: &oarlock_placement::Node| {
            let (has, room) = (bytes(node.id) / MIB, node.capacity_bytes / MIB);
            format!("{}: {has} MiB of replicas, for {room}\n", node.id)
        };
        view.nodes.iter().map(line).collect()
    }

    fn rest(&mut self) -> Outcome {
        let before = std::mem::take(&mut self.cluster.counts);
        let rounds = self.cluster.rest(10_000);
        let done = std::mem::replace(&mut self.cluster.counts, before);
        let mut text = format!("at rest after {rounds} rounds");
        let each = [
            ("moves", done.moves),
            ("removals", done.removals),
            ("transfers", done.transfers),
            ("core moves", done.core_moves),
            ("splits", done.splits),
            ("merges", done.merges),
        ];
        for (name, count) in each.into_iter().filter(|(_, count)| *count > 0) {
            write!(text, ", {count} {name}")?;
        }
        Ok(text + "\n")
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        match command.name.as_str() {
            "nodes" => self.nodes(command),
            "ranges" => self.ranges(command),
            "range" => self.range(command),
            "set" => self.set(command),
            "down" | "up" | "drain" | "serve" | "remove" => self.node(command),
            "advance" => {
                let mut args = command.consume_args();
                let seconds: u64 = args.next_pos().ok_or("seconds?")?.parse()?;
                self.cluster.advance(seconds * 1_000);
                Ok(String::new())
            }
            "plan" => {
                let planned = plan(&self.cluster.view);
                cluster::check_plan(&self.cluster.view, &planned);
                Ok(planned.to_string())
            }
            "begin" => Ok(self.cluster.begin().to_string()),
            "finish" => {
                self.cluster.finish(|_| true);
                Ok(String::new())
            }
            "do" => {
                let planned = self.cluster.begin();
                self.cluster.finish(|_| true);
                self.cluster.advance(1_000);
                Ok(planned.to_string())
            }
            "rest" => self.rest(),
            "show" => self.show(),
            "sizes" => Ok(self.sizes()),
            "where" => self.show_ranges(command),
            "explain" => {
                let mut args = command.consume_args();
                let group = group(args.next_pos().ok_or("which?")?)?;
                Ok(explain(&self.cluster.view, group).map_or("none".into(), |e| e.to_string()))
            }
            other => Err(format!("unknown command {other}").into()),
        }
    }
}

macro_rules! scripts {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            let path = concat!("tests/scripts/", stringify!($name));
            goldenscript::run(&mut Script::default(), path).expect("the script runs as written");
        }
    )* };
}

scripts! {
    core_is_not_paused_without_spare
    cores_align
    cores_balance
    cores_of_one_node
    dead_node_repaired
    drain
    drain_nowhere_to_go
    even_cluster_rests
    explanation
    fewer_cores_elsewhere
    five_zones_two_nodes_each
    full_node_gets_nothing
    half_the_capacity
    hot_core
    hot_key_reported
    hot_range_split
    larger_node_gets_more
    leader_zone_without_replica
    leaders_balance
    leftover_learner
    limits
    merge
    merge_refused
    meta_group
    nearest_to_losing_quorum_first
    new_node_fills
    node_comes_back_in_time
    node_comes_back_too_late
    nothing_below_quorum
    one_core_splits_no_load
    pinned_nodes
    preferred_leader_zone
    removed_node
    repair_before_drain_before_rules
    replica_counts
    rules_border
    size_split
    split_and_merge_do_not_undo_each_other
    surplus_on_dead_node
    task_under_way
    too_few_nodes
    two_nodes_join
    writes_balance
    zone_lost
    zones
    zones_of_unequal_size
}
