//! Rows of additions of unknown outcome: as many of them as a number tells of, which may be far more than a row of
//! operations has room for.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Search;
use super::history::{Action, Answer, State, saw};

/// Most choices among additions that are looked at with each one more.
const SUMS_MAX: usize = 4096;

impl Search<'_> {
    /// Adds the ways to `target` behind a row and behind as many additions to one number as make it what the target
    /// saw: in whatever order they take effect, they come to the same, so there may be any number of them.
    pub(super) fn add_up(
        &mut self,
        target: usize,
        lost: &[usize],
        row: &[usize],
        state: &State,
        ways: &mut Vec<Vec<usize>>,
    ) {
        let history = self.history;
        let Some((_, answer)) = &history[target].answer else { return };
        let added = |at: &usize| {
            let Action::Add(key, delta) = &history[*at].action else { return None };
            (!row.contains(at)).then_some((*at, key, *delta))
        };
        let added: Vec<(usize, &Bytes, i64)> = lost.iter().filter_map(added).collect();
        let keys: BTreeSet<&Bytes> = added.iter().map(|(_, key, _)| *key).collect();
        for key in keys {
            let number = |value: &Bytes| String::from_utf8_lossy(value).parse::<i64>().ok();
            let is = state.get(key).map_or(Some(0), number);
            let was_seen = match (&history[target].action, answer) {
                (Action::Add(of, delta), Answer::Number(sum)) if of == key => Some(sum - delta),
                (action, answer) => saw(action, answer, key).flatten().as_ref().and_then(number),
            };
            let (Some(is), Some(was_seen)) = (is, was_seen) else { continue };
            if is == was_seen {
                continue;
            }
            let of_key = added.iter().filter(|(_, of, _)| *of == key);
            let of_key: Vec<(usize, i64)> = of_key.map(|(at, _, delta)| (*at, *delta)).collect();
            for sum in self.sums(&of_key, was_seen - is) {
                let mut after = state.clone();
                for at in &sum {
                    history[*at].action.apply(&mut after);
                }
                let way: Vec<usize> = row.iter().copied().chain(sum).collect();
                let fits = history[target].action.apply(&mut after) == *answer;
                if fits && self.holds_together(&way, target) {
                    ways.push(way.into_iter().chain([target]).collect());
                }
            }
        }
    }

    /// Two or more of these additions that make `wanted` together: every choice of them, as far as there are few.
    fn sums(&mut self, added: &[(usize, i64)], wanted: i64) -> Vec<Vec<usize>> {
        let mut sums: Vec<(Vec<usize>, i64)> = vec![(Vec::new(), 0)];
        for (at, delta) in added {
            let with = |(sum, made): &(Vec<usize>, i64)| {
                (sum.iter().copied().chain([*at]).collect(), made + delta)
            };
            let more: Vec<_> = sums.iter().take(SUMS_MAX).map(with).collect();
            sums.extend(more);
        }
        self.work_left = self.work_left.saturating_sub(sums.len() / 64);
        let fits = |(sum, made): &(Vec<usize>, i64)| *made == wanted && sum.len() > 1;
        sums.into_iter().filter(fits).map(|(sum, _)| sum).collect()
    }
}
