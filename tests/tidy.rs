//! The repository checks itself: what no compiler sees, and what people forget.
//!
//! Each test reads files and says which file and line breaks which rule. Nothing is built or run.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What each crate under `shards/` may use: crates of the workspace, then crates from outside.
/// Cargo is the architecture test, and this table is its expectation: an edge that is not here
/// needs a reason, and a decision record if it points upwards.
const EDGES: &[(&str, &[&str], &[&str])] = &[
    ("types", &[], &["bytes", "rkyv", "serde"]),
    ("raft", &["types"], &["bytes", "rkyv", "serde"]),
    ("placement", &["types"], &[]),
    ("store", &["types"], &["bytes", "crc32fast", "postcard", "rkyv", "serde", "xxhash-rust"]),
    (
        "codec",
        &["types", "raft", "store"],
        &["bytes", "crc32fast", "postcard", "rkyv", "thiserror"],
    ),
    ("wal", &["types", "raft", "codec"], &["bytes", "crc32fast", "thiserror"]),
    ("shard", &["types", "raft", "store", "codec", "wal"], &["bytes"]),
    (
        "cluster",
        &["types", "raft", "store", "codec", "placement", "shard"],
        &["bytes", "serde", "serde_json", "thiserror", "tracing"],
    ),
    (
        "survivors",
        &["types", "raft", "store", "codec", "wal", "shard", "cluster"],
        &["bytes", "serde", "thiserror"],
    ),
    (
        "sim",
        &["types", "raft", "store", "codec", "wal", "shard", "placement", "cluster", "survivors"],
        &["bytes", "clap", "crc32fast", "indicatif", "serde_json"],
    ),
];

/// What tests and benches under `shards/` may use besides.
const TEST_CRATES: &[&str] = &["criterion", "goldenscript", "proptest"];

/// What touches the world belongs into the root package alone.
const ROOT_ONLY: &[&str] =
    &["io-uring", "crossbeam-queue", "rustix", "libc", "socket2", "getrandom", "tokio"];

/// The only files with `unsafe`, and why each needs it.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/disk/ring.rs", "hands the log's buffers to the kernel"),
    ("src/disk/buffer.rs", "owns memory that is aligned to blocks"),
    ("src/runtime/ring.rs", "hands operations to the kernel's ring"),
];

/// Tests that sleep because what they await gives no event, and why.
const SLEEPING_TESTS: &[(&str, &str)] =
    &[("tests/peer_links.rs", "support comes and lapses in a shared table, without an event")];

const PRODUCTION_LINES_MAX: usize = 600;

/// A text file of the repository.
struct File {
    /// Its path from the root, with slashes.
    path: String,
    text: String,
}

