//! The pulse agent: when to send which pulse, and what a pulse that comes in is worth.
//!
//! One per node, on the pulse thread (or in the simulator). It alone writes promises into the
//! [`SupportTable`]; the cores read them there. It must not know of any group, and it never takes
//! a promise back: what it does not extend runs out.
//!
//! # Why a lease is safe
//! Let node L send pulse *s* to node F, let *d* be the support's duration, and let each clock be
//! off by a rate of at most δ. F promises support to a core of L until *d* after it received *s*,
//! on its own clock, which is at least `d / (1 + δ)` of real time after L sent *s*: F cannot have
//! received it earlier. L counts on that promise until *x* after it sent *s*, on its own clock,
//! which is at most `x / (1 - δ)` of real time. With `x = d (1 - 2δ)`,
//! `x / (1 - δ) <= d / (1 + δ)` because `(1 - 2δ)(1 + δ) <= 1 - δ`. So whenever L counts on F, the
//! promise stands in F's table; it stands there before any pulse speaks of it; and F's table gives
//! it up only when it has run out or when the incarnation of L that it was made to is dead.
//! The same inequality makes one support duration a long enough wait for a node that has
//! restarted and forgotten its promises.

use std::time::Duration;

use oarlock_types::{
    ClusterId, CoreAddr, CoreId, Guard, Incarnation, Limits, Mono, NodeId, Pulse, PulseSupport,
    Random, SupportEpoch,
};

use crate::support_table::SupportTable;

/// The agent's constants.
#[derive(Clone, Debug)]
pub struct PulseConfig {
    /// The cluster that pulses must name.
    pub cluster: ClusterId,
    /// How often a pulse goes to each peer, give or take an eighth.
    pub interval: Duration,
    /// How long support lasts after a pulse was received.
    pub support_duration: Duration,
    /// By how much any clock may run fast or slow, in thousandths.
    pub drift_per_mille_max: u32,
    /// A core whose loop has not moved for so long is not alive.
    pub loop_stall_max: Duration,
    /// A core whose log has been writing for so long without progress is not alive.
    pub wal_stall_max: Duration,
    /// The seed of all jitter.
    pub seed: u64,
}

impl PulseConfig {
    /// The constants that follow from the node's limits.
    #[must_use]
    pub fn new(cluster: ClusterId, limits: &Limits, seed: u64) -> Self {
        Self {
            cluster,
            interval: limits.pulse_interval,
            support_duration: limits.support_duration,
            drift_per_mille_max: limits.drift_per_mille_max,
            loop_stall_max: limits.pulse_interval * 2,
            wal_stall_max: limits.support_duration / 2,
            seed,
        }
    }

    /// How long after a pulse was sent its sender may count on the support that names it.
    #[must_use]
    pub fn lease_duration(&self) -> Duration {
        let drift = if Guard::LeaseAllowsForDrift.is_on() { self.drift_per_mille_max } else { 0 };
        let taken_off = drift.saturating_mul(2).min(1000);
        self.support_duration * (1000 - taken_off) / 1000
    }
}

/// How far a core has got: counters that only its driver writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreProgress {
    /// Grows with each turn of the core's loop.
    pub loop_counter: u64,
    /// Grows with each completed write of the core's log.
    pub wal_counter: u64,
    /// A write of the log is in flight.
    pub wal_busy: bool,
}

/// What became of a pulse that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PulseOutcome {
    /// It was newer than all before and has taken effect.
    Accepted,
    /// It names another cluster.
    OtherCluster,
    /// It is meant for another node, or comes from one that is no peer.
    Stranger,
    /// Its lists do not fit.
    Malformed,
    /// It was sent by an incarnation that is dead.
    OldIncarnation,
    /// A newer one has been seen, or this very one.
    Stale,
}

/// When a core was last seen to move.
#[derive(Clone, Copy, Debug)]
struct Movement {
    last: CoreProgress,
    loop_moved_at: Mono,
    wal_moved_at: Mono,
}

