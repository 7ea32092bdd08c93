//! `COMMAND …`: what the table says about the commands. Pure.

use bytes::Bytes;

use super::connection::{arity, rest, unknown_subcommand};
use super::table::{COMMANDS, Spec, find};
use super::{CommandError, Input, Local, Parsed, glob};
use crate::net::resp::Value;

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "LIST [FILTERBY PATTERN <pattern>]",
    "    Return the commands' names.",
    "HELP",
    "    Print this help.",
];

pub(super) fn command(input: &Input<'_>) -> Result<Parsed, CommandError> {
    let Some(subcommand) = input.get(1) else {
        return Ok(Parsed::Local(Local::CommandInfo(Vec::new())));
    };
    let local = if input.is(1, "COUNT") {
        arity(input, "command|count", |len| len == 2)?;
        Local::CommandCount
    } else if input.is(1, "INFO") {
        Local::CommandInfo(rest(input, 2))
    } else if input.is(1, "DOCS") {
        Local::CommandDocs(rest(input, 2))
    } else if input.is(1, "LIST") {
        Local::CommandList(list_filter(input)?)
    } else if input.is(1, "GETKEYS") {
        arity(input, "command|getkeys", |len| len >= 4)?;
        Local::CommandKeys(get_keys(&input.skip(2))?)
    } else if input.is(1, "HELP") {
        Local::Help(HELP)
    } else {
        return Err(unknown_subcommand(subcommand, "COMMAND"));
    };
    Ok(Parsed::Local(local))
}

fn list_filter(input: &Input<'_>) -> Result<Option<Bytes>, CommandError> {
    match input.len() {
        2 => Ok(None),
        5 if input.is(2, "FILTERBY") && input.is(3, "PATTERN") => {
            Ok(Some(Bytes::copy_from_slice(input.required(4)?)))
        }
        _ => Err(CommandError::Syntax),
    }
}

fn get_keys(input: &Input<'_>) -> Result<Vec<Bytes>, CommandError> {
    let spec = find(input.required(0)?).ok_or(CommandError::InvalidCommand)?;
    if spec.keys.0 == 0 {
        return Err(CommandError::NoKeys);
    }
    if !spec.takes(input.len()) {
        return Err(CommandError::InvalidArgumentCount);
    }
    let place = |at: i64| usize::try_from(at).unwrap_or(0);
    let (first, last, step) = spec.keys;
    let end = if last < 0 { input.len() - 1 } else { place(last) };
    (place(first)..=end)
        .step_by(place(step))
        .map(|at| input.required(at).map(Bytes::copy_from_slice))
        .collect()
}

/// `COMMAND INFO`: ten elements a command, as Redis 7 gives; nil for one that there is not.
pub(crate) fn info(names: &[Bytes]) -> Value {
    if names.is_empty() {
        return Value::Array(COMMANDS.iter().map(info_of).collect());
    }
    Value::Array(names.iter().map(|name| find(name).map_or(Value::Nil, info_of)).collect())
}

fn info_of(spec: &'static Spec) -> Value {
    Value::Array(vec![
        Value::bulk(spec.name),
        Value::Int(spec.arity),
        Value::Set(spec.flags.iter().map(|flag| Value::Simple(flag)).collect()),
        Value::Int(spec.keys.0),
        Value::Int(spec.keys.1),
        Value::Int(spec.keys.2),
        Value::Set(categories(spec).into_iter().map(Value::Simple).collect()),
        Value::Array(Vec::new()),
        Value::Array(Vec::new()),
        Value::Array(Vec::new()),
    ])
}

fn categories(spec: &Spec) -> Vec<&'static str> {
    let has = |flag: &str| spec.flags.contains(&flag);
    let mut categories = Vec::new();
    if has("write") {
        categories.push("@write");
    }
    if has("readonly") {
        categories.push("@read");
    }
    match spec.group {
        "string" => categories.push("@string"),
        "connection" => categories.push("@connection"),
        "transactions" => categories.push("@transaction"),
        "generic" => categories.push("@keyspace"),
        _ => {}
    }
    categories.push(if has("fast") { "@fast" } else { "@slow" });
    categories
}

/// `COMMAND DOCS`: names with their documentation; one that there is not is left out.
pub(crate) fn docs(names: &[Bytes]) -> Value {
    let chosen: Vec<&Spec> = if names.is_empty() {
        COMMANDS.iter().collect()
    } else {
        names.iter().filter_map(|name| find(name)).collect()
    };
    let entry = |spec: &Spec| {
        let lines = [("summary", spec.summary), ("since", spec.since), ("group", spec.group)];
        let lines = lines.map(|(name, text)| (Value::bulk(name), Value::bulk(text)));
        (Value::bulk(spec.name), Value::Map(lines.to_vec()))
    };
    Value::Map(chosen.into_iter().map(entry).collect())
}

/// `COMMAND LIST`.
pub(crate) fn list(pattern: Option<&[u8]>) -> Value {
    let fits = |spec: &&Spec| pattern.is_none_or(|p| glob::matches(p, spec.name.as_bytes()));
    Value::Array(COMMANDS.iter().filter(fits).map(|spec| Value::bulk(spec.name)).collect())
}

/// `COMMAND COUNT`.
pub(crate) fn count() -> Value {
    Value::Int(i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX))
}
