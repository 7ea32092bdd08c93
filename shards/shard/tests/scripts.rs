//! Golden scripts over whole nodes: one scenario each, read as a sequence diagram.
//! `UPDATE_GOLDENFILES=1` rewrites them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context};
use oarlock_codec::{GroupMessage, Lane};
use oarlock_raft::{Body, Message, Release};
use oarlock_store::{self as store, Expiry, Order, RangeReport, Request, SetCondition};
use oarlock_types::{CoreAddr, CoreId, FeatureLevel, GroupId, Index, Limits, NodeId, Term};
use support::{World, plan};

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Default)]
struct Script {
    world: Option<World>,
    /// Requests that are not answered yet, with what they asked.
    open: Vec<u64>,
}

fn node(text: &str) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(text.strip_prefix('n').ok_or("a node is n1, n2, …")?.parse()?))
}

fn nodes(list: &str) -> Result<Vec<NodeId>, Box<dyn Error>> {
    list.split(',').filter(|text| !text.is_empty()).map(node).collect()
}

fn group(text: &str) -> Result<GroupId, Box<dyn Error>> {
    Ok(GroupId(text.strip_prefix('g').ok_or("a group is g1, g2, …")?.parse()?))
}

/// The core of a group, the first one for a group that is not of the plan.
fn core_of(world: &World, group: GroupId) -> usize {
    let found = world.plan.ranges.iter().find(|range| range.group == group);
    found.map_or(0, |range| usize::from(range.replicas[0].core.get()))
}

fn set_limit(limits: &mut Limits, key: &str, value: u64) -> Outcome {
    let count = usize::try_from(value)?;
    match key {
        "pending_count_max" => limits.pending_count_max = count,
        "pending_bytes_max" => limits.pending_bytes_max = count,
        "inflight_bytes_max" => limits.inflight_bytes_max = count,
        "append_bytes_max" => limits.append_bytes_max = count,
        "log_cache_bytes_max" => limits.log_cache_bytes_max = count,
        "entry_bytes_max" => limits.entry_bytes_max = count,
        "snapshot_chunk_bytes" => limits.snapshot_chunk_bytes = count,
        "snapshot_bytes_per_s_max" => limits.snapshot_bytes_per_s_max = value,
        "compact_log_bytes_min" => limits.compact_log_bytes_min = value,
        "compact_tail_bytes" => limits.compact_tail_bytes = value,
        "retry_ms" => limits.retry_interval = Duration::from_millis(value),
        other => return Err(format!("no limit {other}").into()),
    }
    Ok(())
}

impl Script {
    fn w(&mut self) -> &mut World {
        self.world.as_mut().expect("`cluster` comes first")
    }

    /// `cluster nodes=3 copies=3 cores=1 groups=1 level=1 limit=value…`: forms one, and lets it settle.
    fn form(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let mut take = |key: &str, default: u64| -> Result<u64, Box<dyn Error>> {
            Ok(args.take_key(key).map_or(Ok(default), str::parse)?)
        };
        let (nodes, cores) = (take("nodes", 3)?, take("cores", 1)?);
        let (groups, settle) = (take("groups", 1)?, take("settle", 1500)?);
        let copies = usize::try_from(take("copies", 5)?)?;
        let segment_bytes = take("segment_bytes", 1 << 20)?;
        let level = FeatureLevel(u16::try_from(take("level", 1)?)?);
        let mut limits = Limits { entry_bytes_max: 200 << 10, ..Limits::default() };
        while let Some((key, value)) = args.next_key() {
            set_limit(&mut limits, key, value.parse()?)?;
        }
        let mut plan = plan(nodes, u16::try_from(cores)?, groups, limits);
        plan.ranges.iter_mut().for_each(|range| range.replicas.truncate(copies));
        plan.segment_bytes = segment_bytes;
        plan.level = level;
        plan.frame_bytes_max = plan.frame_bytes_max.min(usize::try_from(segment_bytes / 4)?);
        let mut world = World::new(plan, 1);
        world.run_ms(settle);
        world.trace.lines.clear();
        self.world = Some(world);
        self.leaders();
        Ok(())
    }

