//! The configuration: a file's text, variables and flags.
//!
//! An input is the text; behind each zero byte stands a variable (`NAME=value`) or a flag
//! (`--name=value`). What holds: it is refused with a reason, or it is valid and prints as a file
//! that means the same.

use std::sync::LazyLock;

use clap::{Args, Command, FromArgMatches};
use oarlock::cli::settings::SettingsArgs;
use oarlock::config::{self, ConfigError, KEYS, Loaded, Sources};

use crate::memory;
use crate::targets::outcome;

pub(super) const WORDS: &[&[u8]] = &[
    b"[node]\n",
    b"[cluster]\n",
    b"[network]\n",
    b"[limits]\n",
    b"[log]\n",
    b"node_id = 1\n",
    b"data_dir = \"/d\"\n",
    b"cores = 2\n",
    b"cores = [0, 1]\n",
    b"cluster_name = \"x\"\n",
    b"cluster_id = \"0123456789abcdef0123456789abcdef\"\n",
    b"initial_nodes = [",
    b"{ id = 1, ",
    b"peer_address = \"10.0.0.1:1\", ",
    b"client_address = \"[::1]:2\", ",
    b"cores = 1 }",
    b"initial_ranges = 65536\n",
    b"split_points = [\"g\", \"0xff00\"]\n",
    b"replication_factor = 3\n",
    b"client_listen = \"0.0.0.0:6379\"\n",
    b"peer_listen = \"[::]:1\"\n",
    b"clients_max = 5\n",
    b"pulse_interval_ms = 50\n",
    b"support_duration_ms = 750\n",
    b"log_level = \"info,x=debug\"\n",
    b"log_format = \"json\"\n",
    b"\0OARLOCK_",
    b"\0--",
    b"=",
    b"\0--node-id=1",
    b"\0--data-dir=/d",
    b"\0OARLOCK_CORES=[0, 1]",
    b"\0OARLOCK_SPLIT_POINTS=[\"a\"]",
    b"\0--log-level=warn",
    b"\"\"\"",
    b"'''",
    b"\\u0000",
    b"\\n",
    b"9223372036854775807",
    b"-1",
    b"0x10",
    b"1e9",
    b"nan",
    b"1979-05-27",
    b".a.a.a.a",
    b"[[[[[[[[",
    b"{a={a=",
    b"#",
    b"\xc3\xa9",
];

/// Ranges make the longest list, of at most 65,536 elements, and a few of them are alive at once.
const BYTES_MAX: usize = 32 << 20;
const TEXT_FACTOR: usize = 256;

static COMMAND: LazyLock<Command> =
    LazyLock::new(|| SettingsArgs::augment_args(Command::new("oarlock").no_binary_name(true)));

pub(super) fn run(input: &[u8]) -> u64 {
    let bytes_max = BYTES_MAX + input.len() * TEXT_FACTOR;
    LazyLock::force(&COMMAND);
    memory::bounded(bytes_max, || {
        let Some(sources) = sources(input) else { return 1 };
        match sources.load() {
            Ok(loaded) => accepted(&loaded),
            Err(error) => refused(&error),
        }
    })
}

fn sources(input: &[u8]) -> Option<Sources> {
    let mut parts = input.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let text = parts.next().unwrap_or_default().into_owned();
    let (flags, variables): (Vec<_>, Vec<_>) = parts.partition(|part| part.starts_with("--"));
    let flags = if flags.is_empty() {
        Vec::new()
    } else {
        let flags = flags.iter().map(AsRef::<str>::as_ref);
        let matches = COMMAND.clone().try_get_matches_from(flags).ok()?;
        SettingsArgs::from_arg_matches(&matches).ok()?.flags
    };
    let pair = |part: &std::borrow::Cow<'_, str>| {
        part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let variables = variables.iter().filter_map(pair).collect();
    Some(Sources { file: Some(("oarlock.toml".to_owned(), text)), variables, flags })
}

fn refused(error: &ConfigError) -> u64 {
    let ConfigError::Invalid(problems) = error else { panic!("no file was read: {error}") };
    assert!(!problems.is_empty(), "it is refused without a reason");
    for problem in problems {
        assert!(!problem.what.trim().is_empty(), "a problem says nothing");
    }
    let words = problems.iter().map(|problem| problem.what.split([' ', ':']).take(3));
    outcome(&words.map(Iterator::collect::<Vec<_>>).collect::<Vec<_>>())
}

fn accepted(loaded: &Loaded) -> u64 {
    assert!(loaded.config.validate().is_ok(), "what is loaded is not valid");
    let text = config::effective(loaded);
    let file = Some(("printed.toml".to_owned(), text.clone()));
    let again = Sources { file, ..Sources::default() }.load();
    let again = again.unwrap_or_else(|error| panic!("it cannot be read back: {error}\n{text}"));
    for key in KEYS {
        // What is unset here is printed as what it amounts to.
        let before = key.value(&loaded.config);
        assert!(before.is_none() || before == key.value(&again.config), "{}\n{text}", key.path());
    }
    let (one, two) = (&loaded.config, &again.config);
    assert_eq!(one.cluster_id(), two.cluster_id(), "{text}");
    assert_eq!(one.initial_nodes(), two.initial_nodes(), "{text}");
    assert_eq!(one.split_points(), two.split_points(), "{text}");
    assert_eq!(one.replication_factor(), two.replication_factor(), "{text}");
    assert_eq!((one.client_listen(), one.peer_listen()), (two.client_listen(), two.peer_listen()));
    assert_eq!((one.cores(), one.limits()), (two.cores(), two.limits()), "{text}");
    let is_set = |key: &&config::Key| *loaded.origin(key.name) != config::Origin::Default;
    outcome(&KEYS.iter().filter(is_set).map(|key| key.name).collect::<Vec<_>>())
}
