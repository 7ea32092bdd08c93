//! A pipeline of `SET`s: our parser beside the `redis-protocol` crate's, and writing replies.
//! `cargo bench --bench resp`

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

mod pipeline;

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use oarlock::net::resp::{self, Protocol, write_reply};
use oarlock_store::Reply;
use pipeline::{COMMANDS, parser, pipeline};
use redis_protocol::resp2;

/// What one read of a socket may give.
const READ_BYTES: usize = 1448;

fn parse(c: &mut Criterion) {
    let bytes = pipeline();
    let mut group = c.benchmark_group("resp/parse 64 SETs of 128 B");
    group.throughput(Throughput::Elements(COMMANDS as u64));
    let mut own = parser();
    group.bench_function("own, at once", |b| {
        b.iter(|| pipeline::parse(&mut own, &bytes, usize::MAX))
    });
    group.bench_function("own, in pieces", |b| {
        b.iter(|| pipeline::parse(&mut own, &bytes, READ_BYTES))
    });

    let crate_pieces = |mut buffer: BytesMut, piece_bytes: usize| {
        let mut count = 0;
        for piece in bytes.chunks(piece_bytes) {
            buffer.extend_from_slice(piece);
            while let Some((frame, _, _)) =
                resp2::decode::decode_bytes_mut(&mut buffer).expect("the pipeline is valid")
            {
                black_box(frame);
                count += 1;
            }
        }
        assert_eq!(count, COMMANDS);
    };
    for (name, piece_bytes) in [("at once", usize::MAX), ("in pieces", READ_BYTES)] {
        group.bench_function(format!("redis-protocol, {name}"), |b| {
            b.iter_batched(
                || BytesMut::with_capacity(bytes.len()),
                |buffer| crate_pieces(buffer, piece_bytes),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// One value of 1 MiB that arrives in pieces: what a parser costs that begins again each time.
fn parse_large(c: &mut Criterion) {
    let value = "v".repeat(1 << 20);
    let bytes =
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len()).into_bytes();
    // Many short arguments in pieces: each unfinished try reads them all again.
    let mget: Vec<u8> = std::iter::once("*4097\r\n$4\r\nMGET\r\n".to_owned())
        .chain((0..4096).map(|n| format!("$8\r\n{n:08}\r\n")))
        .collect::<String>()
        .into_bytes();
    let mut group = c.benchmark_group("resp/parse in pieces of 1448 B");
    for (name, bytes) in [("SET of 1 MiB", bytes), ("MGET of 4096 keys", mget)] {
        let mut own = parser();
        group.bench_function(format!("own, {name}"), |b| {
            b.iter(|| {
                for piece in bytes.chunks(READ_BYTES) {
                    own.feed(piece);
                    while let Some(args) = own.next_command().expect("the command is valid") {
                        black_box(args.get(2).map(bytes::Bytes::copy_from_slice));
                    }
                }
            });
        });
        group.bench_function(format!("redis-protocol, {name}"), |b| {
            b.iter(|| {
                let mut buffer = BytesMut::new();
                for piece in bytes.chunks(READ_BYTES) {
                    buffer.extend_from_slice(piece);
                    while let Some((frame, _, _)) =
                        resp2::decode::decode_bytes_mut(&mut buffer).expect("the command is valid")
                    {
                        black_box(frame);
                    }
                }
            });
        });
    }
    group.finish();
}

fn write(c: &mut Criterion) {
    let reply = Reply::Bulk(vec![b'v'; 128].into());
    let mut out = Vec::new();
    c.bench_function("resp/write a value of 128 B", |b| {
        b.iter(|| {
            out.clear();
            write_reply(&mut out, black_box(&reply), Protocol::Resp2);
        });
    });
}

criterion_group!(benches, parse, parse_large, write);
criterion_main!(benches);
