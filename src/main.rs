//! oarlock
fn main() {}
