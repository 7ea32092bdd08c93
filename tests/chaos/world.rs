//! The world of one run: a network namespace and a small disk of its own for each node, cut, slowed
//! and filled at will. It lives in a network and a mount namespace of the run's process, so nothing
//! of it is seen outside and the kernel takes it down when the last process of the run has ended,
//! however it ended. Only a cgroup and a folder can be left; a later run sweeps those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oarlock::bench::processes::Host;

const MIB: u64 = 1 << 20;
/// The host number of the clients in the network; the nodes' are their ids.
pub(crate) const CLIENTS: u64 = 0;
const CGROUP_PREFIX: &str = "oarlock-chaos-";

/// Runs a program to its end; its complaint if it fails.
fn tool(words: &[&str], input: &str) -> Result<(), String> {
    let complain = |why: String| format!("{}: {}", words.join(" "), why.trim());
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| complain(error.to_string()))?;
    // One that ends without reading says why on standard error.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().map_err(|error| complain(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(complain(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn words(line: &str) -> Result<(), String> {
    tool(&line.split_whitespace().collect::<Vec<_>>(), "")
}

/// Why this user or machine cannot have a world.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make network namespaces and mount disks".to_owned());
    }
    for asked in ["unshare -V", "nsenter -V", "ip -V", "nft -v", "mkfs.ext4 -V", "mount -V"] {
        if let Err(why) = words(asked) {
            return Some(why);
        }
    }
    let probes = "ip link add name probe type bridge && \
                  ip link add one type veth peer name two && \
                  nft add table inet probe && mount -t tmpfs none /mnt";
    tool(&["unshare", "--net", "--mount", "sh", "-c", probes], "").err()
}

/// Where a run is held back from writing fast.
enum Throttle {
    /// cgroup v1, and the folder of the group.
    Old(PathBuf),
    /// cgroup v2.
    Unified(PathBuf),
}

impl Throttle {
    /// Puts this process, and with it all that it starts, into a cgroup that is named after the
    /// process `owner`.
    fn enter(owner: u32) -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("{CGROUP_PREFIX}{owner}");
        let (folder, file, unified) = if root.join("cgroup.controllers").exists() {
            // Fails where it is on already, too; whether it is, the next lines tell.
            fs::write(root.join("cgroup.subtree_control"), "+io").ok();
            (root.join(name), "io.max", true)
        } else {
            (root.join("blkio").join(name), "blkio.throttle.write_iops_device", false)
        };
        let failed = |error: io::Error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(failed)?;
        if !folder.join(file).exists() {
            fs::remove_dir(&folder).map_err(failed)?;
            return Err(format!("{} has no {file}", folder.display()));
        }
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).map_err(failed)?;
        Ok(if unified { Self::Unified(folder) } else { Self::Old(folder) })
    }

    /// Lets a device do so many writes a second; `None`: as many as it can.
    fn set(&self, device: u64, writes: Option<u64>) -> io::Result<()> {
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        match self {
            Self::Old(folder) => {
                let text = format!("{device} {}", writes.unwrap_or(0));
                fs::write(folder.join("blkio.throttle.write_iops_device"), text)
            }
            Self::Unified(folder) => {
                let writes = writes.map_or("max".to_owned(), |writes| writes.to_string());
                fs::write(folder.join("io.max"), format!("{device} wiops={writes}"))
            }
        }
    }
}

/// How packets are made late.
#[derive(Clone, Copy)]
enum Lateness {
    /// Each is held back.
    Netem,
    /// Each takes its time on a narrow link, and those behind it wait: what kernels without netem have.
    NarrowLink,
}

impl Lateness {
    /// What `tc` is told so that packets are about so late.
    fn discipline(self, ms: u64) -> String {
        // A whole Ethernet frame takes that long.
        let narrow_bits_per_s = 1514 * 8 * 1000 / ms;
        match self {
            Self::Netem => format!("netem delay {ms}ms {ms}ms"),
            // What would wait for longer is lost.
            Self::NarrowLink => format!("tbf rate {narrow_bits_per_s} burst 1600 latency 400ms"),
        }
    }
}

