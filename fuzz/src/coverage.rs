//! The targets under libFuzzer, which sees what code an input reaches. `scripts/fuzz` builds this
//! with the compiler's counters and gives the target's name in `FUZZ_TARGET`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oarlock_fuzz::{Target, targets};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    targets::named(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name} is no target"))
});

fuzz_target!(|input: &[u8]| {
    (TARGET.run)(input);
});
