//! Oarlock.

pub mod disk;
pub mod node;
