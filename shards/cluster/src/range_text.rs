//! A range's descriptor as a line of JSON: in the meta group and in a node's copy of the map. Few,
//! read by people too, and open to what later versions add. Pure.

use oarlock_types::range_map::Range;
use oarlock_types::{CoreAddr, CoreId, GroupId, Index, NodeId, RangeDescriptor, RangeEpoch};
use serde::{Deserialize, Serialize};

use crate::hex;

/// The fields, in their order. Keys are hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct Text {
    group: u64,
    epoch: u64,
    /// Absent in what older versions wrote.
    #[serde(default, skip_serializing_if = "is_zero")]
    configured: u64,
    start: String,
    end: Option<String>,
    /// Pairs of a node and its core.
    replicas: Vec<(u64, u16)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The text of a range.
#[must_use]
pub fn write(range: &Range<'_>) -> String {
    let text = Text {
        group: range.group.get(),
        epoch: range.epoch.get(),
        configured: range.configured.get(),
        start: hex::encode(range.start),
        end: range.end.map(hex::encode),
        replicas: range.replicas.iter().map(|at| (at.node.get(), at.core.get())).collect(),
    };
    serde_json::to_string(&text).expect("invariant: numbers and texts")
}

/// The descriptor that a text stands for; `None` if it is none.
#[must_use]
pub fn read(text: &[u8]) -> Option<RangeDescriptor> {
    let text: Text = serde_json::from_slice(text).ok()?;
    let end = match text.end {
        Some(end) => Some(hex::decode(&end)?.into()),
        None => None,
    };
    let replica = |(node, core)| CoreAddr::new(NodeId(node), CoreId(core));
    Some(RangeDescriptor {
        group: GroupId(text.group),
        epoch: RangeEpoch(text.epoch),
        configured: Index(text.configured),
        start: hex::decode(&text.start)?.into(),
        end,
        replicas: text.replicas.into_iter().map(replica).collect(),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_range_comes_back_as_it_was_written() {
        let at = |node, core| CoreAddr::new(NodeId(node), CoreId(core));
        let mut range = RangeDescriptor {
            group: GroupId(7),
            epoch: RangeEpoch(3),
            configured: Index(0),
            start: Bytes::from_static(b"a\0\xff"),
            end: Some(Bytes::from_static(b"b")),
            replicas: vec![at(1, 0), at(3, 2)],
        };
        let line = r#"{"group":7,"epoch":3,"start":"6100ff","end":"62","replicas":[[1,0],[3,2]]}"#;
        assert_eq!(write(&range.as_range()), line);
        assert_eq!(read(line.as_bytes()).as_ref(), Some(&range));
        (range.start, range.end) = (Bytes::new(), None);
        assert_eq!(read(write(&range.as_range()).as_bytes()), Some(range));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_what_is_no_range_is_none() {
        let more = r#"{"group":7,"epoch":3,"start":"","end":null,"replicas":[],"load":1}"#;
        assert!(read(more.as_bytes()).is_some());
        for wrong in
            ["", "{}", "[]", r#"{"group":7,"epoch":3,"start":"6","end":null,"replicas":[]}"#]
        {
            assert_eq!(read(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
