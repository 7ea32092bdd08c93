//! Integers as Redis reads and writes them. Pure functions.

/// Reads a decimal integer in its one canonical form: no plus sign, no leading zero, no space.
#[must_use]
pub fn strict_i64(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some(_) => (false, bytes),
        None => return None,
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        [] | [_, ..] => return None,
    }
    // Negative numbers reach one further, so all are summed up on that side.
    let mut sum: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(sum) } else { sum.checked_neg() }
}

/// Appends a decimal integer.
pub fn push_i64(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("invariant: a remainder of ten");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        for good in [0, 1, -1, 10, i64::MAX, i64::MIN, 1_000_000] {
            assert_eq!(strict_i64(good.to_string().as_bytes()), Some(good));
        }
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "0x1",
        ] {
            assert_eq!(strict_i64(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn written_numbers_are_decimal() {
        for number in [0, 7, -7, 1234, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_i64(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
