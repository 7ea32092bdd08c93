//! Keys as people read them on the command line: as `oarlock.toml` writes split points.

use crate::config::SplitPoint;

/// A range's bound for people; a dash for none.
#[must_use]
pub(super) fn shown(key: &[u8]) -> String {
    if key.is_empty() { "-".to_owned() } else { SplitPoint(key.to_vec()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_the_configuration_writes_them() {
        assert_eq!(shown(b""), "-");
        assert_eq!(shown(b"user"), "user");
        assert_eq!(shown(&[0x80, 0]), "0x8000");
        assert_eq!(shown(b"0x"), "0x3078");
    }
}
