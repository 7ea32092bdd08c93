//! Puts the sources together: defaults, then the file, then variables, then flags.
//!
//! Nothing is guessed and nothing is passed over: a key that is not known is refused with the
//! nearest one that is. All problems are told at once. Must not check keys against each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;

use super::{Config, ConfigError, KEYS, Key, Problem, SECTIONS, Value};

/// Names the file where no `--config` does.
pub const FILE_VARIABLE: &str = "OARLOCK_CONFIG";
const VARIABLE_PREFIX: &str = "OARLOCK_";
/// Variables that begin like ours and are no key's: the file's, and the seed of random tests, which
/// is set around the nodes that such a test starts.
const OTHER_VARIABLES: [&str; 2] = [FILE_VARIABLE, "OARLOCK_SEED"];

/// Names less alike than this are not taken for a slip of the pen.
const SIMILARITY_MIN: f64 = 0.75;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file.
    File {
        /// Its name as it was given.
        path: String,
        /// The line of the key.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// What was given, read but not yet understood.
#[derive(Debug, Default)]
pub struct Sources {
    /// The file's name and text.
    pub file: Option<(String, String)>,
    /// Environment variables; those of others are passed over.
    pub variables: Vec<(String, String)>,
    /// Keys' names and the texts that flags gave them.
    pub flags: Vec<(String, String)>,
}

/// A configuration and where each of its values came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// One for each key, in the order of `KEYS`.
    pub origins: Vec<Origin>,
}

impl Sources {
    /// The file alone: what `config check` judges, whatever the environment.
    pub fn from_file(path: &str) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self { file: Some((path.to_owned(), text)), ..Self::default() })
    }

    /// The file that the flag or else the variable names, this process's environment, and flags.
    pub fn gather(
        file: Option<PathBuf>,
        flags: Vec<(String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let variables: Vec<(String, String)> =
            std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        let named = || variables.iter().find(|(name, _)| name == FILE_VARIABLE);
        let path = match file {
            Some(path) => Some(path.to_string_lossy().into_owned()),
            None => named().map(|(_, path)| path.clone()),
        };
        let mut sources =
            path.map_or_else(|| Ok(Self::default()), |path| Self::from_file(&path))?;
        sources.variables = variables;
        sources.flags = flags;
        Ok(sources)
    }

    /// The configuration that they make, or everything that is wrong with them.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut loading = Loading {
            loaded: Loaded {
                config: Config::default(),
                origins: vec![Origin::Default; KEYS.len()],
            },
            problems: Vec::new(),
        };
        if let Some((path, text)) = &self.file {
            loading.file(path, text);
        }
        for (name, text) in &self.variables {
            loading.variable(name, text);
        }
        for (name, text) in &self.flags {
            if let Some(at) = KEYS.iter().position(|key| key.name == name) {
                let origin = Origin::Flag(KEYS[at].flag());
                loading.assign(at, origin, &KEYS[at].kind.read(text));
            }
        }
        // A value that was not understood would be reported a second time, for its default.
        if loading.problems.is_empty() {
            loading.problems = loading.loaded.check();
        }
        if loading.problems.is_empty() {
            Ok(loading.loaded)
        } else {
            Err(ConfigError::Invalid(loading.problems))
        }
    }
}

impl Loaded {
    /// Where the value of the key of this name came from.
    #[must_use]
    pub fn origin(&self, name: &str) -> &Origin {
        let at = KEYS.iter().position(|key| key.name == name);
        at.map_or(&Origin::Default, |at| &self.origins[at])
    }

    /// Checks keys against each other, and tells the place of each problem's key.
    fn check(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for (name, what) in self.config.contradictions() {
            let place = match self.origin(name) {
                Origin::Default => String::new(),
                Origin::File { .. } | Origin::Variable(_) | Origin::Flag(_) => {
                    self.origin(name).to_string()
                }
            };
            problems.push(Problem { place, what });
        }
        problems
    }
}

struct Loading {
    loaded: Loaded,
    problems: Vec<Problem>,
}

type Sections = BTreeMap<Spanned<String>, Value>;
type Keys = BTreeMap<String, BTreeMap<Spanned<String>, Value>>;

impl Loading {
    fn problem(&mut self, place: impl ToString, what: String) {
        self.problems.push(Problem { place: place.to_string(), what });
    }

    fn assign(&mut self, at: usize, origin: Origin, value: &Value) {
        let key = &KEYS[at];
        match key.assign(&mut self.loaded.config, value) {
            Ok(()) => self.loaded.origins[at] = origin,
            Err(what) => self.problem(origin, format!("{}: {what}", key.path())),
        }
    }

