//! The flags of the configuration, made of its table: one for each key, and `--config`.
//!
//! Must not know any particular key, nor what a value means: `config` does.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::config::{Config, ConfigError, KEYS, Key, Loaded, Sources};

/// The configuration as the command line gives it. Flatten it into a command's arguments.
#[derive(Clone, Debug, Default)]
pub struct SettingsArgs {
    /// The file.
    pub file: Option<PathBuf>,
    /// Keys' names and the texts of their flags.
    pub flags: Vec<(String, String)>,
}

impl SettingsArgs {
    /// The configuration that the file, the environment and these flags make.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        Sources::gather(self.file.clone(), self.flags.clone())?.load()
    }
}

fn flag(key: &'static Key, defaults: &Config) -> Arg {
    let default =
        key.value(defaults).map_or_else(String::new, |value| format!(" [default: {value}]"));
    let first = key.doc.lines().next().unwrap_or_default().trim();
    Arg::new(key.name)
        .long(key.flag())
        .value_name(key.kind.placeholder())
        .help(format!("{first}{default}"))
        .long_help(format!("{}{default}", paragraph(key.doc)))
        .help_heading(format!("Configuration: [{}]", key.section))
        .allow_hyphen_values(true)
}

/// Lines of documentation as one line that the terminal may break anew.
fn paragraph(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        let given = |key: &&Key| matches.get_one::<String>(key.name).cloned();
        self.flags =
            KEYS.iter().filter_map(|key| Some((key.name.to_owned(), given(&key)?))).collect();
        Ok(())
    }
}

impl Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("The configuration file (TOML) [variable: OARLOCK_CONFIG]");
        let defaults = Config::default();
        command.arg(file).args(KEYS.iter().map(|key| flag(key, &defaults)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<SettingsArgs, clap::Error> {
        let command = SettingsArgs::augment_args(Command::new("t"));
        let matches = command.try_get_matches_from(["t"].iter().chain(args))?;
        SettingsArgs::from_arg_matches(&matches)
    }

    #[test]
    fn every_key_is_a_flag() {
        let command = SettingsArgs::augment_args(Command::new("t"));
        command.clone().debug_assert();
        assert_eq!(command.get_arguments().count(), KEYS.len() + 1);
        for key in KEYS {
            let args = parse(&[&format!("--{}", key.flag()), "5"]).unwrap();
            assert_eq!(args.flags, [(key.name.to_owned(), "5".to_owned())]);
        }
    }

    #[test]
    fn a_negative_number_reaches_the_key_s_own_message() {
        let args = parse(&["--node-id", "-3"]).unwrap();
        assert_eq!(args.flags, [("node_id".to_owned(), "-3".to_owned())]);
    }

    #[test]
    fn an_unknown_flag_is_refused_with_a_hint() {
        let error = parse(&["--client-max", "5"]).unwrap_err().to_string();
        assert!(error.contains("--clients-max"), "{error}");
    }
}
