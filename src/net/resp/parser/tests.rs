//! The parser: forms, errors, bounds, and that pieces make no difference.

use proptest::prelude::*;

use super::*;

const LIMITS: ParserLimits =
    ParserLimits { args_max: 64, bulk_bytes_max: 1 << 20, command_bytes_max: 2 << 20 };

/// Everything that the bytes say, when they come in the given pieces.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let mut parser = Parser::new(LIMITS);
    let mut commands = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        loop {
            match parser.next_command() {
                Ok(Some(args)) => commands.push(args.iter().map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.next_command().unwrap_err(), error, "the first error stays");
                    return (commands, Some(error));
                }
            }
        }
    }
    (commands, None)
}

fn commands(bytes: &[u8]) -> Vec<Vec<String>> {
    let (commands, error) = read([bytes]);
    assert_eq!(error, None);
    let text = |arg: Vec<u8>| String::from_utf8(arg).unwrap();
    commands.into_iter().map(|args| args.into_iter().map(text).collect()).collect()
}

fn error(bytes: &[u8]) -> String {
    read([bytes]).1.expect("the bytes are refused").to_string()
}

#[test]
fn arrays_and_inline_commands() {
    assert_eq!(commands(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"), [["GET", "a"]]);
    assert_eq!(commands(b"*1\r\n$0\r\n\r\nPING\r\n"), [[""], ["PING"]]);
    assert_eq!(commands(b"GET 'a b'\nGET c\r\n"), [["GET", "a b"], ["GET", "c"]]);
    assert_eq!(commands(b"\r\n\n*0\r\n*-1\r\nPING\r\n"), [["PING"]]);
    assert_eq!(commands(b"*2\r\n$3\r\nGET\r\n$1\r\na"), [[""; 0]; 0]);
}

#[test]
fn errors_in_redis_words() {
    for (bytes, text) in [
        (&b"*a\r\n"[..], "ERR Protocol error: invalid multibulk length"),
        (b"*65\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*01\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$1048577\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$\r\n", "ERR Protocol error: invalid bulk length"),
        (b"*1\r\n+OK\r\n", "ERR Protocol error: expected '$', got '+'"),
        (b"a \"b\r\n", "ERR Protocol error: unbalanced quotes in request"),
        (b"a \"b\"c\r\n", "ERR Protocol error: unbalanced quotes in request"),
    ] {
        assert_eq!(error(bytes), text);
    }
    let long = vec![b'1'; LINE_BYTES_MAX + 1];
    assert_eq!(error(&long), "ERR Protocol error: too big inline request");
    let header = [b"*", &long[..]].concat();
    assert_eq!(error(&header), "ERR Protocol error: too big mbulk count string");
    let header = [b"*1\r\n$", &long[..]].concat();
    assert_eq!(error(&header), "ERR Protocol error: too big bulk count string");
    let mut heavy = b"*3\r\n".to_vec();
    for _ in 0..2 {
        heavy.extend_from_slice(b"$1048576\r\n");
        heavy.extend(std::iter::repeat_n(b'x', 1 << 20));
        heavy.extend_from_slice(b"\r\n");
    }
    heavy.extend_from_slice(b"$1\r\n");
    assert!(error(&heavy).starts_with("ERR Protocol error: command too big"));
}

#[test]
fn announcements_reserve_nothing() {
    for bytes in [
        &b"*1\r\n$1073741824\r\n"[..],
        b"*1000000\r\n",
        b"*64\r\n$1048576\r\n",
        b"*2147483647\r\n$1\r\n",
    ] {
        let mut parser = Parser::new(LIMITS);
        parser.feed(bytes);
        let _ = parser.next_command();
        assert!(parser.reserved_bytes() < 1 << 10, "{}", parser.reserved_bytes());
        // Once refused, nothing more is kept, whatever comes.
        if parser.next_command().is_err() {
            parser.feed(&vec![b'x'; 1 << 20]);
            assert!(parser.next_command().is_err());
            assert!(parser.reserved_bytes() < 1 << 10);
        }
    }
}

#[test]
fn a_large_argument_in_small_pieces_is_searched_once() {
    let mut bytes = b"*2\r\n$3\r\nGET\r\n$1048576\r\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 1 << 20));
    bytes.extend_from_slice(b"\r\n");
    let mut parser = Parser::new(LIMITS);
    let mut whole = 0;
    for piece in bytes.chunks(16) {
        parser.feed(piece);
        while parser.next_command().unwrap().is_some() {
            whole += 1;
        }
        // Inside the argument nothing is searched: its length says where it ends.
        if let State::Bulk { .. } = parser.state {
            assert_eq!(parser.searched, parser.line);
        }
    }
    assert_eq!(whole, 1);
    // An unfinished header is searched only from where the last search ended.
    let mut parser = Parser::new(LIMITS);
    for at in 1..=1000 {
        parser.feed(b"a");
        assert_eq!(parser.next_command().unwrap().map(|args| args.len()), None);
        assert_eq!(parser.searched, at);
    }
}

#[test]
fn a_buffer_that_was_large_is_given_back() {
    let mut parser = Parser::new(LIMITS);
    let mut bytes = b"*1\r\n$1048576\r\n".to_vec();
    bytes.extend(std::iter::repeat_n(b'x', 1 << 20));
    bytes.extend_from_slice(b"\r\n");
    parser.feed(&bytes);
    assert!(parser.next_command().unwrap().is_some());
    assert!(parser.next_command().unwrap().is_none());
    assert!(parser.reserved_bytes() < 1 << 10);
}

fn pipeline() -> impl Strategy<Value = Vec<u8>> {
    let arg = prop::collection::vec(any::<u8>(), 0..20);
    let command = prop::collection::vec(arg, 1..6).prop_map(|args| {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.extend_from_slice(&arg);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    });
    let inline = "[a-z\"'\\\\ ]{0,20}\r?\n".prop_map(String::into_bytes);
    let garbage = prop::collection::vec(any::<u8>(), 0..20);
    let part = prop_oneof![8 => command, 2 => inline, 1 => garbage];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pieces_make_no_difference(bytes in pipeline(), cuts in prop::collection::vec(1..9_usize, 1..50)) {
        let whole = read([&bytes[..]]);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        prop_assert_eq!(&read(pieces), &whole);
    }

    #[test]
    fn any_mutation_is_read_or_refused(
        mut bytes in pipeline(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let _ = read([&bytes[..]]);
    }
}