impl File {
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        let mut folders = self.path.split('/').rev().skip(1);
        let named = name == "tests.rs" || name.ends_with("_tests.rs");
        named || folders.any(|folder| folder == "tests" || folder == "benches")
    }

    /// The lines that are not tests: all before the first test module.
    fn production(&self) -> Vec<&str> {
        if self.is_test() {
            return Vec::new();
        }
        self.text.lines().take_while(|line| line.trim() != "#[cfg(test)]").collect()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files under the root whose names end so, in order; neither built nor git's own.
fn files(ends: &[&str]) -> Vec<File> {
    fn walk(folder: &Path, ends: &[&str], found: &mut Vec<File>) {
        let mut entries: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    walk(&path, ends, found);
                }
            } else if ends.iter().any(|end| name.ends_with(end)) {
                let from_root = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(File { path: from_root, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), ends, &mut found);
    assert!(!found.is_empty(), "no file ends with {ends:?}: the walk is broken");
    found
}

fn sources() -> Vec<File> {
    files(&[".rs"])
}

#[track_caller]
fn nothing(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Where `found` holds for a line of the files.
fn lines(files: &[File], found: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let place =
        |file: &File, at: usize, line: &str| format!("{}:{}: {}", file.path, at + 1, line.trim());
    let in_file = |file: &File| {
        let numbered = file.text.lines().enumerate();
        numbered
            .filter(|(_, line)| found(file, line))
            .map(|(at, line)| place(file, at, line))
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(in_file).collect()
}

// Sources

#[test]
fn every_file_opens_with_its_duty() {
    let broken: Vec<_> = sources()
        .into_iter()
        .filter(|file| {
            !file.text.starts_with("//! ") || file.text.lines().next().unwrap().len() < 12
        })
        .map(|file| file.path)
        .collect();
    nothing("the first line is `//!` and says what the file is for", &broken);
}

#[test]
fn no_production_file_is_too_long() {
    let broken: Vec<_> = sources()
        .iter()
        .map(|file| (file.production().len(), &file.path))
        .filter(|(count, _)| *count > PRODUCTION_LINES_MAX)
        .map(|(count, path)| format!("{path}: {count} lines"))
        .collect();
    nothing("a file is one thought, of at most 600 lines before its tests", &broken);
}

#[test]
fn nothing_is_left_undone() {
    // Put together here so that this file does not break its own rule.
    let words: Vec<String> =
        ["TO DO", "FIX ME", "X XX", "to do!", "un implemented!", "d bg!", "#[ig nore"]
            .iter()
            .map(|word| word.replace(' ', ""))
            .collect();
    let all = files(&[".rs", ".toml", ".md"]);
    let broken = lines(&all, |_, line| words.iter().any(|word| line.contains(word)));
    nothing("what is left undone is said elsewhere, not in the code", &broken);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let folders = [format!("/{}/", "work"), format!("/{}/", "root")];
    let all = files(&[".rs", ".toml", ".md", "chaos", "check", "compare", "fix", "run"]);
    let broken = lines(&all, |_, line| folders.iter().any(|folder| line.contains(folder)));
    nothing("paths of one machine mean nothing on another", &broken);
}

#[test]
fn tests_await_events_and_do_not_sleep() {
    let sleep = format!("thread::{}", "sleep");
    let mut broken = Vec::new();
    for file in sources() {
        let allowed = SLEEPING_TESTS.iter().any(|(path, _)| *path == file.path);
        let skipped = file.production().len();
        let tests = file.text.lines().enumerate().skip(skipped);
        for (at, line) in tests.filter(|(_, line)| line.contains(&sleep) && !allowed) {
            broken.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
        }
    }
    nothing("a test that sleeps is slow or flaky; wait for what it waits for", &broken);
}

#[test]
fn unsafe_stands_in_its_own_files() {
    let keyword = format!("un{}", "safe");
    let starts: Vec<String> =
        [" {", " fn", " impl", " extern"].iter().map(|next| format!("{keyword}{next}")).collect();
    let broken = lines(&sources(), |file, line| {
        let code = line.split("//").next().unwrap();
        let allowed = UNSAFE_FILES.iter().any(|(path, _)| *path == file.path);
        let allows = code.contains(&format!("{keyword}_code"));
        !allowed && (allows || starts.iter().any(|start| code.contains(start)))
    });
    nothing("the language's checks are left only in the files that are listed here", &broken);
    for (path, _) in UNSAFE_FILES {
        assert!(root().join(path).exists(), "{path} is listed here but is not there");
    }
}

// Manifests

type Manifest = toml::Table;

fn manifest(path: &str) -> Manifest {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn crates() -> BTreeMap<String, Manifest> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root().join("shards")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let path = format!("shards/{name}/Cargo.toml");
        if root().join(&path).exists() {
            found.insert(name, manifest(&path));
        }
    }
    found
}

/// The names in a table of a manifest.
fn names(manifest: &Manifest, table: &str) -> BTreeSet<String> {
    let table = manifest.get(table).and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_design_says() {
    let mut broken = Vec::new();
    for (name, manifest) in crates() {
        let Some((_, inside, outside)) = EDGES.iter().find(|(known, ..)| *known == name) else {
            broken.push(format!("shards/{name} has no line in the table of edges"));
            continue;
        };
        for used in names(&manifest, "dependencies") {
            let ok = match used.strip_prefix("oarlock-") {
                Some(own) => inside.contains(&own),
                None => outside.contains(&used.as_str()),
            };
            if !ok {
                broken.push(format!("shards/{name} must not use {used}"));
            }
        }
        for used in names(&manifest, "dev-dependencies") {
            let own = used.starts_with("oarlock-");
            if !own && !TEST_CRATES.contains(&used.as_str()) {
                broken.push(format!("the tests of shards/{name} must not use {used}"));
            }
        }
        if !names(&manifest, "build-dependencies").is_empty() {
            broken.push(format!("shards/{name} must not run anything while it is built"));
        }
    }
    nothing("types ← raft, store ← codec ← wal ← shard ← root", &broken);
}

/// Nothing but `scripts/compare` builds them, and it stops at a lock file that is out of date.
#[test]
fn the_rivals_lock_file_knows_what_every_crate_uses() {
    let lock = manifest("benches/rivals/Cargo.lock");
    let packages = lock["package"].as_array().unwrap();
    let mut broken = Vec::new();
    let root = ("oarlock".to_owned(), manifest("Cargo.toml"));
    let of_shards = crates().into_iter().map(|(name, own)| (format!("oarlock-{name}"), own));
    for (name, own) in of_shards.chain([root]) {
        let Some(locked) = packages.iter().find(|p| p["name"].as_str() == Some(&name)) else {
            continue;
        };
        let locked = locked["dependencies"].as_array().unwrap().iter();
        let locked: Vec<&str> =
            locked.filter_map(|used| used.as_str()?.split(' ').next()).collect();
        for used in names(&own, "dependencies") {
            let is_optional = own["dependencies"][&used].get("optional").is_some();
            if !is_optional && !locked.contains(&used.as_str()) {
                broken.push(format!("{name} uses {used}: cargo update --workspace in there"));
            }
        }
    }
    nothing("benches/rivals/Cargo.lock is up to date", &broken);
}

#[test]
fn what_touches_the_world_is_a_dependency_of_the_root_alone() {
    let mut broken = Vec::new();
    for (name, manifest) in crates() {
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let used = names(&manifest, table);
            let world = ROOT_ONLY.iter().filter(|world| used.contains(**world));
            broken.extend(world.map(|world| format!("shards/{name}: {world}")));
        }
    }
    nothing("`shards/` decides, `src/` touches the world", &broken);
}

#[test]
fn every_crate_takes_the_workspace_s_lints_and_thresholds() {
    let lints = |manifest: &Manifest| {
        manifest.get("lints").and_then(|lints| lints.get("workspace")?.as_bool()) == Some(true)
    };
    let mut broken: Vec<_> =
        crates().into_iter().filter(|(_, m)| !lints(m)).map(|(name, _)| name).collect();
    for path in ["Cargo.toml", "fuzz/Cargo.toml"] {
        if !lints(&manifest(path)) {
            broken.push(path.to_owned());
        }
    }
    nothing("`[lints] workspace = true`", &broken);
    let (outer, inner) = (manifest("clippy.toml"), manifest("shards/clippy.toml"));
    for (key, value) in &outer {
        assert_eq!(inner.get(key), Some(value), "{key} differs in shards/clippy.toml");
    }
}

#[test]
fn plain_cargo_test_runs_every_crate() {
    let root = manifest("Cargo.toml");
    let members = root["workspace"]["default-members"].as_array().unwrap();
    let members: Vec<_> = members.iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, [".", "fuzz", "shards/*"]);
}

/// What a release is built of must not even be able to do without a guard.
#[test]
fn guards_can_be_removed_by_the_simulators_tests_alone() {
    const FEATURE: &str = "removed-guards";
    let manifests = files(&["Cargo.toml"]);
    let named = manifests.iter().filter(|file| file.text.contains(FEATURE));
    let named: Vec<&str> = named.map(|file| file.path.as_str()).collect();
    assert_eq!(named, ["shards/sim/Cargo.toml", "shards/types/Cargo.toml"]);
    let of_types = manifest("shards/types/Cargo.toml");
    assert_eq!(names(&of_types, "features"), BTreeSet::from([FEATURE.to_owned()]), "no default");
    let of_sim = manifest("shards/sim/Cargo.toml");
    let enabled = |table: &str| of_sim[table]["oarlock-types"].to_string().contains(FEATURE);
    assert!(enabled("dev-dependencies") && !enabled("dependencies"));
    let resolver = &manifest("Cargo.toml")["workspace"]["resolver"];
    assert_eq!(resolver.as_str(), Some("3"), "older ones enable what tests do in every build");
}

#[test]
fn every_dependency_has_a_reason() {
    let mut used = BTreeSet::new();
    let others = [manifest("Cargo.toml"), manifest("fuzz/Cargo.toml")];
    for manifest in crates().values().chain(&others) {
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            used.extend(names(manifest, table));
        }
    }
    used.retain(|name| !name.starts_with("oarlock"));
    let text = read("docs/DEPENDENCIES.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let told: BTreeSet<String> = rows.map(str::to_owned).collect();
    let missing: Vec<_> = used.difference(&told).cloned().collect();
    nothing("docs/DEPENDENCIES.md has a line for each dependency; not for", &missing);
    let gone: Vec<_> = told.difference(&used).cloned().collect();
    nothing("docs/DEPENDENCIES.md tells of what nothing uses", &gone);
}

// Documents

fn documents() -> Vec<File> {
    files(&[".md"])
}

/// What stands between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a document means a file of this repository by this word.
fn is_path(word: &str) -> bool {
    let tops = ["src/", "shards/", "tests/", "benches/", "fuzz/", "scripts/", "docs/", ".ci/"];
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    plain && tops.iter().any(|top| word.starts_with(top))
}

#[test]
fn every_path_in_the_documents_exists() {
    let mut broken = Vec::new();
    for file in documents() {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        let words = quoted(&file.text).filter(|word| is_path(word)).map(|word| root().join(word));
        let links = file.text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let links = links.filter(|link| !link.is_empty() && !link.contains("://"));
        for path in words.chain(links.map(|link| folder.join(link))) {
            if !path.exists() {
                broken.push(format!("{}: {}", file.path, path.display()));
            }
        }
    }
    nothing("a path that a document names exists", &broken);
}

/// Names of all tests in the sources.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources() {
        for rest in file.text.split("#[test]").skip(1) {
            let Some((_, rest)) = rest.split_once("fn ") else { continue };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn every_test_that_a_document_names_exists() {
    let tests = tests();
    let mut broken = Vec::new();
    for file in documents() {
        let text = file.text.replace("eld by\n  `", "eld by `").replace("eld by\n`", "eld by `");
        for part in text.split("eld by `").skip(1) {
            let ends = ["\n\n", "\n- "].iter().filter_map(|end| part.find(end));
            let part = format!("`{}", &part[..ends.min().unwrap_or(part.len())]);
            let holds = |name: &&str| tests.contains(*name) || root().join(name).is_file();
            let missing = quoted(&part).filter(|name| !holds(name));
            broken.extend(missing.map(|name| format!("{}: {name}", file.path)));
        }
    }
    nothing("what is held by a test names one that exists", &broken);
}

/// The map of edge cases would rot like any other list.
#[test]
fn every_edge_case_names_tests_that_exist() {
    const CASES: u32 = 32;
    const NOT_BUILT: [u32; 2] = [26, 27];
    let text = read("docs/TESTING.md");
    let section = text.split("\n## Edge cases").nth(1).expect("a section on edge cases");
    let section = section.split("\n## ").next().unwrap();
    let tests = tests();
    let mut told = BTreeSet::new();
    let mut broken = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [case, _, named] = cells[..] else { panic!("{row} has no three cells") };
        let number: u32 = case.trim_end_matches(char::is_alphabetic).parse().expect(case);
        told.insert(number);
        let names: Vec<&str> = quoted(named).collect();
        if names.is_empty() && !NOT_BUILT.contains(&number) {
            broken.push(format!("{case}: no test"));
        }
        let exists = |name: &str| tests.contains(name) || root().join(name).is_file();
        let missing = names.into_iter().filter(|name| !exists(name));
        broken.extend(missing.map(|name| format!("{case}: {name}")));
    }
    assert_eq!(told, (1..=CASES).collect(), "each case has its row");
    nothing("what an edge case names is a test", &broken);
}

/// A script that no test runs holds nothing.
#[test]
fn every_golden_script_is_run() {
    let mut idle = Vec::new();
    for package in ["placement", "raft", "shard", "wal"] {
        let folder = format!("shards/{package}/tests/scripts");
        let list = read(&format!("shards/{package}/tests/scripts.rs"));
        let list = list.rsplit("scripts! {").next().unwrap();
        let names = list.split(|c: char| !c.is_alphanumeric() && c != '_');
        let run: BTreeSet<&str> = names.collect();
        for script in fs::read_dir(root().join(&folder)).unwrap() {
            let name = script.unwrap().file_name().into_string().unwrap();
            if !run.contains(name.as_str()) {
                idle.push(format!("{folder}/{name}"));
            }
        }
    }
    nothing("a golden script is run", &idle);
}

#[test]
fn every_invariant_is_held_by_a_test() {
    let text = read("docs/ARCHITECTURE.md");
    let section = text.split("\n## Invariants").nth(1).expect("a section on invariants");
    let section = section.split("\n## ").next().unwrap();
    let items: Vec<_> = section.split("\n- ").skip(1).collect();
    assert!(items.len() >= 5, "only {} invariants are told", items.len());
    let loose = items.into_iter().filter(|item| {
        !item.split_whitespace().collect::<Vec<_>>().join(" ").contains("held by `")
    });
    let loose: Vec<_> = loose.map(str::to_owned).collect();
    nothing("an invariant is `… held by `test``", &loose);
}

#[test]
fn the_way_of_a_write_is_marked_where_the_document_says() {
    let mark = format!("// {} ", "WRITE");
    let mut marked: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources() {
        for line in file.text.lines().filter_map(|line| line.trim().strip_prefix(&mark)) {
            let step = line.split(':').next().unwrap().to_owned();
            marked.entry(step).or_default().push(file.path.clone());
        }
    }
    let text = read("docs/WRITE_PATH.md");
    let mut rest = text.as_str();
    for step in 1..=9 {
        let files = marked.remove(&format!("{step}/9")).unwrap_or_default();
        assert_eq!(files.len(), 1, "step {step} is marked once, not in {files:?}");
        let heading = format!("\n## {step}. ");
        let at = rest.find(&heading).unwrap_or_else(|| panic!("no heading {heading:?} in order"));
        rest = &rest[at + heading.len()..];
        let told = rest.split("\n## ").next().unwrap();
        let untold = files.iter().find(|file| !quoted(told).any(|word| word == *file));
        assert!(untold.is_none(), "step {step} does not name {untold:?}");
    }
    assert!(marked.is_empty(), "marks that are no step of nine: {marked:?}");
}

#[test]
fn decision_records_are_numbered() {
    let mut numbers = BTreeSet::new();
    for file in documents() {
        let Some(name) = file.path.strip_prefix("docs/decisions/") else { continue };
        let (number, _) = name.split_once('-').unwrap_or((name, ""));
        let digits = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit());
        assert!(digits, "{name} does not begin with four digits");
        assert!(numbers.insert(number.to_owned()), "{number} is given twice");
        assert!(file.text.starts_with(&format!("# {number}: ")), "{name} opens with its number");
    }
    assert!(numbers.contains("0001"));
}

