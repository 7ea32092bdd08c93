//! Bytes and identities as hexadecimal digits. Pure.

/// The digits, in lower case.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The bytes that the digits stand for, in either case; `None` if there is anything else, or one too few.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

/// The 32 digits of an identity: TOML and JSON have no such number.
#[must_use]
pub fn encode_u128(number: u128) -> String {
    format!("{number:032x}")
}

/// The identity that [`encode_u128`] wrote so; `None` for anything else.
#[must_use]
pub fn decode_u128(digits: &str) -> Option<u128> {
    u128::from_str_radix(digits, 16).ok().filter(|&number| encode_u128(number) == digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_only_as_it_is_written() {
        for number in [0, 0xabc, u128::MAX] {
            assert_eq!(decode_u128(&encode_u128(number)), Some(number));
        }
        assert_eq!(encode_u128(0xabc), "00000000000000000000000000000abc");
        for wrong in
            ["", "abc", "00000000000000000000000000000ABC", "+0000000000000000000000000000abc"]
        {
            assert_eq!(decode_u128(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_byte_is_two_digits_that_are_read_back() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let text = encode(&all);
        assert!(text.starts_with("000102") && text.ends_with("fdfeff"), "{text}");
        assert_eq!(decode(&text), Some(all.clone()));
        assert_eq!(decode(&text.to_uppercase()), Some(all));
        assert_eq!((encode(b""), decode("")), (String::new(), Some(Vec::new())));
    }

    #[test]
    fn what_is_no_digit_or_lacks_one_is_nothing() {
        for wrong in ["0", "000", "0g", "+1", " 1", "é"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
