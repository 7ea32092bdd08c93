//! One run: rounds of load and faults on one cluster, each judged when its faults have ended, and
//! all of them once more at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oarlock::bench::cluster_map::{self, RangeRow};
use oarlock::bench::processes::{ClusterOptions, LocalCluster};
use oarlock_sim::linearizability::{Operation, check};
use oarlock_types::Random;
use toml::{Table, Value};

use super::clients::{Asker, Crowd, Records, Space};
use super::common::{PROGRAM, eventually, let_pass};
use super::faults::{Deck, Trouble};
use super::judge::{judge, keep, longest_silence, make_stale, of_key};
use super::world::World;

/// What a line of the summary begins with in the log of a run.
pub(crate) const SUMMARY: &str = "summary: ";
const NODES: u64 = 3;
const CLIENTS: u64 = 8;
/// How soon every range must serve through every node once the faults have ended.
const SERVES_WITHIN: Duration = Duration::from_secs(20);
/// How long clients go on after that.
const CALM: Duration = Duration::from_millis(400);

/// How long a run is.
pub(crate) struct Plan {
    /// Rounds at least.
    rounds: u64,
    /// No round begins later.
    time: Duration,
    faults_per_round: usize,
}

impl Plan {
    /// Each kind of fault once at least.
    pub(crate) const SHORT: Self = Self { rounds: 2, time: Duration::ZERO, faults_per_round: 5 };

    pub(crate) fn long(time: Duration) -> Self {
        Self { rounds: 1, time, faults_per_round: 7 }
    }
}

/// A run under way.
pub(crate) struct Run {
    plan: Plan,
    seed: u64,
    folder: PathBuf,
    cluster: LocalCluster,
    trouble: Trouble,
    deck: Deck,
    ranges: Vec<RangeRow>,
    /// What operations are timed by.
    began: Instant,
    rounds: Vec<(Vec<Space>, Records)>,
    outcomes: BTreeMap<String, u64>,
    /// The longest time without an answer, and the round and range.
    silence: (Duration, u64, usize),
    slowest_return: Duration,
}

/// A core keeps eight segments of 64 MiB before it rewrites old ones, every start begins another,
/// and two are in reserve. The image is sparse.
fn disk_mib(cores: u16) -> u64 {
    128 + 64 * 13 * u64::from(cores)
}

fn settings() -> Table {
    let limits = [
        // Checkpoints, and snapshots for who was away, come within seconds.
        ("compact_log_bytes_min", 65_536),
        ("compact_tail_bytes", 16_384),
        ("disk_reserve_bytes", 32 << 20),
    ];
    let limits = limits.map(|(key, number)| (key.to_owned(), Value::Integer(number)));
    Table::from_iter([("limits".to_owned(), Value::Table(Table::from_iter(limits)))])
}

impl Run {
    /// Makes the world and starts the nodes.
    pub(crate) fn start(folder: &Path, owner: u32, seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let cores = 1 + u16::try_from(random.below(2)).unwrap();
        let world = World::make(folder, NODES, owner).unwrap();
        for missing in &world.missing {
            println!("{SUMMARY}left out: {missing}");
        }
        let options = ClusterOptions {
            program: PROGRAM.into(),
            nodes: NODES,
            cores_per_node: cores,
            ranges: 4,
            more: settings(),
            variables: Vec::new(),
            hosts: world.hosts(),
        };
        let mut cluster = LocalCluster::prepare(options, folder).unwrap();
        for node in &cluster.nodes {
            world.mount(node.id, &node.data_dir(), disk_mib(cores)).unwrap();
        }
        println!("seed {seed}: {NODES} nodes of {cores} cores, {CLIENTS} clients");
        cluster.start_all().unwrap();
        let ranges = cluster
            .wait_for(
                "a leader for every range",
                SERVES_WITHIN,
                &|| false,
                LocalCluster::led_ranges,
            )
            .unwrap();
        Self {
            plan,
            seed,
            folder: folder.to_owned(),
            deck: Deck::new(random.next_u64(), NODES, &world),
            trouble: Trouble::new(world),
            cluster,
            ranges,
            began: Instant::now(),
            rounds: Vec::new(),
            outcomes: BTreeMap::new(),
            silence: (Duration::ZERO, 0, 0),
            slowest_return: Duration::ZERO,
        }
    }

    /// All rounds.
    pub(crate) fn go(&mut self) {
        let mut round = 0;
        while round < self.plan.rounds || self.began.elapsed() < self.plan.time {
            round += 1;
            self.round(round);
        }
        // What later faults undid of earlier rounds shows now.
        for at in 0..self.rounds.len() {
            self.read_everything(at);
            self.judge(at);
        }
        let (spaces, records) = &self.rounds[0];
        let altered: usize = records
            .histories
            .iter()
            .zip(spaces)
            .map(|(history, space)| altered_is_found(history, space))
            .sum();
        assert!(altered > 0, "no history had a read to alter");
        println!("the checker found each of {altered} answers that were made stale");
    }

