//! Draws a schedule of faults: first which kinds a seed has at all and how often they come, then
//! each fault. A schedule that has everything all the time finds less than many that differ.

use oarlock_types::{CoreAddr, CoreId, GroupId, NodeId};

use crate::config::Config;
use crate::faults::{Fault, Trouble};
use crate::random::Stream;

const KINDS: u64 = 27;
/// More kinds, for the seeds that spoil a disk.
const MORE_SPOILING: std::ops::Range<u64> = 27..29;
/// Most splits of a seed.
const CUTS_MAX: usize = 40;
/// Kinds that lose what a disk held for good.
const SPOILING: std::ops::Range<u64> = 21..25;

/// The faults of a seed over `until_us`, in order of time.
///
/// Where disks are spoiled by who is a member at the time ([`crate::spoiling`]), replicas move and ranges merge though
/// disks are spoiled here.
pub(crate) fn draw(config: &Config, until_us: u64, seed: u64) -> Vec<Fault> {
    let mut random = Stream::new(seed, 2);
    let share = [80, 200, 400, 700][random.place(4)];
    let mut kinds: Vec<u64> = (0..KINDS).filter(|_| random.per_mille(share)).collect();
    // Operations of an operator go on in most runs.
    kinds.extend((25..27).filter(|_| random.per_mille(500)));
    let spoils = config.nodes >= 3 && random.per_mille(150);
    kinds.retain(|kind| spoils || !SPOILING.contains(kind));
    if spoils {
        kinds.extend(MORE_SPOILING.filter(|_| random.per_mille(share.max(400))));
    }
    // Beyond the drift bound: seldom, since it switches assertions off.
    let beyond = random.per_mille(30);
    let interval_us = [50_000, 200_000, 500_000, 2_000_000][random.place(4)];
    let lasts_us = [100_000, 500_000, 1_500_000, 4_000_000][random.place(4)];
    let victim = NodeId(1 + random.below(config.nodes));
    let mut faults = Vec::new();
    let mut at_us = 200_000;
    while !kinds.is_empty() {
        at_us += random.within(1, 2 * interval_us);
        if at_us >= until_us {
            break;
        }
        let kind = kinds[random.place(kinds.len())];
        let lasts_us = random.within(1000, 2 * lasts_us);
        let mut draw = Draw { config, random: &mut random, victim, beyond };
        if let Some(trouble) = draw.trouble(kind) {
            faults.push(Fault { number: faults.len(), at_us, lasts_us, trouble });
        }
    }
    draw_cuts(config, until_us, seed, &mut faults);
    if !spoils || config.spoils_by_members {
        draw_moves(config, until_us, seed, &mut faults);
        draw_merges(config, until_us, seed, &mut faults);
    }
    draw_core_moves(config, until_us, seed, &mut faults);
    faults
}

/// In half of the seeds whose nodes have cores to spare, replicas go from core to core. Drawn apart from the rest,
/// too.
fn draw_core_moves(config: &Config, until_us: u64, seed: u64, faults: &mut Vec<Fault>) {
    let mut random = Stream::new(seed, 10);
    if config.cores < 2 || random.per_mille(500) {
        return;
    }
    let interval_us = [20_000, 100_000, 500_000][random.place(3)];
    let mut orders = Orders { config, random, interval_us, until_us };
    orders.draw(200_000, usize::MAX, faults, Trouble::MoveCore);
}

/// In half of the seeds whose ranges are cut, and whose disks stay what they are, some go back into the ones
/// before them. Drawn apart from the rest, too.
fn draw_merges(config: &Config, until_us: u64, seed: u64, faults: &mut Vec<Fault>) {
    let mut random = Stream::new(seed, 9);
    let is_cut = faults.iter().any(|fault| matches!(fault.trouble, Trouble::Cut(_)));
    if !is_cut || random.per_mille(500) {
        return;
    }
    let interval_us = [20_000, 100_000, 500_000][random.place(3)];
    let mut orders = Orders { config, random, interval_us, until_us };
    orders.draw(300_000, CUTS_MAX, faults, Trouble::Merge);
}

/// In half of the seeds with a node to spare, and disks that stay what they are, replicas move to other
/// nodes. Drawn apart from the rest, too.
fn draw_moves(config: &Config, until_us: u64, seed: u64, faults: &mut Vec<Fault>) {
    let mut random = Stream::new(seed, 8);
    if config.nodes <= config.replicas || random.per_mille(500) {
        return;
    }
    let interval_us = [100_000, 500_000, 2_000_000][random.place(3)];
    let mut orders = Orders { config, random, interval_us, until_us };
    orders.draw(200_000, usize::MAX, faults, Trouble::Move);
}

