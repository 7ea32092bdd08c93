//! `oarlock recover`: what to do when a quorum is lost for good. Collects what stopped survivors have, plans
//! what they go on from, says what may be lost, asks twice, and carries the plan out. `tell` has the words.

mod tell;

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use oarlock_survivors::decide::decide;
use oarlock_survivors::plan::Plan;
use oarlock_survivors::state::NodeState;

use super::exit::Exit;
use crate::config::Sources;
use crate::disk::data_dir::lock_stopped;
use crate::quorum_loss::apply::{self, Prepared};
use crate::quorum_loss::collect::collect;
use crate::quorum_loss::file::Content;

/// What is to be typed before anything is written.
const ACCEPT: &str = "lose data";

/// Go on after the loss of a quorum for good, from what survives.
///
/// For when nodes, or their disks, are gone for good and ranges have no quorum any more. Writes that were
/// acknowledged may be lost: the plan says which. As long as lost nodes may come back, wait for them instead.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The way, with the survivors on different hosts:
  1. Stop oarlock on every survivor. See to it that nobody starts a lost node again.
  2. On each survivor:  oarlock recover collect --data-dir DIR --output node-1.state
  3. On one host:       oarlock recover plan --state node-1.state --state node-2.state
     Read what it says. A survivor that is left out counts as lost for good!
  4. On each survivor:  oarlock recover apply oarlock-recover.plan --data-dir DIR
  5. Start all survivors. Replicas that are missing are made again by placement.

With all directories on one host `plan` and `apply` take them at once:
  --data-dir DIR-1 --data-dir DIR-2
Apply the plan on all survivors before any of them is started. It can be applied again at any time.")]
pub struct RecoverArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Write down what a stopped survivor has, for a plan on another host. Changes nothing.
    Collect {
        #[command(flatten)]
        directories: Directories,
        /// Where to write it: a file that is not there yet.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Say which survivors the ranges without a quorum go on from, and what may be lost. Changes nothing.
    ///
    /// A node that is not given counts as lost for good.
    Plan {
        #[command(flatten)]
        directories: Directories,
        /// What `collect` wrote on another host; once for each.
        #[arg(long = "state", value_name = "FILE")]
        states: Vec<PathBuf>,
        /// Where to write the plan: a file that is not there yet.
        #[arg(long, value_name = "FILE", default_value = "oarlock-recover.plan")]
        output: PathBuf,
    },
    /// Carry a plan out on stopped survivors. Asks twice.
    ///
    /// Checks first that no node runs and that all is still as the plan saw it. What was done already is not
    /// done again, so after a failure simply apply it again.
    Apply {
        /// The plan.
        #[arg(value_name = "PLAN")]
        plan: PathBuf,
        #[command(flatten)]
        directories: Directories,
        /// Do not ask whether the nodes are gone for good; needs --i-accept-data-loss, too.
        #[arg(long, requires = "accept")]
        yes: bool,
        /// Do not ask whether writes may be lost; needs --yes, too.
        #[arg(long = "i-accept-data-loss", id = "accept", requires = "yes")]
        accept: bool,
    },
}

/// Survivors on this host.
#[derive(Args, Clone, Debug)]
struct Directories {
    /// A survivor's data directory; once for each on this host.
    #[arg(long = "data-dir", value_name = "DIR")]
    data_dirs: Vec<PathBuf>,
    /// A survivor's configuration file, which names its data directory; once for each on this host.
    #[arg(long = "config", value_name = "FILE")]
    configs: Vec<PathBuf>,
}

/// Why a command did not do it.
struct Refusal {
    exit: Exit,
    reason: String,
}

fn usage(reason: impl Display) -> Refusal {
    Refusal { exit: Exit::Usage, reason: reason.to_string() }
}

fn failed(reason: impl Display) -> Refusal {
    Refusal { exit: Exit::Failed, reason: reason.to_string() }
}

/// Does what was asked. The answer goes to standard output, why there is none to standard error.
pub fn run(args: &RecoverArgs) -> Exit {
    let done = match &args.verb {
        Verb::Collect { directories, output } => run_collect(directories, output),
        Verb::Plan { directories, states, output } => run_plan(directories, states, output),
        Verb::Apply { plan, directories, yes, accept } => {
            run_apply(plan, directories, *yes && *accept)
        }
    };
    match done {
        Ok(text) => {
            super::print(&text);
            Exit::Ok
        }
        Err(Refusal { exit, reason }) => {
            eprintln!("oarlock recover: {reason}");
            exit
        }
    }
}

impl Directories {
    fn paths(&self) -> Result<Vec<PathBuf>, Refusal> {
        let mut paths = self.data_dirs.clone();
        for file in &self.configs {
            let sources = Sources::gather(Some(file.clone()), Vec::new()).map_err(usage)?;
            paths.push(sources.load().map_err(usage)?.config.node.data_dir);
        }
        Ok(paths)
    }
}

fn run_collect(directories: &Directories, output: &Path) -> Result<String, Refusal> {
    let paths = directories.paths()?;
    let [path] = paths.as_slice() else {
        return Err(usage("give one data directory: --data-dir DIR or --config FILE"));
    };
    let state = read(path)?;
    write_new(output, &state.to_text())?;
    let (node, count) = (state.node, state.replicas.len());
    Ok(format!("{node}: {count} replicas written down in {}\n", output.display()))
}

fn read(path: &Path) -> Result<NodeState, Refusal> {
    let (identity, _lock) = lock_stopped(path).map_err(failed)?;
    collect(path, &identity).map_err(failed)
}