#[derive(Debug)]
struct Peer {
    node: NodeId,
    due: Mono,
    /// Number of the last pulse sent to it.
    sequence: u64,
    /// When the pulses were sent, each in the place `number % length`; a pulse's number is kept
    /// with it, so that an old one is not taken for its successor in the same place.
    sent: Vec<(u64, Mono)>,
    /// The incarnation and number of the newest pulse that came from it.
    seen_incarnation: Incarnation,
    seen_sequence: u64,
    /// For each of its cores, the promise made and the newest pulse that extended it.
    promised: Vec<Option<(SupportEpoch, u64)>>,
}

impl Peer {
    fn sent_at(&self, sequence: u64) -> Option<Mono> {
        let (number, at) = self.sent[self.place(sequence)];
        (sequence != 0 && number == sequence).then_some(at)
    }

    fn place(&self, sequence: u64) -> usize {
        let length = u64::try_from(self.sent.len()).expect("invariant: usize fits into u64");
        usize::try_from(sequence % length).expect("invariant: less than a usize")
    }
}

/// The agent.
#[derive(Debug)]
pub struct PulseAgent {
    config: PulseConfig,
    random: Random,
    peers: Vec<Peer>,
    cores: Vec<Movement>,
}

impl PulseAgent {
    /// An agent that has sent and seen nothing.
    #[must_use]
    pub fn new(config: PulseConfig, table: &SupportTable, now: Mono) -> Self {
        let random = Random::new(config.seed);
        let still =
            Movement { last: CoreProgress::default(), loop_moved_at: now, wal_moved_at: now };
        let cores = vec![still; usize::from(table.cores())];
        let mut this = Self { config, random, peers: Vec::new(), cores };
        let mut peers: Vec<NodeId> = table.peers().collect();
        peers.sort_unstable();
        peers.into_iter().for_each(|peer| this.add_peer(peer, now));
        this
    }

    /// Sends pulses to a node from now on, and takes its own; the table must know it.
    pub fn add_peer(&mut self, node: NodeId, now: Mono) {
        let Err(place) = self.peers.binary_search_by_key(&node, |peer| peer.node) else { return };
        let interval = self.config.interval;
        let in_flight = self.config.support_duration.as_micros() / interval.as_micros().max(1);
        let ring = usize::try_from(in_flight).unwrap_or(usize::MAX).clamp(8, 1 << 16) * 2;
        let peer = Peer {
            node,
            // Smeared over a whole interval, so that not all peers are due at once.
            due: now + self.random.between(Duration::ZERO, interval),
            sequence: 0,
            sent: vec![(0, Mono(0)); ring],
            seen_incarnation: Incarnation(0),
            seen_sequence: 0,
            promised: Vec::new(),
        };
        self.peers.insert(place, peer);
    }

    /// When [`tick`](Self::tick) has something to send next.
    #[must_use]
    pub fn next_due(&self) -> Mono {
        self.peers.iter().map(|peer| peer.due).min().unwrap_or(Mono::NEVER)
    }

    /// Appends the pulses that are due. `now` counts as their time of sending, so it must have
    /// been taken before they leave; `progress` holds one item for each core.
    pub fn tick(
        &mut self,
        now: Mono,
        table: &SupportTable,
        progress: &[CoreProgress],
        out: &mut Vec<Pulse>,
    ) {
        self.observe(now, progress);
        for at in 0..self.peers.len() {
            if self.peers[at].due > now {
                continue;
            }
            let eighth = self.config.interval / 8;
            let low = self.config.interval - eighth;
            self.peers[at].due = now + self.random.between(low, self.config.interval + eighth);
            if !table.have_all_let_go(self.peers[at].node) {
                out.push(self.pulse_to(at, now, table));
            }
        }
    }

    fn observe(&mut self, now: Mono, progress: &[CoreProgress]) {
        for (core, new) in self.cores.iter_mut().zip(progress) {
            if core.last.loop_counter != new.loop_counter {
                core.loop_moved_at = now;
            }
            if !new.wal_busy || core.last.wal_counter != new.wal_counter {
                core.wal_moved_at = now;
            }
            core.last = *new;
        }
    }

