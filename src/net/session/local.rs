//! The commands that a connection answers itself, and the texts about the node.

use std::fmt::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use oarlock_cluster::hex::encode_u128;

use super::backend::{NodeInfo, RangeInfo};
use super::{Host, Session};
use crate::net::commands::connection::{Client, ReplyMode};
use crate::net::commands::{Local, describe, glob};
use crate::net::resp::{Protocol, Value};

/// Settings that clients ask Redis for, with what holds here.
const REDIS_SETTINGS: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("save", ""),
];

impl Session {
    /// Carries a command out; `None`: it has no reply.
    pub(super) fn run_local(&mut self, local: Local, host: &mut Host<'_>) -> Option<Value> {
        Some(match local {
            Local::Ping(None) => Value::Simple("PONG"),
            Local::Ping(Some(message)) | Local::Echo(message) => Value::Bulk(message),
            Local::Hello { protocol, name } => self.hello(protocol, name, host),
            Local::Accept => Value::Simple("OK"),
            Local::Quit => {
                self.closing = true;
                Value::Simple("OK")
            }
            Local::Reset => self.reset(host),
            Local::Time => time(host.backend.wall_us()),
            Local::Info(sections) => Value::Text(info(&host.backend.info(), &sections)),
            Local::ConfigGet(patterns) => config(&host.backend.info(), &patterns),
            Local::ClientReply(mode) => return self.set_reply_mode(mode),
            Local::Client(client) => self.client(client, host),
            Local::CommandInfo(names) => describe::info(&names),
            Local::CommandCount => describe::count(),
            Local::CommandList(pattern) => describe::list(pattern.as_deref()),
            Local::CommandDocs(names) => describe::docs(&names),
            Local::CommandKeys(keys) => Value::Array(keys.into_iter().map(Value::Bulk).collect()),
            Local::Help(lines) => {
                Value::Array(lines.iter().map(|line| Value::Simple(line)).collect())
            }
            Local::Ranges { since } => {
                let version = host.backend.map_version();
                let is_newer = since.is_none_or(|since| since < version);
                let ranges = if is_newer { host.backend.ranges() } else { Vec::new() };
                Value::Array(ranges.into_iter().map(|of| range(of, version)).collect())
            }
        })
    }

    fn client(&mut self, client: Client, host: &mut Host<'_>) -> Value {
        let now = host.backend.now();
        let record = host.core.roster.entry(self.id).or_default();
        match client {
            Client::Id => return Value::Int(i64::try_from(self.id.0).unwrap_or(i64::MAX)),
            Client::GetName if record.name.is_empty() => return Value::Nil,
            Client::GetName => return Value::bulk(record.name.clone()),
            Client::Info => {
                let mut text = String::new();
                record.describe(self.id, now, &mut text);
                return Value::Text(text);
            }
            Client::SetName(name) => record.name = name,
            Client::LibraryName(name) => record.library_name = name,
            Client::LibraryVersion(version) => record.library_version = version,
        }
        Value::Simple("OK")
    }

    fn hello(
        &mut self,
        protocol: Option<Protocol>,
        name: Option<String>,
        host: &mut Host<'_>,
    ) -> Value {
        self.protocol = protocol.unwrap_or(self.protocol);
        let record = host.core.roster.entry(self.id).or_default();
        record.protocol = self.protocol;
        if let Some(name) = name {
            record.name = name;
        }
        let pairs = vec![
            ("server", Value::bulk("redis")),
            ("version", Value::bulk(REDIS_VERSION)),
            ("proto", Value::Int(self.protocol.number())),
            ("id", Value::Int(i64::try_from(self.id.0).unwrap_or(i64::MAX))),
            ("mode", Value::bulk("standalone")),
            ("role", Value::bulk("master")),
            ("modules", Value::Array(Vec::new())),
        ];
        Value::Map(pairs.into_iter().map(|(name, value)| (Value::bulk(name), value)).collect())
    }

    fn reset(&mut self, host: &mut Host<'_>) -> Value {
        self.transaction = None;
        self.watches.clear();
        self.protocol = Protocol::Resp2;
        self.reply_mode = ReplyMode::On;
        let record = host.core.roster.entry(self.id).or_default();
        record.name.clear();
        record.protocol = Protocol::Resp2;
        Value::Simple("RESET")
    }

