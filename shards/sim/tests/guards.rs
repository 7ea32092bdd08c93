//! x y z placeholder file
#[test]
fn nothing() {}
