//! The node's copy of the map, with which it begins after a restart: `DIR/map`. It is as good as it
//! is new: the meta group has the original, so a copy that is missing or damaged harms nothing. One that a
//! newer build wrote is refused, since it says at which feature level the cluster is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oarlock_cluster::members::{self, Member};
use oarlock_cluster::{MapCopy, range_text};
use oarlock_types::{FeatureLevel, FeatureLevels, GroupId, RangeMap};

use super::atomic_file::{replace, seal, unseal};

const NAME: &str = "map";
/// The first line, with the version of the format.
const FORMAT: &str = "oarlock map 1";
const LEVEL: &str = "level = ";

/// Why there is no copy that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It can not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Nothing is wrong with it, but this build does not know what it says.
    #[error(
        "{path} says `{line}`, which this build does not understand ({FORMAT}, feature {}): start the newer build",
        FeatureLevels::BUILD,
        path = path.display()
    )]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// The line.
        line: String,
    },
}

/// Why a text is no copy of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextFault {
    /// It is not what was written.
    Damaged,
    /// It is, but this line is none that this build knows.
    NotUnderstood(String),
}

/// Replaces the copy of the data directory `directory`. After a crash there is the old one or the new
/// one.
///
/// # Errors
/// When the system refuses.
pub fn write(directory: &Path, copy: &MapCopy) -> io::Result<()> {
    replace(directory, NAME, text(copy).as_bytes())
}

