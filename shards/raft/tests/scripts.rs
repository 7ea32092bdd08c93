//! Golden scripts: one scenario each, read as a sequence diagram. `UPDATE_GOLDENFILES=1` rewrites
//! them.

mod cluster;

use std::error::Error;
use std::time::Duration;

use cluster::{Cluster, grant, received};
use goldenscript::{Command, Context};
use oarlock_raft::{
    AppendOutcome, AppendReply, Body, Configuration, Entry, HardState, LogPosition, Message,
    Payload,
};
use oarlock_types::{Index, Limits, Mono, NodeId, Term};

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
}

type Outcome = Result<(), Box<dyn Error>>;

fn node(text: &str) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(text.strip_prefix('n').ok_or("a node is n1, n2, …")?.parse()?))
}

fn nodes(list: &str) -> Result<Vec<NodeId>, Box<dyn Error>> {
    list.split(',').filter(|t| !t.is_empty()).map(node).collect()
}

/// Small bounds, so that scripts reach them.
fn limits() -> Limits {
    Limits {
        snapshot_chunk_bytes: 16,
        inflight_messages_max: 3,
        inflight_bytes_max: 1000,
        append_bytes_max: 100,
        log_cache_bytes_max: 400,
        ..Limits::default()
    }
}

impl Script {
    fn c(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("`cluster` comes first")
    }

