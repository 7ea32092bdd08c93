//! What all groups of a core are to be told: links that broke or came up, and support that has changed.
//!
//! A core may have a hundred thousand, so some are told each turn, on walks that come to every group once for
//! each piece of news. A group may hear late, which costs it time and nothing else: each of its steps looks
//! at support as it is by then, so what lapsed is not counted on by whom nobody has told.

use std::ops::Range;
use std::time::Duration;

use oarlock_types::{GroupId, NodeId};

use crate::shard::Shard;
use crate::support_changes::SupportChange;

/// Groups that are told something in one turn.
const TOLD_PER_TURN: usize = 256;
/// Groups that are looked at for it in one turn.
const LOOKS_PER_TURN: usize = 2048;
/// So much election delay for each group that a lapse concerns: ten thousand groups that wake stand for
/// election over two seconds, not all at once.
const SPREAD_PER_GROUP: Duration = Duration::from_micros(200);

/// A place on the way: how often all groups were come by, and the next one.
type Place = (u64, GroupId);

/// Something to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// Of the link to a node: whether it broke since, and whether it is up now.
    Link {
        node: NodeId,
        broke: bool,
        up: bool,
    },
    Support(SupportChange),
}

impl Piece {
    fn support(&self) -> Option<SupportChange> {
        match self {
            Self::Link { .. } => None,
            Self::Support(change) => Some(*change),
        }
    }

    /// What both come to, told as one, if the later one is about the same.
    fn merged(self, later: Self) -> Option<Self> {
        match (self, later) {
            (Self::Link { node, broke, .. }, Self::Link { node: other, broke: again, up }) => {
                (node == other).then_some(Self::Link { node, broke: broke || again, up })
            }
            (Self::Support(before), Self::Support(change)) => {
                before.is_about_the_same(change).then_some(later)
            }
            (Self::Link { .. }, Self::Support(_)) | (Self::Support(_), Self::Link { .. }) => None,
        }
    }
}

/// What is not told to everybody yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Each with the place at which everybody will have heard it. Few: links and promises are counted by nodes.
    open: Vec<(Place, Piece)>,
    at: Place,
    /// Groups told of support since there was nothing to tell, but for those that led.
    concerned: usize,
    /// What this turn has looked at and told.
    looked: usize,
    told: usize,
    /// Reused; empty between slices.
    slice: Slice,
}

/// A part of the way on which the same is to be told.
#[derive(Debug, Default)]
struct Slice {
    pieces: Vec<Piece>,
    changes: Vec<SupportChange>,
    /// Who is to be told, and whether support is what concerns it.
    groups: Vec<(GroupId, bool)>,
    /// How far the elections are to be spread of those who lose their leader by it.
    spread: Duration,
}

impl News {
    /// A turn begins.
    pub(crate) fn begin_turn(&mut self) {
        (self.looked, self.told) = (0, 0);
    }

    /// Whether somebody is still to be told something.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// From here on everybody is to hear it, also whoever has heard of the same before.
    fn add(&mut self, piece: Piece) {
        let (round, next) = self.at;
        let before = self.open.iter().position(|(_, open)| open.merged(piece).is_some());
        let merged = before.and_then(|place| self.open.remove(place).1.merged(piece));
        self.open.push(((round + 1, next), merged.unwrap_or(piece)));
    }

    fn may_go_on(&self) -> bool {
        self.is_open() && self.told < TOLD_PER_TURN && self.looked < LOOKS_PER_TURN
    }

    /// The next places among `ids`, which are in order, up to where the first piece of news has come by everybody.
    fn places(&self, ids: &[GroupId]) -> Range<usize> {
        let (round, next) = self.at;
        let start = ids.partition_point(|group| *group < next);
        let ends = self.open.iter().filter(|(end, _)| end.0 == round).map(|(end, _)| end.1);
        let end = ends.min().map_or(ids.len(), |end| ids.partition_point(|id| *id < end));
        start..end.min(start + LOOKS_PER_TURN - self.looked)
    }

    /// Takes the next part of the way: whom to tell what. `concerns` says whether support that has changed is
    /// any of a group's business, and if so whether it leads.
    fn next_slice(
        &mut self,
        ids: &[GroupId],
        slice: &mut Slice,
        concerns: impl Fn(GroupId, &[SupportChange]) -> Option<bool>,
    ) {
        let Slice { pieces, changes, groups, spread } = slice;
        pieces.clear();
        pieces.extend(self.open.iter().map(|(_, piece)| *piece));
        changes.clear();
        changes.extend(pieces.iter().filter_map(Piece::support));
        let is_for_all = changes.len() < pieces.len();
        let mut places = self.places(ids);
        let mut leaders = 0;
        while self.told < TOLD_PER_TURN
            && let Some(place) = places.next()
        {
            self.looked += 1;
            let leads = concerns(ids[place], changes);
            if leads.is_some() || is_for_all {
                self.told += 1;
                match leads {
                    Some(true) => leaders += 1,
                    Some(false) => self.concerned += 1,
                    None => {}
                }
                groups.push((ids[place], leads.is_some()));
            }
        }
        // Few leaders lose their quorum when others die; they must not make those wait who lose their leader.
        let concerned = (self.concerned + leaders).min(ids.len());
        let concerned = u32::try_from(concerned).unwrap_or(u32::MAX);
        *spread = SPREAD_PER_GROUP.saturating_mul(concerned);
        self.passed(places.start, ids);
    }

