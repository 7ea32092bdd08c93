//! Properties of the log's records: what goes in comes out, and damage is laid at the right door.

mod support;

use oarlock_codec::Record;
use oarlock_codec::record::{self, HEAD_BYTES, Records, Step};
use oarlock_types::GroupId;
use proptest::prelude::*;
use support::record;

proptest! {
    /// A row of records comes back as it went in.
    #[test]
    fn what_goes_in_comes_out(
        list in prop::collection::vec((record(), any::<bool>()), 0..8),
        packed: bool,
    ) {
        let mut row = Vec::new();
        for (record, moved) in &list {
            if let Record::Entries { group, entries } = record {
                record::encode_entries(*group, entries, packed, *moved, &mut row);
            } else {
                record::encode(record, *moved, &mut row);
            }
            prop_assert_eq!(row.len() % 8, 0);
        }
        let mut found: Vec<(Record, bool)> = Vec::new();
        let mut bytes = 0;
        for step in Records::new(&row) {
            let Step::Record(raw) = step else { panic!("the row is sound") };
            bytes += raw.size_bytes();
            found.push((raw.decode().expect("it was encoded here"), raw.moved));
        }
        prop_assert_eq!(found, list);
        prop_assert_eq!(bytes, row.len());
    }

    /// Of a changed byte nobody suffers but the record that it hit; if its head was hit, all that
    /// follow. The group that is named is the right one.
    #[test]
    fn a_changed_byte_costs_its_record(
        list in prop::collection::vec(record(), 1..6),
        place: prop::sample::Index,
        change in 1..=255_u8,
    ) {
        let mut row = Vec::new();
        let mut starts = Vec::new();
        for record in &list {
            starts.push(row.len());
            record::encode(record, false, &mut row);
        }
        let at = place.index(row.len());
        row[at] ^= change;
        let hit = starts.partition_point(|start| *start <= at) - 1;
        let in_head = at - starts[hit] < HEAD_BYTES;
        let steps: Vec<Step<'_>> = Records::new(&row).collect();
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Record(raw) => {
                    prop_assert_ne!(n, hit);
                    prop_assert_eq!(&raw.decode().expect("it is sound"), &list[n]);
                }
                Step::Bad { group } => {
                    prop_assert!(n == hit && !in_head);
                    prop_assert_eq!(*group, list[n].group());
                }
                Step::Unknown { .. } => prop_assert!(false, "what changed does not check"),
                Step::Lost => prop_assert!(n == hit && in_head),
            }
        }
        prop_assert_eq!(steps.len(), if in_head { hit + 1 } else { list.len() });
    }

    /// Rubbish does no harm.
    #[test]
    fn rubbish_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        prop_assert!(Records::new(&bytes).all(|step| !matches!(step, Step::Record(_))));
    }
}

/// What a newer build wrote is told from damage: a kind and a flag that this one does not have.
#[test]
fn a_record_of_an_unknown_kind_is_told_and_costs_no_other() {
    let mut row = Vec::new();
    for group in [3, 4, 5].map(GroupId) {
        record::encode(&Record::Destroy { group }, false, &mut row);
    }
    let seal = |record: &mut [u8], at: usize, value: u8| {
        record[at] = value;
        let crc = crc32fast::hash(&record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
    };
    seal(&mut row[..HEAD_BYTES], 16, 7);
    seal(&mut row[HEAD_BYTES..], 18, 2);
    let steps: Vec<Step<'_>> = Records::new(&row).collect();
    let [Step::Unknown { group: one }, Step::Unknown { group: two }, Step::Record(three)] =
        steps[..]
    else {
        panic!("{steps:?}")
    };
    assert_eq!([one, two, three.group], [3, 4, 5].map(GroupId));
}

/// Borrowed entries are archived as owned ones.
#[test]
fn borrowed_entries_have_the_same_bytes() {
    let entries: Vec<oarlock_raft::Entry> =
        Vec::from_iter((1..4).map(|index| oarlock_raft::Entry {
            at: oarlock_raft::LogPosition {
                term: oarlock_types::Term(1),
                index: oarlock_types::Index(index),
            },
            payload: oarlock_raft::Payload::Commands(bytes::Bytes::from_static(b"set")),
        }));
    let group = GroupId(3);
    let (mut owned, mut borrowed) = (Vec::new(), Vec::new());
    record::encode_entries(group, &entries, false, false, &mut borrowed);
    record::encode(&Record::Entries { group, entries }, false, &mut owned);
    assert_eq!(owned, borrowed);
}

/// What stands in the log beside the bytes of small entries is a fifth of what it was.
#[test]
fn packed_entries_are_short() {
    let group = GroupId(3);
    let entry = |index: u64| oarlock_raft::Entry {
        at: oarlock_raft::LogPosition {
            term: oarlock_types::Term(7),
            index: oarlock_types::Index(1_000_000 + index),
        },
        payload: oarlock_raft::Payload::Packed(bytes::Bytes::from(vec![b'x'; 150])),
    };
    for count in [1, 2, 10u64] {
        let entries: Vec<oarlock_raft::Entry> = (0..count).map(entry).collect();
        let length = |packed| {
            let mut row = Vec::new();
            record::encode_entries(group, &entries, packed, false, &mut row);
            row.len() - HEAD_BYTES - entries.len() * 150
        };
        assert!(length(true) * 4 <= length(false), "{} of {}", length(true), length(false));
    }
}
