//! A cluster of real processes on this machine: starts, stops, kills and restarts them, and ends
//! them all when it goes out of scope. One per demo or test. The processes also end when the
//! thread that started them ends, however it ends (see [`crate::cli::demo`]).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use toml::{Table, Value};

use super::client::Client;
use super::cluster_map::{self, RangeRow};
use super::ports::free_addresses;
use crate::node::executor::cpus_available;

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The program.
    pub program: PathBuf,
    /// How many nodes.
    pub nodes: u64,
    /// Cores of each.
    pub cores_per_node: u16,
    /// Ranges of the cluster.
    pub ranges: u32,
    /// More of the configuration of every node: sections and keys.
    pub more: Table,
    /// Environment variables of every node.
    pub variables: Vec<(String, String)>,
    /// Where each node runs, in order. Empty: all on the loopback address.
    pub hosts: Vec<Host>,
}

/// Where a node runs, if not simply on this machine's loopback address.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address there.
    pub ip: IpAddr,
    /// The words before the program's name that start it there, `nsenter --net=…` for example.
    /// What they start must be the same process, so that its signals and its end are the node's.
    pub launcher: Vec<String>,
}

/// One node's process, or the place where it was.
#[derive(Debug)]
pub struct Node {
    /// Its number, from 1.
    pub id: u64,
    /// Where it serves clients.
    pub client_address: SocketAddr,
    /// Where it serves other nodes.
    pub peer_address: SocketAddr,
    /// Where each of its cores serves clients.
    pub core_ports: Vec<u16>,
    /// Its folder: configuration, log, and the data directory `data`.
    pub folder: PathBuf,
    launcher: Vec<String>,
    child: Option<Child>,
}

/// The cluster.
#[derive(Debug)]
pub struct LocalCluster {
    /// The nodes, by number.
    pub nodes: Vec<Node>,
    options: ClusterOptions,
}