/// Removes what runs left whose process, named in the name, has ended. Folders of failed runs are
/// kept: they have a file `failed`.
pub(crate) fn sweep(folders: &Path, prefix: &str) {
    let is_dead = |name: &str, prefix: &str| {
        let pid = name.strip_prefix(prefix).map(|rest| rest.split('-').next().unwrap_or(rest));
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let cgroups = ["/sys/fs/cgroup", "/sys/fs/cgroup/blkio"].map(PathBuf::from);
    for folder in cgroups.iter().chain([&folders.to_owned()]) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Another run may sweep the same at the same time.
            if is_dead(&name, CGROUP_PREFIX) {
                fs::remove_dir(entry.path()).ok();
            } else if is_dead(&name, prefix) && !entry.path().join("failed").exists() {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }
}

/// Removes the cgroup of a run that has ended.
pub(crate) fn remove_cgroup(owner: u32) {
    for folder in ["/sys/fs/cgroup", "/sys/fs/cgroup/blkio"] {
        fs::remove_dir(Path::new(folder).join(format!("{CGROUP_PREFIX}{owner}"))).ok();
    }
}

/// What the network does to packets on their way in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// From whom to whom nothing comes through.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Of a hundred packets to a node, this many are lost.
    pub(crate) lost: BTreeMap<u64, u64>,
}

/// The namespaces and disks of the nodes.
pub(crate) struct World {
    folder: PathBuf,
    nodes: u64,
    throttle: Option<Throttle>,
    lateness: Option<Lateness>,
    /// Which faults cannot be had here, and why.
    pub(crate) missing: Vec<String>,
}

fn ip(host: u64) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, if host == CLIENTS { 254 } else { u8::try_from(host).unwrap() })
}

impl World {
    /// Makes the network. This process must be in a network and a mount namespace of its own.
    pub(crate) fn make(folder: &Path, nodes: u64, owner: u32) -> Result<Self, String> {
        words("ip link set lo up")?;
        words("ip link add name hub type bridge")?;
        words(&format!("ip address add {}/24 dev hub", ip(CLIENTS)))?;
        words("ip link set hub up")?;
        let mut world = Self {
            folder: folder.to_owned(),
            nodes,
            throttle: None,
            lateness: None,
            missing: Vec::new(),
        };
        for node in 1..=nodes {
            let net = world.net(node);
            File::create(&net).map_err(|error| error.to_string())?;
            words(&format!("unshare --net={net} true"))?;
            words(&format!("ip link add to-{node} type veth peer name wire netns {net}"))?;
            words(&format!("ip link set to-{node} master hub up"))?;
            world.inside(node, &format!("ip address add {}/24 dev wire", ip(node)), "")?;
            world.inside(node, "ip link set lo up", "")?;
            world.inside(node, "ip link set wire up", "")?;
        }
        match Throttle::enter(owner) {
            Ok(throttle) => world.throttle = Some(throttle),
            Err(why) => world.missing.push(format!("slow disks: {why}")),
        }
        for lateness in [Lateness::Netem, Lateness::NarrowLink] {
            let Err(why) = world.try_lateness(lateness) else { break };
            let why = why.rsplit(": ").next().unwrap_or("").to_owned();
            world.missing.push(match lateness {
                Lateness::Netem => {
                    format!("tc netem, so late packets wait for narrow links: {why}")
                }
                Lateness::NarrowLink => format!("late packets at all: tc has no tbf here: {why}"),
            });
        }
        Ok(world)
    }

    fn try_lateness(&mut self, lateness: Lateness) -> Result<(), String> {
        self.lateness = Some(lateness);
        let tried = self.delay(1, Some(1)).and_then(|()| self.delay(1, None));
        tried.inspect_err(|_| self.lateness = None)
    }

    fn net(&self, node: u64) -> String {
        self.folder.join(format!("net-{node}")).display().to_string()
    }

