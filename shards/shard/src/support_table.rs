//! What this node promises to the cores of other nodes, and what they promise to its own.
//!
//! One per node, shared by reference between the pulse agent, which alone gives and extends, and
//! all cores, which read and mark what has lapsed. Atomics only: nobody waits here. It must not
//! decide who deserves support (that is [`crate::pulse`]) and holds no group.
//!
//! Guarantees:
//! 1. A promise is one word (epoch, until). It is extended by compare-and-swap from a value that
//!    has not lapsed, and whoever sees that it has run out marks that by compare-and-swap before
//!    acting on it. One of the two wins: a core that acts on a lapse is never overtaken by an
//!    extension of the same epoch.
//! 2. After a lapse the next promise has a higher epoch. An epoch's upper bits are the granting
//!    node's incarnation, so that epochs also grow over restarts: an acknowledgement given before
//!    a restart never counts after it.
//! 3. The incarnation that a promise is made to changes only while the promise is lapsed, and only
//!    upwards. So `incarnation, word, incarnation` read in this order, with equal incarnations,
//!    is one consistent promise.
//! 4. A promise given is rounded up to [`TICK_US`], a promise received is rounded down.
//! 5. A newer incarnation of a peer ends all that was promised to and by its older one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::SeqCst};

use oarlock_raft::{Grant, Received, Support};
use oarlock_types::{
    CoreAddr, CoreId, FeatureLevel, Guard, Incarnation, Mono, NodeId, SupportEpoch,
};

mod levels;
mod silence;

/// The grain of promises in microseconds: 36 bits of it reach almost nine years.
pub const TICK_US: u64 = 1 << TICK_BITS;
const TICK_BITS: u32 = 12;
const UNTIL_BITS: u32 = 36;
const UNTIL_MAX: u64 = (1 << UNTIL_BITS) - 1;
const LAPSES_BITS: u32 = 28;
const LAPSES_MAX: u64 = (1 << LAPSES_BITS) - 1;
/// The highest incarnation that fits into a link's mark.
const INCARNATION_MAX: u64 = (1 << 28) - 1;
/// The most other nodes that a table has room for.
pub const PEERS_MAX: usize = 1000;
/// Places for them: no more than half are ever taken, so that a search is short.
const SLOTS: usize = 2048;
const SERIAL_BITS: u32 = 36;
const SERIAL_MAX: u64 = (1 << SERIAL_BITS) - 1;

const _: () = assert!(UNTIL_BITS + LAPSES_BITS == 64);

/// A promise in one word: how often it has lapsed (upper bits) and until when it holds (lower
/// bits, in ticks since the table's origin; zero: it has lapsed).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const fn new(lapses: u64, until_ticks: u64) -> Self {
        Self(lapses << UNTIL_BITS | until_ticks)
    }
    const fn lapses(self) -> u64 {
        self.0 >> UNTIL_BITS
    }
    const fn until_ticks(self) -> u64 {
        self.0 & UNTIL_MAX
    }
    const fn has_lapsed(self) -> bool {
        self.until_ticks() == 0
    }
    const fn lapsed(self) -> Self {
        Self::new(self.lapses(), 0)
    }
}

/// A promise and whom it is made to (one given) or who made it (one received).
#[derive(Debug, Default)]
struct Promise {
    word: AtomicU64,
    incarnation: AtomicU64,
}

impl Promise {
    /// The word and the incarnation that belongs to it (guarantee 3).
    fn load(&self) -> (Word, Incarnation) {
        let mut before = self.incarnation.load(SeqCst);
        loop {
            let word = Word(self.word.load(SeqCst));
            let after = self.incarnation.load(SeqCst);
            if before == after {
                return (word, Incarnation(after));
            }
            before = after;
        }
    }

    /// Marks a word as lapsed; false if it has changed meanwhile.
    fn lapse(&self, word: Word) -> bool {
        self.word.compare_exchange(word.0, word.lapsed().0, SeqCst, SeqCst).is_ok()
    }
}

/// Names one connection, so that the end of an old one does not count as the end of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkToken(u64);

/// All that is shared about one other node.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    /// The newest that is known, from a handshake or a pulse; zero: none yet.
    incarnation: AtomicU64,
    /// Its number of cores; zero: unknown.
    cores: AtomicU16,
    map_version: AtomicU64,
    /// The levels that it understands, with the incarnation that said so.
    levels: AtomicU64,
    /// When its last pulse came, in microseconds; zero: never.
    heard_at: AtomicU64,
    /// Promises to each of its cores.
    granted: Vec<Promise>,
    /// Its promises to each of our cores.
    received: Vec<Promise>,
    /// Link from each of our cores to it: incarnation and serial of the connection, zero if down.
    outgoing: Vec<AtomicU64>,
    /// Link from each of its cores to us, likewise.
    incoming: Vec<AtomicU64>,
    /// Which of our cores dial it no more. It gets no pulses once all of them do not.
    let_go: Vec<AtomicBool>,
}

