//! `OARLOCK …`: what Redis has no command for. Pure.

use bytes::Bytes;
use oarlock_cluster::{capacities, duties, members};
use oarlock_store::{Command, Expiry, Order, SetCondition};
use oarlock_types::{GroupId, NodeId, RangeEpoch};

use super::connection::{arity, unknown_subcommand};
use super::rules;
use super::{CommandError, Input, Local, Parsed, RangeScanArgs, lookup, parse};
use crate::net::session::Query;

/// Longest request id of `OARLOCK ONCE`, in bytes.
const ONCE_ID_BYTES_MAX: usize = 256;
/// Keys that `OARLOCK SCAN` returns when it is not told.
const SCAN_LIMIT_DEFAULT: u32 = 100;
/// Most keys that one `OARLOCK SCAN` returns.
pub const SCAN_LIMIT_MAX: u32 = 10_000;

const HELP: &[&str] = &[
    "OARLOCK <subcommand> [<arg> ...]. Subcommands are:",
    "CAPACITIES",
    "    Return what each node has room for: pairs of capacity/<node> and a number of bytes.",
    "DUTIES",
    "    Return which nodes are to be emptied or are given up: pairs of node/<id> and draining or removed.",
    "PLACEMENT [<range>]",
    "    Return what placement plans and does, or why the replicas of <range> are where they are.",
    "MOVECORE <range> <node> <core>",
    "    Let the replica of <range> on <node> go to <core> there: OK once it is, else a text that says what is",
    "    under way. To be repeated until it is OK.",
    "PLACE <range> <node> [<node> ...]",
    "    Take the next step to have the replicas of <range> on these nodes and no others: OK once they are,",
    "    else a text that says what is under way. To be repeated until it is OK.",
    "RANGES [SINCE <version>]",
    "    Return each range with its group, bounds, leader, replicas and epoch, and the map's version.",
    "    With SINCE return none if the map is of this version or older.",
    "RULES CLEAR <start>",
    "    End the rule that begins at <start>; return 1 if there was one, else 0.",
    "RULES LIST [<start>]",
    "    Return the rules that begin at <start> or behind it: pairs of rule/<first key> and a line of JSON.",
    "    There may be more behind them: go on after the last until there is none.",
    "RULES SET <start> <end> [REPLICAS 1|3|5] [LEADERZONE <zone>] [PIN <node> [<node> ...]]",
    "    Say how many replicas the ranges of the keys from <start>, before <end> (empty: to the last key),",
    "    have, where they are led, and which nodes alone may hold them. PIN comes last. Of the rules that have",
    "    a key the one that begins last counts, as a whole.",
    "SCAN <start> <end> [LIMIT <count>] [REVERSE]",
    "    Return keys and values from <start>, before <end> (empty: to the last key), in order.",
    "    Each range is read as of one moment; the result as a whole is not.",
    "CAS <key> <expected> <new>",
    "    Set <key> to <new> if its value is <expected>; return 1 if it was, else 0.",
    "JOIN <node>",
    "    Let a node join (a line of JSON, as a node that starts with --join sends it): return nil until it has,",
    "    then what it needs to know. To be repeated until then.",
    "NODE <node> DRAIN|REMOVE|SERVE",
    "    Have placement bring all replicas of <node> to other nodes, give them up as lost, or let it have",
    "    some again.",
    "ONCE <request-id> <command> [<arg> ...]",
    "    Carry out a command on the keys of one range at most once, however often it is sent.",
    "    The first answer is kept for a while and given again.",
    "REBUILD <range> <node>",
    "    Begin to rebuild the damaged replica of <range> on <node>, which must be the node that is asked.",
    "    OARLOCK STATUS shows under `damaged` how far it is; it is done when it is no longer there.",
    "MERGE <first key> <first key of the range before> <epoch of that>",
    "SPLIT <key>",
    "    Cut the range of <key> in two, so that a range begins there; return the new range's group.",
    "STAGES",
    "    Return how long each stage of a write takes on this node: pairs of a name and a histogram in",
    "    microseconds (HdrHistogram V2), of one write in sixteen. oarlock bench --breakdown shows them.",
    "TRANSFER <range> <node>",
    "    Let <node> lead <range>: OK if it does, else a text that says what is under way.",
    "STATUS",
    "    Return what this node is and how it does.",
    "HELP",
    "    Print this help.",
];

