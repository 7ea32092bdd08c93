//! Oarlock.

pub mod disk;
pub mod net;
pub mod node;
