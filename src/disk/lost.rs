//! The lost file: which replicas of a core have lost a part of their log, and in which life of the
//! node that was found. Once the log goes on, the damage may no longer be seen in it; without this
//! file such a replica would be taken up again, or made anew, and promise against what it has
//! forgotten. One per core; read and written at start. A replica that was rebuilt since is told by
//! its creation in the log, which names the life in which that was done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use oarlock_shard::losses::Lost;
use oarlock_types::{GroupId, Incarnation};
use serde::{Deserialize, Serialize};

use super::atomic_file::{replace, seal, unseal};
use super::data_dir::DataDirError;
use super::layout::CoreDir;

const NAME: &str = "lost";
/// Where this file is, replicas may be lost of which nothing is known. It names the life that found that last; of an
/// earlier build it is empty.
const UNNAMED: &str = "lost-unnamed";

#[derive(Default, Deserialize, Serialize)]
struct Text {
    groups: BTreeSet<u64>,
    /// By group, as text. Files of earlier versions have none: all lives come after them.
    #[serde(default)]
    found_in: BTreeMap<String, u64>,
}

/// Where the file is.
#[must_use]
pub fn path(directory: &CoreDir) -> PathBuf {
    directory.path().join(NAME)
}

/// The replicas of this core that are lost; none without a file.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read(directory: &CoreDir) -> Result<Lost, DataDirError> {
    let path = path(directory);
    let source = match fs::read_to_string(&path) {
        Ok(text) => match parse(&text) {
            Some(groups) => return Ok(groups),
            None => io::Error::new(io::ErrorKind::InvalidData, "it is damaged"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lost::new()),
        Err(error) => error,
    };
    Err(DataDirError::Io { action: "read", path, source })
}

/// Makes `lost` the durable content of the file.
///
/// # Errors
/// When it cannot be written.
pub fn write(directory: &CoreDir, lost: &Lost) -> Result<(), DataDirError> {
    let found_in = lost.iter().map(|(group, life)| (group.get().to_string(), life.get()));
    let groups = lost.keys().map(|group| group.get()).collect();
    let text = Text { groups, found_in: found_in.collect() };
    let text = seal(&toml::to_string(&text).expect("invariant: numbers"));
    replace(directory.path(), NAME, text.as_bytes()).map_err(|source| DataDirError::Io {
        action: "write",
        path: path(directory),
        source,
    })
}

#[derive(Deserialize, Serialize)]
struct Unnamed {
    found_in: u64,
}

/// Writes down that replicas may be lost of which nothing is known, as this life was the last to find.
///
/// # Errors
/// When it cannot be written.
pub fn note_unnamed(directory: &CoreDir, found_in: Incarnation) -> Result<(), DataDirError> {
    let text = Unnamed { found_in: found_in.get() };
    let text = seal(&toml::to_string(&text).expect("invariant: numbers"));
    replace(directory.path(), UNNAMED, text.as_bytes()).map_err(|source| DataDirError::Io {
        action: "write",
        path: directory.path().join(UNNAMED),
        source,
    })
}

/// Whether that was ever written down.
#[must_use]
pub fn has_unnamed(directory: &CoreDir) -> bool {
    directory.path().join(UNNAMED).exists()
}

/// The life that found that last, if one did: the node's newest one if the file does not say which.
#[must_use]
pub fn unnamed(directory: &CoreDir, newest: Incarnation) -> Option<Incarnation> {
    let told = || {
        let text = fs::read_to_string(directory.path().join(UNNAMED)).ok()?;
        let text: Unnamed = toml::from_str(unseal(&text)?).ok()?;
        Some(Incarnation(text.found_in))
    };
    has_unnamed(directory).then(|| told().unwrap_or(newest))
}

fn parse(text: &str) -> Option<Lost> {
    let text: Text = toml::from_str(unseal(text)?).ok()?;
    let life = |group: &u64| text.found_in.get(&group.to_string()).copied().unwrap_or(0);
    let lost = text.groups.iter().map(|group| (GroupId(*group), Incarnation(life(group))));
    Some(lost.collect())
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
        assert_eq!(read(&directory).unwrap(), Lost::new());
        let groups = Lost::from([(GroupId(4), Incarnation(2)), (GroupId(9), Incarnation(5))]);
        write(&directory, &groups).unwrap();
        assert_eq!(read(&directory).unwrap(), groups);
        let text = fs::read_to_string(path(&directory)).unwrap();
        fs::write(path(&directory), text.replace('9', "8")).unwrap();
        let error = read(&directory).unwrap_err().to_string();
        assert!(error.contains("lost") && error.contains("damaged"), "{error}");
    }

    #[test]
    fn losses_without_names_are_of_the_newest_life_unless_the_file_names_one() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CoreDir::new(folder.path(), CoreId(0));
        fs::create_dir(directory.path()).unwrap();
        let newest = Incarnation(9);
        assert_eq!((has_unnamed(&directory), unnamed(&directory, newest)), (false, None));
        note_unnamed(&directory, Incarnation(4)).unwrap();
        assert!(has_unnamed(&directory));
        assert_eq!(unnamed(&directory, newest), Some(Incarnation(4)));
        let file = directory.path().join(UNNAMED);
        let text = fs::read_to_string(&file).unwrap();
        for other in [text.replace('4', "3"), String::new()] {
            fs::write(&file, other).unwrap();
            assert_eq!(unnamed(&directory, newest), Some(newest));
        }
    }
}