    /// Runs a line in a node's network.
    fn inside(&self, node: u64, line: &str, input: &str) -> Result<(), String> {
        let net = format!("--net={}", self.net(node));
        let mut all = vec!["nsenter", &net];
        all.extend(line.split_whitespace());
        tool(if node == CLIENTS { &all[2..] } else { &all }, input)
    }

    /// Where each node runs.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let host = |node| Host {
            ip: IpAddr::V4(ip(node)),
            launcher: vec!["nsenter".to_owned(), format!("--net={}", self.net(node))],
        };
        (1..=self.nodes).map(host).collect()
    }

    /// Gives a node a disk of its own at that place, of so many MiB.
    pub(crate) fn mount(&self, node: u64, at: &Path, mib: u64) -> Result<(), String> {
        let image = self.folder.join(format!("disk-{node}"));
        let failed = |error: io::Error| error.to_string();
        File::create(&image).and_then(|file| file.set_len(mib * MIB)).map_err(failed)?;
        fs::create_dir_all(at).map_err(failed)?;
        tool(&["mkfs.ext4", "-q", "-F", "-m", "0", &image.display().to_string()], "")?;
        let (image, place) = (image.display().to_string(), at.display().to_string());
        tool(&["mount", "-o", "loop", &image, &place], "")?;
        // A data directory that is new is empty.
        fs::remove_dir(at.join("lost+found")).map_err(failed)
    }

    /// Makes the whole network as told.
    pub(crate) fn filter(&self, filter: &Filter) -> Result<(), String> {
        for to in 0..=self.nodes {
            let mut rules = String::new();
            for (from, _) in filter.cut.iter().filter(|(_, hearer)| *hearer == to) {
                rules.push_str(&format!("ip saddr {} drop\n", ip(*from)));
            }
            if let Some(lost) = filter.lost.get(&to) {
                rules.push_str(&format!("numgen random mod 100 < {lost} drop\n"));
            }
            let hook = "type filter hook input priority 0;";
            let table = format!("table inet chaos {{ chain input {{\n{hook}\n{rules}}}\n}}\n");
            self.inside(to, "nft -f -", &format!("flush ruleset\n{table}"))?;
        }
        Ok(())
    }

    pub(crate) fn can_throttle(&self) -> bool {
        self.throttle.is_some()
    }

    pub(crate) fn can_delay(&self) -> bool {
        self.lateness.is_some()
    }

    /// Makes a node's packets late by about so many milliseconds, or no longer.
    pub(crate) fn delay(&self, node: u64, ms: Option<u64>) -> Result<(), String> {
        match (ms, self.lateness) {
            (Some(ms), Some(lateness)) => {
                let discipline = lateness.discipline(ms);
                self.inside(node, &format!("tc qdisc replace dev wire root {discipline}"), "")
            }
            (None, Some(_)) => self.inside(node, "tc qdisc del dev wire root", ""),
            (_, None) => Ok(()),
        }
    }

    /// Lets the disk at that place do so many writes a second, or as many as it can.
    pub(crate) fn throttle(&self, place: &Path, writes: Option<u64>) -> io::Result<()> {
        let device = fs::metadata(place)?.dev();
        self.throttle.as_ref().map_or(Ok(()), |throttle| throttle.set(device, writes))
    }
}

/// Takes all space of a disk but a little, at once and without writing it.
pub(crate) fn fill(place: &Path, left_bytes: u64) -> io::Result<()> {
    let stat = rustix::fs::statvfs(place)?;
    let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(left_bytes);
    if bytes > 0 {
        let file = File::options().create(true).append(true).open(ballast(place))?;
        let end = file.metadata()?.len();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, bytes)?;
    }
    Ok(())
}

/// Gives back what [`fill`] took.
pub(crate) fn empty(place: &Path) -> io::Result<()> {
    match fs::remove_file(ballast(place)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Beside the data directory's own files; a node does not look for it.
fn ballast(place: &Path) -> PathBuf {
    place.join("ballast")
}
