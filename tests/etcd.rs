//! `oarlock bench --target etcd` against a real etcd. Needs the cargo feature `etcd`; what a build without
//! it says is tested with the rest of `oarlock bench`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{PATIENCE, PROGRAM, folder};
use oarlock::bench::ports::free_addresses;
use oarlock::bench::processes::poll;
use serde_json::Value;

fn bench(address: SocketAddr, args: &[&str]) -> Output {
    let address = address.to_string();
    let to = ["bench", "--target", "etcd", "--addr", &address, "--keys", "100", "--clients", "4"];
    Command::new(PROGRAM).args(to).args(args).output().unwrap()
}

/// A single etcd, ended with this.
struct Etcd {
    child: Child,
    address: SocketAddr,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Etcd {
    /// Nothing where etcd is not installed.
    fn start(data: &Path) -> Option<Self> {
        let addresses = free_addresses(2).unwrap();
        let (client, peer) =
            (format!("http://{}", addresses[0]), format!("http://{}", addresses[1]));
        let started = Command::new("etcd")
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if started.is_err() {
            eprintln!("left out: etcd is not installed (apt-get install etcd-server)");
            return None;
        }
        let etcd = Self { child: started.unwrap(), address: addresses[0] };
        poll("etcd", PATIENCE, || Ok(etcd.revision().map_err(|error| error.to_string()))).unwrap();
        Some(etcd)
    }

    /// Counts changes: a new etcd is at 1, each write makes it one more. Asked by HTTP and JSON, so not
    /// by the client that is tested.
    fn revision(&self) -> std::io::Result<u64> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let body = r#"{"key":"AA=="}"#;
        let length = body.len();
        let head = format!("POST /v3/kv/range HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let json = answer.split_once("\r\n\r\n").map_or("", |(_, json)| json);
        let json: Value = serde_json::from_str(json)?;
        let revision = json["header"]["revision"].as_str().and_then(|text| text.parse().ok());
        revision.ok_or_else(|| std::io::Error::other(answer))
    }
}

#[test]
fn what_etcd_acknowledged_is_what_it_has() {
    let folder = folder("etcd");
    let Some(etcd) = Etcd::start(&folder.path().join("data")) else { return };
    let file = folder.path().join("a.json");
    let pid = etcd.child.id().to_string();
    let always = ["--warmup-seconds", "0", "--json", file.to_str().unwrap(), "--pid", &pid];
    let loads: [&[&str]; 3] = [
        &["--rate", "300", "--seconds", "1"],
        &["--seconds", "1", "--threads", "2"],
        &["--seconds", "1", "--rate", "300", "--read-share", "0.5", "--fill"],
    ];
    for load in loads {
        let before = etcd.revision().unwrap();
        let output = bench(etcd.address, &[&always[..], load].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{load:?}\n{text}\n{:?}", output.stderr);
        let json: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let (writes, reads) = (json["writes"].as_u64().unwrap(), json["reads"].as_u64().unwrap());
        let filled = if load.contains(&"--fill") { 100 } else { 0 };
        assert_eq!(etcd.revision().unwrap() - before, writes + filled, "{load:?}");
        assert!(writes > 50, "{load:?}: {writes}");
        assert_eq!(reads > 0, load.contains(&"--read-share"), "{load:?}: {reads}");
        assert_eq!((&json["errors"], &json["config"]["target"]), (&0.into(), &"etcd".into()));
        assert!(json["used"]["servers_cpu_us_per_op"].as_f64().unwrap() > 0.0, "{}", json["used"]);
        assert!(json["used"]["servers_written_bytes_per_op"].as_f64().unwrap() > 128.0);
    }
}

#[test]
fn what_etcd_does_not_have_is_told_before_the_run() {
    let nobody = free_addresses(1).unwrap()[0];
    for args in [&["--route", "map"][..], &["--preset", "ycsb-e"], &["--command", "incr"]] {
        let output = bench(nobody, args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains("is not for --target etcd"), "{args:?}: {error}");
    }
    let error = String::from_utf8(bench(nobody, &[]).stderr).unwrap();
    assert!(error.contains("no server answers at"), "{error}");
}