/// What a table is made of.
#[derive(Clone, Debug)]
pub struct TableConfig<'a> {
    /// This node.
    pub node: NodeId,
    /// Its incarnation, durable already.
    pub incarnation: Incarnation,
    /// Its cores.
    pub cores: u16,
    /// The most cores that a peer may have.
    pub cores_max: u16,
    /// No time before this one is ever handed in.
    pub origin: Mono,
    /// The other nodes that are known by now, with their number of cores, zero where it is unknown.
    pub peers: &'a [(NodeId, u16)],
}

/// The table.
#[derive(Debug)]
pub struct SupportTable {
    node: NodeId,
    incarnation: Incarnation,
    cores: u16,
    cores_max: u16,
    origin: Mono,
    /// Each node at the first free place from the one that its id stands for. A place that is taken
    /// stays so: whoever looks waits for nobody, however many come.
    peers: Box<[OnceLock<Box<Peer>>]>,
    peers_count: AtomicUsize,
    map_version: AtomicU64,
    level: AtomicU16,
    heard_level: AtomicU16,
    link_serial: AtomicU64,
}

impl SupportTable {
    /// A table in which nothing has been promised yet.
    ///
    /// # Panics
    /// If the incarnation is zero or beyond 2^28, a node is its own peer, or there are too many.
    #[must_use]
    pub fn new(config: &TableConfig<'_>) -> Self {
        assert!((1..=INCARNATION_MAX).contains(&config.incarnation.get()), "incarnation in range");
        let table = Self {
            node: config.node,
            incarnation: config.incarnation,
            cores: config.cores,
            cores_max: config.cores_max,
            origin: config.origin,
            peers: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            peers_count: AtomicUsize::new(0),
            map_version: AtomicU64::new(0),
            level: AtomicU16::new(FeatureLevel::FIRST.get()),
            heard_level: AtomicU16::new(FeatureLevel::FIRST.get()),
            link_serial: AtomicU64::new(0),
        };
        for &(node, cores) in config.peers {
            assert!(table.add_peer(node, cores), "no node is its peer, and there is room");
        }
        table
    }

    /// Takes note of a node that has joined; one that is known stays as it is. False: there is no room for
    /// it, or it is this node itself.
    pub fn add_peer(&self, node: NodeId, cores: u16) -> bool {
        if node == self.node || self.peers_count() >= PEERS_MAX {
            return false;
        }
        let mut peer = Box::new(self.new_peer(node, cores));
        for slot in self.probes(node) {
            // Whoever is second to a place goes on from there, unless it is the same node's.
            match slot.set(peer) {
                Ok(()) => {
                    self.peers_count.fetch_add(1, SeqCst);
                    return true;
                }
                Err(_) if slot.get().is_some_and(|taken| taken.node == node) => return true,
                Err(unset) => peer = unset,
            }
        }
        false
    }