#[test]
fn the_changelog_has_room_for_what_comes() {
    assert!(read("CHANGELOG.md").lines().any(|line| line == "## Unreleased"));
}

#[test]
fn the_licence_is_there() {
    assert!(read("LICENSE").contains("Apache License"));
    let root = manifest("Cargo.toml");
    assert_eq!(root["workspace"]["package"]["license"].as_str(), Some("Apache-2.0"));
}

#[test]
fn the_readme_shows_exactly_two_commands() {
    let text = read("README.md");
    let mut fenced = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            commands.push(line.trim());
        }
    }
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test"]);
}

#[test]
fn scripts_can_be_run_and_ci_runs_the_readme_s_test_command() {
    for script in [
        "scripts/chaos",
        "scripts/check",
        "scripts/counts",
        "scripts/compare",
        "scripts/fix",
        "scripts/fuzz",
        "scripts/mutants",
        "scripts/profile",
        ".ci/run",
    ] {
        let mode = fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert!(mode & 0o111 == 0o111, "{script} is not executable");
    }
    let ci = read(".ci/run");
    let mut steps = ci.lines().filter(|line| line.contains("cargo "));
    assert_eq!(steps.next(), Some("cargo test"));
    assert!(ci.contains("set -euo pipefail"), "the first step that fails is the result");
}
