//! Free ports and a fit folder for a cluster on this machine.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use oarlock_types::Random;

/// Ports under the kernel's own range for outgoing connections: a port from that range could be
/// taken by any connection while its node is down, and dialling it could even reach itself.
fn lowest_ephemeral() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

const LOWEST: u16 = 10_000;

/// Loopback addresses whose ports are free for TCP and UDP at this moment.
///
/// # Errors
/// If there are not enough.
pub fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let span = lowest_ephemeral().max(LOWEST + 1_000) - LOWEST;
    let mut random = Random::new(entropy()?);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        if held.len() == count {
            break;
        }
        let offset = u16::try_from(random.below(u64::from(span))).unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, LOWEST + offset));
        // Both stay bound until all are found, so that no port is given twice.
        if let (Ok(tcp), Ok(udp)) = (TcpListener::bind(address), UdpSocket::bind(address)) {
            held.push((address, tcp, udp));
        }
    }
    if held.len() < count {
        return Err(io::Error::other("there are not enough free ports on the loopback address"));
    }
    Ok(held.into_iter().map(|(address, _, _)| address).collect())
}

/// Seeds that differ from run to run.
///
/// # Errors
/// If the system gives no random bytes.
pub fn entropy() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Whether a folder lies in memory, where a durable write means nothing and `O_DIRECT` is refused.
///
/// # Errors
/// If the folder cannot be looked at.
pub fn is_in_memory(folder: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(folder)?.f_type & 0xffff_ffff;
    Ok(kind == TMPFS || kind == RAMFS)
}

/// A new folder that ends with its handle, on a real file system: under the system's temporary
/// folder, or else under `target`, or else here.
///
/// # Errors
/// If none of them will do; the message names what was tried.
pub fn data_folder() -> io::Result<tempfile::TempDir> {
    let candidates = [std::env::temp_dir(), PathBuf::from("target"), PathBuf::from(".")];
    let mut tried = Vec::new();
    for candidate in candidates {
        let found = match is_in_memory(&candidate) {
            Ok(true) => Err("it is kept in memory (tmpfs)".to_owned()),
            Ok(false) => tempfile::Builder::new()
                .prefix("oarlock-demo-")
                .tempdir_in(&candidate)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(folder) => return Ok(folder),
            Err(why) => tried.push(format!("{}: {why}", candidate.display())),
        }
    }
    Err(io::Error::other(format!(
        "no folder on a disk can be written ({}); set TMPDIR to one",
        tried.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn free_addresses_are_distinct_and_outside_the_kernel_s_range() {
        let addresses = free_addresses(20).unwrap();
        let distinct: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 20);
        assert!(addresses.iter().all(|address| address.port() < lowest_ephemeral()));
    }

    #[test]
    fn memory_is_told_from_disk() {
        if Path::new("/dev/shm").exists() {
            assert!(is_in_memory(Path::new("/dev/shm")).unwrap());
        }
        let folder = data_folder().unwrap();
        assert!(!is_in_memory(folder.path()).unwrap());
        assert!(is_in_memory(Path::new("/nowhere/at/all")).is_err());
    }
}
