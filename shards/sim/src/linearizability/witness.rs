//! An order that somebody proposes: not believed, but gone through. If it explains every answer, no search is needed,
//! and operations of unknown outcome cost nothing.

use super::history::{Operation, State};

/// An order of the operations of a history, as far as it is put together.
struct Order<'a> {
    history: &'a [Operation],
    /// The operations that change something, in their order.
    writes: Vec<usize>,
    /// What the range holds before, between and behind them.
    states: Vec<State>,
    /// Behind how many of them each operation with a place stands.
    places: Vec<Option<usize>>,
}

/// Whether the operations explain every answer if those that change something take effect in this order, which names
/// them by their place in the history. One that it does not name has not happened. One that it names more than once
/// took effect where its answer fits first.
pub(super) fn explains(history: &[Operation], order: &[usize]) -> bool {
    let places = vec![None; history.len()];
    let mut all = Order { history, writes: Vec::new(), states: vec![State::new()], places };
    all.put_writes(order) && all.put_reads() && all.keeps_to_time()
}

impl Order<'_> {
    fn put_writes(&mut self, order: &[usize]) -> bool {
        for at in order {
            let operation = &self.history[*at];
            if self.places[*at].is_some() {
                continue;
            }
            let mut state = self.states[self.writes.len()].clone();
            let answer = operation.action.apply(&mut state);
            if operation.answer.as_ref().is_none_or(|(_, told)| *told == answer) {
                self.writes.push(*at);
                self.states.push(state);
                self.places[*at] = Some(self.writes.len());
            }
        }
        let is_open = |(operation, place): (&Operation, &Option<usize>)| {
            operation.answer.is_some() && !operation.action.is_read() && place.is_none()
        };
        !self.history.iter().zip(&self.places).any(is_open)
    }

    /// Puts each read as far ahead as it can stand: that leaves the most room to those behind it.
    fn put_reads(&mut self) -> bool {
        for at in self.reads() {
            let read = &self.history[at];
            let Some((_, told)) = &read.answer else { continue };
            let is_before = |other: &Operation| {
                other.answer.as_ref().is_some_and(|(answered, _)| *answered < read.called_at)
            };
            let placed = self.history.iter().zip(&self.places);
            let before = placed.filter(|(other, _)| is_before(other));
            let first = before.filter_map(|(_, place)| *place).max().unwrap_or(0);
            let mut places = first..self.states.len();
            let fits =
                |place: &usize| read.action.read(&self.states[*place]).as_ref() == Some(told);
            let Some(place) = places.find(fits) else { return false };
            self.places[at] = Some(place);
        }
        true
    }

    /// Reads by the time of their calls.
    fn reads(&self) -> Vec<usize> {
        let is_read = |at: &usize| self.history[*at].action.is_read();
        let mut reads: Vec<usize> = (0..self.history.len()).filter(is_read).collect();
        reads.sort_by_key(|at| self.history[*at].called_at);
        reads
    }

    /// Whether nothing stands behind what was called only after its answer.
    fn keeps_to_time(&self) -> bool {
        let mut all: Vec<usize> = self.writes.clone();
        all.extend(self.reads());
        // Reads stand behind the write that they have seen, among each other by their calls.
        all.sort_by_key(|at| self.places[*at]);
        let mut newest_call = 0;
        all.iter().filter(|at| self.places[**at].is_some()).all(|at| {
            let Operation { called_at, answer, .. } = &self.history[*at];
            newest_call = newest_call.max(*called_at);
            answer.as_ref().is_none_or(|(answered, _)| newest_call <= *answered)
        })
    }
}