    fn set_reply_mode(&mut self, mode: ReplyMode) -> Option<Value> {
        // While replies are off, skipping one changes nothing.
        if !(mode == ReplyMode::SkipNext && self.reply_mode == ReplyMode::Off) {
            self.reply_mode = mode;
        }
        (mode == ReplyMode::On).then_some(Value::Simple("OK"))
    }
}

/// The version of Redis whose commands these are: clients choose by it what they may send.
const REDIS_VERSION: &str = "7.0.15";

fn time(wall_us: u64) -> Value {
    let parts = [wall_us / 1_000_000, wall_us % 1_000_000];
    Value::Array(parts.map(|part| Value::bulk(part.to_string())).to_vec())
}

fn config(info: &NodeInfo, patterns: &[Bytes]) -> Value {
    let own = info.configuration.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut settings: Vec<(&str, &str)> = REDIS_SETTINGS.iter().copied().chain(own).collect();
    settings.sort_unstable();
    let wanted = |name: &str| {
        patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    settings.retain(|(name, _)| wanted(name));
    Value::Map(settings.iter().map(|(n, v)| (Value::bulk(*n), Value::bulk(*v))).collect())
}

/// The text of `INFO`: the sections that were asked for, or all.
fn info(info: &NodeInfo, wanted: &[String]) -> String {
    let sections: [(&str, Vec<(String, String)>); 4] = [
        ("Server", server_section(info)),
        ("Clients", vec![("connected_clients".to_owned(), info.clients.to_string())]),
        ("Oarlock", status_pairs(info)),
        ("Keyspace", keyspace_section(info)),
    ];
    let all = wanted.is_empty()
        || wanted.iter().any(|name| matches!(name.as_str(), "all" | "default" | "everything"));
    let mut text = String::new();
    for (name, lines) in sections {
        if !all && !wanted.contains(&name.to_ascii_lowercase()) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        let _ = write!(text, "# {name}\r\n");
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    }
    text
}

fn server_section(info: &NodeInfo) -> Vec<(String, String)> {
    let lines = [
        ("redis_version", REDIS_VERSION.to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("oarlock_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("tcp_port", info.client_port.to_string()),
        ("uptime_in_seconds", info.uptime.as_secs().to_string()),
        ("uptime_in_days", (info.uptime.as_secs() / 86_400).to_string()),
    ];
    lines.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// The keys of the ranges that this node leads: all nodes' together are the cluster's. As with Redis a
/// database without keys is not named.
fn keyspace_section(info: &NodeInfo) -> Vec<(String, String)> {
    let count = |name: &str| info.status.iter().find(|(of, _)| of == name).map(|(_, n)| n.as_str());
    match (count("keys"), count("keys_expiring")) {
        (Some(keys), Some(expiring)) if keys != "0" => {
            vec![("db0".to_owned(), format!("keys={keys},expires={expiring},avg_ttl=0"))]
        }
        (Some(_) | None, _) => Vec::new(),
    }
}

fn status_pairs(info: &NodeInfo) -> Vec<(String, String)> {
    let lines = [
        ("node", info.node.get().to_string()),
        ("cluster", encode_u128(info.cluster.get())),
        ("incarnation", info.incarnation.get().to_string()),
        ("core", info.core.get().to_string()),
        ("cores", info.cores.to_string()),
    ];
    let own = lines.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(info.status.iter().cloned()).collect()
}

fn range(range: RangeInfo, map_version: u64) -> Value {
    let int = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let replicas = &range.replicas;
    let address = |at: &Option<SocketAddr>| at.map_or(Value::Nil, |at| Value::bulk(at.to_string()));
    let pairs = [
        ("group", int(range.group.get())),
        ("start", Value::Bulk(range.start)),
        ("end", range.end.map_or(Value::Nil, Value::Bulk)),
        ("leader", range.leader.map_or(Value::Nil, |node| int(node.get()))),
        ("replicas", Value::Array(replicas.iter().map(|at| int(at.node.get())).collect())),
        ("cores", Value::Array(replicas.iter().map(|at| int(at.core.get().into())).collect())),
        ("addresses", Value::Array(range.addresses.iter().map(address).collect())),
        ("epoch", int(range.epoch.get())),
        ("map_version", int(map_version)),
    ];
    Value::Map(pairs.into_iter().map(|(name, value)| (Value::bulk(name), value)).collect())
}
