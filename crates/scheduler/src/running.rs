//! The running requests: what each holds and where its computation stands, at its row slot, and their order. Small and apart
//! from the rest of a request, because every step passes over all of it. Knows no queue.

use core::cmp::Reverse;
use core::ops::{Index, IndexMut};

use kv_paging::{BlockId, BlockTable};
use serving_types::{RequestClass, RowSlot, StepId, TokenId};

use crate::SchedulerConfig;
use crate::forecast::{Growing, OutputLengths};
use crate::request::{Request, RequestIndex};

/// Tokens that a request which comes back may generate before it is the first choice for preemption again.
const SPARED_TOKENS: u32 = 16;

/// What a running request holds.
///
/// ```text
/// tokens      0 ............. prompt_tokens ......... num_tokens ........ max_len
///             [ prompt       )[ output that was seen  )
/// KV          [ num_matched  )
///             [ num_computed )[ in flight  )num_planned
/// index       [ num_promised )                            in full blocks
/// ```
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) request: RequestIndex,
    /// Which admission of all this is: unique, and rising.
    pub(crate) admission: u64,
    pub(crate) class: RequestClass,
    /// It was preempted before, and is spared until it has so many tokens.
    pub(crate) spared_until: u32,
    pub(crate) table: BlockTable,
    /// The table's first.
    pub(crate) first_block: BlockId,
    /// Tokens that are known; those of the request.
    pub(crate) num_tokens: u32,
    /// The last of them.
    pub(crate) last_token: TokenId,
    /// Of these, tokens of the prompt.
    pub(crate) num_prompt_tokens: u32,
    /// Length of the context at which the request ends.
    pub(crate) max_len: u32,
    /// Positions that it matched and never computed.
    pub(crate) num_matched: u32,
    /// Positions whose KV is there or will be once the steps in flight are done. The next row starts here.
    pub(crate) num_planned: u32,
    /// Positions whose KV is there: those of completed steps and of matched blocks.
    pub(crate) num_computed: u32,
    /// Positions whose blocks were offered to the prefix index; whole blocks.
    pub(crate) num_promised: u32,
    /// Rows in flight that sample: tokens which exist, but are not known yet.
    pub(crate) num_pending: u32,
    /// The last step with a row of this request.
    pub(crate) last_step: Option<StepId>,
    /// The step whose copies bring the last of what it matched, if they were under way when it was admitted.
    pub(crate) fetched_by: Option<StepId>,
}

impl Running {
    /// A request whose first `num_cached` positions are in `table` already, which has room for its first row.
    pub(crate) fn new(
        index: RequestIndex,
        request: &Request,
        admission: u64,
        table: BlockTable,
        num_cached: u32,
    ) -> Self {
        Self {
            request: index,
            admission,
            class: request.class,
            spared_until: if request.usage.preemptions > 0 { request.num_tokens() + SPARED_TOKENS } else { 0 },
            first_block: table.blocks()[0],
            table,
            num_tokens: request.num_tokens(),
            last_token: *request.tokens().last().expect("a request has a token"),
            num_prompt_tokens: request.num_prompt_tokens(),
            max_len: request.max_len,
            num_matched: num_cached,
            num_planned: num_cached,
            num_computed: num_cached,
            num_promised: num_cached,
            num_pending: 0,
            last_step: None,
            fetched_by: None,
        }
    }

    /// Whether some of what it matched is still on its way, as of the fetches that have arrived.
    pub(crate) fn awaits_copies(&self, fetched_through: Option<StepId>) -> bool {
        self.fetched_by > fetched_through
    }

    /// Whether it came back a short while ago.
    pub(crate) fn is_spared(&self) -> bool {
        self.num_tokens < self.spared_until
    }

    /// Whether one token is missing, and not more.
    pub(crate) fn is_decoding(&self) -> bool {
        self.num_planned + 1 == self.num_tokens + self.num_pending
    }

    /// Whether the token that a decode starts from can be named in this step. With a sample in flight it is that very
    /// sample. The device holds it for one step only, and the request may end with it.
    pub(crate) fn has_input(&self, step: StepId) -> bool {
        self.num_pending == 0
            || (self.last_step.is_some_and(|last| last.0 + 1 == step.0)
                && self.num_tokens + self.num_pending < self.max_len)
    }

