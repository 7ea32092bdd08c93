//! Numbers as Redis reads and writes them. Pure functions.
//!
//! Nothing here may depend on the platform: replicas must agree on every digit.

/// Digits after the point that Redis keeps.
const SCALE_MAX: usize = 17;

/// An integer as Redis takes it: no spaces, no plus sign, no leading zeros, no `-0`.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits.first()? {
        b'0' => text.len() == 1,
        b'1'..=b'9' => true,
        0..=b'/' | b':'..=u8::MAX => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// An integer's decimal digits.
pub(crate) fn format_integer(value: i64) -> String {
    value.to_string()
}

/// A number that is exact in decimal: `mantissa / 10^scale`.
#[derive(Clone, Copy)]
struct Decimal {
    mantissa: i128,
    scale: usize,
}

/// Why an addition gives no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatError {
    /// The text is no number.
    NotAFloat,
    /// The sum is not finite.
    NotFinite,
}

/// `text + delta` in Redis's notation: no exponent, at most 17 digits after the point, no trailing
/// zeros.
///
/// Redis adds in 80-bit floats, which other platforms lack. Decimals with few digits, as people
/// write them, are added exactly here (`0.1 + 0.2` is `0.3`, as with Redis); others as `f64`.
pub(crate) fn add_float(text: &[u8], delta: f64) -> Result<String, FloatError> {
    let text = std::str::from_utf8(text).map_err(|_| FloatError::NotAFloat)?;
    let value = parse_float(text).ok_or(FloatError::NotAFloat)?;
    let sum = value + delta;
    if !sum.is_finite() {
        return Err(FloatError::NotFinite);
    }
    // Display gives the shortest digits that read back as the same number.
    let exact = parse_decimal(text)
        .zip(parse_decimal(&delta.to_string()))
        .and_then(|(a, b)| add_decimals(a, b));
    Ok(exact.map_or_else(|| format_float(sum), format_decimal))
}

/// A float as C's `strtold` takes it (hexadecimal aside), within the range of `f64`.
fn parse_float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let named_infinity = text.trim_start_matches(['+', '-']).starts_with(['i', 'I']);
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let underflow = value == 0.0 && mantissa.contains(|c: char| ('1'..='9').contains(&c));
    let overflow = value.is_infinite() && !named_infinity;
    (!value.is_nan() && !underflow && !overflow).then_some(value)
}

/// Reads `text`, which is known to be a float, if it is exact within the bounds of [`Decimal`].
fn parse_decimal(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    // 34 digits leave room in an i128 for bringing two numbers to one scale.
    if whole.len() + fraction.len() > 30 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    if scale > 0 {
        let scale = usize::try_from(scale).ok()?;
        return (scale <= SCALE_MAX).then_some(Decimal { mantissa: digits, scale });
    }
    let factor = 10_i128.checked_pow(scale.unsigned_abs())?;
    Some(Decimal { mantissa: digits.checked_mul(factor)?, scale: 0 })
}

fn add_decimals(a: Decimal, b: Decimal) -> Option<Decimal> {
    let scale = a.scale.max(b.scale);
    let scaled = |d: Decimal| {
        let power = u32::try_from(scale - d.scale).ok()?;
        d.mantissa.checked_mul(10_i128.checked_pow(power)?)
    };
    Some(Decimal { mantissa: scaled(a)?.checked_add(scaled(b)?)?, scale })
}

fn format_decimal(d: Decimal) -> String {
    let sign = if d.mantissa < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", d.mantissa.unsigned_abs(), width = d.scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - d.scale);
    trim_zeros(format!("{sign}{whole}.{fraction}"))
}

fn format_float(value: f64) -> String {
    let shortest = value.to_string();
    let fraction = shortest.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    if fraction <= SCALE_MAX {
        return trim_zeros(shortest);
    }
    trim_zeros(format!("{value:.SCALE_MAX$}"))
}

fn trim_zeros(text: String) -> String {
    if !text.contains('.') {
        return if text == "-0" { "0".to_owned() } else { text };
    }
    let trimmed = text.trim_end_matches('0').trim_end_matches('.');
    if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_strictly_as_by_redis() {
        for (text, value) in [
            ("0", 0),
            ("-1", -1),
            ("10", 10),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "-01",
            "00",
            "1.0",
            "1e3",
            "0x1",
            "a",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_integer(b"\xff"), None);
    }

    #[test]
    fn floats_are_added_and_written_as_by_redis() {
        for (text, delta, sum) in [
            ("10.50", 0.1, "10.6"),
            ("0.1", 0.2, "0.3"),
            ("3.0e3", 200.0, "3200"),
            ("5.0e3", 2.0e2, "5200"),
            ("1", -1.0, "0"),
            ("-0", 0.0, "0"),
            ("-0.5", 0.5, "0"),
            ("-0.5", 0.25, "-0.25"),
            (".5", 1.0, "1.5"),
            ("5.", 1.0, "6"),
            ("+3", 1.1, "4.1"),
            ("17179869184", 0.5, "17179869184.5"),
            ("1e-17", 0.0, "0.00000000000000001"),
            ("1e-20", 0.0, "0"),
            ("1e21", 1.0, "1000000000000000000001"),
            ("0", 1e300, &1e300.to_string()),
        ] {
            assert_eq!(add_float(text.as_bytes(), delta), Ok(sum.to_owned()), "{text} + {delta}");
        }
    }

    #[test]
    fn what_is_no_float_is_refused() {
        for text in ["", " 1", "1 ", "abc", "nan", "1e999", "1e-999", "--1", "1e", "0x"] {
            assert_eq!(add_float(text.as_bytes(), 1.0), Err(FloatError::NotAFloat), "{text:?}");
        }
        assert_eq!(add_float(b"inf", 1.0), Err(FloatError::NotFinite));
        assert_eq!(add_float(b"1.7e308", 1.7e308), Err(FloatError::NotFinite));
        assert_eq!(add_float(b"1", f64::INFINITY), Err(FloatError::NotFinite));
        assert_eq!(add_float(b"1", f64::NAN), Err(FloatError::NotFinite));
    }
}
