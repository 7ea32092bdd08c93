//! Says whether a history of operations on one range could have come from one copy of the range
//! that does one thing at a time (Herlihy and Wing, 1990). Usable on any recorded history: the
//! simulator's, or that of real processes.
//!
//! It must not know how a history came about. An operation whose outcome is not known may have
//! happened at any time after its call, or never.
//!
//! The search is Wing and Gong's with Lowe's memory of configurations. Operations of unknown outcome
//! make it exponential if they are tried everywhere; here one is placed only where the very next
//! operation sees its effect: later is as good as earlier until somebody looks, and one that nobody
//! sees need not have happened. Rows of several are tried where a search without them got stuck, and
//! everywhere only where that explains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

mod additions;
mod history;
mod witness;

pub use history::{Action, Answer, Operation};
use history::{State, saw, tell};

/// Why a history can not be that of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The longest prefix of answers that can be explained: the operations, in an order that
    /// explains them, by their place in the history.
    pub explained: Vec<usize>,
    /// The operations that were due next, none of which fits.
    pub stuck_at: Vec<usize>,
    /// Told for people.
    pub report: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

/// A configuration of the search: which operations have taken effect.
type Taken = Vec<u64>;

fn has(taken: &Taken, at: usize) -> bool {
    taken[at / 64] >> (at % 64) & 1 == 1
}

fn flip(taken: &mut Taken, at: usize) {
    taken[at / 64] ^= 1 << (at % 64);
}

/// What a configuration comes down to, but for the operations of unknown outcome that have taken
/// effect: how many of the others in a row, which behind the first that has not, and the state.
type Seen = (usize, Vec<usize>, State);

/// One step of the search, with what it takes to go back.
struct Step {
    /// The operations placed by it: unknown ones and, last, one with an answer.
    placed: Vec<usize>,
    before: State,
    first_before: usize,
    /// Other ways from the same configuration, the next one last.
    others: Vec<Vec<usize>>,
    /// With rows of this length; longer ones have not been tried there.
    row_len: usize,
}

struct Search<'a> {
    history: &'a [Operation],
    /// Operations with an answer, by the time of their calls.
    known: Vec<usize>,
    /// Writes without one, likewise.
    unknown: Vec<usize>,
    taken: Taken,
    /// All before this place of `known` have taken effect.
    first: usize,
    state: State,
    /// The configurations that were tried, each with the sets of operations of unknown outcome that
    /// led there.
    seen: BTreeMap<Seen, Vec<BTreeSet<usize>>>,
    steps: Vec<Step>,
    initial: State,
    zones: Vec<Zone>,
    /// The furthest that `first` ever was.
    reached: usize,
    /// For each of unknown outcome the reads that can have seen it. It is placed before an operation
    /// that would fit without it only while one of them is to come. `None`: it is placed anywhere.
    readers: Option<BTreeMap<usize, Vec<usize>>>,
    /// Configurations and rows that may still be tried.
    work_left: usize,
    /// Operations that have taken effect.
    placed_count: usize,
}

/// Most operations of unknown outcome that are placed in a row.
const ROW_MAX: usize = 6;
/// A zone reaches over so many operations before and behind the place that was reached.
const ZONE: usize = 16;
/// Most configurations and rows that a search tries; those that follow begin anew with more.
const WORK_MAXES: [usize; 4] = [20_000, 200_000, 2_000_000, 20_000_000];

/// Checks a history that begins with an empty range.
///
/// # Errors
/// When no order of the operations explains every answer.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    check_from(history, &BTreeMap::new())
}

/// Checks a history that begins with an empty range, and tries this order first: the places in the history of operations
/// that change something, as somebody believes that they took effect. It need not be right: it is gone through like
/// any other, and where it does not explain every answer, one is searched for.
///
/// # Errors
/// As [`check`].
pub fn check_along(history: &[Operation], order: &[usize]) -> Result<(), Violation> {
    if witness::explains(history, order) {
        return Ok(());
    }
    check(history)
}

