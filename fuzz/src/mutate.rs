//! Makes new inputs of known ones. Knows nothing of what an input means but the words that a
//! target gives.

use oarlock_types::Random;

/// Numbers at which programs go wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX.cast_unsigned(),
    u64::MAX,
];

/// One to eight changes to `input`; `other` is a second one to take pieces of.
#[must_use]
pub fn mutate(
    input: &[u8],
    other: &[u8],
    words: &[&[u8]],
    bytes_max: usize,
    random: &mut Random,
) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=size(random, 8) {
        change(&mut out, other, words, random);
    }
    out.truncate(bytes_max);
    out
}

fn size(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap_or(0)
}

fn byte(random: &mut Random) -> u8 {
    random.next_u64().to_le_bytes()[0]
}

/// A place in `bytes` and a short stretch from there.
fn stretch(bytes: &[u8], random: &mut Random) -> (usize, usize) {
    let at = size(random, bytes.len() + 1);
    let most = (bytes.len() - at).min(1 << random.below(9));
    (at, at + size(random, most + 1))
}

fn change(out: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    let (at, end) = stretch(out, random);
    match random.below(10) {
        0 if at < out.len() => out[at] ^= 1 << random.below(8),
        1 if at < out.len() => out[at] = byte(random),
        2 if at < out.len() => out[at] = out[at].wrapping_add(byte(random) % 16).wrapping_sub(8),
        3 => drop(out.drain(at..end)),
        4 => {
            let piece = out[at..end].to_vec();
            let to = size(random, out.len() + 1);
            out.splice(to..to, piece);
        }
        5 => {
            let (from, until) = stretch(other, random);
            out.splice(at..end, other[from..until].iter().copied());
        }
        6 => {
            let rubbish: Vec<u8> = (0..random.below(9)).map(|_| byte(random)).collect();
            out.splice(at..at, rubbish);
        }
        7 => {
            let number = NUMBERS[size(random, NUMBERS.len())].to_le_bytes();
            let width = 1 << random.below(4);
            out.splice(at..(at + width).min(out.len()), number[..width].iter().copied());
        }
        8 => {
            let from = size(random, other.len() + 1);
            out.truncate(at);
            out.extend_from_slice(&other[from..]);
        }
        _ => {
            let word = words.get(size(random, words.len())).copied().unwrap_or_default();
            let end = if random.below(2) == 0 { at } else { end };
            out.splice(at..end, word.iter().copied());
        }
    }
}
