//! Inputs in files: what is known of a target, and what broke it. A file's name is its content's
//! checksum, so that the same input is there once.

use std::io;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The inputs that are kept for a target.
#[must_use]
pub fn folder(target: &str) -> PathBuf {
    home().join("corpus").join(target)
}

/// The inputs that broke a target and are not mended yet.
#[must_use]
pub fn crashes(target: &str) -> PathBuf {
    home().join("crashes").join(target)
}

fn home() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("fuzz"), PathBuf::from)
}

/// All inputs in a folder, in the order of their names; none if it is not there.
///
/// # Errors
/// When the system refuses.
pub fn load(folder: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes));
    paths.into_iter().filter(|path| path.is_file()).map(read).collect()
}

/// Keeps an input and says where.
///
/// # Errors
/// When the system refuses.
pub fn keep(folder: &Path, input: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{:08x}{:08x}", input.len(), crc32fast::hash(input)));
    fs::write(&path, input)?;
    Ok(path)
}
