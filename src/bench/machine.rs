//! What a run ran on, as far as the kernel tells, so that figures of two machines are not taken for
//! figures of one. What is not told is left out.

use serde_json::{Value, json};

/// The machine of the load generator: name, kernel, CPUs, memory.
#[must_use]
pub fn describe() -> Value {
    let first = |path: &str| {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    json!({
        "host": first("/proc/sys/kernel/hostname"),
        "system": first("/proc/sys/kernel/ostype"),
        "kernel": first("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "cpu": field(&first("/proc/cpuinfo"), "model name"),
        "cpus": cpus,
        "memory": field(&first("/proc/meminfo"), "MemTotal"),
    })
}

/// The first `name: value` of a text.
fn field(text: &str, name: &str) -> Option<String> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name() {
        let text = "processor\t: 0\nmodel name\t: A  CPU @ 2 GHz\nmodel name\t: another\n";
        assert_eq!(field(text, "model name").unwrap(), "A CPU @ 2 GHz");
        assert_eq!(field(text, "model"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_cpus_and_memory() {
        let machine = describe();
        assert!(machine["cpus"].as_u64().unwrap() > 0);
        assert!(!machine["kernel"].as_str().unwrap().is_empty());
        assert!(machine["memory"].as_str().unwrap().ends_with("kB"), "{machine}");
    }
}
