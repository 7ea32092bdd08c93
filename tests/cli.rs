//! The command line as scripts see it: standard output, standard error, exit codes.
//!
//! Runs the binary itself. `UPDATE_GOLDENFILES=1` rewrites the example file from the table of keys.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn oarlock(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OARLOCK_") {
            command.env_remove(name);
        }
    }
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ends_with(args: &[&str], code: i32) -> (String, String) {
    let output = oarlock(args);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

fn write(dir: &Path, contents: &str) -> String {
    let file = dir.join("oarlock.toml");
    std::fs::write(&file, contents).unwrap();
    file.to_string_lossy().into_owned()
}

#[test]
fn help_and_version_are_answers() {
    let (out, err) = ends_with(&["--help"], 0);
    assert!(out.contains("Exit codes:") && err.is_empty());
    let (out, _) = ends_with(&["--version"], 0);
    assert_eq!(out, format!("oarlock {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [&["sing"][..], &[], &["config", "check"], &["config", "show", "--nodeid", "1"]] {
        let (out, err) = ends_with(args, 2);
        assert!(out.is_empty() && !err.is_empty());
    }
}

#[test]
fn config_check_prints_ok_and_every_value() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "[node]\nnode_id = 1\ndata_dir = \"/d\"\n");
    let (out, err) = ends_with(&["config", "check", &file], 0);
    assert!(out.starts_with("ok\n") && err.is_empty());
    assert!(out.contains("\nclients_max = 10_000  # default\n"), "{out}");
}

#[test]
fn config_check_prints_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "[node]\nnode_id = -1\ndatadir = \"/d\"\n");
    let (out, err) = ends_with(&["config", "check", &file], 1);
    assert!(out.is_empty());
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(
        lines[0].ends_with(":2: node.node_id: -1 is out of range: give a number from 1"),
        "{err}"
    );
    assert!(
        lines[1].ends_with(":3: there is no key node.datadir; did you mean data_dir?"),
        "{err}"
    );
    let (_, err) = ends_with(&["config", "check", "/nowhere.toml"], 1);
    assert!(err.contains("/nowhere.toml"), "{err}");
}

#[test]
fn config_show_tells_where_each_value_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "[node]\nnode_id = 1\ndata_dir = \"/d\"\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock"));
    command.args(["config", "show", "--clients-max", "7"]);
    command.env("OARLOCK_CONFIG", &file).env("OARLOCK_LOG_LEVEL", "warn");
    let out = text(&command.output().unwrap().stdout);
    assert!(out.contains(&format!("data_dir = \"/d\"  # {file}:3\n")), "{out}");
    assert!(out.contains("log_level = \"warn\"  # OARLOCK_LOG_LEVEL\n"), "{out}");
    assert!(out.contains("clients_max = 7  # --clients-max\n"), "{out}");
    let (_, err) = ends_with(&["config", "show"], 2);
    assert!(err.contains("node.node_id is not set"), "{err}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let (out, _) = ends_with(&["completions", shell], 0);
        assert!(out.contains("support-duration-ms"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let script = format!("'{}' config example | head -n 1", env!("CARGO_BIN_EXE_oarlock"));
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn the_example_file_is_the_table_of_keys() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("oarlock.example.toml");
    let (example, _) = ends_with(&["config", "example"], 0);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some_and(|value| value == "1") {
        std::fs::write(&path, &example).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == example,
        "oarlock.example.toml is not what the table of keys says: scripts/fix"
    );
    ends_with(&["config", "check", &path.to_string_lossy()], 0);
}
