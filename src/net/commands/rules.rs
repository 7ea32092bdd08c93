//! `OARLOCK RULES …`: rules for spans of keys. Checks what can be told from the words alone; whether there are
//! such nodes and zones is known to who asks. Pure.

use bytes::Bytes;
use oarlock_cluster::rules::{self, REPLICAS, Rule};
use oarlock_store::{Command, Expiry, SetCondition};
use oarlock_types::NodeId;

use super::connection::{arity, unknown_subcommand};
use super::oarlock::number;
use super::{CommandError, Input};

/// Longest name of a zone, in bytes.
const ZONE_BYTES_MAX: usize = 256;

pub(super) fn rules(input: &Input<'_>) -> Result<Command, CommandError> {
    if input.is(2, "LIST") {
        arity(input, "oarlock|rules", |len| len == 3 || len == 4)?;
        let from = if input.len() == 4 { input.key(3)? } else { Bytes::new() };
        Ok(rules::from(&from))
    } else if input.is(2, "CLEAR") {
        arity(input, "oarlock|rules", |len| len == 4)?;
        Ok(Command::Del { keys: vec![rules::key(&input.key(3)?)] })
    } else if input.is(2, "SET") {
        arity(input, "oarlock|rules", |len| len >= 5)?;
        let rule = rule(input)?;
        let (condition, expiry) = (SetCondition::Always, Expiry::None);
        let (key, value) = (rules::key(&rule.start), Bytes::from(rule.write()));
        if value.len() > input.limits.value_bytes_max {
            return Err(CommandError::ValueTooLong(input.limits.value_bytes_max));
        }
        Ok(Command::Set { key, value, condition, expiry, get: false })
    } else {
        Err(unknown_subcommand(input.required(2)?, "OARLOCK"))
    }
}

fn rule(input: &Input<'_>) -> Result<Rule, CommandError> {
    let end = input.key(4)?;
    let mut rule =
        Rule { start: input.key(3)?, end: (!end.is_empty()).then_some(end), ..Rule::default() };
    let mut at = 5;
    while at < input.len() {
        if input.is(at, "REPLICAS") {
            let wanted = number(input, at + 1)?;
            let known = REPLICAS.into_iter().find(|count| u64::from(*count) == wanted);
            rule.replicas = Some(known.ok_or(CommandError::RuleReplicas)?);
            at += 2;
        } else if input.is(at, "LEADERZONE") {
            let zone = std::str::from_utf8(input.required(at + 1)?);
            let zone = zone.ok().filter(|zone| (1..=ZONE_BYTES_MAX).contains(&zone.len()));
            rule.leader_zone = Some(zone.ok_or(CommandError::Syntax)?.to_owned());
            at += 2;
        } else if input.is(at, "PIN") && at + 1 < input.len() {
            let nodes = (at + 1..input.len()).map(|at| number(input, at).map(NodeId));
            rule.pinned = nodes.collect::<Result<_, _>>()?;
            rule.pinned.sort_unstable();
            rule.pinned.dedup();
            at = input.len();
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if rule.end.as_ref().is_some_and(|end| *end <= rule.start) {
        return Err(CommandError::RuleSpan);
    }
    let (replicas, nodes) = (rule.replicas, rule.pinned.len());
    match replicas {
        None if nodes == 0 && rule.leader_zone.is_none() => Err(CommandError::RuleEmpty),
        Some(replicas) if nodes > 0 && nodes < usize::from(replicas) => {
            Err(CommandError::RulePins { replicas, nodes })
        }
        Some(_) | None => Ok(rule),
    }
}
