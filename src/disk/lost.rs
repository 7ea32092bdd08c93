//! The lost file: which replicas of a core have lost a part of their log. Once the log goes on, the
//! damage may no longer be seen in it; without this file such a replica would be taken up again, or
//! made anew, and promise against what it has forgotten. One per core; read and written at start.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use oarlock_types::GroupId;
use serde::{Deserialize, Serialize};

use super::atomic_file::{replace, seal, unseal};
use super::data_dir::DataDirError;
use super::layout::CoreDir;

const NAME: &str = "lost";

#[derive(Default, Deserialize, Serialize)]
struct Text {
    groups: BTreeSet<u64>,
}

/// Where the file is.
#[must_use]
pub fn path(directory: &CoreDir) -> PathBuf {
    directory.path().join(NAME)
}

/// The groups whose replica on this core is lost; none without a file.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read(directory: &CoreDir) -> Result<BTreeSet<GroupId>, DataDirError> {
    let path = path(directory);
    let source = match fs::read_to_string(&path) {
        Ok(text) => match parse(&text) {
            Some(groups) => return Ok(groups),
            None => io::Error::new(io::ErrorKind::InvalidData, "it is damaged"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => error,
    };
    Err(DataDirError::Io { action: "read", path, source })
}

/// Makes `groups` the durable content of the file.
///
/// # Errors
/// When it cannot be written.
pub fn write(directory: &CoreDir, groups: &BTreeSet<GroupId>) -> Result<(), DataDirError> {
    let text = Text { groups: groups.iter().map(|group| group.get()).collect() };
    let text = seal(&toml::to_string(&text).expect("invariant: a list of numbers"));
    replace(directory.path(), NAME, text.as_bytes()).map_err(|source| DataDirError::Io {
        action: "write",
        path: path(directory),
        source,
    })
}

fn parse(text: &str) -> Option<BTreeSet<GroupId>> {
    let text: Text = toml::from_str(unseal(text)?).ok()?;
    Some(text.groups.into_iter().map(GroupId).collect())
}

#[cfg(test)]
mod tests {
    use oarlock_types::CoreId;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CoreDir::new(folder.path(), CoreId(0));
        fs::create_dir(directory.path()).unwrap();
        assert_eq!(read(&directory).unwrap(), BTreeSet::new());
        let groups = BTreeSet::from([GroupId(4), GroupId(9)]);
        write(&directory, &groups).unwrap();
        assert_eq!(read(&directory).unwrap(), groups);
        let text = fs::read_to_string(path(&directory)).unwrap();
        fs::write(path(&directory), text.replace('9', "8")).unwrap();
        let error = read(&directory).unwrap_err().to_string();
        assert!(error.contains("lost") && error.contains("damaged"), "{error}");
    }
}
