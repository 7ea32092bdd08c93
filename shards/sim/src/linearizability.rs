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
//! sees need not have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

/// What a client asked of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The values of keys, read at one moment. A plain read names one.
    Read(Vec<Bytes>),
    /// All keys from the first on and before the second (to the end, if `None`), with values.
    Scan(Bytes, Option<Bytes>),
    /// Sets keys, all at one moment.
    Write(Vec<(Bytes, Bytes)>),
    /// Removes a key; its outcome is how many were there.
    Delete(Bytes),
    /// Appends to a key's value; its outcome is the new length.
    Append(Bytes, Bytes),
    /// Adds to a key's number (none counts as zero); its outcome is the new number.
    Add(Bytes, i64),
    /// Replaces a key's value if it is the expected one; its outcome is 1 or 0.
    Swap {
        /// The key.
        key: Bytes,
        /// What must be there; `None`: no such key.
        expected: Option<Bytes>,
        /// What shall be there.
        new: Bytes,
    },
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// A number.
    Number(i64),
    /// Values, each where a key of the read stands.
    Values(Vec<Option<Bytes>>),
    /// Keys and values in order.
    Pairs(Vec<(Bytes, Bytes)>),
}

/// One operation of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked; for people.
    pub client: u64,
    /// When it was called, on any clock that all operations share.
    pub called_at: u64,
    /// What was asked.
    pub action: Action,
    /// When the answer came, and what it was. `None`: the outcome is not known.
    pub answer: Option<(u64, Answer)>,
}

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

/// The range's state: its live keys.
type State = BTreeMap<Bytes, Bytes>;