    fn new_peer(&self, node: NodeId, cores: u16) -> Peer {
        let own = usize::from(self.cores);
        let theirs = usize::from(self.cores_max);
        Peer {
            node,
            incarnation: AtomicU64::new(0),
            cores: AtomicU16::new(cores.min(self.cores_max)),
            map_version: AtomicU64::new(0),
            levels: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            granted: (0..theirs).map(|_| Promise::default()).collect(),
            received: (0..own).map(|_| Promise::default()).collect(),
            outgoing: (0..own).map(|_| AtomicU64::new(0)).collect(),
            incoming: (0..theirs).map(|_| AtomicU64::new(0)).collect(),
            let_go: (0..own).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// The places of a node, in the order in which it is looked for there.
    fn probes(&self, node: NodeId) -> impl Iterator<Item = &OnceLock<Box<Peer>>> {
        let first = usize::try_from(node.get() % SLOTS as u64).expect("invariant: a small number");
        (first..first + SLOTS).map(|at| &self.peers[at % SLOTS])
    }

    fn peer(&self, node: NodeId) -> Option<&Peer> {
        let taken = self.probes(node).map_while(OnceLock::get);
        taken.map(Box::as_ref).find(|peer| peer.node == node)
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How many cores this node has.
    #[must_use]
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// The most cores that a peer may have.
    #[must_use]
    pub fn cores_max(&self) -> u16 {
        self.cores_max
    }

    /// The other nodes, in no order.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter_map(OnceLock::get).map(|peer| peer.node)
    }

    /// How many other nodes are known: none is ever forgotten.
    #[must_use]
    pub fn peers_count(&self) -> usize {
        self.peers_count.load(SeqCst)
    }

    /// Whether a node is known.
    #[must_use]
    pub fn has_peer(&self, node: NodeId) -> bool {
        self.peer(node).is_some()
    }

    /// What a group on `core` may know of the pulses at `now`. A lease that is checked against a
    /// `now` from before a request came in proves nothing for that request: take the time of a
    /// turn after its events have been collected.
    #[must_use]
    pub fn view(&self, core: CoreId, now: Mono) -> SupportView<'_> {
        SupportView { table: self, core, now }
    }

    // ---- peers ----

    /// The newest incarnation of a peer that is known; zero while none is.
    #[must_use]
    pub fn peer_incarnation(&self, node: NodeId) -> Incarnation {
        self.peer(node).map_or(Incarnation(0), |peer| Incarnation(peer.incarnation.load(SeqCst)))
    }

    /// Takes note of a peer's incarnation and says which one is the newest: the caller's frames
    /// are to be dropped unless it is theirs.
    pub fn learn_incarnation(&self, node: NodeId, incarnation: Incarnation) -> Incarnation {
        let Some(peer) = self.peer(node) else { return Incarnation(0) };
        if incarnation.get() > INCARNATION_MAX {
            return Incarnation(peer.incarnation.load(SeqCst));
        }
        let before = peer.incarnation.fetch_max(incarnation.get(), SeqCst);
        Incarnation(before.max(incarnation.get()))
    }

    /// How many cores a peer has; zero while it is unknown.
    #[must_use]
    pub fn peer_cores(&self, node: NodeId) -> u16 {
        self.peer(node).map_or(0, |peer| peer.cores.load(SeqCst))
    }

    /// The core of a peer that a core of ours dials.
    #[must_use]
    pub fn core_to_dial(&self, own: CoreId, peer: NodeId) -> CoreId {
        match self.peer_cores(peer) {
            0 => own,
            cores => CoreId(own.get() % cores),
        }
    }

    /// Takes note of a peer's number of cores; false (and no change) if it is out of bounds.
    pub fn learn_cores(&self, node: NodeId, cores: u16) -> bool {
        let fits = (1..=self.cores_max).contains(&cores);
        if let (true, Some(peer)) = (fits, self.peer(node)) {
            peer.cores.store(cores, SeqCst);
        }
        fits
    }

    /// The version of the cluster's map that this node holds.
    #[must_use]
    pub fn map_version(&self) -> u64 {
        self.map_version.load(SeqCst)
    }

    /// Tells the peers of a newer map.
    pub fn raise_map_version(&self, version: u64) {
        self.map_version.fetch_max(version, SeqCst);
    }

    /// The version of the cluster's map that a peer holds.
    #[must_use]
    pub fn peer_map_version(&self, node: NodeId) -> u64 {
        self.peer(node).map_or(0, |peer| peer.map_version.load(SeqCst))
    }

    /// When a peer's last pulse came.
    #[must_use]
    pub fn heard_at(&self, node: NodeId) -> Option<Mono> {
        let at = self.peer(node)?.heard_at.load(SeqCst);
        (at != 0).then_some(Mono(at))
    }

    /// A pulse of a peer's newest incarnation has come.
    pub(crate) fn heard(&self, node: NodeId, now: Mono, map_version: u64) {
        if let Some(peer) = self.peer(node) {
            peer.heard_at.store(now.0, SeqCst);
            peer.map_version.store(map_version, SeqCst);
            peer.take_up();
        }
    }

    // ---- data links ----

    /// The link from our `core` to a peer has come up.
    pub fn outgoing_up(&self, node: NodeId, core: CoreId, incarnation: Incarnation) -> LinkToken {
        self.link_up(self.peer(node).and_then(|p| p.outgoing.get(usize::from(core.0))), incarnation)
    }

    /// That link has gone down. A later link in its place stays up.
    pub fn outgoing_down(&self, node: NodeId, core: CoreId, token: LinkToken) {
        link_down(self.peer(node).and_then(|p| p.outgoing.get(usize::from(core.0))), token);
    }

    /// The link from a peer's core to us has come up.
    pub fn incoming_up(&self, from: CoreAddr, incarnation: Incarnation) -> LinkToken {
        self.take_up(from.node);
        let mark = self.peer(from.node).and_then(|p| p.incoming.get(usize::from(from.core.0)));
        self.link_up(mark, incarnation)
    }

    /// That link has gone down. A later link in its place stays up.
    pub fn incoming_down(&self, from: CoreAddr, token: LinkToken) {
        link_down(
            self.peer(from.node).and_then(|p| p.incoming.get(usize::from(from.core.0))),
            token,
        );
    }

    fn link_up(&self, mark: Option<&AtomicU64>, incarnation: Incarnation) -> LinkToken {
        let serial = self.link_serial.fetch_add(1, SeqCst) & SERIAL_MAX;
        let token = incarnation.get().min(INCARNATION_MAX) << SERIAL_BITS | serial;
        if let Some(mark) = mark {
            // A late connection of an older incarnation never hides the newer one's.
            mark.fetch_max(token, SeqCst);
        }
        LinkToken(token)
    }

    /// Whether data flows both ways between this node and a peer's core, in the peer's newest
    /// incarnation. Core `a` of ours talks with core `c` of theirs where both are equal modulo the
    /// smaller number of cores: replicas of a group sit on the same core number where they can.
    #[must_use]
    pub fn links_up(&self, to: CoreAddr) -> bool {
        let Some(peer) = self.peer(to.node) else { return false };
        let incarnation = peer.incarnation.load(SeqCst);
        let is_up = |mark: &AtomicU64| {
            let token = mark.load(SeqCst);
            token != 0 && token >> SERIAL_BITS == incarnation
        };
        let modulus = usize::from(self.cores.min(peer.cores.load(SeqCst)));
        let core = usize::from(to.core.0);
        modulus != 0
            && incarnation != 0
            && peer.incoming.get(core).is_some_and(is_up)
            && peer.outgoing.iter().skip(core % modulus).step_by(modulus).all(is_up)
    }

    // ---- promises given ----

    /// Promises support to a peer's core until `until`, or extends what was promised. Only the
    /// pulse agent may call it, from one thread. `None` if the words are used up.
    pub(crate) fn extend(
        &self,
        to: CoreAddr,
        incarnation: Incarnation,
        now: Mono,
        until: Mono,
    ) -> Option<SupportEpoch> {
        let promise = self.peer(to.node)?.granted.get(usize::from(to.core.0))?;
        let until_ticks = self.ticks_up(until)?;
        loop {
            let word = Word(promise.word.load(SeqCst));
            if word.has_lapsed() {
                // Nobody but this thread leaves the lapsed state, so plain stores do.
                let is_anew = word.lapses() == 0 || Guard::LapseIsForGood.is_on();
                let lapses = word.lapses() + u64::from(is_anew);
                if lapses > LAPSES_MAX {
                    return None;
                }
                promise.incarnation.store(incarnation.get(), SeqCst);
                promise.word.store(Word::new(lapses, until_ticks).0, SeqCst);
                return Some(epoch(self.incarnation, lapses));
            }
            let same = promise.incarnation.load(SeqCst) == incarnation.get();
            if !same || self.mono(word) < now {
                promise.lapse(word);
                continue;
            }
            let longer = Word::new(word.lapses(), until_ticks.max(word.until_ticks()));
            if promise.word.compare_exchange(word.0, longer.0, SeqCst, SeqCst).is_ok() {
                return Some(epoch(self.incarnation, word.lapses()));
            }
        }
    }

    /// What this node grants to a peer's core at `now`, and until when.
    #[must_use]
    pub fn granted(&self, to: CoreAddr, now: Mono) -> Option<(Grant, Mono)> {
        let peer = self.peer(to.node)?;
        let promise = peer.granted.get(usize::from(to.core.0))?;
        loop {
            let (word, incarnation) = promise.load();
            if word.has_lapsed() {
                return None;
            }
            let until = self.mono(word);
            if until >= now && incarnation.get() == peer.incarnation.load(SeqCst) {
                let epoch = epoch(self.incarnation, word.lapses());
                return Some((Grant { epoch, incarnation }, until));
            }
            // On failure somebody extended it or marked it: look again.
            if promise.lapse(word) {
                return None;
            }
        }
    }

    // ---- promises received ----

    /// A peer's incarnation supports our core under `epoch` until `until`. Only the pulse agent
    /// may call it, from one thread. A word that is older than what is known changes nothing.
    pub(crate) fn receive(
        &self,
        node: NodeId,
        core: CoreId,
        incarnation: Incarnation,
        epoch: SupportEpoch,
        until: Mono,
    ) {
        let promise = self.peer(node).and_then(|p| p.received.get(usize::from(core.0)));
        let Some(promise) = promise else { return };
        let lapses = epoch.get() & LAPSES_MAX;
        let ticks = until.0.saturating_sub(self.origin.0) >> TICK_BITS;
        if epoch.get() >> LAPSES_BITS != incarnation.get() || ticks == 0 || ticks > UNTIL_MAX {
            return;
        }
        let (word, known) = promise.load();
        if incarnation < known {
            return;
        }
        if incarnation > known {
            promise.word.store(0, SeqCst);
            promise.incarnation.store(incarnation.get(), SeqCst);
        } else if (lapses, ticks) <= (word.lapses(), word.until_ticks()) {
            return;
        }
        promise.word.store(Word::new(lapses, ticks).0, SeqCst);
    }

    /// What a peer grants to our core at `now`.
    #[must_use]
    pub fn received(&self, node: NodeId, core: CoreId, now: Mono) -> Option<Received> {
        let peer = self.peer(node)?;
        let (word, incarnation) = peer.received.get(usize::from(core.0))?.load();
        let until = self.mono(word);
        let holds = !word.has_lapsed()
            && until >= now
            && incarnation.get() == peer.incarnation.load(SeqCst);
        holds.then(|| Received { epoch: epoch(incarnation, word.lapses()), until })
    }

    // ---- time ----

    fn ticks_up(&self, at: Mono) -> Option<u64> {
        let ticks = at.0.saturating_sub(self.origin.0).div_ceil(TICK_US).max(1);
        (ticks <= UNTIL_MAX).then_some(ticks)
    }

    fn mono(&self, word: Word) -> Mono {
        Mono(self.origin.0.saturating_add(word.until_ticks() << TICK_BITS))
    }
}

fn link_down(mark: Option<&AtomicU64>, token: LinkToken) {
    if let Some(mark) = mark {
        // Failure means that a later connection has taken the place.
        let _ = mark.compare_exchange(token.0, 0, SeqCst, SeqCst);
    }
}

/// The epoch of a node's promise that has lapsed `lapses - 1` times in this incarnation.
fn epoch(granter: Incarnation, lapses: u64) -> SupportEpoch {
    SupportEpoch(granter.get() << LAPSES_BITS | lapses)
}

/// The table as a group on one core sees it at one moment.
#[derive(Clone, Copy, Debug)]
pub struct SupportView<'a> {
    table: &'a SupportTable,
    core: CoreId,
    now: Mono,
}

