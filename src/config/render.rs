//! Prints the configuration: the example file with every key, and what is effective and whence.
//!
//! Both are valid files. Must not know any particular key.

use std::fmt::Write;

use super::validate::check_entries;
use super::{Config, KEYS, Key, Loaded, SECTIONS, Setting, Value};

const HEAD: &str = "\
# Oarlock's configuration. Every key stands here with its default; where there is none, with an
# example. `oarlock config example` prints this file and `oarlock config check FILE` checks one.
# A key is also a flag and a variable: clients_max is --clients-max and OARLOCK_CLIENTS_MAX.
# A flag wins over a variable, a variable over this file. Names end with their units.
";

/// The example file: what has no default and must be given stands there, the rest is commented
/// out with its default (`#key = value`), so that a later version's default can take its place.
#[must_use]
pub fn example() -> String {
    let defaults = Config::default();
    let mut text = HEAD.to_owned();
    for (section, doc) in SECTIONS {
        text.push('\n');
        comment(&mut text, doc);
        line(&mut text, format_args!("[{section}]"));
        for key in KEYS.iter().filter(|key| key.section == *section) {
            text.push('\n');
            comment(&mut text, key.doc);
            if let Some(range) = &key.range {
                let (least, most) = (grouped(*range.start()), grouped(*range.end()));
                if *range.end() < i64::MAX {
                    line(&mut text, format_args!("# From {least} to {most}."));
                }
            }
            match (key.value(&defaults), key.example) {
                (Some(value), _) => {
                    let note = size_note(key, &value);
                    line(&mut text, format_args!("#{} = {}{note}", key.name, shown(&value)));
                }
                (None, Some(example)) => {
                    let mark = if is_in_example(key) { "" } else { "#" };
                    line(&mut text, format_args!("{mark}{} = {example}", key.name));
                }
                (None, None) => {}
            }
        }
    }
    text
}

/// What `loaded` says of every key, and where it comes from. Unset keys show what they amount to.
#[must_use]
pub fn effective(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut text = String::new();
    for (section, _) in SECTIONS {
        if !text.is_empty() {
            text.push('\n');
        }
        line(&mut text, format_args!("[{section}]"));
        for key in KEYS.iter().filter(|key| key.section == *section) {
            match (key.value(config), resolved(config, key)) {
                (Some(value), _) => {
                    let (origin, note) = (loaded.origin(key.name), size_note(key, &value));
                    let note = note.replacen("  #", ",", 1);
                    line(
                        &mut text,
                        format_args!("{} = {}  # {origin}{note}", key.name, shown(&value)),
                    );
                }
                (None, Some(value)) => {
                    line(&mut text, format_args!("{} = {}  # derived", key.name, shown(&value)));
                }
                (None, None) => line(&mut text, format_args!("# {} is unset", key.name)),
            }
        }
    }
    text
}

/// What an unset key amounts to.
fn resolved(config: &Config, key: &Key) -> Option<Value> {
    match key.name {
        "cores" => config.cores().to_value(),
        "cluster_id" => config.cluster_id().to_value(),
        "initial_nodes" => {
            // A node alone may listen where nobody can reach it, which no list of nodes may say.
            let (nodes, mut found) = (config.initial_nodes(), Vec::new());
            check_entries(&nodes, &mut found);
            if found.is_empty() { nodes.to_value() } else { None }
        }
        "initial_ranges" => u32::try_from(config.split_points().len() + 1).ok().to_value(),
        "replication_factor" => Setting::to_value(&config.replication_factor()),
        "client_listen" => config.client_listen().to_value(),
        "peer_listen" => config.peer_listen().to_value(),
        _ => None,
    }
}

/// Whether the example sets this key: those that make it a node of a cluster.
fn is_in_example(key: &Key) -> bool {
    matches!(key.name, "node_id" | "data_dir" | "initial_nodes")
}