    fn round(&mut self, round: u64) {
        let space = |range: &RangeRow| {
            let prefix = [&range.start[..], format!("{round}:").as_bytes()].concat();
            assert!(range.end.is_empty() || prefix < range.end);
            Space { prefix }
        };
        let spaces: Vec<Space> = self.ranges.iter().map(space).collect();
        let (addresses, began, seed) =
            (self.cluster.addresses(), self.began, self.seed ^ round << 32);
        let asker = |number| Asker::new(number, addresses.clone(), spaces.len(), began, seed);
        let crowd = Crowd::start((1..=CLIENTS).map(asker).collect(), &spaces);
        println!("round {round}");
        let planned = self.deck.round(self.plan.faults_per_round);
        self.trouble.happen(&mut self.cluster, &planned);
        let returned = self.wait_until_all_serve();
        let_pass(CALM);
        let records = crowd.stop();
        self.note(round, &records, returned);
        self.rounds.push((spaces, records));
        let at = self.rounds.len() - 1;
        self.read_everything(at);
        self.judge(at);
    }

    fn note(&mut self, round: u64, records: &Records, returned: Duration) {
        let (odd, outcomes) = (&records.odd, &records.outcomes);
        assert!(odd.is_empty(), "answers that no client should get: {odd:#?}");
        for (outcome, count) in outcomes {
            *self.outcomes.entry(outcome.clone()).or_default() += count;
        }
        for (range, history) in records.histories.iter().enumerate() {
            self.silence = self.silence.max((longest_silence(history), round, range + 1));
        }
        self.slowest_return = self.slowest_return.max(returned);
        println!("round {round}: {outcomes:?}; all ranges served again after {returned:?}");
    }

    /// Waits until every range takes a write through every node and every replica has what is
    /// committed; gives how long that took.
    fn wait_until_all_serve(&mut self) -> Duration {
        let started = Instant::now();
        // What all must have: as of the first moment at which every node tells.
        let mut committed = None;
        let keys: Vec<Vec<u8>> = self.ranges.iter().map(|row| row.key_inside("probe")).collect();
        let serves = |local: &LocalCluster| {
            for node in &local.nodes {
                for key in &keys {
                    let answer = node.client().and_then(|mut one| one.call(&[b"SET", key, b"x"]));
                    match answer {
                        Ok(answer) if answer.is_ok() => {}
                        Ok(answer) => return Err(format!("node {}, {key:?}: {answer}", node.id)),
                        Err(error) => return Err(format!("node {}, {key:?}: {error}", node.id)),
                    }
                }
            }
            if committed.is_none() {
                committed = Some(local.committed(0).map_err(|error| error.to_string())?);
            }
            let committed = committed.as_ref().expect("it was just asked");
            local.nodes.iter().try_for_each(|node| local.has_applied(node.id, committed))
        };
        let what = "every range serves through every node and every replica has all";
        if let Err(error) = self.cluster.wait_for(what, SERVES_WITHIN, &|| false, serves) {
            for node in &self.cluster.nodes {
                let status = node.client().and_then(|mut one| cluster_map::status(&mut one));
                println!("node {} says of itself: {status:#?}", node.id);
                for key in &keys {
                    let asked = Instant::now();
                    let answer = node.client().and_then(|mut one| one.call(&[b"SET", key, b"x"]));
                    let key = key.escape_ascii();
                    println!("SET {key} through it: {answer:?} after {:?}", asked.elapsed());
                }
            }
            panic!("{error}");
        }
        started.elapsed()
    }

    /// Reads all keys of a round through each node.
    fn read_everything(&mut self, at: usize) {
        let (spaces, records) = &mut self.rounds[at];
        for node in &self.cluster.nodes {
            let address = vec![node.client_address];
            let number = 100 + node.id;
            let mut asker = Asker::new(number, address, spaces.len(), self.began, self.seed);
            for (range, space) in spaces.iter().enumerate() {
                eventually("all keys of a range", || asker.read_all(range, space));
            }
            records.add(asker.records);
        }
    }

    fn judge(&self, at: usize) {
        let (round, records) = (at + 1, &self.rounds[at].1);
        for (range, history) in records.histories.iter().enumerate() {
            let Err(report) = judge(history) else { continue };
            let file = self.folder.join(format!("history-{round}-{}", range + 1));
            keep(history, &file);
            panic!(
                "seed {}, round {round}, range {}: {report}\nthe whole history is in {}",
                self.seed,
                range + 1,
                file.display()
            );
        }
    }

    /// Sums up.
    pub(crate) fn tell(&self) {
        let total: u64 = self.outcomes.values().sum();
        let (silence, round, range) = self.silence;
        println!(
            "{SUMMARY}seed {}: {} rounds in {:.0} s, {total} operations, all histories linearizable",
            self.seed,
            self.rounds.len(),
            self.began.elapsed().as_secs_f64()
        );
        println!("{SUMMARY}faults: {:?}", self.trouble.counts);
        println!("{SUMMARY}operations: {:?}", self.outcomes);
        println!(
            "{SUMMARY}longest without an answer: {silence:.2?} (round {round}, range {range}); all \
             served again at most {:.2?} after the faults",
            self.slowest_return
        );
    }
}

/// Makes one answer of each key of a good history stale and expects that it is found; gives how
/// many keys had a read that could be altered so.
pub(crate) fn altered_is_found(history: &[Operation], space: &Space) -> usize {
    let is_found = |key| {
        let mut history = of_key(history, key);
        let Some(told) = make_stale(&mut history) else { return false };
        assert!(check(&history).is_err(), "a stale answer was not found: {told}");
        true
    };
    space.keys().iter().filter(|key| is_found(key)).count()
}
