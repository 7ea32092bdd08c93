//! The verbs.

pub mod bench;
pub mod demo;
pub mod status;
pub mod table;