/// Checks a history that begins with these keys and values. Keys that no operation joins are
/// checked apart: what is linearizable for each is so for all.
///
/// # Errors
/// As [`check`].
pub fn check_from(history: &[Operation], state: &BTreeMap<Bytes, Bytes>) -> Result<(), Violation> {
    parts(history).into_iter().try_for_each(|part| check_part(history, &part, state))
}

fn check_part(history: &[Operation], part: &[usize], state: &State) -> Result<(), Violation> {
    let mut furthest: Option<Violation> = None;
    for (work, hidden) in WORK_MAXES.into_iter().flat_map(|work| [(work, false), (work, true)]) {
        let mut zones: Vec<Zone> = Vec::new();
        loop {
            let mut search = Search::new(history, part, state.clone(), zones.clone(), work);
            if !hidden {
                search.find_readers();
            }
            let Err(violation) = search.run() else { return Ok(()) };
            if hidden && search.work_left > 0 && zones.iter().any(Zone::is_everywhere) {
                return Err(violation);
            }
            let length = |violation: &Violation| violation.explained.len();
            if furthest.as_ref().is_none_or(|other| length(other) < length(&violation)) {
                furthest = Some(violation);
            }
            // Longer rows where it got stuck; in the end everywhere.
            let reached = search.reached;
            match zones.iter_mut().find(|zone| zone.holds(reached)) {
                None => zones.push(Zone::at(reached)),
                Some(zone) if zone.row_max < ROW_MAX => zone.row_max += 1,
                Some(zone) if zone.is_everywhere() => break,
                Some(_) => zones.insert(0, Zone::EVERYWHERE),
            }
        }
    }
    let end = "the search has given up: there may be an order\n";
    furthest.map_or(Ok(()), |violation| {
        Err(Violation { report: violation.report.clone() + end, ..violation })
    })
}

/// Where in a history more than one operation of unknown outcome is placed in a row: around where a
/// search without has got stuck.
#[derive(Clone, Copy, Debug)]
struct Zone {
    from: usize,
    to: usize,
    row_max: usize,
}

impl Zone {
    const EVERYWHERE: Self = Self { from: 0, to: usize::MAX, row_max: ROW_MAX };

    fn at(reached: usize) -> Self {
        Self { from: reached.saturating_sub(ZONE), to: reached + ZONE, row_max: 2 }
    }

    fn holds(&self, first: usize) -> bool {
        (self.from..=self.to).contains(&first)
    }

    fn is_everywhere(&self) -> bool {
        self.to == usize::MAX
    }
}

/// The places of operations, put together where they have a key in common.
fn parts(history: &[Operation]) -> Vec<Vec<usize>> {
    if history.iter().any(|operation| matches!(operation.action, Action::Scan(..))) {
        return vec![(0..history.len()).collect()];
    }
    let mut leader: BTreeMap<&Bytes, &Bytes> = BTreeMap::new();
    fn root<'a>(leader: &BTreeMap<&'a Bytes, &'a Bytes>, mut key: &'a Bytes) -> &'a Bytes {
        while let Some(next) = leader.get(key).filter(|next| **next != key) {
            key = next;
        }
        key
    }
    for operation in history {
        let keys = operation.action.keys();
        for pair in keys.windows(2) {
            let (one, two) = (root(&leader, pair[0]), root(&leader, pair[1]));
            leader.insert(one, two);
        }
    }
    let mut parts: BTreeMap<&Bytes, Vec<usize>> = BTreeMap::new();
    for (at, operation) in history.iter().enumerate() {
        if let Some(key) = operation.action.keys().first() {
            parts.entry(root(&leader, key)).or_default().push(at);
        }
    }
    parts.into_values().collect()
}

impl<'a> Search<'a> {
    fn new(
        history: &'a [Operation],
        part: &[usize],
        state: State,
        zones: Vec<Zone>,
        work_left: usize,
    ) -> Self {
        let mut by_call = part.to_vec();
        by_call.sort_by_key(|at| history[*at].called_at);
        let is_known = |at: &usize| history[*at].answer.is_some();
        let (known, unknown): (Vec<usize>, Vec<usize>) = by_call.into_iter().partition(is_known);
        Search {
            history,
            known,
            unknown: unknown.into_iter().filter(|at| !history[*at].action.is_read()).collect(),
            taken: vec![0; history.len().div_ceil(64)],
            first: 0,
            initial: state.clone(),
            state,
            seen: BTreeMap::new(),
            steps: Vec::new(),
            zones,
            reached: 0,
            readers: None,
            work_left,
            placed_count: 0,
        }
    }
}

