//! Where each group's range starts: the way from a group's id to its place in the map. Groups are
//! numbered one after the other, so neighbours share a page, and a change copies one page.

use super::Shared;
use crate::{FastMap, GroupId};

/// Groups of one page.
const PAGE: u64 = 64;

type Page = Vec<Option<Box<[u8]>>>;

/// The starts of all ranges by group. Maps share the pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    pages: FastMap<u64, Shared<Page>>,
}

fn place(group: GroupId) -> (u64, usize) {
    (group.get() / PAGE, usize::try_from(group.get() % PAGE).expect("invariant: below a page"))
}

impl Groups {
    pub(super) fn start(&self, group: GroupId) -> Option<&[u8]> {
        let (page, place) = place(group);
        self.pages.get(&page)?.get(place)?.as_deref()
    }

    pub(super) fn set(&mut self, group: GroupId, start: Option<&[u8]>) {
        let (page, place) = place(group);
        let page = self.pages.entry(page).or_default();
        let slots = Shared::make_mut(page);
        if slots.len() <= place {
            slots.reserve_exact(place + 1 - slots.len());
            slots.resize(place + 1, None);
        }
        slots[place] = start.map(Box::from);
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // What the allocator gives for a key is a multiple of 16.
        let of_page = |page: &Shared<Page>| {
            let keys = page.iter().flatten().map(|key| key.len().next_multiple_of(16));
            page.capacity() * size_of::<Option<Box<[u8]>>>()
                + size_of::<Page>()
                + keys.sum::<usize>()
        };
        self.pages.capacity() * size_of::<(u64, Shared<Page>)>()
            + self.pages.values().map(of_page).sum::<usize>()
    }
}
