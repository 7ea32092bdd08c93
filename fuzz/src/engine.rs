//! Mutational fuzzing without help of the compiler: an input whose outcome is a new one is mutated
//! further. The same seed and corpus make the same run.

use std::collections::BTreeSet;

use oarlock_types::Random;

use crate::mutate::mutate;
use crate::targets::Target;

/// One run of a target over many inputs.
#[derive(Debug)]
pub struct Engine {
    target: &'static Target,
    random: Random,
    inputs: Vec<Vec<u8>>,
    outcomes: BTreeSet<u64>,
    next: Vec<u8>,
}

impl Engine {
    /// An engine that knows no input but the empty one.
    #[must_use]
    pub fn new(target: &'static Target, seed: u64) -> Self {
        let mut outcomes = BTreeSet::new();
        outcomes.insert((target.run)(&[]));
        Self {
            target,
            random: Random::new(seed),
            inputs: vec![Vec::new()],
            outcomes,
            next: Vec::new(),
        }
    }

    /// Runs a known input, to mutate it later.
    pub fn seed(&mut self, input: Vec<u8>) {
        self.outcomes.insert((self.target.run)(&input));
        self.inputs.push(input);
    }

    /// Chooses the next input.
    pub fn choose(&mut self) -> &[u8] {
        let count = self.inputs.len() as u64;
        let one = usize::try_from(self.random.below(count)).unwrap_or(0);
        let two = usize::try_from(self.random.below(count)).unwrap_or(0);
        let Target { words, input_bytes_max, .. } = *self.target;
        let (input, other) = (&self.inputs[one], &self.inputs[two]);
        self.next = mutate(input, other, words, input_bytes_max, &mut self.random);
        &self.next
    }

    /// Runs the chosen input; gives it back if its outcome is a new one.
    pub fn run(&mut self) -> Option<&[u8]> {
        let is_new = self.outcomes.insert((self.target.run)(&self.next));
        is_new.then(|| {
            self.inputs.push(std::mem::take(&mut self.next));
            self.inputs.last().map(Vec::as_slice).unwrap_or_default()
        })
    }

    /// Different outcomes so far.
    #[must_use]
    pub fn outcomes_count(&self) -> usize {
        self.outcomes.len()
    }
}
