//! Oarlock.

pub mod abort;
pub mod disk;
pub mod node;