    /// Everybody before this place among `ids` has been come by.
    fn passed(&mut self, place: usize, ids: &[GroupId]) {
        let (round, _) = self.at;
        let at = ids.get(place).map_or((round + 1, GroupId(0)), |next| (round, *next));
        self.at = at;
        self.open.retain(|(end, _)| *end > at);
        if self.open.is_empty() {
            self.at = Place::default();
            self.concerned = 0;
        }
    }
}

impl Shard {
    /// The data link to a node's core came up or went down.
    pub fn link(&mut self, node: NodeId, up: bool) {
        self.linked.retain(|known| *known != node);
        if up {
            self.linked.push(node);
        }
        self.news.add(Piece::Link { node, broke: !up, up });
        self.spread_news();
    }

    pub(crate) fn support_changed(&mut self, changes: &[SupportChange]) {
        changes.iter().for_each(|change| self.news.add(Piece::Support(*change)));
        self.spread_news();
    }

    /// Tells as many groups as may be told in this turn.
    pub(crate) fn spread_news(&mut self) {
        while self.news.may_go_on() {
            let mut slice = std::mem::take(&mut self.news.slice);
            let replicas = &self.replicas;
            self.news.next_slice(&self.ids, &mut slice, |group, changes| {
                let replica = replicas.get(&group).filter(|replica| replica.depends_on(changes))?;
                Some(replica.raft.is_leader())
            });
            let spread = slice.spread;
            for (group, is_concerned) in slice.groups.drain(..) {
                for piece in &slice.pieces {
                    if let Piece::Link { node, broke, up } = *piece {
                        self.tell_link(group, node, broke, up);
                    }
                }
                if is_concerned {
                    self.with_group(group, |raft, ctx, out| raft.support_changed(ctx, spread, out));
                    // A lease may have ended without an end of the leader's term.
                    if self.leads(group) {
                        self.count_keys(group);
                    }
                }
            }
            self.news.slice = slice;
        }
    }

