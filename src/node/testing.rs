//! What tests of the node's parts share.

#![allow(clippy::unwrap_used, reason = "made for tests")]

use bytes::Bytes;
use oarlock_types::{GroupId, RangeDescriptor, RangeMap};

/// The halves into which the range of `key` splits there; the right one is a new group's.
pub(crate) fn split(map: &RangeMap, key: &'static [u8], child: u64) -> Vec<RangeDescriptor> {
    let parent = map.find(key).unwrap().to_descriptor();
    let (at, epoch) = (Bytes::from_static(key), parent.epoch.next());
    let left = RangeDescriptor { end: Some(at.clone()), epoch, ..parent.clone() };
    let right = RangeDescriptor { group: GroupId(child), start: at, epoch, ..parent };
    vec![left, right]
}
