//! The plain-text form of a command (`SET key "a value"`): splitting and unquoting, in place.
//! Pure; the rules are those that Redis documents for its command line.

use super::parser::Span;

/// A quote was opened and not closed, or a closing quote was followed by something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unbalanced;

/// How the bytes of a word are to be read.
enum Mode {
    Plain,
    Double,
    Single,
}

/// Splits `line` into words, each unquoted where it stands (a word never grows), and appends their
/// places, counted from `offset`.
pub(super) fn split(
    line: &mut [u8],
    offset: usize,
    words: &mut Vec<Span>,
) -> Result<(), Unbalanced> {
    // A zero byte ends the line, as it does in Redis.
    let length = line.iter().position(|&b| b == 0).unwrap_or(line.len());
    let mut read = 0;
    let mut write = 0;
    loop {
        while read < length && is_space(line[read]) {
            read += 1;
        }
        if read == length {
            return Ok(());
        }
        let start = write;
        (read, write) = word(&mut line[..length], read, write)?;
        words.push(Span { start: offset + start, end: offset + write });
    }
}

/// Unquotes one word from `read` to `write`; returns both places behind it.
fn word(line: &mut [u8], mut read: usize, mut write: usize) -> Result<(usize, usize), Unbalanced> {
    let mut mode = Mode::Plain;
    loop {
        let Some(&byte) = line.get(read) else {
            return match mode {
                Mode::Plain => Ok((read, write)),
                Mode::Double | Mode::Single => Err(Unbalanced),
            };
        };
        let (value, used) = match (&mode, byte) {
            (Mode::Plain, b' ' | b'\n' | b'\r' | b'\t') => return Ok((read, write)),
            (Mode::Plain, b'"') => {
                mode = Mode::Double;
                read += 1;
                continue;
            }
            (Mode::Plain, b'\'') => {
                mode = Mode::Single;
                read += 1;
                continue;
            }
            (Mode::Double, b'"') | (Mode::Single, b'\'') => {
                return match line.get(read + 1) {
                    Some(&next) if !is_space(next) => Err(Unbalanced),
                    Some(_) | None => Ok((read + 1, write)),
                };
            }
            (Mode::Double, b'\\') => escape(&line[read..]),
            (Mode::Single, b'\\') if line.get(read + 1) == Some(&b'\'') => (b'\'', 2),
            (Mode::Plain | Mode::Double | Mode::Single, other) => (other, 1),
        };
        line[write] = value;
        write += 1;
        read += used;
    }
}

/// The value of the escape that `rest` begins with, and its length.
fn escape(rest: &[u8]) -> (u8, usize) {
    match rest {
        [_, b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            (hex(*high) << 4 | hex(*low), 4)
        }
        [_, b'n', ..] => (b'\n', 2),
        [_, b'r', ..] => (b'\r', 2),
        [_, b't', ..] => (b'\t', 2),
        [_, b'b', ..] => (8, 2),
        [_, b'a', ..] => (7, 2),
        [_, other, ..] => (*other, 2),
        [only] => (*only, 1),
        [] => (0, 1),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        0..=u8::MAX => 0,
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, Unbalanced> {
        let mut bytes = line.as_bytes().to_vec();
        let mut spans = Vec::new();
        split(&mut bytes, 0, &mut spans)?;
        Ok(spans
            .iter()
            .map(|span| String::from_utf8_lossy(&bytes[span.start..span.end]).into_owned())
            .collect())
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("  set  a b ").unwrap(), ["set", "a", "b"]);
        assert_eq!(words(r#"set "a b" 'c d'"#).unwrap(), ["set", "a b", "c d"]);
        assert_eq!(words(r#"set "\x41\n\"" ''"#).unwrap(), ["set", "A\n\"", ""]);
        assert_eq!(words(r"set 'it\'s' \n").unwrap(), ["set", "it's", r"\n"]);
        assert_eq!(words(r#"a"b c""#).unwrap(), ["ab c"]);
        assert_eq!(words("get a\0b c").unwrap(), ["get", "a"]);
        assert_eq!(words("").unwrap(), [""; 0]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in ["set \"a", "set 'a", r#"set "a"b"#, "set 'a'b", r#"set "a\"#] {
            assert_eq!(words(line), Err(Unbalanced), "{line}");
        }
    }
}