fn comment(text: &mut String, doc: &str) {
    for part in doc.lines() {
        line(text, format_args!("#{}", part.trim_end()));
    }
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("invariant: writing into memory succeeds");
}

/// A value as the file has it, long numbers in groups.
fn shown(value: &Value) -> String {
    value.as_integer().map_or_else(|| value.to_string(), grouped)
}

/// `1234567` as `1_234_567`.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// A comment that says a number of bytes in a larger unit, where it is whole in it.
fn size_note(key: &Key, value: &Value) -> String {
    let Some(bytes) = value.as_integer().filter(|n| key.name.contains("_bytes") && *n > 0) else {
        return String::new();
    };
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes.trailing_zeros() >= shift {
            return format!("  # {} {unit}", bytes >> shift);
        }
    }
    String::new()
}

impl Config {
    /// Every key with its value in force, as text; a key without one is left out.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let text = |key: &Key| Some((key.name.to_owned(), shown(&key.value(self)?)));
        KEYS.iter().filter_map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::*;

    fn load(text: &str) -> Loaded {
        let file = Some(("f".to_owned(), text.to_owned()));
        Sources { file, ..Sources::default() }.load().unwrap()
    }

    #[test]
    fn the_example_names_every_key_once() {
        let text = example();
        for key in KEYS {
            let starts =
                |l: &&str| l.trim_start_matches('#').starts_with(&format!("{} = ", key.name));
            assert_eq!(text.lines().filter(starts).count(), 1, "{}", key.name);
        }
    }

    #[test]
    fn the_example_is_a_good_file_and_changes_no_default() {
        let loaded = load(&example());
        assert_eq!(loaded.config.limits, Config::default().limits);
        assert_eq!(loaded.config.initial_nodes().len(), 3);
    }

    #[test]
    fn every_default_that_the_example_tells_is_the_default() {
        let defaults = Config::default();
        let uncommented: String = example()
            .lines()
            .filter_map(|line| {
                let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '))?;
                let name = key.split(' ').next()?;
                let known = KEYS.iter().find(|known| known.name == name)?;
                known.value(&defaults).is_some().then(|| format!("{}.{key}\n", known.section))
            })
            .collect();
        let table: toml::Table = toml::from_str(&uncommented).unwrap();
        let mut count = 0;
        for key in KEYS {
            if let Some(value) = key.value(&defaults) {
                assert_eq!(table[key.section][key.name], value, "{}", key.path());
                count += 1;
            }
        }
        assert!(count > 20);
    }

    #[test]
    fn what_is_effective_reads_back_as_the_same() {
        let loaded =
            load("[node]\nnode_id = 3\ndata_dir = \"/d\"\n[limits]\nclients_max = 12345\n");
        let text = effective(&loaded);
        assert!(text.contains("clients_max = 12_345  # f:5\n"), "{text}");
        assert!(text.contains("value_bytes_max = 1_048_576  # default, 1 MiB\n"), "{text}");
        assert!(text.contains("client_listen = \"127.0.0.1:6379\"  # derived\n"), "{text}");
        assert!(text.contains("# split_points is unset\n"), "{text}");
        let again = load(&text);
        assert_eq!(again.config.cluster_id(), loaded.config.cluster_id());
        assert_eq!(again.config.limits, loaded.config.limits);
    }

    #[test]
    fn a_node_alone_that_listens_everywhere_is_shown_as_a_good_file() {
        let loaded = load(
            "[node]\nnode_id = 3\ndata_dir = \"/d\"\n[network]\npeer_listen = \"0.0.0.0:8\"\n",
        );
        let text = effective(&loaded);
        assert!(text.contains("# initial_nodes is unset\n"), "{text}");
        assert_eq!(load(&text).config.initial_nodes(), loaded.config.initial_nodes());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([grouped(7), grouped(999), grouped(1000)], ["7", "999", "1_000"]);
        assert_eq!(grouped(1_234_567), "1_234_567");
    }
}
