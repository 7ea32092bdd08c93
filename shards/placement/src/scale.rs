//! How evenly something is shared out, and what moving a part of it gains.
//!
//! The potential of one share is Σ w·(x/w)², with x what a place has and w what is fair, both as
//! parts of the whole: least when every place has what is fair. A move must lower the sum of all
//! potentials, and one of them by more than its slack, so that moves end and none is the reverse of
//! another.

use oarlock_types::NodeId;

use crate::task::{Reason, Share};

/// Gains below this are rounding.
const NOISE: f64 = 1e-12;

/// One thing that places share, and how fine the sharing is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// What is shared.
    pub(crate) share: Share,
    /// All of it, with the floor.
    total: f64,
    /// The weights of all places.
    weights: f64,
    /// What each unit of weight is taken to have besides, so that little counts little.
    floor: f64,
    /// The difference of levels that is left alone.
    slack: f64,
}

/// What a place has of one share, and the place's weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) has: f64,
    pub(crate) weight: f64,
}

impl Scale {
    /// That one node has more of this share than the other.
    pub(crate) fn uneven_nodes(&self, from: (NodeId, Holding), to: (NodeId, Holding)) -> Reason {
        Reason::UnevenNodes {
            share: self.share,
            from: from.0,
            from_percent: percent(self.level(from.1)),
            to: to.0,
            to_percent: percent(self.level(to.1)),
        }
    }

    pub(crate) fn new(share: Share, sum: f64, weights: f64, floor: f64, percent: u32) -> Self {
        let slack = f64::from(percent) / 100.0;
        Self { share, total: sum + floor * weights, weights, floor, slack }
    }

    /// What a place has, as a part of what is fair: 1 is even.
    pub(crate) fn level(&self, place: Holding) -> f64 {
        if self.total <= 0.0 || place.weight <= 0.0 {
            return 1.0;
        }
        let fair = self.total * place.weight / self.weights;
        (place.has + self.floor * place.weight) / fair
    }

    /// What is fair for a place, without the floor.
    pub(crate) fn fair(&self, weight: f64) -> f64 {
        if self.weights <= 0.0 { 0.0 } else { (self.total / self.weights - self.floor) * weight }
    }

    /// An amount as a part of the whole.
    pub(crate) fn part(&self, amount: f64) -> f64 {
        if self.total <= 0.0 { 0.0 } else { amount / self.total }
    }

    /// By how much the potential falls when this amount moves, less what the slack forgives.
    pub(crate) fn gain(&self, amount: f64, from: Holding, to: Holding) -> f64 {
        self.between(from, to).gain(amount)
    }

    /// What moves from one place to another gain, while both have what they have.
    pub(crate) fn between(&self, from: Holding, to: Holding) -> Between {
        if self.total <= 0.0 || from.weight <= 0.0 || to.weight <= 0.0 {
            return Between::default();
        }
        Between {
            unit: 1.0 / self.total,
            apart: 2.0 * (self.level(from) - self.level(to)),
            itself: self.weights / from.weight + self.weights / to.weight,
            slack: 2.0 * self.slack,
        }
    }

    /// By how much the potential rises when this amount is added.
    pub(crate) fn cost(&self, amount: f64, to: Holding) -> f64 {
        if self.total <= 0.0 || to.weight <= 0.0 {
            return 0.0;
        }
        let part = self.part(amount);
        part * (2.0 * self.level(to) + part * self.weights / to.weight)
    }
}

/// Two places, so that the gains of many moves between them are reckoned quickly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Between {
    unit: f64,
    apart: f64,
    itself: f64,
    slack: f64,
}

impl Between {
    /// By how much the potential falls when this amount moves, less what the slack forgives: zero
    /// for a fall within it, never more than the fall itself.
    pub(crate) fn gain(&self, amount: f64) -> f64 {
        let part = amount * self.unit;
        let fall = part * (self.apart - part * self.itself);
        if fall <= 0.0 { fall } else { (fall - part * self.slack).max(0.0) }
    }

    /// Whether the first place is above the second by more than the slack.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart > self.slack
    }
}

/// Whether a move gains anything.
pub(crate) fn is_gain(gain: f64) -> bool {
    gain > NOISE
}

/// A level in percent, for people.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion from a float saturates, and levels are not negative"
)]
pub(crate) fn percent(level: f64) -> u32 {
    (level * 100.0).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(has: f64) -> Holding {
        Holding { has, weight: 1.0 }
    }

    #[test]
    fn a_difference_of_one_rests_and_of_two_moves() {
        let scale = Scale::new(Share::Replicas, 20.0, 2.0, 0.0, 0);
        assert!(!is_gain(scale.gain(1.0, holding(10.0), holding(9.0))));
        assert!(is_gain(scale.gain(1.0, holding(11.0), holding(9.0))));
    }

    #[test]
    fn a_move_that_gains_does_not_gain_backwards() {
        let scale = Scale::new(Share::Writes, 100.0, 2.0, 10.0, 5);
        for has in 0..=100_u8 {
            for amount in 1..=has {
                let (from, to) = (f64::from(has), f64::from(100 - has));
                let amount = f64::from(amount);
                let there = scale.gain(amount, holding(from), holding(to));
                let back = scale.gain(amount, holding(to + amount), holding(from - amount));
                assert!(!is_gain(there) || !is_gain(back), "{amount} of {has}");
            }
        }
    }

    #[test]
    fn weights_say_what_is_fair() {
        let scale = Scale::new(Share::Bytes, 30.0, 3.0, 0.0, 0);
        let (small, large) =
            (Holding { has: 10.0, weight: 1.0 }, Holding { has: 20.0, weight: 2.0 });
        assert!((scale.level(small) - 1.0).abs() < 1e-9);
        assert!((scale.level(large) - 1.0).abs() < 1e-9);
        assert!((scale.fair(2.0) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_to_share_is_even() {
        let scale = Scale::new(Share::Load, 0.0, 4.0, 0.0, 10);
        assert!((scale.level(holding(0.0)) - 1.0).abs() < 1e-9);
        assert!(!is_gain(scale.gain(1.0, holding(1.0), holding(0.0))));
        assert_eq!(percent(1.345), 135);
    }
}