    fn pulse_to(&mut self, at: usize, now: Mono, table: &SupportTable) -> Pulse {
        let config = &self.config;
        let is_alive = |core: &Movement| {
            let moves = now.since(core.loop_moved_at) <= config.loop_stall_max
                && now.since(core.wal_moved_at) <= config.wal_stall_max;
            moves || !Guard::StuckCoreIsDead.is_on()
        };
        let alive = self.cores.iter().map(is_alive).collect();
        let peer = &mut self.peers[at];
        peer.sequence += 1;
        let place = peer.place(peer.sequence);
        peer.sent[place] = (peer.sequence, now);
        let to_incarnation = table.peer_incarnation(peer.node);
        let mut support = Vec::with_capacity(peer.promised.len());
        if peer.seen_incarnation == to_incarnation {
            for (core, promised) in (0..).map(CoreId).zip(&peer.promised) {
                let Some((epoch, sequence)) = *promised else { continue };
                let granted = table.granted(CoreAddr::new(peer.node, core), now);
                if granted.is_some_and(|(grant, _)| grant.epoch == epoch) {
                    support.push(PulseSupport { core, epoch, sequence });
                }
            }
        }
        Pulse {
            cluster: config.cluster,
            from: table.node(),
            to: peer.node,
            incarnation: table.incarnation(),
            to_incarnation,
            sequence: peer.sequence,
            alive,
            support,
            map_version: table.map_version(),
        }
    }

    /// Takes a pulse that was received at `now` (or earlier: a later time only makes promises
    /// longer).
    pub fn on_pulse(&mut self, now: Mono, table: &SupportTable, pulse: &Pulse) -> PulseOutcome {
        if pulse.cluster != self.config.cluster {
            return PulseOutcome::OtherCluster;
        }
        let at = self.peers.binary_search_by_key(&pulse.from, |peer| peer.node);
        let (Ok(at), true) = (at, pulse.to == table.node()) else {
            return PulseOutcome::Stranger;
        };
        let Ok(cores) = u16::try_from(pulse.alive.len()) else { return PulseOutcome::Malformed };
        if cores == 0 || cores > table.cores_max() || pulse.incarnation.get() == 0 {
            return PulseOutcome::Malformed;
        }
        // A newer incarnation proves the older one dead: this ends its promises at once. Those to
        // the new one wait for its data links, and so for its handshakes.
        if table.learn_incarnation(pulse.from, pulse.incarnation) != pulse.incarnation {
            return PulseOutcome::OldIncarnation;
        }
        let peer = &mut self.peers[at];
        if peer.seen_incarnation != pulse.incarnation {
            peer.seen_incarnation = pulse.incarnation;
            peer.seen_sequence = 0;
            peer.promised.clear();
        }
        if pulse.sequence <= peer.seen_sequence {
            return PulseOutcome::Stale;
        }
        peer.seen_sequence = pulse.sequence;
        table.learn_cores(pulse.from, cores);
        table.heard(pulse.from, now, pulse.map_version);
        self.extend_promises(at, now, table, pulse);
        self.take_support(at, now, table, pulse);
        PulseOutcome::Accepted
    }

    /// Extends the promise to each of the sender's cores that is alive and that data flows with.
    fn extend_promises(&mut self, at: usize, now: Mono, table: &SupportTable, pulse: &Pulse) {
        let peer = &mut self.peers[at];
        if peer.promised.len() < pulse.alive.len() {
            peer.promised.resize(pulse.alive.len(), None);
        }
        let until = now + self.config.support_duration;
        for ((core, alive), promised) in (0..).map(CoreId).zip(&pulse.alive).zip(&mut peer.promised)
        {
            let addr = CoreAddr::new(peer.node, core);
            if *alive && (table.links_up(addr) || !Guard::SupportNeedsLinks.is_on()) {
                *promised = table
                    .extend(addr, pulse.incarnation, now, until)
                    .map(|epoch| (epoch, pulse.sequence));
            }
        }
    }