impl Search<'_> {
    /// Most operations of unknown outcome to place in a row here.
    fn row_max(&self) -> usize {
        let here = self.zones.iter().filter(|zone| zone.holds(self.first));
        here.map(|zone| zone.row_max).max().unwrap_or(1)
    }

    /// Restricts the search: what leaves a trace that some read has seen is placed anywhere, what is
    /// known by its being there alone only right before the operation that tells so. What this
    /// finds is an order all the same, and mostly it is there to be found.
    fn find_readers(&mut self) {
        let reads = |read: &usize, action: &Action| {
            let operation = &self.history[*read];
            let Some((_, answer)) = &operation.answer else { return false };
            action.keys().into_iter().any(|key| {
                let value = saw(&operation.action, answer, key).flatten();
                value.is_some() && action.may_make(key, value.as_ref())
            })
        };
        let readers = |at: &usize| {
            let action = &self.history[*at].action;
            (*at, self.known.iter().copied().filter(|read| reads(read, action)).collect())
        };
        self.readers = Some(self.unknown.iter().map(readers).collect());
    }

    fn run(&mut self) -> Result<(), Violation> {
        let mut deepest: (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut ways = self.ways(0);
        let mut row_len = 0;
        loop {
            if self.first == self.known.len() {
                return Ok(());
            }
            let way = ways.pop().filter(|_| self.work_left > 0);
            let Some(placed) = way else {
                // Operations of unknown outcome are brought in only where nothing else goes on.
                if row_len < self.row_max() && self.work_left > 0 {
                    row_len += 1;
                    ways = self.ways(row_len);
                    continue;
                }
                if deepest.1.is_empty() || self.placed_count > deepest.0.len() {
                    let placed = self.steps.iter().flat_map(|step| step.placed.iter().copied());
                    deepest = (placed.collect(), self.due());
                }
                let Some(step) = self.steps.pop() else { return Err(self.violation(deepest)) };
                for at in &step.placed {
                    flip(&mut self.taken, *at);
                }
                self.state = step.before;
                self.placed_count -= step.placed.len();
                self.first = step.first_before;
                (ways, row_len) = (step.others, step.row_len);
                continue;
            };
            self.work_left -= 1;
            let before = self.state.clone();
            for at in &placed {
                self.history[*at].action.apply(&mut self.state);
                flip(&mut self.taken, *at);
            }
            let first_before = self.first;
            while self.known.get(self.first).is_some_and(|at| has(&self.taken, *at)) {
                self.first += 1;
            }
            self.reached = self.reached.max(self.first);
            if !self.is_new() {
                for at in &placed {
                    flip(&mut self.taken, *at);
                }
                self.state = before;
                self.first = first_before;
                continue;
            }
            self.placed_count += placed.len();
            self.steps.push(Step { placed, before, first_before, others: ways, row_len });
            ways = self.ways(0);
            row_len = 0;
        }
    }

    /// Whether the configuration was not tried before. One that took fewer operations of unknown
    /// outcome to the same state can do all that this one can.
    fn is_new(&mut self) -> bool {
        // Whatever is ahead of the first that has not taken effect was called before its answer.
        let rest = &self.known[self.first..];
        let first = rest.first().and_then(|at| self.history[*at].answer.as_ref());
        let until = first.map_or(0, |(answered, _)| *answered);
        let near = rest.partition_point(|at| self.history[*at].called_at <= until);
        let taken = |at: &&usize| has(&self.taken, **at);
        let ahead = rest[..near].iter().filter(taken).copied().collect();
        let lost: BTreeSet<usize> = self.unknown.iter().filter(taken).copied().collect();
        let tried = self.seen.entry((self.first, ahead, self.state.clone())).or_default();
        let is_new = !tried.iter().any(|fewer| fewer.is_subset(&lost));
        if is_new {
            tried.push(lost);
        }
        is_new
    }

    /// Operations with an answer that may take effect next: called before any other was answered.
    fn due(&self) -> Vec<usize> {
        let mut earliest_answer = u64::MAX;
        let mut due = Vec::new();
        for at in &self.known[self.first..] {
            let operation = &self.history[*at];
            if operation.called_at > earliest_answer {
                break;
            }
            if !has(&self.taken, *at) {
                due.push(*at);
                let answered = operation.answer.as_ref().map_or(u64::MAX, |(at, _)| *at);
                earliest_answer = earliest_answer.min(answered);
            }
        }
        due
    }

    /// Every way to go on over a row of so many operations of unknown outcome, the most promising
    /// last.
    fn ways(&mut self, row_len: usize) -> Vec<Vec<usize>> {
        let due = self.due();
        let history = self.history;
        let answered = |at: &usize| history[*at].answer.as_ref().map(|(at, _)| *at);
        let earliest = due.iter().filter_map(answered).min().unwrap_or(u64::MAX);
        let may = |at: &usize| history[*at].called_at <= earliest && !has(&self.taken, *at);
        let lost: Vec<usize> = if row_len == 0 {
            Vec::new()
        } else {
            self.unknown.iter().copied().filter(may).collect()
        };
        let mut ways: Vec<Vec<usize>> = Vec::new();
        for at in &due {
            let useful = self.useful(*at, &lost);
            self.rows(*at, &useful, row_len, &mut ways);
        }
        // Whoever was answered first most likely took effect first.
        let target = |way: &Vec<usize>| way.last().and_then(answered);
        ways.sort_by_key(|way| std::cmp::Reverse(target(way)));
        ways
    }

    /// Whether no read to come can have seen what the operation left.
    fn is_hidden(&self, at: usize) -> bool {
        let readers = self.readers.as_ref().map(|readers| &readers[&at]);
        readers.is_some_and(|readers| readers.iter().all(|read| has(&self.taken, *read)))
    }

    /// Those of the lost operations that can have made what the target saw, be it for another of
    /// them that goes by what it finds; those that wrote another key besides; and those of several keys
    /// that one of all these overwrote in part, and so must stand before it.
    fn useful(&self, target: usize, lost: &[usize]) -> Vec<usize> {
        let mut useful = self.seen_by(target, lost);
        let spreads =
            |at: &usize| self.history[*at].action.keys().len() > 1 && !self.is_hidden(*at);
        let mut rest: Vec<usize> = lost.iter().copied().filter(spreads).collect();
        loop {
            let touches = |at: &usize| {
                let action = &self.history[*at].action;
                useful.iter().any(|near| self.history[*near].action.touches(action))
            };
            let (near, far): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(touches);
            rest = far;
            let before = useful.len();
            useful.extend(near);
            if useful.len() == before {
                return lost.iter().copied().filter(|at| useful.contains(at)).collect();
            }
        }
    }

    fn seen_by(&self, target: usize, lost: &[usize]) -> BTreeSet<usize> {
        let operation = &self.history[target];
        let Some((_, answer)) = &operation.answer else { return BTreeSet::new() };
        let mut wanted: Vec<(&Bytes, Option<Bytes>)> = Vec::new();
        match (&operation.action, answer) {
            (Action::Swap { key, expected, .. }, Answer::Number(1)) => {
                wanted.push((key, expected.clone()));
            }
            (action, _) if !action.is_read() => {
                let touches = |at: &usize| self.history[*at].action.touches(action);
                return lost.iter().copied().filter(touches).collect();
            }
            _ => {}
        }
        for key in lost.iter().flat_map(|at| self.history[*at].action.keys()) {
            if let Some(value) = saw(&operation.action, answer, key) {
                wanted.push((key, value));
            }
        }
        let wrote_more = |at: &&usize| {
            let action = &self.history[**at].action;
            let touches = || action.touches(&operation.action);
            action.keys().len() > 1 && touches() && !self.is_hidden(**at)
        };
        let mut useful: BTreeSet<usize> = lost.iter().filter(wrote_more).copied().collect();
        loop {
            let count = useful.len();
            for at in lost {
                let action = &self.history[*at].action;
                if wanted.iter().any(|(key, value)| action.may_make(key, value.as_ref()))
                    && useful.insert(*at)
                    && let Action::Swap { key, expected, .. } = action
                {
                    wanted.push((key, expected.clone()));
                }
            }
            if useful.len() == count {
                return useful;
            }
        }
    }

    /// Adds the ways to `target` behind a row of so many `lost` operations that it sees.
    fn rows(&mut self, target: usize, lost: &[usize], row_len: usize, ways: &mut Vec<Vec<usize>>) {
        let Some((_, answer)) = &self.history[target].answer else { return };
        let mut alone = self.state.clone();
        let fits_alone = self.history[target].action.apply(&mut alone) == *answer;
        if fits_alone && row_len > 0 && lost.iter().all(|at| self.is_hidden(*at)) {
            return;
        }
        let mut rows: Vec<(Vec<usize>, State)> = vec![(Vec::new(), self.state.clone())];
        for length in 0..row_len {
            let mut longer = Vec::new();
            for (row, state) in &rows {
                if self.work_left > 0 {
                    self.lengthen(row, state, lost, &mut longer);
                    self.work_left = self.work_left.saturating_sub(1 + longer.len() / 64);
                }
            }
            if length + 1 == row_len {
                for (row, state) in &rows {
                    self.add_up(target, lost, row, state, ways);
                }
            }
            rows = longer;
        }
        for (mut row, mut after) in rows {
            let fits = self.history[target].action.apply(&mut after) == *answer;
            // A row that leaves no trace behind the target need not have happened.
            let leaves_trace = after != alone && !row.iter().any(|at| self.is_hidden(*at));
            if fits
                && self.holds_together(&row, target)
                && (!fits_alone || row.is_empty() || leaves_trace)
            {
                row.push(target);
                ways.push(row);
            }
        }
    }

    /// Whether each of a row touches the target or one behind itself: what does not can as well take
    /// effect later.
    fn holds_together(&self, row: &[usize], target: usize) -> bool {
        let behind = |place: usize| row[place + 1..].iter().chain([&target]);
        row.iter().enumerate().all(|(place, at)| {
            let action = &self.history[*at].action;
            behind(place).any(|near| self.history[*near].action.touches(action))
        })
    }

    /// Adds each row with one more operation that changes something.
    fn lengthen(
        &self,
        row: &[usize],
        state: &State,
        lost: &[usize],
        longer: &mut Vec<(Vec<usize>, State)>,
    ) {
        for (place, at) in lost.iter().enumerate().filter(|(_, at)| !row.contains(at)) {
            let action = &self.history[*at].action;
            // Of those that do the same, the first is as good as any.
            let is_same =
                |other: &&usize| self.history[**other].action == *action && !row.contains(other);
            if lost[..place].iter().any(|other| is_same(&other)) {
                continue;
            }
            let mut after = state.clone();
            action.apply(&mut after);
            if after != *state {
                let row = row.iter().copied().chain([*at]).collect();
                longer.push((row, after));
            }
        }
    }

    fn violation(&self, (explained, stuck_at): (Vec<usize>, Vec<usize>)) -> Violation {
        use std::fmt::Write;
        let mut state = self.initial.clone();
        for at in &explained {
            self.history[*at].action.apply(&mut state);
        }
        let mut report = "no order of the operations explains every answer\n".to_owned();
        let _ = writeln!(report, "explained: {} operations; the last of them:", explained.len());
        for at in explained.iter().rev().take(8).rev() {
            let _ = writeln!(report, "  {}", tell(*at, &self.history[*at]));
        }
        let _ = writeln!(report, "then the range holds {state:?}, which none of these fits:");
        for at in &stuck_at {
            let _ = writeln!(report, "  {}", tell(*at, &self.history[*at]));
        }
        let open: Vec<usize> =
            self.unknown.iter().copied().filter(|at| !explained.contains(at)).collect();
        let _ = writeln!(report, "of unknown outcome and not needed so far: {}", open.len());
        for at in open.iter().take(12) {
            let _ = writeln!(report, "  {}", tell(*at, &self.history[*at]));
        }
        Violation { explained, stuck_at, report }
    }
}