pub(super) fn oarlock(input: &Input<'_>) -> Result<Parsed, CommandError> {
    if input.is(1, "RANGES") {
        arity(input, "oarlock|ranges", |len| len == 2 || len == 4)?;
        ranges(input)
    } else if input.is(1, "STATUS") {
        arity(input, "oarlock|status", |len| len == 2)?;
        Ok(Parsed::Query(Query::Status))
    } else if input.is(1, "STAGES") {
        arity(input, "oarlock|stages", |len| len == 2)?;
        Ok(Parsed::Query(Query::Stages))
    } else if input.is(1, "REBUILD") {
        arity(input, "oarlock|rebuild", |len| len == 4)?;
        let (group, node) = (number(input, 2)?, number(input, 3)?);
        Ok(Parsed::Rebuild { group: GroupId(group), node: NodeId(node) })
    } else if input.is(1, "SPLIT") {
        arity(input, "oarlock|split", |len| len == 3)?;
        Ok(Parsed::Order(Order::Split { at: input.key(2)? }))
    } else if input.is(1, "MERGE") {
        arity(input, "oarlock|merge", |len| len == 5)?;
        let (start, into_start) = (input.key(2)?, input.key(3)?);
        let into_epoch = RangeEpoch(number(input, 4)?);
        Ok(Parsed::Order(Order::Merge { start, into_start, into_epoch }))
    } else if input.is(1, "PLACE") {
        arity(input, "oarlock|place", |len| len >= 4)?;
        let voters = (3..input.len()).map(|at| number(input, at)).collect::<Result<_, _>>()?;
        of_group(input, Order::Place { voters })
    } else if input.is(1, "PLACEMENT") {
        arity(input, "oarlock|placement", |len| len == 2 || len == 3)?;
        let group = if input.len() == 3 { number(input, 2)? } else { 0 };
        let order = Order::Explain { group };
        Ok(Parsed::Group { group: GroupId::META, command: Command::Order(order) })
    } else if input.is(1, "DUTIES") {
        arity(input, "oarlock|duties", |len| len == 2)?;
        Ok(Parsed::Group { group: GroupId::META, command: duties::all() })
    } else if input.is(1, "CAPACITIES") {
        arity(input, "oarlock|capacities", |len| len == 2)?;
        Ok(Parsed::Group { group: GroupId::META, command: capacities::all() })
    } else if input.is(1, "RULES") {
        arity(input, "oarlock|rules", |len| len >= 3)?;
        let command = rules::rules(input)?;
        Ok(Parsed::Group { group: GroupId::META, command })
    } else if input.is(1, "JOIN") {
        arity(input, "oarlock|join", |len| len == 3)?;
        let candidate = members::read_candidate(input.required(2)?).ok_or(CommandError::Syntax)?;
        Ok(Parsed::Query(Query::Join(candidate)))
    } else if input.is(1, "NODE") {
        arity(input, "oarlock|node", |len| len == 4)?;
        let command = duty(number(input, 2)?, input)?;
        Ok(Parsed::Group { group: GroupId::META, command })
    } else if input.is(1, "TRANSFER") {
        arity(input, "oarlock|transfer", |len| len == 4)?;
        of_group(input, Order::Transfer { to: number(input, 3)? })
    } else if input.is(1, "MOVECORE") {
        arity(input, "oarlock|movecore", |len| len == 5)?;
        let core = u16::try_from(number(input, 4)?).unwrap_or(u16::MAX);
        of_group(input, Order::MoveCore { node: number(input, 3)?, core })
    } else if input.is(1, "HELP") {
        Ok(Parsed::Local(Local::Help(HELP)))
    } else if input.is(1, "SCAN") {
        arity(input, "oarlock|scan", |len| len >= 4)?;
        scan(input)
    } else if input.is(1, "CAS") {
        arity(input, "oarlock|cas", |len| len == 5)?;
        let (expected, new) = (input.value(3)?, input.value(4)?);
        Ok(Parsed::Data(Command::Cas { key: input.key(2)?, expected: Some(expected), new }))
    } else if input.is(1, "ONCE") {
        arity(input, "oarlock|once", |len| len >= 4)?;
        once(input)
    } else {
        Err(unknown_subcommand(input.required(1)?, "OARLOCK"))
    }
}