    fn file(&mut self, path: &str, text: &str) {
        let line =
            |at: usize| text[..at].lines().count().max(1) + usize::from(text[..at].ends_with('\n'));
        let place = |at: usize| format!("{path}:{}", line(at));
        let before = self.problems.len();
        match toml::from_str::<Sections>(text) {
            Ok(sections) => {
                for (name, value) in sections {
                    if let Err(what) = section(name.get_ref(), &value) {
                        self.problem(place(name.span().start), what);
                    }
                }
            }
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                // The parser has no word for some of what it does not take.
                let what = match error.message() {
                    "" => "this is not TOML: is a value missing, or are its quotes?",
                    known => known,
                };
                self.problem(place(at), what.to_owned());
            }
        }
        if self.problems.len() > before {
            return;
        }
        // Every section is a table, so this reads what was read above once more, with places.
        let sections: Keys = toml::from_str(text).unwrap_or_default();
        for (section, keys) in sections {
            let mut keys: Vec<_> = keys.into_iter().collect();
            keys.sort_by_key(|(name, _)| name.span().start);
            for (name, value) in keys {
                let at = name.span().start;
                let known = |key: &Key| key.section == section && key.name == name.get_ref();
                match KEYS.iter().position(known) {
                    Some(key) => {
                        let origin = Origin::File { path: path.to_owned(), line: line(at) };
                        self.assign(key, origin, &value);
                    }
                    None => self.problem(place(at), unknown_key(&section, name.get_ref())),
                }
            }
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        if !name.starts_with(VARIABLE_PREFIX) || OTHER_VARIABLES.contains(&name) {
            return;
        }
        if let Some(at) = KEYS.iter().position(|key| key.variable() == name) {
            self.assign(at, Origin::Variable(name.to_owned()), &KEYS[at].kind.read(text));
            return;
        }
        let near = nearest(name, KEYS.iter().map(Key::variable));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        self.problem(name, format!("no key has this variable{hint} (unset it, or correct it)"));
    }
}

/// Whether a section of this name and value may stand in the file.
fn section(name: &str, value: &Value) -> Result<(), String> {
    let known = SECTIONS.iter().any(|(section, _)| *section == name);
    if known && value.is_table() {
        return Ok(());
    }
    if known {
        return Err(format!("{name} is a section: write [{name}] on a line of its own"));
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Err(format!("{name} belongs into section [{}]", key.section));
    }
    let sections = || SECTIONS.iter().map(|(section, _)| (*section).to_owned());
    let known = sections().map(|s| format!("[{s}]")).collect::<Vec<_>>().join(", ");
    let hint = nearest(name, sections()).map_or_else(
        || format!("the sections are {known}"),
        |near| format!("did you mean [{near}]?"),
    );
    Err(format!("there is no section [{name}]; {hint}"))
}

fn unknown_key(section: &str, name: &str) -> String {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("{name} belongs into section [{}], not [{section}]", key.section);
    }
    let hint = nearest(name, KEYS.iter().map(|key| key.name.to_owned())).map_or_else(
        || "; `oarlock config example` prints all keys".to_owned(),
        |near| format!("; did you mean {near}?"),
    );
    format!("there is no key {section}.{name}{hint}")
}

