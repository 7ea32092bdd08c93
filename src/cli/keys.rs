//! Keys as people write and read them on the command line: as `oarlock.toml` writes split points.

/// A key's bytes as hexadecimal digits.
#[must_use]
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A range's bound for people; a dash for none.
#[must_use]
pub(super) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok("") => "-".to_owned(),
        Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        Ok(_) | Err(_) => format!("0x{}", hex(key)),
    }
}

/// A key on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) Vec<u8>);

/// The key that a text stands for: itself, or bytes if it is 0x and hexadecimal digits.
///
/// # Errors
/// What is wrong with it.
pub(super) fn key_of(text: &str) -> Result<Key, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    let bytes = match text.strip_prefix("0x") {
        Some(digits) => digits.as_bytes().chunks(2).map(byte).collect(),
        None => Some(text.as_bytes().to_vec()),
    };
    match bytes {
        Some(bytes) if bytes.is_empty() => Err("a key has at least one byte".to_owned()),
        Some(bytes) => Ok(Key(bytes)),
        None => Err("0x is followed by pairs of hexadecimal digits, as in 0x80ff".to_owned()),
    }
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

    #[test]
    fn what_is_shown_of_a_key_is_read_as_that_key() {
        for key in [b"user".as_slice(), &[0x80, 0], b"0x", "ä\u{7f}".as_bytes()] {
            assert_eq!(key_of(&shown(key)), Ok(Key(key.to_vec())));
        }
        for wrong in ["", "0x", "0x8", "0xzz"] {
            assert!(key_of(wrong).is_err(), "{wrong}");
        }
    }
}