/// An order for the range whose group is named first.
fn of_group(input: &Input<'_>, order: Order) -> Result<Parsed, CommandError> {
    let group = GroupId(number(input, 2)?);
    Ok(Parsed::Group { group, command: Command::Order(order) })
}

/// Writes down what a node is there for.
fn duty(node: u64, input: &Input<'_>) -> Result<Command, CommandError> {
    let key = duties::key(NodeId(node));
    let value = if input.is(3, "DRAIN") {
        duties::DRAINING
    } else if input.is(3, "REMOVE") {
        duties::REMOVED
    } else if input.is(3, "SERVE") {
        return Ok(Command::Del { keys: vec![key] });
    } else {
        return Err(CommandError::Syntax);
    };
    let (condition, expiry) = (SetCondition::Always, Expiry::None);
    Ok(Command::Set { key, value: Bytes::from_static(value), condition, expiry, get: false })
}

pub(super) fn number(input: &Input<'_>, at: usize) -> Result<u64, CommandError> {
    u64::try_from(input.integer(at)?).map_err(|_| CommandError::NotAnInteger)
}

fn ranges(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let since = match input.len() {
        2 => None,
        _ if !input.is(2, "SINCE") => return Err(CommandError::Syntax),
        _ => {
            let version = u64::try_from(input.integer(3)?);
            Some(version.map_err(|_| CommandError::NotAnInteger)?)
        }
    };
    Ok(Parsed::Local(Local::Ranges { since }))
}

fn scan(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let end = input.key(3)?;
    let mut args = RangeScanArgs {
        start: input.key(2)?,
        end: (!end.is_empty()).then_some(end),
        limit: SCAN_LIMIT_DEFAULT,
        reverse: false,
    };
    let mut at = 4;
    while at < input.len() {
        if input.is(at, "REVERSE") {
            args.reverse = true;
            at += 1;
        } else if input.is(at, "LIMIT") && at + 1 < input.len() {
            args.limit = u32::try_from(input.integer(at + 1)?)
                .ok()
                .filter(|limit| (1..=SCAN_LIMIT_MAX).contains(limit))
                .ok_or(CommandError::ScanLimit(SCAN_LIMIT_MAX))?;
            at += 2;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    Ok(Parsed::RangeScan(args))
}

fn once(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let id = input.required(2)?;
    if id.is_empty() || id.len() > ONCE_ID_BYTES_MAX {
        return Err(CommandError::OnceId(ONCE_ID_BYTES_MAX));
    }
    let inner = input.skip(3);
    // A request id is for one command, and nesting would be as deep as a client likes.
    if inner.is(0, "OARLOCK") && inner.is(1, "ONCE") {
        return Err(CommandError::OnceCommand);
    }
    let spec = lookup(&inner.args)?;
    if let Parsed::Data(command) = parse(spec, &inner.args, inner.limits)?
        && !command.keys().is_empty()
    {
        return Ok(Parsed::Once { id: Bytes::copy_from_slice(id), command });
    }
    Err(CommandError::OnceCommand)
}
