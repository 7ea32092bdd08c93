//! Expiry times: the options of `SET` and `GETEX`, and `EXPIRE` with its kin. Pure.

use oarlock_store::{Command, ExpireCondition, Expiry};

use super::error::quoted;
use super::{CommandError, Input, Parsed};

/// Far more than any clock will show, and far from overflow when it is added to one.
const RELATIVE_MS_MAX: i64 = i64::MAX - (1 << 44);

/// In what unit a time was given, and from when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// `EX`.
    Seconds,
    /// `PX`.
    Milliseconds,
    /// `EXAT`.
    AtSeconds,
    /// `PXAT`.
    AtMilliseconds,
}

impl Unit {
    /// The unit that an option names.
    pub(super) fn from_option(option: &[u8]) -> Option<Self> {
        const OPTIONS: [(&[u8], Unit); 4] = [
            (b"EX", Unit::Seconds),
            (b"PX", Unit::Milliseconds),
            (b"EXAT", Unit::AtSeconds),
            (b"PXAT", Unit::AtMilliseconds),
        ];
        OPTIONS.iter().find(|(name, _)| option.eq_ignore_ascii_case(name)).map(|(_, unit)| *unit)
    }

    /// The expiry of `time` units; `None` if it is out of range.
    fn expiry(self, time: i64) -> Option<Expiry> {
        match self {
            Self::Seconds => relative(time.checked_mul(1000)?),
            Self::Milliseconds => relative(time),
            Self::AtSeconds => Some(Expiry::At(time.checked_mul(1000)?)),
            Self::AtMilliseconds => Some(Expiry::At(time)),
        }
    }
}

fn relative(ms: i64) -> Option<Expiry> {
    (ms <= RELATIVE_MS_MAX).then_some(Expiry::In(ms))
}

/// The expiry at `index` for a command that takes no time that is past by its number.
pub(super) fn positive(
    input: &Input<'_>,
    index: usize,
    unit: Unit,
    command: &'static str,
) -> Result<Expiry, CommandError> {
    let time = input.integer(index)?;
    if time <= 0 {
        return Err(CommandError::InvalidExpire(command));
    }
    unit.expiry(time).ok_or(CommandError::InvalidExpire(command))
}

pub(super) fn expire(input: &Input<'_>) -> Result<Parsed, CommandError> {
    expire_as(input, Unit::Seconds, "expire")
}

pub(super) fn pexpire(input: &Input<'_>) -> Result<Parsed, CommandError> {
    expire_as(input, Unit::Milliseconds, "pexpire")
}

pub(super) fn expireat(input: &Input<'_>) -> Result<Parsed, CommandError> {
    expire_as(input, Unit::AtSeconds, "expireat")
}

pub(super) fn pexpireat(input: &Input<'_>) -> Result<Parsed, CommandError> {
    expire_as(input, Unit::AtMilliseconds, "pexpireat")
}

fn expire_as(input: &Input<'_>, unit: Unit, command: &'static str) -> Result<Parsed, CommandError> {
    let condition = expire_condition(input)?;
    let time = input.integer(2)?;
    let expiry = unit.expiry(time).ok_or(CommandError::InvalidExpire(command))?;
    Ok(Parsed::Data(Command::Expire { key: input.key(1)?, expiry, condition }))
}

fn expire_condition(input: &Input<'_>) -> Result<ExpireCondition, CommandError> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for index in 3..input.len() {
        if input.is(index, "NX") {
            nx = true;
        } else if input.is(index, "XX") {
            xx = true;
        } else if input.is(index, "GT") {
            gt = true;
        } else if input.is(index, "LT") {
            lt = true;
        } else {
            return Err(CommandError::UnsupportedOption(quoted(input.required(index)?)));
        }
    }
    match (nx, xx, gt, lt) {
        (true, true, _, _) | (true, _, true, _) | (true, _, _, true) => {
            Err(CommandError::ExpireNxWithOthers)
        }
        (_, _, true, true) => Err(CommandError::ExpireGtWithLt),
        (_, true, _, true) => Ok(ExpireCondition::PresentEarlier),
        (true, false, false, false) => Ok(ExpireCondition::Absent),
        // A key without an expiry is never passed by a later one, so XX adds nothing to GT.
        (false, _, true, false) => Ok(ExpireCondition::Later),
        (false, true, false, false) => Ok(ExpireCondition::Present),
        (false, false, false, true) => Ok(ExpireCondition::Earlier),
        (false, false, false, false) => Ok(ExpireCondition::Always),
    }
}

pub(super) fn ttl(input: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Data(Command::Ttl { key: input.key(1)?, in_ms: false }))
}

pub(super) fn pttl(input: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Data(Command::Ttl { key: input.key(1)?, in_ms: true }))
}

pub(super) fn persist(input: &Input<'_>) -> Result<Parsed, CommandError> {
    Ok(Parsed::Data(Command::Persist { key: input.key(1)? }))
}