/// How long at least passes before a server is asked again while something is awaited.
const POLL: Duration = Duration::from_millis(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The ports for clients and for nodes where a node has a host of its own.
const HOST_PORTS: [u16; 2] = [6371, 16371];
/// Those for clients of single cores.
const HOST_CORE_PORTS: std::ops::RangeFrom<u16> = 6372..;

impl LocalCluster {
    /// Writes the configurations under `folder`; starts nothing yet.
    ///
    /// # Errors
    /// If files cannot be written or ports found.
    pub fn prepare(options: ClusterOptions, folder: &Path) -> io::Result<Self> {
        let count = usize::try_from(options.nodes).map_err(io::Error::other)?;
        let cores = usize::from(options.cores_per_node);
        let each = HOST_PORTS.len() + cores;
        let addresses = match options.hosts.as_slice() {
            [] => free_addresses(count * each)?,
            hosts => {
                let of_cores = HOST_CORE_PORTS.take(cores);
                let ports = HOST_PORTS.into_iter().chain(of_cores);
                let of_host = |host: &Host| {
                    let ip = host.ip;
                    ports.clone().map(move |port| SocketAddr::new(ip, port))
                };
                hosts.iter().flat_map(of_host).collect()
            }
        };
        let mut launchers = options.hosts.iter().map(|host| host.launcher.clone());
        let nodes: Vec<Node> = (1..=options.nodes)
            .zip(addresses.chunks(each))
            .map(|(id, own)| Node {
                id,
                client_address: own[0],
                peer_address: own[1],
                core_ports: own[2..].iter().map(SocketAddr::port).collect(),
                folder: folder.join(format!("node-{id}")),
                launcher: launchers.next().unwrap_or_default(),
                child: None,
            })
            .collect();
        let cluster = Self { nodes, options };
        for node in &cluster.nodes {
            fs::create_dir_all(&node.folder)?;
            fs::write(node.config_file(), cluster.config(node).to_string())?;
        }
        Ok(cluster)
    }

    /// Writes the configuration of one more node, which joins the cluster when it is started; its number,
    /// which it has for us, is the next one. Only on the loopback address.
    ///
    /// # Errors
    /// If files cannot be written or ports found.
    pub fn add_node(&mut self) -> io::Result<u64> {
        let cores = usize::from(self.options.cores_per_node);
        let addresses = free_addresses(2 + cores)?;
        let [client_address, peer_address, of_cores @ ..] = &addresses[..] else {
            return Err(io::Error::other("no ports"));
        };
        let (client_address, peer_address) = (*client_address, *peer_address);
        let core_ports = of_cores.iter().map(SocketAddr::port).collect();
        let id = self.nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1;
        let folder = self.nodes[0].folder.with_file_name(format!("node-{id}"));
        let (launcher, child) = (Vec::new(), None);
        let node = Node { id, client_address, peer_address, core_ports, folder, launcher, child };
        fs::create_dir_all(&node.folder)?;
        fs::write(node.config_file(), self.joining_config(&node).to_string())?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Nodes that are started from now on run this program.
    pub fn set_program(&mut self, program: PathBuf) {
        self.options.program = program;
    }

    fn joining_config(&self, node: &Node) -> Table {
        let mut config = self.config(node);
        config.remove("cluster");
        let section = |config: &mut Table, section: &str, keys: &[(&str, String)]| {
            let table = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
            let table = table.as_table_mut().expect("invariant: sections are tables");
            let keys =
                keys.iter().map(|(key, text)| ((*key).to_owned(), Value::String(text.clone())));
            table.extend(keys);
        };
        let seeds: Vec<String> = self.addresses().iter().map(SocketAddr::to_string).collect();
        section(&mut config, "node", &[("join", seeds.join(","))]);
        let ports = node.core_ports.iter().map(|port| Value::Integer(i64::from(*port)));
        let ports = Value::Array(ports.collect());
        let own = config["node"].as_table_mut().expect("invariant: a section");
        own.insert("core_ports".to_owned(), ports);
        // The cluster gives it an id.
        own.remove("node_id");
        let (client, peer) = (node.client_address.to_string(), node.peer_address.to_string());
        section(&mut config, "network", &[("client_listen", client), ("peer_listen", peer)]);
        config
    }

    fn config(&self, node: &Node) -> Table {
        let text = |text: String| Value::String(text);
        let number = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        let initial = self.nodes.iter().map(|node| {
            let core_ports = node.core_ports.iter().map(|port| number(u64::from(*port))).collect();
            Value::Table(Table::from_iter([
                ("id".to_owned(), number(node.id)),
                ("peer_address".to_owned(), text(node.peer_address.to_string())),
                ("client_address".to_owned(), text(node.client_address.to_string())),
                ("cores".to_owned(), number(u64::from(self.options.cores_per_node))),
                ("core_ports".to_owned(), Value::Array(core_ports)),
            ]))
        });
        let replicas = if self.options.nodes >= 3 { 3 } else { 1 };
        let mut config = Table::new();
        let mut set = |section: &str, key: &str, value: Value| {
            let section =
                config.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut();
            section.expect("invariant: sections are tables").insert(key.to_owned(), value);
        };
        set("node", "node_id", number(node.id));
        set("node", "data_dir", text(node.data_dir().display().to_string()));
        if let Some(cpus) = self.cpus_of(node) {
            set("node", "cores", Value::Array(cpus.into_iter().map(number).collect()));
        }
        set("cluster", "initial_nodes", Value::Array(initial.collect()));
        set("cluster", "initial_ranges", number(u64::from(self.options.ranges)));
        set("cluster", "replication_factor", number(replicas));
        for (section, keys) in &self.options.more {
            for (key, value) in keys.as_table().into_iter().flatten() {
                set(section, key, value.clone());
            }
        }
        config
    }

    /// The CPUs of one node: each node's follow those of the node before, so that nodes of few
    /// cores do not all crowd on the first ones. None if a node has more cores than there are.
    fn cpus_of(&self, node: &Node) -> Option<Vec<u64>> {
        let available = cpus_available().ok()?;
        let cores = usize::from(self.options.cores_per_node);
        if cores > available.len() {
            return None;
        }
        let first = usize::try_from(node.id - 1).ok()? * cores;
        let cpus = available.iter().cycle().skip(first % available.len()).take(cores);
        Some(cpus.map(|cpu| *cpu as u64).collect())
    }

    /// Starts every node that is not running.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start_all(&mut self) -> io::Result<()> {
        let all: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
        all.into_iter().try_for_each(|id| self.start(id))
    }

    /// Starts one node. The calling thread must outlive it.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(&mut self, id: u64) -> io::Result<()> {
        let variables = self.options.variables.clone();
        let program = self.options.program.clone();
        let node = self.node_mut(id);
        if node.is_running() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(node.log_file())?;
        let mut words = node.launcher.iter().map(OsStr::new).chain([program.as_os_str()]);
        let child = Command::new(words.next().expect("invariant: the program at least"))
            .args(words)
            .args(["demo", "--as-node"])
            .arg(node.config_file())
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for us; we end the nodes.
            .process_group(0)
            .spawn()?;
        node.child = Some(child);
        Ok(())
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("invariant: a node of this cluster")
    }

    /// One node.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("invariant: a node of this cluster")
    }

    /// The client addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.client_address).collect()
    }

    /// Waits until `check` gives something, asking it again and again.
    ///
    /// # Errors
    /// If a process ended by itself, `interrupted` says so, or the time-out passes; the message
    /// says what was awaited and why it is not there yet.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        interrupted: &dyn Fn() -> bool,
        mut check: impl FnMut(&Self) -> Result<T, String>,
    ) -> io::Result<T> {
        poll(what, timeout, || match check(self) {
            Ok(found) => Ok(Ok(found)),
            Err(why) => {
                self.check_alive()?;
                if interrupted() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                Ok(Err(why))
            }
        })
    }

    /// Whether all started processes still run.
    ///
    /// # Errors
    /// If one has ended that nobody ended; with the end of its log.
    pub fn check_alive(&mut self) -> io::Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended()? {
                return Err(io::Error::other(format!(
                    "node {} ended by itself ({status}); its log says:\n{}",
                    node.id,
                    node.log_tail(20)
                )));
            }
        }
        Ok(())
    }

    /// Asks node after node until one answers that every range has a leader.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn led_ranges(&self) -> Result<Vec<RangeRow>, String> {
        let mut why = "no node is running".to_owned();
        // A node surely knows who leads only where it has a replica itself.
        let mut known: Vec<RangeRow> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            match node.client().and_then(|mut client| cluster_map::ranges(&mut client)) {
                Ok(mut ranges) => {
                    cluster_map::learn_leaders(&mut ranges, &known);
                    let led = ranges.iter().filter(|range| range.leader != 0).count();
                    if led == ranges.len() && led >= 1 {
                        return Ok(ranges);
                    }
                    why = format!("{led} of {} ranges have a leader", ranges.len());
                    known = ranges;
                }
                Err(error) => why = format!("node {}: {error}", node.id),
            }
        }
        Err(why)
    }
}