    /// A link that broke and came up since is told as both: what was on its way is lost.
    fn tell_link(&mut self, group: GroupId, node: NodeId, broke: bool, up: bool) {
        if broke {
            self.with_group(group, |raft, ctx, out| raft.reachable(ctx, node, false, out));
        }
        if up {
            self.with_group(group, |raft, ctx, out| raft.reachable(ctx, node, true, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oarlock_types::{Incarnation, Random};

    use super::*;

    const NODE: NodeId = NodeId(2);

    fn link(up: bool) -> Piece {
        Piece::Link { node: NODE, broke: !up, up }
    }

    fn change(incarnation: u64) -> Piece {
        let incarnation = Incarnation(incarnation);
        Piece::Support(SupportChange::Incarnation { node: NODE, incarnation })
    }

    /// One turn: whom it tells what.
    fn turn(news: &mut News, ids: &[GroupId]) -> Vec<(GroupId, Vec<Piece>)> {
        news.begin_turn();
        let mut told = Vec::new();
        let mut slice = Slice::default();
        while news.may_go_on() {
            news.next_slice(ids, &mut slice, |group, _| (group.get() % 3 == 0).then_some(false));
            let heard = |(group, is_concerned): (GroupId, bool)| {
                let is_heard = |piece: &&Piece| is_concerned || piece.support().is_none();
                (group, slice.pieces.iter().filter(is_heard).copied().collect())
            };
            told.extend(slice.groups.drain(..).map(heard));
        }
        told
    }

    #[test]
    fn a_few_hear_at_once_and_many_some_each_turn() {
        let few: Vec<GroupId> = (0..256).map(GroupId).collect();
        let mut news = News::default();
        news.add(link(false));
        assert_eq!(turn(&mut news, &few).len(), 256);
        assert!(!news.is_open() && turn(&mut news, &few).is_empty());
        let many: Vec<GroupId> = (0..10_000).map(GroupId).collect();
        news.add(link(false));
        let turns: Vec<usize> = (0..40).map(|_| turn(&mut news, &many).len()).collect();
        assert_eq!((turns[0], turns[38], turns[39]), (256, 256, 16), "{turns:?}");
        assert!(!news.is_open());
        // Whom support does not concern is only looked at.
        news.add(change(1));
        let turns: Vec<usize> = (0..14).map(|_| turn(&mut news, &many).len()).collect();
        assert_eq!((turns[0], turns.iter().sum()), (256, 3334), "{turns:?}");
        assert!(!news.is_open() && news.open.is_empty());
        let strangers: Vec<GroupId> = (0..10_000).map(|n| GroupId(n * 3 + 1)).collect();
        news.add(change(1));
        for left in (0..5).rev() {
            assert_eq!(turn(&mut news, &strangers), []);
            assert_eq!((news.looked <= LOOKS_PER_TURN, news.is_open()), (true, left > 0));
        }
    }

    /// Those that lose their leader are spread by their number, whatever leaders hear meanwhile.
    #[test]
    fn leaders_that_hear_do_not_make_others_wait() {
        let ids: Vec<GroupId> = (0..600).map(GroupId).collect();
        let mut news = News::default();
        let (mut slice, mut spreads) = (Slice::default(), Vec::new());
        news.add(change(1));
        while news.is_open() {
            news.begin_turn();
            news.next_slice(&ids, &mut slice, |group, _| Some(group.get() < 512));
            spreads.push(slice.spread);
            slice.groups.clear();
        }
        assert_eq!(spreads, [256, 256, 88].map(|groups| SPREAD_PER_GROUP * groups));
    }

    /// A link that comes up again before everybody has heard that it broke broke all the same.
    #[test]
    fn a_link_that_flaps_is_told_as_broken_and_up() {
        let ids: Vec<GroupId> = (0..600).map(GroupId).collect();
        let mut news = News::default();
        news.add(link(false));
        let first = turn(&mut news, &ids);
        assert!(first.iter().all(|(_, heard)| *heard == [link(false)]));
        news.add(link(true));
        let both = Piece::Link { node: NODE, broke: true, up: true };
        let mut told: Vec<_> = (0..3).flat_map(|_| turn(&mut news, &ids)).collect();
        assert!(told.iter().all(|(_, heard)| *heard == [both]) && !news.is_open());
        // From where the walk was on, and round to those who have heard of the break alone.
        assert_eq!(told[0].0, GroupId(256));
        told.sort_by_key(|(group, _)| *group);
        assert!(told.iter().map(|(group, _)| *group).eq(ids));
    }

    /// What each group still has to hear.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    struct Due {
        broke: bool,
        link: Option<bool>,
        incarnation: Option<u64>,
    }

    impl Due {
        fn add(&mut self, piece: Piece) {
            match piece {
                Piece::Link { up, .. } => (self.broke, self.link) = (self.broke || !up, Some(up)),
                Piece::Support(SupportChange::Incarnation { incarnation, .. }) => {
                    self.incarnation = Some(incarnation.get());
                }
                Piece::Support(_) => unreachable!("none is made"),
            }
        }

        fn hear(&mut self, heard: &[Piece]) {
            for piece in heard {
                match *piece {
                    Piece::Link { broke, up, .. } => {
                        assert!(broke || !self.broke, "the break is told");
                        assert!(self.link.is_none_or(|due| due == up), "as it is now");
                        (self.broke, self.link) = (false, None);
                    }
                    Piece::Support(_) => self.incarnation = None,
                }
            }
        }
    }

    /// Whatever happens in whatever order, and whoever comes and goes meanwhile: who is there hears it, soon,
    /// and so many in a turn as may.
    #[test]
    fn nothing_is_forgotten() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut due: BTreeMap<GroupId, Due> = BTreeMap::new();
            let spread = 1 + random.below(8000);
            due.extend((0..random.below(3000)).map(|n| (GroupId(n * spread), Due::default())));
            let mut news = News::default();
            let mut is_up = true;
            for step in 0..120 {
                let piece = match random.below(12) {
                    0 | 1 => {
                        is_up = !is_up;
                        Some(link(is_up))
                    }
                    2 => Some(change(step)),
                    _ => None,
                };
                // In the end all hear what is left: nothing new comes.
                if let Some(piece) = piece.filter(|_| step < 80) {
                    news.add(piece);
                    for (group, due) in &mut due {
                        if piece.support().is_none() || group.get() % 3 == 0 {
                            due.add(piece);
                        }
                    }
                }
                if random.below(3) == 0 && step < 80 {
                    let group = GroupId(random.below(3000 * spread));
                    if due.remove(&group).is_none() {
                        due.insert(group, Due::default());
                    }
                }
                let ids: Vec<GroupId> = due.keys().copied().collect();
                let told = turn(&mut news, &ids);
                assert!(told.len() <= TOLD_PER_TURN && news.looked <= LOOKS_PER_TURN);
                for (group, heard) in told {
                    due.get_mut(&group).unwrap().hear(&heard);
                }
            }
            let left: Vec<_> = due.iter().filter(|(_, due)| **due != Due::default()).collect();
            assert!(left.is_empty() && !news.is_open(), "seed {seed}: {left:?} {news:?}");
        }
    }
}