    /// Known tokens that no row has brought yet, if there are two or more: less is a decode.
    pub(crate) fn num_unplanned(&self) -> Option<u32> {
        self.num_tokens.checked_sub(self.num_planned).filter(|&num_tokens| num_tokens > 1)
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.table.blocks().len() as u32
    }

    /// What is expected of it. Blocks that it matched need not come back when it ends: others may share them.
    pub(crate) fn growing(&self, config: &SchedulerConfig, lengths: &OutputLengths) -> Growing {
        let num_own_tokens = self.num_tokens - self.num_matched;
        Growing {
            gain: lengths
                .expected_gain(self.num_tokens - self.num_prompt_tokens, self.max_len - self.num_prompt_tokens),
            num_blocks: config.blocks_for(num_own_tokens),
        }
    }
}

/// All running requests. Each has one row slot.
#[derive(Debug)]
pub(crate) struct RunningRequests {
    /// By slot.
    slots: Vec<Option<Running>>,
    vacant: Vec<RowSlot>,
    /// The most entitled first.
    order: Vec<Place>,
}

/// One place in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    priority: Reverse<i32>,
    admission: u64,
    slot: RowSlot,
}

impl RunningRequests {
    pub(crate) fn new(num_slots: u32) -> Self {
        Self {
            slots: (0..num_slots).map(|_| None).collect(),
            vacant: (0..num_slots).rev().map(RowSlot).collect(),
            order: Vec::with_capacity(num_slots as usize),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.vacant.is_empty()
    }

    /// Who is at this place of the order.
    pub(crate) fn slot_at(&self, place: usize) -> RowSlot {
        self.order[place].slot
    }

    /// The slots in order.
    pub(crate) fn slots(&self) -> impl Iterator<Item = RowSlot> + '_ {
        self.order.iter().map(|place| place.slot)
    }

    /// The slots behind a place of the order, the last one first.
    pub(crate) fn slots_behind(&self, place: usize) -> impl Iterator<Item = RowSlot> + '_ {
        self.order[place + 1..].iter().rev().map(|place| place.slot)
    }

    /// Who has had this slot since that admission; `None` if it was left since.
    pub(crate) fn get_mut(&mut self, slot: RowSlot, admission: u64) -> Option<&mut Running> {
        self.slots[slot.0 as usize].as_mut().filter(|running| running.admission == admission)
    }

    /// Gives a request a slot and its place in the order.
    ///
    /// # Panics
    /// If all slots are taken.
    pub(crate) fn insert(&mut self, running: Running) -> RowSlot {
        let slot = self.vacant.pop().expect("there are as many slots as running requests may be");
        let place = Place { priority: Reverse(running.class.priority), admission: running.admission, slot };
        // At the end, if priorities are equal.
        self.order.insert(self.order.partition_point(|other| *other < place), place);
        self.slots[slot.0 as usize] = Some(running);
        slot
    }

    /// Takes the slot back.
    pub(crate) fn remove(&mut self, slot: RowSlot) -> Running {
        let running = self.slots[slot.0 as usize].take().expect("the slot has an owner");
        let place = Place { priority: Reverse(running.class.priority), admission: running.admission, slot };
        let place = self.order.binary_search(&place);
        self.order.remove(place.expect("a running request has its place"));
        self.vacant.push(slot);
        running
    }

    /// Panics if a slot is lost or has two owners.
    pub(crate) fn check_invariants(&self) {
        assert!(self.order.is_sorted_by(|one, next| one < next), "the order is that of priority, then admission");
        for place in &self.order {
            assert_eq!(self[place.slot].admission, place.admission, "{} is at its place", place.slot);
        }
        let num_owners = self.slots.iter().flatten().count();
        assert_eq!(num_owners, self.order.len(), "a slot has two owners or is not in order");
        assert_eq!(num_owners + self.vacant.len(), self.slots.len(), "a slot was lost");
        assert!(self.vacant.iter().all(|slot| self.slots[slot.0 as usize].is_none()), "a vacant slot has an owner");
    }
}

impl Index<RowSlot> for RunningRequests {
    type Output = Running;

    fn index(&self, slot: RowSlot) -> &Running {
        self.slots[slot.0 as usize].as_ref().expect("the slot has an owner")
    }
}

impl IndexMut<RowSlot> for RunningRequests {
    fn index_mut(&mut self, slot: RowSlot) -> &mut Running {
        self.slots[slot.0 as usize].as_mut().expect("the slot has an owner")
    }
}
