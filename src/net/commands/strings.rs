//! The commands on strings and on keys in general. Pure.

use bytes::Bytes;
use oarlock_store::{Command, Expiry, SetCondition};

use super::expiry::{Unit, positive};
use super::{CommandError, Input, Parsed, ScanArgs};

/// Keys that `SCAN` looks at when it is not told, as in Redis.
const SCAN_COUNT_DEFAULT: u32 = 10;
/// Most keys that one `SCAN` looks at.
const SCAN_COUNT_MAX: u32 = 10_000;

fn data(command: Command) -> Result<Parsed, CommandError> {
    Ok(Parsed::Data(command))
}

pub(super) fn get(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Get { key: input.key(1)? })
}

pub(super) fn get_del(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::GetDel { key: input.key(1)? })
}

pub(super) fn get_set(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Set {
        key: input.key(1)?,
        value: input.value(2)?,
        condition: SetCondition::Always,
        expiry: Expiry::None,
        get: true,
    })
}

pub(super) fn get_ex(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let expiry = match (input.len(), input.get(2)) {
        (2, _) => Expiry::Keep,
        (3, Some(_)) if input.is(2, "PERSIST") => Expiry::None,
        (4, Some(option)) => {
            let unit = Unit::from_option(option).ok_or(CommandError::Syntax)?;
            positive(input, 3, unit, "getex")?
        }
        (_, _) => return Err(CommandError::Syntax),
    };
    data(Command::GetEx { key: input.key(1)?, expiry })
}

pub(super) fn get_range(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let (start, end) = (input.integer(2)?, input.integer(3)?);
    data(Command::GetRange { key: input.key(1)?, start, end })
}

pub(super) fn set_range(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let offset = u64::try_from(input.integer(2)?).map_err(|_| CommandError::Offset)?;
    let value = input.value(3)?;
    let end = offset.saturating_add(u64::try_from(value.len()).unwrap_or(u64::MAX));
    if !value.is_empty() && end > u64::try_from(input.limits.value_bytes_max).unwrap_or(u64::MAX) {
        return Err(CommandError::StringTooLong);
    }
    data(Command::SetRange { key: input.key(1)?, offset, value })
}

pub(super) fn str_len(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::StrLen { key: input.key(1)? })
}

pub(super) fn append(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Append { key: input.key(1)?, value: input.value(2)? })
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`, the options in any order.
pub(super) fn set(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let mut condition = SetCondition::Always;
    let mut get = false;
    let mut keep = false;
    let mut time = None;
    let mut at = 3;
    while let Some(option) = input.get(at) {
        let unconditional = condition == SetCondition::Always;
        if input.is(at, "NX") && (unconditional || condition == SetCondition::Absent) {
            condition = SetCondition::Absent;
        } else if input.is(at, "XX") && (unconditional || condition == SetCondition::Present) {
            condition = SetCondition::Present;
        } else if input.is(at, "GET") {
            get = true;
        } else if input.is(at, "KEEPTTL") && time.is_none() {
            keep = true;
        } else if let Some(unit) = Unit::from_option(option)
            && !keep
            && time.is_none()
            && at + 1 < input.len()
        {
            at += 1;
            time = Some((unit, at));
        } else {
            return Err(CommandError::Syntax);
        }
        at += 1;
    }
    let expiry = match time {
        Some((unit, index)) => positive(input, index, unit, "set")?,
        None if keep => Expiry::Keep,
        None => Expiry::None,
    };
    data(Command::Set { key: input.key(1)?, value: input.value(2)?, condition, expiry, get })
}

pub(super) fn set_nx(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::SetNx { key: input.key(1)?, value: input.value(2)? })
}

pub(super) fn set_ex(input: &Input<'_>) -> Result<Parsed, CommandError> {
    set_with_time(input, Unit::Seconds, "setex")
}

pub(super) fn pset_ex(input: &Input<'_>) -> Result<Parsed, CommandError> {
    set_with_time(input, Unit::Milliseconds, "psetex")
}

fn set_with_time(
    input: &Input<'_>,
    unit: Unit,
    command: &'static str,
) -> Result<Parsed, CommandError> {
    data(Command::Set {
        expiry: positive(input, 2, unit, command)?,
        key: input.key(1)?,
        value: input.value(3)?,
        condition: SetCondition::Always,
        get: false,
    })
}

pub(super) fn mget(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::MGet { keys: input.keys(1)? })
}

pub(super) fn mset(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::MSet { pairs: pairs(input, "mset")? })
}

pub(super) fn mset_nx(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::MSetNx { pairs: pairs(input, "msetnx")? })
}

fn pairs(input: &Input<'_>, name: &str) -> Result<Vec<(Bytes, Bytes)>, CommandError> {
    if input.len().is_multiple_of(2) {
        return Err(CommandError::WrongArity(name.to_owned()));
    }
    (1..input.len()).step_by(2).map(|at| Ok((input.key(at)?, input.value(at + 1)?))).collect()
}

pub(super) fn del(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Del { keys: input.keys(1)? })
}

pub(super) fn exists(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Exists { keys: input.keys(1)? })
}

pub(super) fn key_type(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::Type { key: input.key(1)? })
}

pub(super) fn incr(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::IncrBy { key: input.key(1)?, delta: 1 })
}

pub(super) fn decr(input: &Input<'_>) -> Result<Parsed, CommandError> {
    data(Command::IncrBy { key: input.key(1)?, delta: -1 })
}

pub(super) fn incr_by(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let delta = input.integer(2)?;
    data(Command::IncrBy { key: input.key(1)?, delta })
}

pub(super) fn decr_by(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let delta = input.integer(2)?.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    data(Command::IncrBy { key: input.key(1)?, delta })
}

pub(super) fn incr_by_float(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let text = std::str::from_utf8(input.required(2)?).map_err(|_| CommandError::NotAFloat)?;
    let delta: f64 = text.parse().map_err(|_| CommandError::NotAFloat)?;
    if delta.is_nan() {
        return Err(CommandError::NotAFloat);
    }
    data(Command::IncrByFloat { key: input.key(1)?, delta_bits: delta.to_bits() })
}

pub(super) fn db_size(_: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::DbSize)
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`.
pub(super) fn scan(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let cursor = std::str::from_utf8(input.required(1)?)
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(CommandError::Cursor)?;
    let mut args = ScanArgs { cursor, pattern: None, count: SCAN_COUNT_DEFAULT, strings: true };
    let mut at = 2;
    while at < input.len() {
        if at + 1 >= input.len() {
            return Err(CommandError::Syntax);
        } else if input.is(at, "COUNT") {
            let count = input.integer(at + 1)?;
            if count < 1 {
                return Err(CommandError::Syntax);
            }
            args.count = u32::try_from(count).unwrap_or(SCAN_COUNT_MAX).min(SCAN_COUNT_MAX);
        } else if input.is(at, "MATCH") {
            args.pattern = Some(input.key(at + 1)?);
        } else if input.is(at, "TYPE") {
            args.strings = input.is(at + 1, "string");
        } else {
            return Err(CommandError::Syntax);
        }
        at += 2;
    }
    Ok(Parsed::Scan(args))
}
