//! The two files that people carry from host to host: what a survivor has, and the plan. Each begins with its format
//! and ends with a checksum.

use oarlock_survivors::plan::Plan;
use oarlock_survivors::state::NodeState;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::disk::atomic_file::{seal, unseal};

/// Why a file is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// Another program, or another version, wrote it.
    #[error("it begins with {found:?} instead of {wanted:?}: use the build that wrote it")]
    Format {
        /// What it says.
        found: String,
        /// What this build reads.
        wanted: &'static str,
    },
    /// It is not what was written.
    #[error("it is damaged or was changed by hand: make it again")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    format: String,
    #[serde(flatten)]
    content: T,
}

/// What goes into such a file.
pub trait Content: Serialize + DeserializeOwned {
    /// The first line says this.
    const FORMAT: &'static str;

    /// The text of its file.
    fn to_text(&self) -> String {
        let file = File { format: Self::FORMAT.to_owned(), content: self };
        seal(&toml::to_string(&file).expect("invariant: tables of numbers and texts"))
    }

    /// What a file's text says.
    ///
    /// # Errors
    /// Another format, which may be a newer one, is told from damage.
    fn from_text(text: &str) -> Result<Self, FileFault> {
        let found = text.lines().next().and_then(|line| line.strip_prefix("format = "));
        let found = found.unwrap_or_default().trim_matches('"');
        if found != Self::FORMAT {
            return Err(FileFault::Format { found: found.to_owned(), wanted: Self::FORMAT });
        }
        let body = unseal(text).ok_or(FileFault::Damaged)?;
        let file: File<Self> = toml::from_str(body).map_err(|_| FileFault::Damaged)?;
        Ok(file.content)
    }
}

impl Content for NodeState {
    const FORMAT: &'static str = "oarlock recover state 1";
}

impl Content for Plan {
    const FORMAT: &'static str = "oarlock recover plan 1";
}

#[cfg(test)]
#[path = "../../shards/survivors/tests/support/mod.rs"]
pub(crate) mod made_up;

#[cfg(test)]
mod tests {
    use oarlock_cluster::members;
    use oarlock_survivors::decide::decide;
    use oarlock_survivors::state::{Cut, MetaState};
    use oarlock_types::{FeatureLevel, GroupId, Index};

    use super::made_up::{range, replica, survivor};
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written_and_every_change_is_told() {
        let mut state = survivor(1, vec![replica(7, &[1, 2, 3], (9, 4))]);
        state.replicas[0].cuts.push(Cut { child: GroupId(8), index: Index(5) });
        state.meta = Some(MetaState { map_version: 12, groups: GroupId(40) });
        let text = state.to_text();
        assert_eq!(NodeState::from_text(&text), Ok(state));
        let changed = text.replacen("map_version = 12", "map_version = 13", 1);
        assert_eq!(NodeState::from_text(&changed), Err(FileFault::Damaged));
        let newer = text.replacen("state 1", "state 2", 1);
        assert!(matches!(NodeState::from_text(&newer), Err(FileFault::Format { .. })));
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let mut state =
            survivor(1, vec![replica(0, &[1, 2, 3], (9, 4)), replica(7, &[1, 2], (9, 4))]);
        state.meta = Some(MetaState { map_version: 20, groups: GroupId(16) });
        state.ranges = vec![range(7, (1, 50), &[2, 3, 4])];
        state.level = FeatureLevel(2);
        let line = r#"{"node":{"id":4,"peer_address":"10.0.0.4:1","client_address":"10.0.0.4:2","cores":2},
            "disk":"0000000000000000000000000000000c"}"#;
        state.joined.push(members::read(line.as_bytes()).unwrap());
        let plan = decide(&[state]).unwrap();
        let text = plan.to_text();
        assert_eq!(Plan::from_text(&text), Ok(plan));
        assert!(Plan::from_text(&text.replace("chosen = 1", "chosen = 2")).is_err());
    }
}