/// In half of the seeds ranges are cut, one now and then or all of them at once. Drawn apart from the
/// rest, so that the other half stay what they were.
fn draw_cuts(config: &Config, until_us: u64, seed: u64, faults: &mut Vec<Fault>) {
    let mut random = Stream::new(seed, 7);
    if random.per_mille(500) {
        return;
    }
    let interval_us = [20_000, 300_000, 1_000_000, 4_000_000][random.place(4)];
    let mut orders = Orders { config, random, interval_us, until_us };
    orders.draw(200_000, CUTS_MAX, faults, Trouble::Cut);
}

/// What an operator orders of ranges, now and then.
struct Orders<'a> {
    config: &'a Config,
    random: Stream,
    interval_us: u64,
    until_us: u64,
}

impl Orders<'_> {
    /// Draws at most so many orders behind `at_us`.
    fn draw(
        &mut self,
        mut at_us: u64,
        most: usize,
        faults: &mut Vec<Fault>,
        order: impl Fn(GroupId) -> Trouble,
    ) {
        for _ in 0..most {
            at_us += self.random.within(1, 2 * self.interval_us);
            if at_us >= self.until_us {
                return;
            }
            let trouble = order(GroupId(1 + self.random.below(self.config.groups)));
            faults.push(Fault { number: faults.len(), at_us, lasts_us: 1, trouble });
        }
    }
}

struct Draw<'a> {
    config: &'a Config,
    random: &'a mut Stream,
    victim: NodeId,
    beyond: bool,
}

impl Draw<'_> {
    fn node(&mut self) -> NodeId {
        NodeId(1 + self.random.below(self.config.nodes))
    }

    fn core(&mut self) -> CoreAddr {
        let node = self.node();
        self.core_on(node)
    }

    fn core_on(&mut self, node: NodeId) -> CoreAddr {
        let core = self.random.below(u64::from(self.config.cores));
        CoreAddr::new(node, CoreId(u16::try_from(core).unwrap_or(0)))
    }

    fn pair(&mut self) -> Option<(NodeId, NodeId)> {
        let (one, two) = (self.node(), self.node());
        (one != two).then_some((one, two))
    }

    fn group(&mut self) -> GroupId {
        GroupId(1 + self.random.below(self.config.groups))
    }

    fn trouble(&mut self, kind: u64) -> Option<Trouble> {
        if kind < 8 {
            return self.network(kind);
        }
        let victim = self.victim;
        Some(match kind {
            8 => Trouble::Kill(self.node()),
            9 => Trouble::PowerLoss(self.node()),
            10 => Trouble::PowerLossAll,
            11 => {
                let effects = self.random.within(1, 200);
                Trouble::CrashAtEffect(self.node(), effects, self.random.per_mille(500))
            }
            12 => Trouble::Pause(self.node()),
            13 => Trouble::StuckCore(self.core()),
            14 => Trouble::WalStall(self.core()),
            15 => Trouble::WalSlow(self.core(), self.random.within(2, 500)),
            16 => Trouble::WalFail(self.core()),
            17 => Trouble::FilesStall(self.core()),
            18 => Trouble::FilesFail(self.core()),
            19 => Trouble::DiskFull(self.node()),
            20 => {
                let bound = u64::from(self.config.limits.drift_per_mille_max);
                let most = if self.beyond { 300 } else { bound };
                Trouble::ClockRate(self.node(), 1000 - most + self.random.below(2 * most + 1))
            }
            21 => Trouble::FlipBit(self.core_on(victim)),
            22 => Trouble::DropFile(self.core_on(victim)),
            23 => Trouble::SwapFiles(self.core_on(victim)),
            24 => Trouble::Blank(victim),
            27 => Trouble::OldCheckpoint(self.core_on(victim)),
            28 => Trouble::LoseFiles(self.core_on(victim)),
            25 => Trouble::Transfer(self.group()),
            _ => Trouble::Members(self.group()),
        })
    }

    fn network(&mut self, kind: u64) -> Option<Trouble> {
        if kind == 0 {
            let side: Vec<NodeId> =
                self.config.node_ids().filter(|_| self.random.per_mille(400)).collect();
            let whole = side.is_empty() || side.len() as u64 == self.config.nodes;
            return (!whole).then_some(Trouble::Split(side));
        }
        let (one, two) = self.pair()?;
        Some(match kind {
            1 => Trouble::OneWay(one, two),
            2 => Trouble::Pair(one, two),
            3 => Trouble::DataOnly(one, two),
            4 => Trouble::PulsesOnly(one, two),
            5 => Trouble::SlowLink(one, two, self.random.within(1000, 300_000)),
            6 => Trouble::BreakLinks(one, two),
            _ if self.random.per_mille(300) => {
                Trouble::WallJump(one, i64::try_from(self.random.below(60_000)).unwrap_or(0))
            }
            _ => Trouble::HalfOpen(one, two),
        })
    }
}