    fn ids(&mut self, command: &Command) -> Result<Vec<NodeId>, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut ids = Vec::new();
        while let Some(arg) = args.next_pos() {
            ids.push(node(arg)?);
        }
        if ids.is_empty() {
            ids = self.c().nodes.keys().copied().collect();
        }
        Ok(ids)
    }

    fn form(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let learners = nodes(args.take_key("learners").unwrap_or(""))?;
        let spare = nodes(args.take_key("spare").unwrap_or(""))?;
        let mut voters = Vec::new();
        while let Some(arg) = args.next_pos() {
            voters.push(node(arg)?);
        }
        args.reject_next()?;
        let mut initial = Configuration::simple(voters.clone());
        initial.learners = learners.clone();
        let ids: Vec<NodeId> = voters.into_iter().chain(learners).chain(spare).collect();
        self.cluster = Some(Cluster::new(&ids, initial, limits(), 1));
        Ok(())
    }

    /// `made-of-split n1 lacking=n3`: the group is what a split has just made, with n1 as its first leader.
    fn make_of_split(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let lacking = nodes(args.take_key("lacking").unwrap_or(""))?;
        let leader = node(args.next_pos().ok_or("who leads?")?)?;
        args.reject_next()?;
        self.c().make_of_split(leader, &lacking);
        Ok(())
    }

    /// `elect n1`: n1's election timer fires and everything that is up takes part.
    fn elect(&mut self, command: &Command) -> Outcome {
        let id = node(command.consume_args().next_pos().ok_or("who?")?)?;
        self.fire(id);
        let all: Vec<NodeId> = self.c().nodes.keys().copied().collect();
        self.c().stabilize(&all);
        self.c().trace.clear();
        let status = self.c().status(id);
        self.c().trace.push(status);
        Ok(())
    }

    fn fire(&mut self, id: NodeId) {
        let c = self.c();
        let deadline = c.group(id).deadline();
        if deadline == Mono::NEVER {
            c.trace.push(format!("{id} has no timer"));
            return;
        }
        c.fire_early(id);
        c.now = c.now.max(deadline);
        c.fire(id);
    }

    /// `deliver n2 from=n1 max=1 skip=1`, or `drop`, or `dup`: of the letters that are under way.
    fn letters(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let from = args.take_key("from").map(node).transpose()?;
        let max: usize = args.take_key("max").unwrap_or("1000").parse()?;
        let mut skip: usize = args.take_key("skip").unwrap_or("0").parse()?;
        let to = args.next_pos().map(node).transpose()?;
        args.reject_next()?;
        let c = self.c();
        let mut left: usize = c.network.len();
        let mut index = 0;
        let mut done = 0;
        while left > 0 && done < max {
            left -= 1;
            let letter = &c.network[index];
            let meant = to.is_none_or(|t| t == letter.to) && from.is_none_or(|f| f == letter.from);
            if !meant || skip > 0 {
                skip -= usize::from(meant);
                index += 1;
                continue;
            }
            done += 1;
            match command.name.as_str() {
                "deliver" => c.deliver(index),
                "drop" => {
                    c.network.remove(index);
                }
                _ => {
                    let twin = letter.clone();
                    c.network.push(twin);
                    index += 1;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let max: usize = args.take_key("max").unwrap_or("1000").parse()?;
        let id = node(args.next_pos().ok_or("who?")?)?;
        for _ in 0..max {
            if !self.c().flush(id) {
                break;
            }
        }
        Ok(())
    }

    /// `grant n2 n1 epoch=2`: n2's node supports n1's; `lapse n2 n1` ends it. `side=granter` or
    /// `side=holder` lets only one of them know.
    fn support(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let epoch: u64 = args.take_key("epoch").unwrap_or("1").parse()?;
        let side = args.take_key("side").unwrap_or("both");
        let granter = node(args.next_pos().ok_or("who?")?)?;
        let holder = node(args.next_pos().ok_or("whom?")?)?;
        args.reject_next()?;
        let given = command.name == "grant";
        let c = self.c();
        let incarnation = c.node(holder).promises.incarnation;
        if side != "granter" {
            let promises = &mut c.nodes.get_mut(&holder).ok_or("no such node")?.promises;
            promises.received.remove(&granter);
            if given {
                promises.received.insert(granter, received(epoch));
            }
            c.support_changed(holder);
        }
        if side != "holder" {
            let promises = &mut c.nodes.get_mut(&granter).ok_or("no such node")?.promises;
            promises.granted.remove(&holder);
            if given {
                promises.granted.insert(holder, grant(epoch, incarnation));
            }
            c.support_changed(granter);
        }
        Ok(())
    }

    fn configure(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let voters = nodes(args.take_key("voters").unwrap_or(""))?;
        let learners = nodes(args.take_key("learners").unwrap_or(""))?;
        let id = node(args.next_pos().ok_or("who?")?)?;
        let c = self.c();
        let result = c.with(id, |g, ctx, out| g.change_configuration(ctx, voters, learners, out));
        if let Some(Err(error)) = result {
            c.trace.push(format!("{id}: {error}"));
        }
        Ok(())
    }

    fn advance(&mut self, command: &Command) -> Outcome {
        let ms: u64 = command.consume_args().next_pos().ok_or("how long?")?.parse()?;
        let c = self.c();
        let end = c.now + Duration::from_millis(ms);
        while c.deadline() <= end {
            c.now = c.now.max(c.deadline());
            let ids: Vec<NodeId> = c.nodes.keys().copied().collect();
            for id in ids {
                let due = |g: &oarlock_raft::Group| g.deadline() <= c.now;
                if c.node(id).group.as_ref().is_some_and(due) {
                    c.fire(id);
                    c.fire_early(id);
                }
            }
        }
        c.now = end;
        Ok(())
    }

    fn lifecycle(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let may_vote = args.take_key("may_vote").unwrap_or("true").parse()?;
        let tail: u64 = args.take_key("tail").unwrap_or("0").parse()?;
        let to: u64 = args.take_key("to").unwrap_or("0").parse()?;
        let again: bool = args.take_key("again").unwrap_or("false").parse()?;
        let id = node(args.next_pos().ok_or("who?")?)?;
        let c = self.c();
        match command.name.as_str() {
            "crash" => c.crash(id),
            "tear" => c.tear(id, Index(to)),
            "damage" => c.damage(id),
            "leave" => c.ask_to_leave(id, !again),
            "join" => {
                c.with(id, |g, ctx, out| g.ask_to_join(ctx, out));
            }
            "restart" => c.start(id, may_vote),
            "may-vote" => c.nodes.get_mut(&id).ok_or("no such node")?.may_vote = may_vote,
            "compact" => c.compact(id, tail),
            _ => while c.serve(id) {},
        }
        Ok(())
    }

    /// `disk n1 term=6 log=1,1,4`: n1 starts from a disk with a log of these terms.
    fn disk(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let term: u64 = args.take_key("term").ok_or("term?")?.parse()?;
        let log = args.take_key("log").unwrap_or("");
        let size: usize = args.take_key("size").unwrap_or("0").parse()?;
        let id = node(args.next_pos().ok_or("who?")?)?;
        args.reject_next()?;
        let mut entries = Vec::new();
        for (text, index) in log.split(',').filter(|t| !t.is_empty()).zip(1..) {
            let at = LogPosition { term: Term(text.parse()?), index: Index(index) };
            let command = format!("{at}{}", "+".repeat(size));
            entries.push(Entry { at, payload: Payload::Commands(command.into()) });
        }
        let c = self.c();
        c.crash(id);
        let disk = &mut c.nodes.get_mut(&id).ok_or("no such node")?.disk;
        disk.hard = HardState { term: Term(term), vote: None };
        disk.entries = entries;
        c.start(id, true);
        let promises = &mut c.nodes.get_mut(&id).ok_or("no such node")?.promises;
        promises.incarnation = 1;
        Ok(())
    }

    fn ask(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("who?")?)?;
        let what = args.next_pos();
        let c = self.c();
        match command.name.as_str() {
            "propose" => {
                if let Some(error) = c.propose(id, what.ok_or("what?")?) {
                    c.trace.push(format!("{id}: {error}"));
                }
            }
            "read" => {
                let token = what.ok_or("token?")?.parse()?;
                c.with(id, |g, ctx, out| g.read(ctx, token, out));
            }
            "transfer" => {
                let to = what.map(node).transpose()?;
                if let Some(Err(error)) = c.with(id, |g, ctx, out| g.transfer(ctx, to, out)) {
                    c.trace.push(format!("{id}: {error}"));
                }
            }
            _ => {
                let other = node(what.ok_or("to whom?")?)?;
                let up = args.next_pos() == Some("up");
                c.with(id, |g, ctx, out| g.reachable(ctx, other, up, out));
            }
        }
        Ok(())
    }

    /// `refuse n1 n3 prev=4 hint=9@2`: n3 refuses, in n1's term, what n1 sent it behind 4.
    fn refuse(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let prev = Index(args.take_key("prev").ok_or("prev?")?.parse()?);
        let hint = args.take_key("hint").and_then(|h| h.split_once('@')).ok_or("index@term?")?;
        let hint = LogPosition { index: Index(hint.0.parse()?), term: Term(hint.1.parse()?) };
        let leader = node(args.next_pos().ok_or("whom?")?)?;
        let from = node(args.next_pos().ok_or("who?")?)?;
        args.reject_next()?;
        let outcome = AppendOutcome::Rejected { prev, hint };
        let body = Body::AppendReply(AppendReply { outcome, bound: None, read_sequence: 0 });
        let c = self.c();
        let message = Message { term: c.group(leader).term(), body };
        c.with(leader, |g, ctx, out| g.step(ctx, from, message, out));
        Ok(())
    }

    /// `split n1 m`: n1 proposes to cut the range. `lead-first n1`, `announce n2 n1`: as the shard does when
    /// it has made what a split cuts off; `tell-commit n1` when it has applied one. `was-committed n1 3`: as
    /// after a restart. `absent n1 n4`: n1 hears that n4 has no replica.
    fn cut(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = node(args.next_pos().ok_or("who?")?)?;
        let what = args.next_pos();
        args.reject_next()?;
        let c = self.c();
        match command.name.as_str() {
            "split" => {
                let split = what.ok_or("where?")?.to_owned().into();
                let told = c.with(id, |g, ctx, out| g.propose_split(ctx, split, out));
                if let Some(Err(error)) = told {
                    c.trace.push(format!("{id}: {error}"));
                }
            }
            "lead-first" => {
                c.with(id, |g, ctx, out| g.lead_first_term(ctx, out));
            }
            "tell-commit" => {
                c.with(id, |g, ctx, out| g.tell_commit(ctx, out));
            }
            "announce" => {
                let leader = node(what.ok_or("to whom?")?)?;
                c.with(id, |g, _, out| g.announce(leader, out));
            }
            "was-committed" => {
                let index = Index(what.ok_or("up to where?")?.parse()?);
                c.with(id, |g, ctx, out| g.was_committed(ctx, index, out));
            }
            _ => {
                let from = node(what.ok_or("of whom?")?)?;
                let message = Message { term: c.group(id).term(), body: Body::Absent };
                c.with(id, |g, ctx, out| g.step(ctx, from, message, out));
            }
        }
        Ok(())
    }

    fn show(&mut self, command: &Command) -> Outcome {
        let ids = self.ids(command)?;
        let c = self.c();
        for id in ids {
            let line = match command.name.as_str() {
                "log" => {
                    let log: Vec<String> =
                        c.node(id).mirror.values().map(|e| e.at.to_string()).collect();
                    format!("{id} log {}", log.join(" "))
                }
                "state" => {
                    let state = c.node(id).applied.iter();
                    let state: Vec<String> =
                        state.map(|e| cluster::payload_text(&e.payload)).collect();
                    format!("{id} state {}", state.join(", "))
                }
                "configuration" => {
                    let text = cluster::show::configuration(c.group(id).configuration());
                    format!("{id} {text}")
                }
                "progress" => {
                    let lines: Vec<String> = c
                        .group(id)
                        .progress()
                        .map(|p| {
                            format!("{id} sees {} matched={} {:?}", p.node, p.matched, p.state)
                        })
                        .collect();
                    lines.join("\n")
                }
                _ => c.status(id),
            };
            c.trace.push(line);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: &Command) -> Outcome {
        match command.name.as_str() {
            "cluster" => self.form(command),
            "made-of-split" => self.make_of_split(command),
            "elect" => self.elect(command),
            "timer" => {
                for id in self.ids(command)? {
                    self.fire(id);
                }
                Ok(())
            }
            "deliver" | "drop" | "dup" => self.letters(command),
            "flush" => self.flush(command),
            "stabilize" => {
                let ids = self.ids(command)?;
                self.c().stabilize(&ids);
                Ok(())
            }
            "disk" => self.disk(command),
            "grant" | "lapse" => self.support(command),
            "config" => self.configure(command),
            "advance" => self.advance(command),
            "crash" | "restart" | "may-vote" | "compact" | "serve" | "damage" | "leave"
            | "join" | "tear" => self.lifecycle(command),
            "propose" | "read" | "transfer" | "link" => self.ask(command),
            "refuse" => self.refuse(command),
            "split" | "lead-first" | "tell-commit" | "announce" | "was-committed" | "absent" => {
                self.cut(command)
            }
            "status" | "log" | "state" | "configuration" | "progress" => self.show(command),
            other => Err(format!("unknown command {other}").into()),
        }
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        self.carry_out(command)?;
        let mut text = self.c().trace.join("\n");
        self.c().trace.clear();
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
    apply_time_configuration
    blank_disk_is_another_node
    boot_wait
    bound_refuses
    bound_to_removed_leader
    bound_to_restarted_leader
    changes_that_are_refused
    completion_order
    conflict
    configuration_taken_back
    election
    figure_7
    figure_8
    follower_read
    higher_term_while_bound
    hint_behind_refusal
    joint_liveness
    late_completion
    late_grants
    late_release
    late_timeout_now
    late_vote_of_the_leader
    late_vote_request
    leader_counts_own_disk
    leader_loses_quorum
    leader_removes_itself
    learner_promotion
    leave_asked_again
    lease
    link_down
    log_read
    log_read_in_batches
    new_epoch
    notice_of_compacted_place
    old_append_behind_checkpoint
    one_change_at_a_time
    partial_partition
    pre_vote_after_lapse
    pre_vote_for_a_begun_term
    quiet_group
    read_answer_of_an_earlier_life
    read_index
    rebuild
    rebuild_though_taken_in_again
    rebuild_needs_a_fresh_removal
    rebuild_while_members_change
    rebuilt_replica_forgets_no_vote
    release_repeated
    single_server_change
    removed_leader_is_needed
    snapshot
    snapshot_binds
    snapshot_carries_configuration
    snapshot_of_known_state
    snapshot_restarts
    split
    split_at_restart
    split_first_term
    split_not_heard_of
    absent_members
    split_vote
    stale_candidate
    stale_refusals
    straggler
    tail_is_given_up
    torn_tail_is_sent_again
    transfer
    transfer_fails
    truncation_needs_proof
    vote_asked_twice
    window
}
