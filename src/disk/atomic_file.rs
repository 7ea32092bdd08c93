//! Small files that are replaced as a whole: after a crash there is the old one or the new one.
//! Not for what grows. Used by the data directory at start and when a peer is first seen.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::layout::TEMPORARY_SUFFIX;

/// Makes `bytes` the durable content of `directory/name`.
///
/// # Errors
/// When the system refuses a step; the file is then as it was.
pub fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the system refuses.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Adds a last line with the checksum of all lines before it.
#[must_use]
pub fn seal(body: &str) -> String {
    format!("{body}crc = \"{:08x}\"\n", crc32fast::hash(body.as_bytes()))
}

/// The lines before the checksum, if it is there and right.
#[must_use]
pub fn unseal(text: &str) -> Option<&str> {
    let start = text.rfind("crc = \"")?;
    let body = &text[..start];
    (seal(body) == text).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_shows_every_changed_byte_and_every_cut() {
        let text = seal("a = 1\nb = \"two\"\n");
        assert_eq!(unseal(&text), Some("a = 1\nb = \"two\"\n"));
        for at in 0..text.len() {
            assert_eq!(unseal(&text[..at]), None, "cut at {at}");
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(unseal(&changed), None, "changed at {at}");
        }
    }
}