impl Support for SupportView<'_> {
    fn granted(&self, leader: CoreAddr) -> Option<Grant> {
        self.table.granted(leader, self.now).map(|(grant, _)| grant)
    }

    fn received(&self, node: NodeId) -> Option<Received> {
        self.table.received(node, self.core, self.now)
    }

    fn incarnation(&self) -> Incarnation {
        self.table.incarnation
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use oarlock_types::Random;

    use super::*;

    const OTHER: NodeId = NodeId(2);
    const LEADER: CoreAddr = CoreAddr::new(OTHER, CoreId(0));
    const FIFTH: Incarnation = Incarnation(5);

    fn table(cores: u16, peer_cores: u16) -> SupportTable {
        let table = SupportTable::new(&TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(3),
            cores,
            cores_max: 8,
            origin: Mono(1_000_000),
            peers: &[(NodeId(3), 0), (OTHER, peer_cores)],
        });
        table.learn_incarnation(OTHER, FIFTH);
        table
    }

    fn at(us: u64) -> Mono {
        Mono(1_000_000 + us)
    }

    #[test]
    fn a_promise_is_rounded_up_and_one_received_down() {
        let table = table(1, 1);
        table.extend(LEADER, FIFTH, at(0), at(TICK_US + 1)).unwrap();
        assert_eq!(table.granted(LEADER, at(2 * TICK_US)).unwrap().1, at(2 * TICK_US));
        let epoch = SupportEpoch(5 << 28 | 1);
        table.receive(OTHER, CoreId(0), FIFTH, epoch, at(2 * TICK_US - 1));
        let received = table.received(OTHER, CoreId(0), at(TICK_US)).unwrap();
        assert_eq!(received, Received { epoch, until: at(TICK_US) });
        assert_eq!(table.received(OTHER, CoreId(0), at(TICK_US + 1)), None);
    }

    #[test]
    fn a_promise_is_never_shortened_and_lapses_for_good() {
        let table = table(1, 1);
        let first = table.extend(LEADER, FIFTH, at(0), at(10 * TICK_US)).unwrap();
        assert_eq!(table.extend(LEADER, FIFTH, at(1), at(TICK_US)), Some(first));
        assert_eq!(table.granted(LEADER, at(10 * TICK_US)).unwrap().1, at(10 * TICK_US));
        assert_eq!(table.granted(LEADER, at(10 * TICK_US + 1)), None);
        assert_eq!(
            table.granted(LEADER, at(0)),
            None,
            "another core's older clock changes nothing"
        );
        let second = table.extend(LEADER, FIFTH, at(0), at(20 * TICK_US)).unwrap();
        assert!(second > first);
    }

    #[test]
    fn a_newer_incarnation_ends_both_directions() {
        let table = table(1, 1);
        let first = table.extend(LEADER, FIFTH, at(0), at(10 * TICK_US)).unwrap();
        let epoch = SupportEpoch(5 << 28 | 9);
        table.receive(OTHER, CoreId(0), FIFTH, epoch, at(10 * TICK_US));
        assert_eq!(table.learn_incarnation(OTHER, Incarnation(6)), Incarnation(6));
        assert_eq!(table.granted(LEADER, at(1)), None);
        assert_eq!(table.received(OTHER, CoreId(0), at(1)), None);
        assert_eq!(table.learn_incarnation(OTHER, FIFTH), Incarnation(6), "never goes back");

        let second = table.extend(LEADER, Incarnation(6), at(2), at(11 * TICK_US)).unwrap();
        assert!(second > first);
        let (grant, _) = table.granted(LEADER, at(3)).unwrap();
        assert_eq!(grant, Grant { epoch: second, incarnation: Incarnation(6) });
        let newer = SupportEpoch(6 << 28 | 1);
        table.receive(OTHER, CoreId(0), Incarnation(6), newer, at(5 * TICK_US));
        assert_eq!(table.received(OTHER, CoreId(0), at(3)).unwrap().epoch, newer);
        table.receive(OTHER, CoreId(0), FIFTH, epoch, at(10 * TICK_US));
        assert_eq!(table.received(OTHER, CoreId(0), at(3)).unwrap().epoch, newer);
    }

    #[test]
    fn only_newer_words_of_a_promise_count() {
        let table = table(1, 1);
        let received = || table.received(OTHER, CoreId(0), at(0)).map(|r| (r.epoch, r.until));
        let epoch = |incarnation: u64, lapses: u64| SupportEpoch(incarnation << 28 | lapses);
        let receive = |epoch, ticks: u64| {
            table.receive(OTHER, CoreId(0), FIFTH, epoch, at(ticks * TICK_US));
        };
        receive(epoch(4, 3), 10);
        receive(epoch(5, 3), 0);
        assert_eq!(received(), None, "of another life, and of no length");
        receive(epoch(5, 3), 10);
        let known = Some((epoch(5, 3), at(10 * TICK_US)));
        assert_eq!(received(), known);
        receive(epoch(5, 3), 9);
        receive(epoch(5, 2), 20);
        assert_eq!(received(), known, "an older word");
        receive(epoch(5, 4), 8);
        assert_eq!(
            received(),
            Some((epoch(5, 4), at(8 * TICK_US))),
            "a newer epoch may be shorter"
        );
        receive(epoch(5, 4), UNTIL_MAX + 1);
        assert_eq!(received(), Some((epoch(5, 4), at(8 * TICK_US))), "more than a word holds");
        receive(epoch(5, 4), UNTIL_MAX);
        assert_eq!(received(), Some((epoch(5, 4), at(UNTIL_MAX * TICK_US))));
    }

    #[test]
    fn a_promise_is_as_long_as_a_word_holds() {
        let table = table(1, 1);
        let extend = |ticks| table.extend(LEADER, FIFTH, at(0), at(ticks * TICK_US));
        assert_eq!(extend(UNTIL_MAX + 1), None);
        assert!(extend(UNTIL_MAX).is_some());
        // One that is over when it is given holds for a moment: its epoch is used up by it.
        let first = table.extend(CoreAddr::new(NodeId(3), CoreId(0)), FIFTH, at(0), at(0));
        assert_eq!(first, Some(SupportEpoch(3 << 28 | 1)));
    }

    #[test]
    fn of_a_peer_only_what_may_be_is_learnt() {
        let table = table(2, 1);
        assert_eq!((table.node(), table.incarnation()), (NodeId(1), Incarnation(3)));
        assert_eq!((table.cores(), table.cores_max()), (2, 8));
        assert_eq!((table.peers_count(), table.peers().count()), (2, 2));
        assert!(table.has_peer(OTHER) && table.has_peer(NodeId(3)) && !table.has_peer(NodeId(9)));
        assert!(!table.learn_cores(OTHER, 0) && !table.learn_cores(OTHER, 9));
        assert_eq!((table.peer_cores(OTHER), table.peer_cores(NodeId(9))), (1, 0));
        assert!(table.learn_cores(OTHER, 8));
        assert_eq!(table.peer_cores(OTHER), 8);
        let beyond = Incarnation(INCARNATION_MAX + 1);
        assert_eq!(table.learn_incarnation(OTHER, beyond), FIFTH);
        assert_eq!(table.learn_incarnation(NodeId(9), FIFTH), Incarnation(0));
        let last = Incarnation(INCARNATION_MAX);
        assert_eq!(table.learn_incarnation(OTHER, last), last);
        assert_eq!(table.peer_incarnation(OTHER), last);
    }

    #[test]
    fn nodes_that_join_are_found_whatever_their_ids_and_none_twice() {
        let table = table(1, 1);
        // All but the first stand for places that others have taken.
        let joined = |n: u64| NodeId(2 + n * SLOTS as u64);
        table.learn_incarnation(OTHER, FIFTH);
        for n in 0..50 {
            assert!(table.add_peer(joined(n), 1) && table.add_peer(joined(n), 7));
        }
        assert_eq!((table.peers_count(), table.peers().count()), (51, 51));
        assert_eq!(table.peer_incarnation(OTHER), FIFTH, "one that is known stays as it is");
        for n in 1..50 {
            assert_eq!(table.peer_cores(joined(n)), 1);
            assert_eq!(table.learn_incarnation(joined(n), Incarnation(n)), Incarnation(n));
        }
        assert!((1..50).all(|n| table.peer_incarnation(joined(n)) == Incarnation(n)));
        assert!(!table.has_peer(joined(50)) && !table.add_peer(NodeId(1), 1), "not this node");
        let last = (100..2000).find(|n| !table.add_peer(NodeId(*n), 1));
        assert_eq!(last.map(|_| table.peers_count()), Some(PEERS_MAX), "it has a bound");
    }

    #[test]
    fn a_node_that_several_threads_learn_of_at_once_is_known_once() {
        let table = table(1, 1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (10..210).for_each(|node| assert!(table.add_peer(NodeId(node), 1))));
            }
        });
        assert_eq!((table.peers_count(), table.peers().count()), (202, 202));
    }

    #[test]
    fn pulses_tell_when_they_came_and_which_map_is_known() {
        let table = table(1, 1);
        assert_eq!((table.heard_at(OTHER), table.peer_map_version(OTHER)), (None, 0));
        table.heard(OTHER, at(7), 4);
        assert_eq!((table.heard_at(OTHER), table.peer_map_version(OTHER)), (Some(at(7)), 4));
        table.raise_map_version(6);
        table.raise_map_version(5);
        assert_eq!(table.map_version(), 6);
    }

    #[test]
    fn who_was_let_go_is_taken_up_when_it_is_heard() {
        let table = table(2, 1);
        let are_let_go = || [0, 1].map(|core| table.has_let_go(OTHER, CoreId(core)));
        table.let_go(OTHER, CoreId(1));
        assert_eq!((are_let_go(), table.have_all_let_go(OTHER)), ([false, true], false));
        table.let_go(OTHER, CoreId(0));
        assert!(table.have_all_let_go(OTHER) && !table.have_all_let_go(NodeId(3)));
        table.heard(OTHER, at(7), 4);
        assert_eq!((are_let_go(), table.have_all_let_go(OTHER)), ([false, false], false));
        table.let_go(OTHER, CoreId(0));
        assert!(!table.is_linked(OTHER));
        let token = table.incoming_up(LEADER, FIFTH);
        assert!(are_let_go() == [false, false] && table.is_linked(OTHER));
        table.incoming_down(LEADER, token);
        assert!(!table.is_linked(OTHER));
        table.outgoing_up(OTHER, CoreId(1), FIFTH);
        assert!(table.is_linked(OTHER));
    }

    #[test]
    fn epochs_grow_over_a_restart_of_the_granter() {
        let before = table(1, 1).extend(LEADER, FIFTH, at(0), at(9)).unwrap();
        let config = TableConfig {
            node: NodeId(1),
            incarnation: Incarnation(4),
            cores: 1,
            cores_max: 1,
            origin: at(0),
            peers: &[(OTHER, 1)],
        };
        let after = SupportTable::new(&config).extend(LEADER, FIFTH, at(0), at(9)).unwrap();
        assert!(after > before);
    }

    #[test]
    fn the_end_of_an_old_link_does_not_hide_its_successor() {
        let table = table(1, 1);
        table.outgoing_up(OTHER, CoreId(0), FIFTH);
        let old = table.incoming_up(LEADER, FIFTH);
        assert!(table.links_up(LEADER));
        let new = table.incoming_up(LEADER, FIFTH);
        table.incoming_down(LEADER, old);
        assert!(table.links_up(LEADER));
        table.incoming_down(LEADER, new);
        assert!(!table.links_up(LEADER));
    }

    #[test]
    fn links_of_another_incarnation_do_not_count() {
        let table = table(1, 1);
        table.outgoing_up(OTHER, CoreId(0), FIFTH);
        table.incoming_up(LEADER, Incarnation(4));
        assert!(!table.links_up(LEADER));
        table.incoming_up(LEADER, FIFTH);
        assert!(table.links_up(LEADER));
        table.incoming_up(LEADER, Incarnation(4));
        assert!(table.links_up(LEADER), "a late link of the older incarnation takes no place");
        table.learn_incarnation(OTHER, Incarnation(6));
        assert!(!table.links_up(LEADER));
    }

    #[test]
    fn every_link_that_a_core_depends_on_counts() {
        // Four cores here, two there: cores 1 and 3 both talk with core 1 of the peer.
        let table = table(4, 2);
        let to = CoreAddr::new(OTHER, CoreId(1));
        table.incoming_up(to, FIFTH);
        table.outgoing_up(OTHER, CoreId(1), FIFTH);
        assert!(!table.links_up(to));
        let token = table.outgoing_up(OTHER, CoreId(3), FIFTH);
        assert!(table.links_up(to));
        assert!(!table.links_up(LEADER));
        table.outgoing_down(OTHER, CoreId(3), token);
        assert!(!table.links_up(to));
    }

    #[test]
    fn a_core_that_has_no_link_to_itself_depends_on_its_partner() {
        // Two cores here, three there: our core 0 talks with their core 0; their core 2 dials it.
        let table = table(2, 3);
        let to = CoreAddr::new(OTHER, CoreId(2));
        table.incoming_up(to, FIFTH);
        table.outgoing_up(OTHER, CoreId(1), FIFTH);
        assert!(!table.links_up(to));
        table.outgoing_up(OTHER, CoreId(0), FIFTH);
        assert!(table.links_up(to));
    }

    /// One thread extends, three look with clocks that run on; promises are so short that most
    /// looks race with an extension. Whoever has seen an epoch end must never see it again.
    #[test]
    fn an_extension_never_overtakes_an_observed_lapse() {
        let table = table(1, 1);
        let clock = AtomicU64::new(1_000_000);
        let ended = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let look = |seed: u64| {
                let mut random = Random::new(seed);
                let mut last = 0;
                let mut lapses = 0_u64;
                while !done.load(SeqCst) {
                    let floor = ended.load(SeqCst);
                    let now = Mono(clock.fetch_add(random.below(2000), SeqCst));
                    match table.granted(LEADER, now) {
                        Some((grant, _)) => {
                            assert!(grant.epoch.get() > floor, "an ended epoch came back");
                            last = grant.epoch.get();
                        }
                        None => {
                            ended.fetch_max(last, SeqCst);
                            lapses += 1;
                        }
                    }
                }
                lapses
            };
            let lookers: Vec<_> = (0..3).map(|seed| scope.spawn(move || look(seed))).collect();
            let mut epochs = std::collections::BTreeSet::new();
            let mut extended = 0_u64;
            for _ in 0..200_000 {
                let floor = ended.load(SeqCst);
                let now = Mono(clock.load(SeqCst));
                let epoch = table.extend(LEADER, FIFTH, now, Mono(now.0 + TICK_US)).unwrap();
                assert!(epoch.get() > floor, "an extension overtook an observed lapse");
                extended += u64::from(!epochs.insert(epoch));
            }
            done.store(true, SeqCst);
            let lapses: u64 = lookers.into_iter().map(|l| l.join().unwrap()).sum();
            assert!(epochs.len() > 10 && extended > 10 && lapses > 10, "the race must happen");
        });
    }
}
