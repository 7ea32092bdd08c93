//! All that placement is told by the meta group's keys: duties and capacities of nodes, rules for keys. Read
//! again and again where that group is led, so that whoever comes to lead it plans by them. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use oarlock_placement::Duty;
use oarlock_store::{Reply, Request};
use oarlock_types::NodeId;

use crate::rules::{self, Rule, RuleSet};
use crate::{capacities, duties};

/// What is wanted, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// What nodes are to do; those that are not named serve.
    pub duties: BTreeMap<NodeId, Duty>,
    /// What nodes have room for, as they have told.
    pub capacities: BTreeMap<NodeId, u64>,
    /// What is wanted for spans of keys.
    pub rules: RuleSet,
}

/// Reads them, as many rules at a time as one answer holds.
#[derive(Debug, Default)]
pub struct Reader {
    from: Bytes,
    read: Vec<Rule>,
}

impl Reader {
    /// What to ask next.
    #[must_use]
    pub fn request(&self) -> Request {
        let commands = vec![duties::all(), capacities::all(), rules::from(&self.from)];
        Request { transaction: true, commands, ..Request::default() }
    }

    /// Whether more is to be asked before there is an answer to take.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        !self.from.is_empty()
    }

    /// Takes an answer in: all wishes, once they are read to the end.
    pub fn take(&mut self, reply: &Reply) -> Option<Wishes> {
        let Reply::Array(replies) = reply else { return None };
        let [duties, capacities, rules] = replies.as_slice() else { return None };
        let (more, next) = rules::found(rules);
        self.read.extend(more);
        self.from = next.unwrap_or_default();
        (!self.is_reading()).then(|| Wishes {
            duties: duties::found(duties),
            capacities: capacities::found(capacities),
            rules: RuleSet::new(std::mem::take(&mut self.read)),
        })
    }
}

#[cfg(test)]
mod tests {
    use oarlock_store::Command;

    use super::*;

    #[test]
    fn rules_that_one_answer_does_not_hold_are_read_to_the_end() {
        let rule = |at: usize| Rule {
            start: format!("{at:05}").into(),
            replicas: Some(5),
            ..Rule::default()
        };
        let pairs = |range: std::ops::Range<usize>| {
            let pair = |at: usize| {
                let rule = rule(at);
                [Reply::Bulk(rules::key(&rule.start)), Reply::Bulk(rule.write().into())]
            };
            Reply::Array(range.flat_map(pair).collect())
        };
        let draining = [duties::key(NodeId(2)), Bytes::from_static(duties::DRAINING)];
        let draining = Reply::Array(draining.map(Reply::Bulk).to_vec());
        let answer =
            |rules: Reply| Reply::Array(vec![draining.clone(), Reply::Array(Vec::new()), rules]);
        let mut reader = Reader::default();
        assert_eq!(reader.take(&answer(pairs(0..1024))), None);
        assert!(reader.is_reading());
        let asked = reader.request();
        let from = Bytes::from_static(b"rule/01023\0");
        assert!(matches!(&asked.commands[2], Command::Scan { start, .. } if *start == from));
        let wishes = reader.take(&answer(pairs(1024..1500))).unwrap();
        assert_eq!(wishes.rules.rules().len(), 1500);
        assert_eq!(wishes.duties, BTreeMap::from([(NodeId(2), Duty::Draining)]));
        // The next time from the beginning.
        assert!(!reader.is_reading());
        assert_eq!(reader.take(&answer(pairs(0..1))).unwrap().rules.rules(), [rule(0)]);
        assert_eq!(reader.take(&Reply::Nil), None, "not so: what was known goes on to hold");
    }
}