/// Reads the copy; `None` if there is none.
///
/// # Errors
/// When it can not be read or used.
pub fn read(directory: &Path) -> Result<Option<MapCopy>, CopyError> {
    let path = path(directory);
    match fs::read_to_string(&path) {
        Ok(text) => match parse(&text) {
            Ok(copy) => Ok(Some(copy)),
            Err(TextFault::Damaged) => Err(CopyError::Damaged { path }),
            Err(TextFault::NotUnderstood(line)) => Err(CopyError::NotUnderstood { path, line }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(CopyError::Damaged { path })
        }
        Err(source) => Err(CopyError::Read { path, source }),
    }
}

/// Where the copy stands.
#[must_use]
pub fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// What a copy of the map says.
#[must_use]
pub fn text(copy: &MapCopy) -> String {
    let MapCopy { map, members, level } = copy;
    let mut body = format!("{FORMAT}\nversion = {}\n", map.version());
    // Below it, a copy is what builds wrote before there were levels.
    if *level > FeatureLevel::FIRST {
        body.push_str(&format!("{LEVEL}{level}\n"));
    }
    for range in map.group(GroupId::META).into_iter().chain(map.ranges()) {
        body.push_str(&range_text::write(&range));
        body.push('\n');
    }
    for member in members {
        body.push_str(&members::write(member));
        body.push('\n');
    }
    seal(&body)
}

/// The map of which this is the text.
///
/// # Errors
/// When it is of none.
pub fn parse(text: &str) -> Result<MapCopy, TextFault> {
    let body = unseal(text).ok_or(TextFault::Damaged)?;
    let (format, body) = body.split_once('\n').unwrap_or((body, ""));
    if format != FORMAT {
        return Err(TextFault::NotUnderstood(format.to_owned()));
    }
    let (mut version, mut level) = (None, FeatureLevel::FIRST);
    let (mut ranges, mut members) = (Vec::new(), Vec::new());
    for line in body.lines() {
        if let Some(range) = range_text::read(line.as_bytes()) {
            ranges.push(range);
        } else if let Some(member) = members::read(line.as_bytes()) {
            members.push(member);
        } else if let Some(number) = line.strip_prefix("version = ") {
            version = number.parse().ok();
        } else if let Some(number) = line.strip_prefix(LEVEL) {
            level = FeatureLevel(number.parse().map_err(|_| TextFault::Damaged)?);
        } else {
            return Err(TextFault::NotUnderstood(line.to_owned()));
        }
    }
    let version = version.ok_or(TextFault::Damaged)?;
    if !members.is_sorted_by(|one: &Member, next| one.entry.id < next.entry.id) {
        return Err(TextFault::Damaged);
    }
    let meta = ranges.iter().position(|range| range.group == GroupId::META);
    let meta = ranges.swap_remove(meta.ok_or(TextFault::Damaged)?);
    let map = RangeMap::new(version, ranges, meta).map_err(|_| TextFault::Damaged)?;
    Ok(MapCopy { map, members, level })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oarlock_types::{NodeId, RangeEpoch};

    use super::*;

    fn map() -> RangeMap {
        let points = [Bytes::from_static(b"g"), Bytes::from_static(b"p\0")];
        let nodes = [1, 2, 3].map(|node| (NodeId(node), 2));
        let mut map = RangeMap::formation(&nodes, &points, 3).unwrap();
        let mut range = map.find(b"k").unwrap().to_descriptor();
        range.epoch = RangeEpoch(5);
        map.apply(12, &[range]);
        map
    }

    fn members() -> Vec<Member> {
        let line = r#"{"node":{"id":4,"peer_address":"10.0.0.4:1","client_address":"10.0.0.4:2",
            "cores":2},"disk":"0000000000000000000000000000000c"}"#;
        vec![members::read(line.as_bytes()).unwrap()]
    }

    fn whole_copy() -> MapCopy {
        MapCopy { map: map(), members: members(), level: FeatureLevel(2) }
    }

    fn all(map: &RangeMap) -> Vec<String> {
        let all = map.group(GroupId::META).into_iter().chain(map.ranges());
        all.map(|range| range_text::write(&range)).collect()
    }

    #[test]
    fn a_copy_is_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).unwrap().is_none());
        write(directory.path(), &whole_copy()).unwrap();
        let copy = read(directory.path()).unwrap().unwrap();
        assert_eq!((copy.map.version(), all(&copy.map)), (12, all(&map())));
        assert_eq!((copy.members, copy.level), (members(), FeatureLevel(2)));
        let first = text(&MapCopy { level: FeatureLevel::FIRST, ..whole_copy() });
        assert!(!first.contains("level"), "builds from before levels read it");
        assert_eq!(parse(&first).unwrap().level, FeatureLevel::FIRST);
    }

    #[test]
    fn what_a_newer_build_wrote_is_told_from_damage() {
        let directory = tempfile::tempdir().unwrap();
        let told = |body: &str| {
            fs::write(path(directory.path()), seal(body)).unwrap();
            read(directory.path()).unwrap_err().to_string()
        };
        let newer = told("oarlock map 2\nversion = 12\n");
        assert!(newer.contains("says `oarlock map 2`, which this build does not under"), "{newer}");
        assert!(newer.ends_with("(oarlock map 1, feature levels 1 to 5): start the newer build"));
        let whole = text(&whole_copy());
        let more = unseal(&whole).unwrap().to_owned() + "{\"moon\":3}\n";
        assert!(told(&more).contains("says `{\"moon\":3}`"), "{more}");
    }

    #[test]
    fn a_copy_that_was_changed_or_cut_is_told() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &whole_copy()).unwrap();
        let whole = fs::read(path(directory.path())).unwrap();
        let told = |bytes: &[u8]| {
            fs::write(path(directory.path()), bytes).unwrap();
            matches!(read(directory.path()), Err(CopyError::Damaged { .. }))
        };
        for at in 0..whole.len() {
            assert!(told(&whole[..at]), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 0x81;
            assert!(told(&changed), "changed at {at}");
        }
        let text = String::from_utf8(whole).unwrap();
        let holed: Vec<&str> =
            unseal(&text).unwrap().lines().filter(|l| !l.contains("67")).collect();
        assert!(told(seal(&(holed.join("\n") + "\n")).as_bytes()), "a map with a gap");
    }
}
