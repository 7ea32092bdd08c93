//! Oarlock.

pub mod net;
