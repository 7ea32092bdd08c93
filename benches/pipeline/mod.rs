//! A pipeline of `SET`s and how a session reads it: what benches and counts of instructions measure.

use std::hint::black_box;

use bytes::Bytes;

use super::resp::{Parser, ParserLimits};

pub(crate) const COMMANDS: usize = 64;

/// So many `SET`s of 128 bytes.
pub(crate) fn pipeline() -> Vec<u8> {
    let value = "v".repeat(128);
    (0..COMMANDS)
        .flat_map(|n| {
            format!("*3\r\n$3\r\nSET\r\n$12\r\nkey:{n:08}\r\n$128\r\n{value}\r\n").into_bytes()
        })
        .collect()
}

pub(crate) fn parser() -> Parser {
    Parser::new(ParserLimits {
        args_max: 1 << 16,
        bulk_bytes_max: 2 << 20,
        command_bytes_max: 4 << 20,
    })
}

/// Reads the pipeline as it comes in pieces of this size.
pub(crate) fn parse(parser: &mut Parser, pipeline: &[u8], piece_bytes: usize) {
    let mut count = 0;
    for piece in pipeline.chunks(piece_bytes) {
        parser.feed(piece);
        while let Some(args) = parser.next_command().expect("the pipeline is valid") {
            // As the session does: the key and the value become bytes of their own.
            for index in 1..3 {
                black_box(args.get(index).map(Bytes::copy_from_slice));
            }
            count += 1;
        }
    }
    assert_eq!(count, COMMANDS);
}