impl LocalCluster {
    /// What is committed in each group now, as all running nodes but one know it.
    ///
    /// # Errors
    /// If one of them does not answer.
    pub fn committed(&self, without: u64) -> io::Result<BTreeMap<u64, u64>> {
        let mut committed = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.id != without && node.is_running()) {
            let status = node.client().and_then(|mut client| cluster_map::status(&mut client));
            let status = status.map_err(|error| {
                io::Error::new(error.kind(), format!("node {} gives no status: {error}", node.id))
            })?;
            for group in status.groups {
                let newest: &mut u64 = committed.entry(group.group).or_default();
                *newest = group.commit.max(*newest);
            }
        }
        Ok(committed)
    }

    /// Whether a node's replicas have applied all that; if not, why not.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn has_applied(&self, id: u64, committed: &BTreeMap<u64, u64>) -> Result<(), String> {
        let status = self.node(id).client().and_then(|mut client| cluster_map::status(&mut client));
        let groups = status.map_err(|error| format!("node {id}: {error}"))?.groups;
        let behind = |group: &&cluster_map::GroupStatus| {
            committed.get(&group.group).is_some_and(|commit| *commit > group.applied)
        };
        match groups.iter().filter(behind).count() {
            0 if !groups.is_empty() => Ok(()),
            behind => Err(format!("node {id}: {behind} of {} replicas are behind", groups.len())),
        }
    }
}

/// Asks again and again until `check` gives something other than a reason why not.
///
/// # Errors
/// What `check` failed with, or that the time-out passed, with the last reason.
pub fn poll<T>(
    what: &str,
    timeout: Duration,
    mut check: impl FnMut() -> io::Result<Result<T, String>>,
) -> io::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let asked = Instant::now();
        let why = match check()? {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            let text = format!("{what}: not within {timeout:?}: {why}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        // An answer that costs much must not cost a server all its time.
        std::thread::sleep(POLL.max(asked.elapsed()));
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

impl Node {
    /// Its configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("oarlock.toml")
    }

    /// What it wrote on standard output and error, over all its starts.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// If it does not accept.
    pub fn client(&self) -> io::Result<Client> {
        Client::connect(self.client_address, CALL_TIMEOUT)
    }

    /// Whether its process was started and not ended by us.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process's number.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How its process ended, if it ended by itself.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// Ends its process with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either may fail only because the process has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Sends a signal to its process.
    ///
    /// # Errors
    /// If there is none.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("the node is not running"))?;
        Ok(kill_process(pid, signal)?)
    }
}