    fn leaders(&mut self) {
        let w = self.w();
        let groups: Vec<GroupId> = w.plan.ranges.iter().map(|range| range.group).collect();
        for group in groups {
            let line = match w.leader(group) {
                Some(leader) => {
                    let term = w.status(leader, group).unwrap().term;
                    format!("{group} is led by {leader} in term {}", term.get())
                }
                None => format!("{group} has no leader"),
            };
            w.trace.line(line);
        }
    }

    /// `write n1 g1 key=value`, `incr n1 g1 key`, `read n1 g1 key`: hands a request over. With
    /// `once=id`, `epoch=2`, `size=100` (of the value), `count=10` (so many requests), `each=5` (so
    /// many milliseconds after each), `same=key` (for all of them), `ttl=500` (milliseconds).
    /// `lane=1` (of this connection, which has nothing under way), `follows=1` (which has).
    fn ask(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let once = args.take_key("once").map(|id| Bytes::from(id.to_owned()));
        let epoch: u64 = args.take_key("epoch").unwrap_or("1").parse()?;
        let size: Option<usize> = args.take_key("size").map(str::parse).transpose()?;
        let count: u64 = args.take_key("count").unwrap_or("1").parse()?;
        let same = args.take_key("same").is_some();
        let first = args.take_key("lane").map(|n| (n.to_owned(), false));
        let lane = first.or_else(|| args.take_key("follows").map(|n| (n.to_owned(), true)));
        let lane = lane.map(|(number, follows)| -> Result<Lane, Box<dyn Error>> {
            Ok(Lane { connection: number.parse()?, follows })
        });
        let lane = lane.transpose()?;
        let ttl: Option<i64> = args.take_key("ttl").map(str::parse).transpose()?;
        let each: u64 = args.take_key("each").unwrap_or("0").parse()?;
        let to = node(args.next_pos().ok_or("to whom?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        let (key, value) = match args.next_key() {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (args.next_pos().ok_or("which key?")?.to_owned(), String::new()),
        };
        args.reject_next()?;
        for number in 0..count {
            let numbered = if count > 1 && !same { format!("{key}{number}") } else { key.clone() };
            let key = Bytes::from(numbered);
            let command = match command.name.as_str() {
                "write" => store::Command::Set {
                    key,
                    value: size.map_or(value.clone().into(), |size| vec![b'v'; size].into()),
                    condition: SetCondition::Always,
                    expiry: ttl.map_or(Expiry::None, Expiry::In),
                    get: false,
                },
                "incr" => store::Command::IncrBy { key, delta: 1 },
                _ => store::Command::Get { key },
            };
            let request = Request { once: once.clone(), ..Request::one(command) };
            let token = self.w().ask_in_lane(to, group, epoch, lane, request);
            self.open.push(token);
            self.w().run_ms(each);
        }
        Ok(())
    }

    /// `run 10` lets so many milliseconds pass; `settle` as long as requests are open, at most 5 s.
    fn pass(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let quiet = args.take_key("quiet").is_some();
        match args.next_pos() {
            Some(ms) => {
                let ms = ms.parse()?;
                self.w().run_ms(ms);
            }
            None => {
                let open = self.open.clone();
                let w = self.w();
                let waits =
                    |w: &mut World| !open.iter().all(|token| w.outcomes.contains_key(token));
                let answered = w.run_while(5000, waits);
                if !answered {
                    w.trace.line("not everything is answered".to_owned());
                }
            }
        }
        let w = self.world.as_mut().unwrap();
        self.open.retain(|token| !w.outcomes.contains_key(token));
        if quiet {
            w.trace.lines.clear();
        }
        Ok(())
    }

    /// `hold n1 wal`, `free n1 wal`: also `files`, `core`, `node`; `full`: the disk is.
    fn hold(&mut self, command: &Command) -> Outcome {
        let on = command.name == "hold";
        let mut args = command.consume_args();
        let core: usize = args.take_key("core").unwrap_or("0").parse()?;
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let what = args.next_pos().ok_or("what?")?;
        let node = self.w().node(id);
        match what {
            "wal" => node.faults[core].wal_held = on,
            "files" => node.faults[core].files_held = on,
            "core" => node.faults[core].stuck = on,
            "full" => node.faults[core].disk_full = on,
            "node" => node.paused = on,
            other => return Err(format!("cannot hold {other}").into()),
        }
        Ok(())
    }

    /// `fail n1 wal`: the next write; `fail n1 files` all of them, `fail n1 appends` those to
    /// checkpoints, until `fail n1 none`.
    fn fail(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let what = args.next_pos().ok_or("what?")?;
        let node = self.w().node(id);
        match what {
            "wal" => node.faults[0].wal_fails = true,
            "files" => node.disks[0].fails = true,
            "appends" => node.disks[0].appends_fail = true,
            "none" => {
                node.disks[0].fails = false;
                node.disks[0].appends_fail = false;
            }
            other => return Err(format!("cannot fail {other}").into()),
        }
        Ok(())
    }

    /// `damage n1 4200`: that byte of its oldest segment changes.
    fn damage(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let at = args.next_pos().ok_or("where?")?.parse()?;
        self.w().node(id).disks[0].damage(at);
        Ok(())
    }

    /// `cut n1 n2` and `join n1 n2`; `cut n1 n2 data=only` leaves pulses; `deaf n1 n2` loses the
    /// pulses from n1 to n2; `drop n1 n2 3` loses the next three messages.
    fn network(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let data_only = args.take_key("data").is_some();
        let a = node(args.next_pos().ok_or("who?")?)?;
        let b = node(args.next_pos().ok_or("from whom?")?)?;
        let count = args.next_pos().unwrap_or("1").parse()?;
        let w = self.w();
        match (command.name.as_str(), data_only) {
            ("cut", true) => {
                for (from, to) in [(a, b), (b, a)] {
                    w.cut.insert((from, to));
                    w.break_link(from, to);
                }
            }
            ("cut", false) => w.separate(a, b),
            ("join", _) => w.join(a, b),
            ("deaf", _) => {
                w.deaf.insert((a, b));
            }
            _ => {
                w.drop.insert((a, b), count);
            }
        }
        Ok(())
    }

    /// `release n1 n2 g9`: n1's former leader of term 1 releases n2's replica of a group.
    fn release(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let from = node(args.next_pos().ok_or("from whom?")?)?;
        let to = node(args.next_pos().ok_or("to whom?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        let body = Body::Release(Release { leader: from, term: Term(1) });
        let message = GroupMessage { group, message: Message { term: Term(4), body } };
        let life = self.w().node(to).life.as_mut().ok_or("it is down")?;
        life.cores[0].letters.push((CoreAddr::new(from, CoreId(0)), vec![message]));
        Ok(())
    }

    /// `crash n1 torn=512`: power is lost; `restart n1`. With `unnamed=` that start finds that replicas may be lost which
    /// nobody can name.
    fn lifecycle(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let torn: usize = args.take_key("torn").unwrap_or("0").parse()?;
        let is_unnamed = args.take_key("unnamed").is_some();
        let id = node(args.next_pos().ok_or("who?")?)?;
        let w = self.w();
        if is_unnamed {
            let node = w.node(id);
            node.unnamed = Some(node.incarnation.next());
        }
        match command.name.as_str() {
            "crash" => w.crash(id, torn),
            _ => w.restart(id),
        }
        Ok(())
    }

    /// `lose n1 g1`: at its next start the node finds the replica's log damaged; `rebuild n1 g1`.
    fn rebuild(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("who?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        let w = self.w();
        let core = core_of(w, group);
        let node = w.node(id);
        match command.name.as_str() {
            "lose" => {
                node.lost.insert(group, node.incarnation.next());
            }
            "rebuild" => {
                let shard = &mut node.life.as_mut().ok_or("it is down")?.cores[core].shard;
                match shard.rebuild(group) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => w.trace.line(format!("{id} {group}: {error}")),
                    None => w.trace.line(format!("{id} {group}: no replica")),
                }
            }
            _ => {
                let shard = &node.life.as_ref().ok_or("it is down")?.cores[core].shard;
                let stage = shard.rebuild_stages().find(|(of, _)| *of == group);
                let stage = stage.map_or("none", |(_, stage)| stage.name());
                w.trace.line(format!("{id} {group} rebuilding: {stage}"));
            }
        }
        Ok(())
    }

    /// `split n1 g1 m g9`: cuts a range at a key; the new group's id.
    fn split(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("who?")?)?;
        let parent = group(args.next_pos().ok_or("which group?")?)?;
        let at = Bytes::from(args.next_pos().ok_or("where?")?.to_owned());
        let child = group(args.next_pos().ok_or("for which group?")?)?;
        let w = self.w();
        if let Err(error) = w.split(id, parent, at, child) {
            w.trace.line(format!("{id} {parent}: {error}"));
        }
        Ok(())
    }

    /// `order n1 g1 voters=n1,n2,n4`, `order n1 g1 leader=n2`, `order n1 g1 cut=m`: asks that of the range, as
    /// operators do. With `epoch=2`, `count=10` (so many times).
    fn order(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let epoch = args.take_key("epoch").unwrap_or("1").parse()?;
        let count: u64 = args.take_key("count").unwrap_or("1").parse()?;
        let id = node(args.next_pos().ok_or("whom?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        let order = match args.next_key().ok_or("what?")? {
            ("voters", list) => {
                Order::Place { voters: nodes(list)?.into_iter().map(NodeId::get).collect() }
            }
            ("leader", to) => Order::Transfer { to: node(to)?.get() },
            ("cut", at) => Order::Split { at: Bytes::from(at.to_owned()) },
            (other, _) => return Err(format!("no order {other}").into()),
        };
        args.reject_next()?;
        let request = Request::one(store::Command::Order(order));
        for _ in 0..count {
            let token = self.w().ask(id, group, epoch, request.clone());
            self.open.push(token);
        }
        Ok(())
    }

    /// `ids n1 8,9`: ids for new groups; `soon n1 g1 m`: its range is to be cut there once there is one.
    fn cut(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let what = args.next_pos().ok_or("which?")?;
        let at = args.next_pos().map(|at| Bytes::from(at.to_owned()));
        args.reject_next()?;
        let shard = &mut self.w().node(id).life.as_mut().ok_or("it is down")?.cores[0].shard;
        match at {
            Some(at) => shard.cut_soon(group(what)?, at),
            None => {
                let ids: Result<Vec<u64>, _> = what.split(',').map(str::parse).collect();
                shard.give_ids(ids?.into_iter().map(GroupId));
            }
        }
        Ok(())
    }

    /// `destroy n3 g1`: ends its replica by what the group's leader says of the members; `by=7` by the entry of
    /// that index.
    fn destroy(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let by: Option<u64> = args.take_key("by").map(str::parse).transpose()?;
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        args.reject_next()?;
        let w = self.w();
        let by = match by {
            Some(by) => Index(by),
            None => {
                let leader = w.leader(group).ok_or("nobody leads it")?;
                let shard = &w.node(leader).life.as_ref().ok_or("it is down")?.cores[0].shard;
                shard.range(group).ok_or("its members change")?.1
            }
        };
        let departure =
            w.node(id).life.as_mut().ok_or("it is down")?.cores[0].shard.destroy(group, by);
        w.trace.line(format!("{id} {group} by {}: {departure:?}", by.get()));
        Ok(())
    }

    /// `transfer n1 g1 n2`: n1's replica hands the leadership over; `members n1 g1 n1,n2
    /// learners=n3`: it makes these the members; `unfinished n1 g1`: what waits on the group's core.
    fn administer(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let learners = nodes(args.take_key("learners").unwrap_or(""))?;
        let id = node(args.next_pos().ok_or("who?")?)?;
        let group = group(args.next_pos().ok_or("which group?")?)?;
        let voters = nodes(args.next_pos().unwrap_or(""))?;
        args.reject_next()?;
        let w = self.w();
        let core = core_of(w, group);
        let shard = &mut w.node(id).life.as_mut().ok_or("it is down")?.cores[core].shard;
        let said = match command.name.as_str() {
            "transfer" => match shard.transfer(group, voters.first().copied()) {
                Ok(to) => format!("goes to {to}"),
                Err(error) => error.to_string(),
            },
            "members" => match shard.change_configuration(group, voters, learners) {
                Ok(at) => format!("changes at {at}"),
                Err(error) => error.to_string(),
            },
            _ => shard.unfinished().join(", "),
        };
        w.trace.line(format!("{id} {group}: {said}"));
        Ok(())
    }

    /// `report n1 g1`: what its leader tells placement of a range.
    fn report(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("whose?")?)?;
        let group = group(args.next_pos().ok_or("of which group?")?)?;
        args.reject_next()?;
        let w = self.w();
        let report = w.node(id).life.as_ref().ok_or("it is down")?.cores[0].shard.report(group);
        let told = report.map_or("nothing".to_owned(), |report| {
            let RangeReport { term, leader, keys, lagging, .. } = &report;
            let is_index = |word: &&u64| **word & RangeReport::AS_OF != 0;
            let lagging: Vec<&u64> = lagging.iter().filter(|word| !is_index(word)).collect();
            let (learning, lagging): (Vec<u64>, Vec<u64>) =
                lagging.into_iter().partition(|node| **node & RangeReport::LEARNS != 0);
            let learning: Vec<u64> =
                learning.into_iter().map(|node| node & !RangeReport::LEARNS).collect();
            format!(
                "term {term}, led by {leader}, {keys} keys, lagging {lagging:?}, learning {learning:?}"
            )
        });
        w.trace.line(format!("{id} {group}: {told}"));
        Ok(())
    }

    fn status(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let mut only = Vec::new();
        while let Some(arg) = args.next_pos() {
            only.push(node(arg)?);
        }
        let w = self.w();
        let ids = if only.is_empty() { w.plan.nodes.clone() } else { only };
        let groups: Vec<GroupId> = w.plan.ranges.iter().map(|range| range.group).collect();
        for id in ids {
            if w.node(id).life.is_none() {
                w.trace.line(format!("{id} is down"));
            }
            for group in &groups {
                let Some(s) = w.status(id, *group) else { continue };
                let (term, applied, last) = (s.term.get(), s.applied.get(), s.last);
                let lease = if s.lease { " lease" } else { "" };
                let (role, keys) = (s.role, s.keys);
                w.trace.line(format!(
                    "{id} {group} {role} term={term} applied={applied} last={last} keys={keys}{lease}"
                ));
            }
        }
        Ok(())
    }

    fn show(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = args.next_pos().map(node).transpose()?;
        let w = self.w();
        let ids = id.map_or_else(|| w.plan.nodes.clone(), |id| vec![id]);
        for id in ids {
            let disks = &w.node(id).disks;
            let mut lines = Vec::new();
            for (core, disk) in disks.iter().enumerate() {
                if command.name == "segments" {
                    lines.push(format!("{id}/core-{core} has {} segments", disk.segments.len()));
                    continue;
                }
                let finished = disk.files.keys().map(support::show::file);
                let parts = disk.parts.keys();
                let parts = parts.map(|file| format!("unfinished {}", support::show::file(file)));
                let all: Vec<String> = finished.chain(parts).collect();
                let all = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
                lines.push(format!("{id}/core-{core} holds {all}"));
            }
            lines.into_iter().for_each(|line| w.trace.line(line));
        }
        Ok(())
    }

    /// Whether all replicas that run have the same state.
    fn compare(&mut self) {
        let w = self.w();
        let groups: Vec<GroupId> = w.plan.ranges.iter().map(|range| range.group).collect();
        for group in groups {
            let ids = w.plan.nodes.clone();
            let all: Vec<_> = ids.into_iter().filter_map(|id| w.status(id, group)).collect();
            let first = (all[0].applied, all[0].state_hash);
            let same = all.iter().all(|s| (s.applied, s.state_hash) == first);
            let verdict = if same { "are the same" } else { "differ" };
            let (count, applied) = (all.len(), first.0.get());
            w.trace.line(format!("{count} replicas of {group} {verdict} at {applied}"));
        }
    }

    fn carry_out(&mut self, command: &Command) -> Outcome {
        match command.name.as_str() {
            "cluster" => self.form(command),
            "write" | "incr" | "read" => self.ask(command),
            "run" | "settle" => self.pass(command),
            "hold" | "free" => self.hold(command),
            "fail" => self.fail(command),
            "damage" => self.damage(command),
            "cut" | "join" | "drop" | "deaf" => self.network(command),
            "release" => self.release(command),
            "crash" | "restart" => self.lifecycle(command),
            "split" => self.split(command),
            "order" => self.order(command),
            "ids" | "soon" => self.cut(command),
            "destroy" => self.destroy(command),
            "lose" | "rebuild" | "stage" => self.rebuild(command),
            "transfer" | "members" | "unfinished" => self.administer(command),
            "status" => self.status(command),
            "report" => self.report(command),
            "files" | "segments" => self.show(command),
            "leaders" => {
                self.leaders();
                Ok(())
            }
            "compare" => {
                self.compare();
                Ok(())
            }
            "trace" => {
                let mut args = command.consume_args();
                let w = self.w();
                w.trace.wanted.clear();
                while let Some(what) = args.next_pos() {
                    w.trace.wanted.insert(what.to_owned());
                }
                Ok(())
            }
            other => Err(format!("unknown command {other}").into()),
        }
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        self.carry_out(command)?;
        let w = self.world.as_mut().unwrap();
        let mut text = w.trace.lines.join("\n");
        w.trace.lines.clear();
        if !text.is_empty() {
            text.push('\n');
        }
        Ok(text)
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
    one_write
    silent_until_durable
    failed_write
    one_frame_per_turn
    admission
    disk_full
    refusals
    lane_keeps_its_order
    overwritten_write
    unknown_fate
    read_index
    new_epoch
    stuck_core
    boot_wait
    checkpoint
    checkpoint_restart
    checkpoint_fails
    checkpoint_needs_news
    large_checkpoint
    lane_is_forgotten
    leader_leaves
    checkpoints_two_at_once
    handover
    long_writes
    log_read_fails
    tail_waits_for_a_checkpoint
    what_waits
    rebuild_then_move
    rebuild_refused
    snapshot
    snapshot_resumed
    snapshot_crashes
    snapshot_overtaken
    snapshot_marked
    log_read
    stragglers
    unreadable_log
    long_log_of_live_entries
    tail_stays
    tail_grows_old
    expired_keys
    expired_keys_wait
    release_of_absent_group
    rebuild
    split
    split_restart
    split_overtaken
    split_keeps_log
    split_lagging
    split_led_by_nobody
    split_of_a_split
    split_sends_back
    split_newer_than_losses
    split_older_than_losses
    split_without_lives
    moves
    move_leader
    move_hands_over
    move_waits
    move_leftovers
    orders_refused
    cuts
    cuts_wait
    departure
    departure_waits
}