impl Action {
    /// What it does to the state, and what its client must be told.
    fn apply(&self, state: &mut State) -> Answer {
        match self {
            Self::Read(keys) => {
                Answer::Values(keys.iter().map(|key| state.get(key).cloned()).collect())
            }
            Self::Scan(from, to) => {
                let until = |key: &Bytes| to.as_ref().is_none_or(|to| key < to);
                let pairs = state.range(from.clone()..).take_while(|(key, _)| until(key));
                Answer::Pairs(pairs.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            Self::Write(pairs) => {
                state.extend(pairs.iter().cloned());
                Answer::Done
            }
            Self::Delete(key) => Answer::Number(i64::from(state.remove(key).is_some())),
            Self::Append(key, more) => {
                let mut value = state.get(key).map_or_else(Vec::new, |value| value.to_vec());
                value.extend_from_slice(more);
                let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
                state.insert(key.clone(), value.into());
                Answer::Number(length)
            }
            Self::Add(key, delta) => {
                let text = state.get(key).map_or("0".into(), |v| String::from_utf8_lossy(v));
                let sum = text.parse::<i64>().unwrap_or(i64::MIN).saturating_add(*delta);
                state.insert(key.clone(), sum.to_string().into());
                Answer::Number(sum)
            }
            Self::Swap { key, expected, new } => {
                let fits = state.get(key) == expected.as_ref();
                if fits {
                    state.insert(key.clone(), new.clone());
                }
                Answer::Number(i64::from(fits))
            }
        }
    }

    /// The keys that it names; a scan names none.
    fn keys(&self) -> Vec<&Bytes> {
        match self {
            Self::Read(keys) => keys.iter().collect(),
            Self::Scan(..) => Vec::new(),
            Self::Write(pairs) => pairs.iter().map(|(key, _)| key).collect(),
            Self::Delete(key) | Self::Append(key, _) | Self::Add(key, _) => vec![key],
            Self::Swap { key, .. } => vec![key],
        }
    }

    fn touches(&self, other: &Self) -> bool {
        let scans = |action: &Self| matches!(action, Self::Scan(..));
        scans(self) || scans(other) || self.keys().iter().any(|key| other.keys().contains(key))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Scan(..))
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

/// One step of the search, with what it takes to go back.
struct Step {
    /// The operations placed by it: unknown ones and, last, one with an answer.
    placed: Vec<usize>,
    before: State,
    /// Other ways from the same configuration, the next one last.
    others: Vec<Vec<usize>>,
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
    seen: BTreeSet<(Taken, State)>,
    steps: Vec<Step>,
    initial: State,
    row_max: usize,
}

/// Most operations of unknown outcome that are placed in a row at first.
const ROW_MAX: usize = 2;
/// Most in the second, thorough search, which runs only where the first explains nothing.
const ROW_MAX_THOROUGH: usize = 6;

/// Checks a history that begins with an empty range.
///
/// # Errors
/// When no order of the operations explains every answer.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    check_from(history, &BTreeMap::new())
}

/// Checks a history that begins with these keys and values. Keys that no operation joins are
/// checked apart: what is linearizable for each is so for all.
///
/// # Errors
/// As [`check`].
pub fn check_from(history: &[Operation], state: &BTreeMap<Bytes, Bytes>) -> Result<(), Violation> {
    for part in parts(history) {
        let search = |row_max| Search::new(history, &part, state.clone(), row_max).run();
        if search(ROW_MAX).is_err() {
            search(ROW_MAX_THOROUGH)?;
        }
    }
    Ok(())
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
    fn new(history: &'a [Operation], part: &[usize], state: State, row_max: usize) -> Self {
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
            seen: BTreeSet::new(),
            steps: Vec::new(),
            row_max,
        }
    }
}

impl Search<'_> {
    fn run(mut self) -> Result<(), Violation> {
        let mut deepest: (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut ways = self.ways();
        loop {
            if self.first == self.known.len() {
                return Ok(());
            }
            let Some(placed) = ways.pop() else {
                let explained: Vec<usize> =
                    self.steps.iter().flat_map(|step| step.placed.iter().copied()).collect();
                if deepest.1.is_empty() || explained.len() > deepest.0.len() {
                    deepest = (explained, self.due());
                }
                let Some(step) = self.steps.pop() else { return Err(self.violation(deepest)) };
                for at in &step.placed {
                    flip(&mut self.taken, *at);
                }
                self.state = step.before;
                self.first = self.known.iter().position(|at| !has(&self.taken, *at)).unwrap_or(0);
                ways = step.others;
                continue;
            };
            let before = self.state.clone();
            for at in &placed {
                self.history[*at].action.apply(&mut self.state);
                flip(&mut self.taken, *at);
            }
            if !self.seen.insert((self.taken.clone(), self.state.clone())) {
                for at in &placed {
                    flip(&mut self.taken, *at);
                }
                self.state = before;
                continue;
            }
            while self.known.get(self.first).is_some_and(|at| has(&self.taken, *at)) {
                self.first += 1;
            }
            self.steps.push(Step { placed, before, others: ways });
            ways = self.ways();
        }
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

    /// Every way to go on, the most promising last.
    fn ways(&self) -> Vec<Vec<usize>> {
        let due = self.due();
        let answered = |at: &usize| self.history[*at].answer.as_ref().map(|(at, _)| *at);
        let earliest = due.iter().filter_map(answered).min().unwrap_or(u64::MAX);
        let may = |at: &usize| self.history[*at].called_at <= earliest && !has(&self.taken, *at);
        let lost: Vec<usize> = self.unknown.iter().copied().filter(may).collect();
        let mut ways: Vec<Vec<usize>> = Vec::new();
        for at in &due {
            self.rows(*at, &lost, &mut ways);
        }
        ways.sort_by_key(|way| std::cmp::Reverse(way.len()));
        ways
    }

    /// Adds the ways to `target`: alone, or behind a row of `lost` operations that it sees.
    fn rows(&self, target: usize, lost: &[usize], ways: &mut Vec<Vec<usize>>) {
        let Some((_, answer)) = &self.history[target].answer else { return };
        let mut rows: Vec<(Vec<usize>, State)> = vec![(Vec::new(), self.state.clone())];
        for length in 0..=self.row_max {
            let mut longer = Vec::new();
            let mut fits = false;
            for (row, state) in rows {
                let mut after = state.clone();
                if self.history[target].action.apply(&mut after) == *answer {
                    let mut way = row.clone();
                    way.push(target);
                    ways.push(way);
                    fits = true;
                }
                if length < self.row_max {
                    self.lengthen(target, &row, &state, lost, &mut longer);
                }
            }
            // At first a longer row is looked for only where a shorter one does not do.
            if longer.is_empty() || (fits && length > 0 && self.row_max < ROW_MAX_THOROUGH) {
                return;
            }
            rows = longer;
        }
    }

    /// Adds each row with one more operation that touches what the target or the row touches.
    fn lengthen(
        &self,
        target: usize,
        row: &[usize],
        state: &State,
        lost: &[usize],
        longer: &mut Vec<(Vec<usize>, State)>,
    ) {
        for at in lost.iter().filter(|at| !row.contains(at)) {
            let action = &self.history[*at].action;
            let mut near = row.iter().chain([&target]).map(|near| &self.history[*near].action);
            if !near.any(|near| near.touches(action)) {
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

fn tell(at: usize, operation: &Operation) -> String {
    let Operation { client, called_at, action, answer } = operation;
    match answer {
        Some((answered, answer)) => {
            format!("#{at} client {client} [{called_at}, {answered}] {action:?} -> {answer:?}")
        }
        None => format!("#{at} client {client} [{called_at}, …] {action:?} -> not known"),
    }
}