    /// Notes the support that the sender grants to this very incarnation.
    fn take_support(&self, at: usize, now: Mono, table: &SupportTable, pulse: &Pulse) {
        if pulse.to_incarnation != table.incarnation() {
            return;
        }
        let lease = self.config.lease_duration();
        for support in &pulse.support {
            if let Some(sent_at) = self.peers[at].sent_at(support.sequence) {
                let from = if Guard::LeaseRunsFromSending.is_on() { sent_at } else { now };
                let until = from + lease;
                table.receive(pulse.from, support.core, pulse.incarnation, support.epoch, until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support_table::TableConfig;

    const CLUSTER: ClusterId = ClusterId(7);
    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    struct Node {
        table: SupportTable,
        agent: PulseAgent,
    }

    fn node(id: NodeId, other: NodeId, incarnation: u64) -> Node {
        let table = SupportTable::new(&TableConfig {
            node: id,
            incarnation: Incarnation(incarnation),
            cores: 1,
            cores_max: 4,
            origin: Mono(0),
            peers: &[(other, 0)],
        });
        let config = PulseConfig::new(CLUSTER, &Limits::default(), id.get());
        let agent = PulseAgent::new(config, &table, Mono(0));
        Node { table, agent }
    }

    impl Node {
        fn connect(&self, to: &Self) {
            let incarnation = to.table.incarnation();
            self.table.learn_incarnation(to.table.node(), incarnation);
            self.table.outgoing_up(to.table.node(), CoreId(0), incarnation);
            self.table.incoming_up(CoreAddr::new(to.table.node(), CoreId(0)), incarnation);
        }

        /// The pulse that is due at `ms` or next after it.
        fn pulse(&mut self, ms: u64, progress: CoreProgress) -> (Mono, Pulse) {
            let now = self.agent.next_due().max(Mono::from_ms(ms));
            let mut out = Vec::new();
            self.agent.tick(now, &self.table, &[progress], &mut out);
            (now, out.pop().expect("one peer is due"))
        }

        fn take(&mut self, now: Mono, pulse: &Pulse) -> PulseOutcome {
            self.agent.on_pulse(now, &self.table, pulse)
        }
    }

    fn moving(n: u64) -> CoreProgress {
        CoreProgress { loop_counter: n, ..CoreProgress::default() }
    }

    fn pair() -> (Node, Node) {
        let (one, two) = (node(ONE, TWO, 1), node(TWO, ONE, 4));
        one.connect(&two);
        two.connect(&one);
        (one, two)
    }

    #[test]
    fn a_lease_runs_from_the_time_of_sending_less_drift() {
        let (mut one, mut two) = pair();
        let (sent, pulse) = one.pulse(100, moving(1));
        let received = sent + Duration::from_millis(200);
        assert_eq!(two.take(received, &pulse), PulseOutcome::Accepted);
        let leader = CoreAddr::new(ONE, CoreId(0));
        let (grant, until) = two.table.granted(leader, received).unwrap();
        assert!(until >= received + Duration::from_millis(750));
        assert!(until <= received + Duration::from_millis(755));

        let (now, answer) = two.pulse(300, moving(1));
        assert_eq!(one.take(now, &answer), PulseOutcome::Accepted);
        let got = one.table.received(TWO, CoreId(0), now).unwrap();
        assert_eq!(got.epoch, grant.epoch);
        assert!(got.until <= sent + Duration::from_millis(720));
        assert!(got.until >= sent + Duration::from_millis(715));
    }

    #[test]
    fn who_was_let_go_gets_no_pulse_until_it_is_heard() {
        let (mut one, mut two) = pair();
        one.table.let_go(TWO, CoreId(0));
        let mut out = Vec::new();
        for ms in (0..500).step_by(10) {
            one.agent.tick(Mono::from_ms(ms), &one.table, &[moving(ms)], &mut out);
        }
        assert_eq!(out, []);
        let (now, pulse) = two.pulse(500, moving(1));
        assert_eq!(one.take(now, &pulse), PulseOutcome::Accepted);
        assert_eq!(one.pulse(600, moving(600)).1.to, TWO);
    }

    #[test]
    fn nothing_is_promised_without_links_both_ways() {
        let (mut one, mut two) = (node(ONE, TWO, 1), node(TWO, ONE, 4));
        let leader = CoreAddr::new(ONE, CoreId(0));
        let (now, pulse) = one.pulse(0, moving(1));
        assert_eq!(two.take(now, &pulse), PulseOutcome::Accepted);
        assert_eq!(two.table.granted(leader, now), None);
        let outgoing = two.table.outgoing_up(ONE, CoreId(0), Incarnation(1));
        let (now, pulse) = one.pulse(100, moving(2));
        two.take(now, &pulse);
        assert_eq!(two.table.granted(leader, now), None);
        two.table.incoming_up(leader, Incarnation(1));
        let (now, pulse) = one.pulse(200, moving(3));
        two.take(now, &pulse);
        let (grant, until) = two.table.granted(leader, now).unwrap();

        // A cut takes nothing back, it only lets the promise run out.
        two.table.outgoing_down(ONE, CoreId(0), outgoing);
        let (now, pulse) = one.pulse(300, moving(4));
        two.take(now, &pulse);
        assert_eq!(two.table.granted(leader, now), Some((grant, until)));
        assert_eq!(two.table.granted(leader, until + Duration::from_micros(1)), None);
    }

    #[test]
    fn a_stuck_core_is_not_alive() {
        let (mut one, _) = pair();
        assert_eq!(one.pulse(0, moving(1)).1.alive, [true]);
        assert_eq!(one.pulse(60, moving(2)).1.alive, [true]);
        assert_eq!(one.pulse(150, moving(2)).1.alive, [true], "one interval may be missed");
        assert_eq!(one.pulse(300, moving(2)).1.alive, [false]);
        assert_eq!(one.pulse(400, moving(3)).1.alive, [true]);
        let busy = |n| CoreProgress { loop_counter: n, wal_counter: 1, wal_busy: true };
        assert_eq!(one.pulse(500, busy(4)).1.alive, [true]);
        assert_eq!(one.pulse(800, busy(5)).1.alive, [true]);
        assert_eq!(one.pulse(900, busy(6)).1.alive, [false], "its log is stuck");
        let done = CoreProgress { wal_counter: 2, ..busy(7) };
        assert_eq!(one.pulse(1000, done).1.alive, [true]);
    }

    /// Answers count as long as the support that they speak of may last, however many pulses were
    /// sent since; and each is sent about an interval after the one before.
    #[test]
    fn a_late_answer_is_known_and_pulses_come_evenly() {
        let (mut one, mut two) = pair();
        let Limits { support_duration, pulse_interval, .. } = Limits::default();
        let (first, pulse) = one.pulse(0, moving(1));
        two.take(first, &pulse);
        let (_, answer) = two.pulse(0, moving(1));
        let mut last = first;
        for n in 2.. {
            let due = one.agent.next_due();
            let gap = due.since(last);
            assert!(gap >= pulse_interval * 7 / 8 && gap <= pulse_interval * 9 / 8, "{gap:?}");
            if due.since(first) >= support_duration - pulse_interval {
                break;
            }
            last = one.pulse(0, moving(n)).0;
        }
        assert_eq!(one.take(last, &answer), PulseOutcome::Accepted);
        let until = one.table.received(TWO, CoreId(0), last).map(|received| received.until);
        let lease = Duration::from_millis(720);
        assert!(until.is_some_and(|until| until <= first + lease), "{until:?}");
        assert!(until.is_some_and(|until| until > last), "{until:?}");
    }

    #[test]
    fn a_lease_is_shorter_by_twice_the_drift_and_never_negative() {
        let lease = |drift_per_mille_max| {
            let limits = Limits { drift_per_mille_max, ..Limits::default() };
            PulseConfig::new(CLUSTER, &limits, 1).lease_duration()
        };
        let leases = [0, 20, 500, 900].map(lease);
        assert_eq!(leases, [750, 720, 0, 0].map(Duration::from_millis));
    }

    #[test]
    fn a_pulse_that_says_a_core_is_stuck_extends_nothing() {
        let (mut one, mut two) = pair();
        let (now, mut pulse) = one.pulse(0, moving(1));
        pulse.alive = vec![false];
        assert_eq!(two.take(now, &pulse), PulseOutcome::Accepted);
        assert_eq!(two.table.granted(CoreAddr::new(ONE, CoreId(0)), now), None);
    }

    #[test]
    fn old_repeated_and_foreign_pulses_change_nothing() {
        let (mut one, mut two) = pair();
        let (now, first) = one.pulse(0, moving(1));
        let (_, second) = one.pulse(100, moving(2));
        assert_eq!(two.take(now, &second), PulseOutcome::Accepted);
        assert_eq!(two.take(now, &second), PulseOutcome::Stale);
        assert_eq!(two.take(now, &first), PulseOutcome::Stale);
        let (_, next) = one.pulse(200, moving(3));
        let foreign = Pulse { cluster: ClusterId(8), ..next.clone() };
        assert_eq!(two.take(now, &foreign), PulseOutcome::OtherCluster);
        let stranger = Pulse { from: NodeId(9), ..next.clone() };
        assert_eq!(two.take(now, &stranger), PulseOutcome::Stranger);
        let misled = Pulse { to: NodeId(9), ..next.clone() };
        assert_eq!(two.take(now, &misled), PulseOutcome::Stranger);
        for cores in [0, 5] {
            let malformed = Pulse { alive: vec![true; cores], ..next.clone() };
            assert_eq!(two.take(now, &malformed), PulseOutcome::Malformed);
        }
        let unborn = Pulse { incarnation: Incarnation(0), ..next.clone() };
        assert_eq!(two.take(now, &unborn), PulseOutcome::Malformed);
        let reborn = Pulse { incarnation: Incarnation(2), sequence: 1, ..next.clone() };
        assert_eq!(two.take(now, &reborn), PulseOutcome::Accepted);
        assert_eq!(two.table.granted(CoreAddr::new(ONE, CoreId(0)), now), None);
        assert_eq!(two.take(now, &next), PulseOutcome::OldIncarnation);
    }

    #[test]
    fn support_for_another_incarnation_or_an_unknown_pulse_is_not_taken() {
        let (mut one, mut two) = pair();
        let (now, pulse) = one.pulse(0, moving(1));
        two.take(now, &pulse);
        let (now, answer) = two.pulse(100, moving(1));
        let mut late = answer.clone();
        late.to_incarnation = Incarnation(9);
        assert_eq!(one.take(now, &late), PulseOutcome::Accepted);
        assert_eq!(one.table.received(TWO, CoreId(0), now), None);
        for sequence in [0, 2, u64::MAX] {
            let mut odd = answer.clone();
            odd.sequence = late.sequence + 1;
            odd.support[0].sequence = sequence;
            one.take(now, &odd);
            assert_eq!(one.table.received(TWO, CoreId(0), now), None);
            late = odd;
        }
    }

    #[test]
    fn support_for_a_core_that_is_not_there_is_passed_over() {
        let (mut one, mut two) = pair();
        let (now, pulse) = one.pulse(0, moving(1));
        two.take(now, &pulse);
        let (now, mut answer) = two.pulse(100, moving(1));
        let gone = PulseSupport { core: CoreId(3), ..answer.support[0] };
        answer.support.insert(0, gone);
        answer.support.push(PulseSupport { core: CoreId(u16::MAX), ..gone });
        assert_eq!(one.take(now, &answer), PulseOutcome::Accepted);
        assert_eq!(one.table.received(TWO, CoreId(3), now), None);
        assert!(one.table.received(TWO, CoreId(0), now).is_some(), "the rest of the pulse counts");
    }

    #[test]
    fn pulses_to_different_peers_are_not_in_phase() {
        let peers: Vec<(NodeId, u16)> = (2..10).map(|n| (NodeId(n), 1)).collect();
        let table = SupportTable::new(&TableConfig {
            node: ONE,
            incarnation: Incarnation(1),
            cores: 1,
            cores_max: 1,
            origin: Mono(0),
            peers: &peers,
        });
        let config = PulseConfig::new(CLUSTER, &Limits::default(), 1);
        let mut agent = PulseAgent::new(config, &table, Mono(0));
        let (mut ticks, mut pulses) = (0_u32, Vec::new());
        while agent.next_due() < Mono::from_ms(5000) {
            agent.tick(agent.next_due(), &table, &[moving(1)], &mut pulses);
            ticks += 1;
        }
        assert!((760..=840).contains(&pulses.len()), "{} pulses in 100 intervals", pulses.len());
        assert!(ticks > 700, "{ticks} ticks: peers share one phase");
    }
}
