//! The load driver: what `oarlock bench`, `oarlock demo` and the fault tests put load on a cluster
//! with, and how they know afterwards that nothing was lost. Plain threads, one per driver, each
//! with many connections; none on a node's cores. It speaks to nodes only through their ports.
//!
//! Map: [`resp`] writes commands and reads replies, [`schedule`] says when an operation is due,
//! [`keys`] which key it takes, [`values`] how long its value is, [`workload`] what it does,
//! [`preset`] names loads; [`target`] is the servers' protocol: [`connection`] and [`driver`] carry
//! a load by the Redis protocol, `etcd` to etcd, both along a `course`; [`report`] and [`series`] keep the
//! figures, [`run`] joins several drivers, [`conditions`] judges them, [`export`] writes them for
//! other programs with the [`machine`], [`page`] draws them, [`compare`] sets runs side by side,
//! [`sweep`] finds the knee, [`breakdown`] asks the servers where the time of writes went, [`usage`] says
//! what processes used. [`ledger`] remembers acknowledged
//! writes and judges what is read back, [`verify`] reads it back. [`client`] is a blocking client,
//! [`cluster_map`] asks a node for ranges and status, [`routes`] says who leads
//! a key, [`processes`] runs a cluster on this machine; [`scale`] measures there what ranges cost that nobody
//! asks for, [`moves`] what it costs to move them, with writes at a rate by [`paced`].

pub mod breakdown;
pub mod client;
pub mod cluster_map;
pub mod compare;
pub mod conditions;
pub mod connection;
mod course;
pub mod driver;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod export;
pub mod keys;
pub mod ledger;
pub mod machine;
pub mod moves;
pub mod paced;
pub mod page;
pub mod ports;
pub mod preset;
pub mod processes;
pub mod report;
pub mod resp;
pub mod routes;
pub mod run;
pub mod scale;
pub mod schedule;
pub mod series;
pub mod sweep;
pub mod target;
pub mod usage;
pub mod values;
pub mod verify;
pub mod workload;
