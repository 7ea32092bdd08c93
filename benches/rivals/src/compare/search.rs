//! The highest rate at which something still holds: doubling, then halving, over rates that lie a
//! quarter of a doubling apart. Pure.

/// The rate of place 0.
const BASE: f64 = 5_000.0;
/// Places to a doubling: rates are known to 19 %.
const STEPS_TO_DOUBLE: i32 = 4;
const LOWEST: i32 = -16;
const HIGHEST: i32 = 28;

/// The rate at a place.
pub fn rate(place: i32) -> f64 {
    (BASE * 2f64.powf(f64::from(place) / f64::from(STEPS_TO_DOUBLE))).round()
}

/// Finds the highest place at which `holds`, from what it was the last time, in so many tries at
/// most; nothing if it holds at none that was tried.
///
/// # Errors
/// What `holds` fails with.
pub fn highest<E>(
    before: Option<i32>,
    tries: u32,
    mut holds: impl FnMut(f64) -> Result<bool, E>,
) -> Result<Option<i32>, E> {
    let (mut good, mut bad) = (None, None);
    // Where it was before it is still about; without a before it may be anywhere.
    let mut step = if before.is_some() { 1 } else { STEPS_TO_DOUBLE };
    let mut place = before.unwrap_or(0).clamp(LOWEST, HIGHEST);
    for _ in 0..tries {
        if holds(rate(place))? {
            good = Some(place);
        } else {
            bad = Some(place);
        }
        place = match (good, bad) {
            (Some(good), Some(bad)) if bad - good <= 1 => break,
            (Some(good), Some(bad)) => good + (bad - good) / 2,
            (Some(good), None) if good == HIGHEST => break,
            (Some(good), None) => (good + step).min(HIGHEST),
            (None, Some(bad)) if bad == LOWEST => break,
            (None, Some(bad)) => (bad - step).max(LOWEST),
            (None, None) => break,
        };
        step = (step * 2).min(STEPS_TO_DOUBLE);
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(before: Option<i32>, limit: f64) -> (Option<i32>, Vec<f64>) {
        let mut tried = Vec::new();
        let found = highest(before, 16, |rate| {
            tried.push(rate);
            Ok::<_, ()>(rate <= limit)
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn the_highest_rate_is_found_wherever_it_lies() {
        for place in LOWEST..=HIGHEST {
            for before in [None, Some(place), Some(place - 3), Some(HIGHEST), Some(LOWEST)] {
                let (found, tried) = search(before, rate(place));
                assert_eq!(found, Some(place), "from {before:?}: {tried:?}");
            }
        }
        assert_eq!(search(None, 0.0).0, None, "nothing holds");
        assert_eq!(search(Some(4), f64::INFINITY).0, Some(HIGHEST), "everything does");
    }

    #[test]
    fn who_knows_about_where_needs_few_tries() {
        let (_, tried) = search(Some(7), rate(7));
        assert_eq!(tried, [rate(7), rate(8)]);
        let (_, tried) = search(None, rate(7));
        assert_eq!(tried, [rate(0), rate(4), rate(8), rate(6), rate(7)]);
        assert_eq!(tried[..3], [5_000.0, 10_000.0, 20_000.0]);
    }

    #[test]
    fn tries_are_bounded_and_failures_handed_on() {
        let mut count = 0;
        let found = highest(None, 3, |_| {
            count += 1;
            Ok::<_, ()>(true)
        });
        assert_eq!((found, count), (Ok(Some(8)), 3));
        assert_eq!(highest(None, 3, |_| Err("no server")), Err("no server"));
    }
}