fn run_plan(
    directories: &Directories,
    files: &[PathBuf],
    output: &Path,
) -> Result<String, Refusal> {
    let mut states = Vec::new();
    for path in directories.paths()? {
        states.push(read(&path)?);
    }
    for file in files {
        let text = read_text(file)?;
        let state = NodeState::from_text(&text);
        states.push(state.map_err(|fault| usage(format!("{}: {fault}", file.display())))?);
    }
    let plan = decide(&states).map_err(usage)?;
    let mut told = tell::text(&plan);
    if plan.groups.is_empty() {
        told.push_str("\nThere is nothing to recover, and no plan is written.\n");
        return Ok(told);
    }
    write_new(output, &plan.to_text())?;
    let output = output.display();
    told.push_str(&format!(
        "\nNothing was changed. If that is acceptable, apply {output} on every survivor, then start them:\n  \
         oarlock recover apply {output} --data-dir DIR\n"
    ));
    Ok(told)
}

fn run_apply(file: &Path, directories: &Directories, is_agreed: bool) -> Result<String, Refusal> {
    let text = read_text(file)?;
    let plan = Plan::from_text(&text);
    let plan = plan.map_err(|fault| usage(format!("{}: {fault}", file.display())))?;
    let paths = directories.paths()?;
    if paths.is_empty() {
        return Err(usage("give the survivors of this host: --data-dir DIR or --config FILE"));
    }
    let mut left = Vec::new();
    let mut told = String::new();
    for path in paths {
        let prepared = apply::prepare(&plan, &path).map_err(failed)?;
        if prepared.is_done() {
            told.push_str(&format!(
                "{}: applied already, nothing is left to do\n",
                prepared.node()
            ));
        } else {
            left.push(prepared);
        }
    }
    if left.is_empty() {
        return Ok(told);
    }
    if !is_agreed {
        ask(&plan)?;
    }
    for prepared in left {
        told.push_str(&carry_out(prepared)?);
    }
    told.push_str("Apply the plan on all other survivors, too, then start them.\n");
    Ok(told)
}

fn carry_out(prepared: Prepared) -> Result<String, Refusal> {
    let node = prepared.node();
    let count = prepared.carry_out().map_err(failed)?;
    Ok(format!("{node}: applied to {count} groups\n"))
}

fn ask(plan: &Plan) -> Result<(), Refusal> {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !input.is_terminal() {
        return Err(usage(
            "nothing was changed: it asks twice, and there is no terminal; a script agrees with --yes \
             --i-accept-data-loss",
        ));
    }
    let agreed = agree(plan, &mut input.lock(), &mut output);
    match agreed {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed("nothing was changed: not agreed")),
        Err(error) => Err(failed(format!("nothing was changed: cannot ask: {error}"))),
    }
}

/// Asks twice; whether both answers agree.
fn agree(plan: &Plan, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<bool> {
    writeln!(output, "{}", tell::text(plan))?;
    let mut is_answer = |question: String, wanted: &str| {
        write!(output, "{question}: ")?;
        output.flush()?;
        let mut answer = String::new();
        input.read_line(&mut answer)?;
        Ok::<bool, io::Error>(answer.split_whitespace().eq(wanted.split_whitespace()))
    };
    let (nodes, question) = if plan.given_up.is_empty() {
        ("none".to_owned(), "No node is given up. Type `none` to confirm".to_owned())
    } else {
        let nodes = tell::numbers(&plan.given_up);
        let question = format!(
            "These nodes never come back, and are refused should they: {nodes}\nType their numbers to \
             confirm"
        );
        (nodes, question)
    };
    Ok(is_answer(question, &nodes)?
        && is_answer(
            format!(
                "Writes that were acknowledged may be lost, as said above. Type `{ACCEPT}` to agree"
            ),
            ACCEPT,
        )?)
}

fn read_text(file: &Path) -> Result<String, Refusal> {
    fs::read_to_string(file)
        .map_err(|error| usage(format!("cannot read {}: {error}", file.display())))
}

/// Writes a file that is not there yet: what it says may be all that is left of what was.
fn write_new(path: &Path, text: &str) -> Result<(), Refusal> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: io::Error| {
        let path = path.display();
        if error.kind() == io::ErrorKind::AlreadyExists {
            return usage(format!(
                "{path} is there already: remove it, or name another with --output"
            ));
        }
        failed(format!("cannot write {path}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use oarlock_types::{ClusterId, NodeId};

    use super::*;

    fn agrees(given_up: &[u64], typed: &str) -> bool {
        let plan = Plan {
            cluster: ClusterId(7),
            given_up: given_up.iter().copied().map(NodeId).collect(),
            sound_count: 0,
            gone: Vec::new(),
            survivors: Vec::new(),
            groups: Vec::new(),
            ranges: Vec::new(),
        };
        let mut output = Vec::new();
        let agreed = agree(&plan, &mut typed.as_bytes(), &mut output).unwrap();
        assert!(!output.is_empty());
        agreed
    }

    #[test]
    fn both_answers_must_be_typed() {
        assert!(agrees(&[2, 3], "2 3\nlose data\n"));
        assert!(agrees(&[2, 3], "  2  3\nlose data"));
        assert!(agrees(&[], "none\nlose data\n"));
        for typed in ["", "y\ny\n", "2\nlose data\n", "2 3\n", "2 3\nyes\n", "lose data\n2 3\n"] {
            assert!(!agrees(&[2, 3], typed), "{typed:?}");
        }
    }
}