/// The name that is most like `name`, if any is.
fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    names
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BASE: &str = "[node]\nnode_id = 1\ndata_dir = \"/d\"\n";

    fn sources(text: &str) -> Sources {
        Sources { file: Some(("f.toml".to_owned(), text.to_owned())), ..Sources::default() }
    }

    fn problems(sources: &Sources) -> Vec<String> {
        match sources.load().unwrap_err() {
            ConfigError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
            ConfigError::Read { .. } => unreachable!("nothing is read here"),
        }
    }

    fn pair(name: &str, text: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), text.to_owned())]
    }

    #[test]
    fn a_problem_is_told_where_the_parser_has_no_word_for_it() {
        let problems = problems(&sources("[log]\nlog_level="));
        assert_eq!(
            problems,
            ["f.toml:2: this is not TOML: is a value missing, or are its quotes?"]
        );
    }

    #[test]
    fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
        let mut sources = sources(&format!("{BASE}[limits]\nclients_max = 5\n"));
        let load = |sources: &Sources| {
            let loaded = sources.load().unwrap();
            (loaded.config.limits.clients_max, loaded.origin("clients_max").to_string())
        };
        let file = sources.file.take();
        sources.flags = pair("node_id", "1");
        sources.flags.extend(pair("data_dir", "/d"));
        assert_eq!(load(&sources), (10_000, "default".to_owned()));
        sources.file = file;
        assert_eq!(load(&sources), (5, "f.toml:5".to_owned()));
        sources.variables = pair("OARLOCK_CLIENTS_MAX", "6");
        assert_eq!(load(&sources), (6, "OARLOCK_CLIENTS_MAX".to_owned()));
        sources.flags.extend(pair("clients_max", "7"));
        assert_eq!(load(&sources), (7, "--clients-max".to_owned()));
    }

    #[test]
    fn every_key_can_be_set_by_each_of_its_ways() {
        for key in KEYS {
            let set = key.value(&Config::default());
            let value = match (&set, key.example) {
                (Some(value), _) => value.clone(),
                (None, example) => {
                    let example = example.expect("no default, so an example");
                    let table: toml::Table = toml::from_str(&format!("v = {example}")).unwrap();
                    table["v"].clone()
                }
            };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mut loading = Loading {
                loaded: Loaded {
                    config: Config::default(),
                    origins: vec![Origin::Default; KEYS.len()],
                },
                problems: Vec::new(),
            };
            loading.variable(&key.variable(), &text);
            assert_eq!(loading.problems, [], "{}", key.path());
            assert_eq!(key.value(&loading.loaded.config), Some(value.clone()), "{}", key.path());
            loading.file("f", &format!("[{}]\n{} = {value}\n", key.section, key.name));
            assert_eq!(loading.problems, [], "{}", key.path());
            assert_eq!(loading.loaded.origin(key.name).to_string(), "f:2");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
        let text = format!("{BASE}\n[limits]\n# a word\nclient_max = 5\n");
        assert_eq!(
            problems(&sources(&text)),
            ["f.toml:7: there is no key limits.client_max; did you mean clients_max?"]
        );
        let text = format!("{BASE}zzz = 5\n");
        assert!(problems(&sources(&text))[0].contains("config example"));
    }

    #[test]
    fn a_key_in_the_wrong_section_is_told_the_right_one() {
        let text = format!("{BASE}clients_max = 5\n");
        assert_eq!(
            problems(&sources(&text)),
            ["f.toml:4: clients_max belongs into section [limits], not [node]"]
        );
        assert_eq!(
            problems(&sources("node_id = 1\n")),
            ["f.toml:1: node_id belongs into section [node]"]
        );
    }

    #[test]
    fn an_unknown_section_is_refused_with_the_nearest_one() {
        let text = format!("{BASE}[limit]\nclients_max = 5\n");
        assert_eq!(
            problems(&sources(&text)),
            ["f.toml:4: there is no section [limit]; did you mean [limits]?"]
        );
        assert!(problems(&sources("[x]\n"))[0].contains("[node], [cluster], [network]"));
        assert!(problems(&sources("log = 1\n"))[0].contains("write [log]"));
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_with_its_line() {
        let found = problems(&sources("[node]\nnode_id = = 1\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("f.toml:2: "), "{found:?}");
    }

    #[test]
    fn all_wrong_values_are_told_at_once_with_their_places() {
        let text =
            "[node]\nnode_id = \"one\"\n[limits]\npulse_interval_ms = 1\nclients_max = 1.5\n";
        let mut sources = sources(text);
        sources.variables = pair("OARLOCK_KEY_BYTES_MAX", "32KiB");
        sources.flags = pair("peer_listen", "9000");
        let found = problems(&sources);
        assert_eq!(found.len(), 5, "{found:?}");
        let starts = [
            "f.toml:4: limits.pulse_interval_ms: 1 is out of range: give 5 to 10000",
            "f.toml:5: limits.clients_max: expected a whole number",
            "f.toml:2: node.node_id: expected a whole number",
            "OARLOCK_KEY_BYTES_MAX: limits.key_bytes_max: expected a whole number",
            "--peer-listen: network.peer_listen: expected an IP address and a port",
        ];
        for (problem, start) in found.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
        }
    }

    #[test]
    fn a_variable_that_no_key_has_is_refused_and_others_are_passed_over() {
        let mut sources = sources(BASE);
        sources.variables = pair("PATH", "/bin");
        sources.variables.extend(OTHER_VARIABLES.iter().flat_map(|name| pair(name, "5")));
        assert!(sources.load().is_ok());
        sources.variables = pair("OARLOCK_CLIENT_MAX", "5");
        assert!(problems(&sources)[0].contains("did you mean OARLOCK_CLIENTS_MAX?"));
    }

    #[test]
    fn a_contradiction_is_told_where_its_key_was_set() {
        let text = format!("{BASE}[limits]\nsupport_duration_ms = 100\n");
        let found = problems(&sources(&text));
        assert!(found[0].starts_with("f.toml:5: limits.support_duration_ms"), "{found:?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Sources::from_file("/nowhere/f.toml").unwrap_err().to_string();
        assert!(error.contains("/nowhere/f.toml"), "{error}");
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = r#"
            [node]
            node_id = 2
            data_dir = "/d"
            cores = [1, 3]
            [[cluster.initial_nodes]]
            id = 1
            peer_address = "10.0.0.1:1"
            client_address = "10.0.0.1:2"
            cores = 2
            [[cluster.initial_nodes]]
            id = 2
            peer_address = "10.0.0.2:1"
            client_address = "10.0.0.2:2"
            cores = 2
            [limits]
            support_duration_ms = 1_000
        "#;
        let loaded = sources(text).load().unwrap();
        assert_eq!(loaded.config.limits().support_duration, Duration::from_secs(1));
        assert_eq!(loaded.config.client_listen().to_string(), "10.0.0.2:2");
        assert_eq!(loaded.config.cores().count(), 2);
        assert_eq!(loaded.origin("initial_nodes").to_string(), "f.toml:6");
    }
}
