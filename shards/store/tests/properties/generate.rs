//! Random traffic: few keys, so that commands meet; values that look like numbers and values that
//! nearly do; times on both sides of now.

#![allow(clippy::disallowed_types, reason = "prop_oneof expands to an Arc, and only tests run it")]

use bytes::Bytes;
use oarlock_store::{Command, ExpireCondition, Expiry, Request, SetCondition};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// One entry of a log: how much later than the last, and what it carries.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) later_ms: i64,
    /// Keys that a client watches before this entry…
    pub(crate) watch: Vec<Bytes>,
    pub(crate) requests: Vec<Request>,
    /// …and whether the first request is made under all watches so far.
    pub(crate) watched: bool,
    /// Bytes of checkpoint that are written after it.
    pub(crate) budget: usize,
}

fn key() -> impl Strategy<Value = Bytes> {
    let keys: Vec<String> = (0..24).map(|n| format!("k{n:02}")).collect();
    prop_oneof![9 => select(keys).prop_map(Bytes::from), 1 => Just(Bytes::new())]
}

/// Keys that no other command gives digits to, so that the model can add exactly in thousandths.
fn float_key() -> impl Strategy<Value = Bytes> {
    select(&["f1", "f2"][..]).prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn nearly_number() -> impl Strategy<Value = Bytes> {
    const NEARLY: [&str; 10] =
        ["", "0", "-0", "01", "7", "-12", "9223372036854775807", "1.5", "3.0e3", " 1"];
    select(&NEARLY[..]).prop_map(|text| Bytes::from_static(text.as_bytes()))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => nearly_number(),
        3 => vec(any::<u8>(), 0..12).prop_map(Bytes::from),
        1 => vec(any::<u8>(), 30..70).prop_map(Bytes::from),
    ]
}

fn expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        Just(Expiry::None),
        Just(Expiry::Keep),
        (-20_i64..3000).prop_map(Expiry::In),
        (-20_i64..9000).prop_map(Expiry::At),
    ]
}

fn instant() -> impl Strategy<Value = Expiry> {
    prop_oneof![(-20_i64..3000).prop_map(Expiry::In), (-20_i64..9000).prop_map(Expiry::At),]
}

fn pairs() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    vec((key(), value()), 1..4)
}

fn read() -> impl Strategy<Value = Command> {
    prop_oneof![
        key().prop_map(|key| Command::Get { key }),
        (key(), -9_i64..9, -9_i64..9).prop_map(|(key, start, end)| Command::GetRange {
            key,
            start,
            end
        }),
        key().prop_map(|key| Command::StrLen { key }),
        vec(key(), 1..4).prop_map(|keys| Command::Exists { keys }),
        vec(key(), 1..4).prop_map(|keys| Command::MGet { keys }),
        (key(), any::<bool>()).prop_map(|(key, in_ms)| Command::Ttl { key, in_ms }),
        key().prop_map(|key| Command::Type { key }),
        Just(Command::Count),
        (key(), option::of(key()), 0_u32..9, any::<bool>(), any::<bool>()).prop_map(
            |(start, end, limit, reverse, values)| Command::Scan {
                start,
                end,
                limit,
                reverse,
                values
            }
        ),
    ]
}

fn condition() -> impl Strategy<Value = SetCondition> {
    select(vec![SetCondition::Always, SetCondition::Absent, SetCondition::Present])
}

fn expire_condition() -> impl Strategy<Value = ExpireCondition> {
    select(vec![
        ExpireCondition::Always,
        ExpireCondition::Absent,
        ExpireCondition::Present,
        ExpireCondition::Later,
        ExpireCondition::Earlier,
        ExpireCondition::PresentEarlier,
    ])
}

fn write() -> impl Strategy<Value = Command> {
    // Quarters are exact in binary, so that the model may add them as floats.
    let quarter = (-40_i32..40).prop_map(|n| (f64::from(n) / 4.0).to_bits());
    prop_oneof![
        4 => (key(), value(), condition(), expiry(), any::<bool>()).prop_map(
            |(key, value, condition, expiry, get)| Command::Set {
                key, value, condition, expiry, get
            }
        ),
        1 => (key(), value()).prop_map(|(key, value)| Command::SetNx { key, value }),
        1 => key().prop_map(|key| Command::GetDel { key }),
        1 => (key(), expiry()).prop_map(|(key, expiry)| Command::GetEx { key, expiry }),
        1 => pairs().prop_map(|pairs| Command::MSet { pairs }),
        1 => pairs().prop_map(|pairs| Command::MSetNx { pairs }),
        1 => vec(key(), 1..4).prop_map(|keys| Command::Del { keys }),
        1 => (key(), value()).prop_map(|(key, value)| Command::Append { key, value }),
        1 => (key(), 0_u64..70, value())
            .prop_map(|(key, offset, value)| Command::SetRange { key, offset, value }),
        2 => (key(), prop_oneof![-3_i64..3, any::<i64>()])
            .prop_map(|(key, delta)| Command::IncrBy { key, delta }),
        1 => (float_key(), quarter)
            .prop_map(|(key, delta_bits)| Command::IncrByFloat { key, delta_bits }),
        1 => (float_key(), nearly_number(), expiry()).prop_map(|(key, value, expiry)| {
            Command::Set { key, value, condition: SetCondition::Always, expiry, get: true }
        }),
        2 => (key(), instant(), expire_condition())
            .prop_map(|(key, expiry, condition)| Command::Expire { key, expiry, condition }),
        1 => key().prop_map(|key| Command::Persist { key }),
        1 => (key(), option::of(value()), value())
            .prop_map(|(key, expected, new)| Command::Cas { key, expected, new }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![3 => write(), 1 => read()]
}

fn request() -> impl Strategy<Value = Request> {
    let once = option::weighted(0.2, select(&["x", "y", "z"][..]));
    let commands = prop_oneof![
        3 => command().prop_map(|command| (false, vec![command])),
        1 => vec(command(), 0..4).prop_map(|commands| (true, commands)),
    ];
    (once, commands).prop_map(|(once, (transaction, commands))| Request {
        once: once.map(|id| Bytes::from_static(id.as_bytes())),
        watches: Vec::new(),
        transaction,
        commands,
    })
}

/// Random log entries. Clocks run backwards now and then.
pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (-200_i64..900, vec(key(), 0..2), vec(request(), 0..4), any::<bool>(), 1_usize..600)
        .prop_map(|(later_ms, watch, requests, watched, budget)| Step {
            later_ms,
            watch,
            requests,
            watched,
            budget,
        });
    vec(step, 1..count)
}
