//! The waiting requests in the order in which they are to be admitted. Knows no budget, no block and no time.
//!
//! Turns come in the policy's order. The turn of a request in a hurry, which must begin by some time, goes to the cheapest in
//! a hurry of its tenant and priority, so that most of them begin in time when not all can. A request's turn is taken only
//! so often, and whoever can wait takes its own, so nobody waits for ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serving_types::{RequestClass, TenantId};

use crate::request::RequestIndex;

/// Who comes first when not all can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Whoever came first.
    #[default]
    FirstCome,
    /// The higher priority, and among equals whoever came first.
    Priority,
    /// The higher priority; among equals the tenant that was served least; of its requests whoever came first. Service is
    /// counted in computed prompt tokens and twice the generated ones, and a tenant that comes back from a pause starts
    /// level with the others (virtual token counter; Sheng et al., OSDI 2024).
    Fair,
}

/// What a generated token counts for, in prompt tokens.
const OUTPUT_WEIGHT: u64 = 2;

/// Tenants that are remembered without a look at which of them still matter.
const MIN_PRUNED_TENANTS: usize = 1024;

/// The queue.
#[derive(Debug)]
pub(crate) struct WaitingQueue {
    policy: Policy,
    /// Those with requests, and those who were served more than whoever is next.
    tenants: BTreeMap<TenantId, Tenant>,
    /// The first request of each tenant that has one here. Service only grows, so an entry that was overtaken by it stands
    /// too early, and is put right when it comes to be the first.
    heads: BTreeSet<Head>,
    len: usize,
    /// Service of the tenant that was admitted last: where one that comes back starts.
    virtual_time: u64,
    prune_at: usize,
}

/// Turns of one request that others may take.
const MAX_TURNS_TAKEN: u32 = 100;

/// How long a request can wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Urgency {
    /// As long as it must.
    Patient,
    /// Not for ever. To begin, it will take so many blocks that are not cached.
    Hurried { num_new_blocks: u32 },
}

#[derive(Debug, Default)]
struct Tenant {
    service: u64,
    /// By priority and arrival: whose turn it is.
    waiting: BTreeMap<(Reverse<i32>, u64), (RequestIndex, Urgency)>,
    /// Those in a hurry by priority, cost and arrival: who takes their turns.
    hurried: BTreeMap<(Reverse<i32>, u32, u64), RequestIndex>,
    /// Its entry in `heads`.
    head: Option<Head>,
    /// Turns of the head that others took.
    num_turns_taken: u32,
}

/// In the order of admission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Head {
    priority: Reverse<i32>,
    service: u64,
    arrival: u64,
    tenant: TenantId,
}

impl WaitingQueue {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            tenants: BTreeMap::new(),
            heads: BTreeSet::new(),
            len: 0,
            virtual_time: 0,
            prune_at: MIN_PRUNED_TENANTS,
        }
    }

    /// What of a request's class counts.
    pub(crate) fn effective(&self, class: RequestClass) -> RequestClass {
        match self.policy {
            Policy::FirstCome => RequestClass::default(),
            Policy::Priority => RequestClass { tenant: TenantId::default(), ..class },
            Policy::Fair => class,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RequestIndex> + '_ {
        self.tenants.values().flat_map(|tenant| tenant.waiting.values().map(|(index, _)| *index))
    }

    /// Enters a request of this (effective) class at its place.
    pub(crate) fn insert(&mut self, class: RequestClass, arrival: u64, urgency: Urgency, index: RequestIndex) {
        if self.tenants.len() >= self.prune_at {
            let virtual_time = self.virtual_time;
            self.tenants.retain(|_, tenant| !tenant.waiting.is_empty() || tenant.service > virtual_time);
            self.prune_at = (2 * self.tenants.len()).max(MIN_PRUNED_TENANTS);
        }
        let tenant = self.tenants.entry(class.tenant).or_default();
        if tenant.waiting.is_empty() {
            tenant.service = tenant.service.max(self.virtual_time);
        }
        let priority = Reverse(class.priority);
        tenant.waiting.insert((priority, arrival), (index, urgency));
        if let Urgency::Hurried { num_new_blocks } = urgency {
            tenant.hurried.insert((priority, num_new_blocks, arrival), index);
        }
        self.len += 1;
        self.update_head(class.tenant);
    }

    /// Takes out the request that is next, for its turn or for that of the head.
    pub(crate) fn admit(&mut self, class: RequestClass, arrival: u64) {
        let tenant = self.tenants.get_mut(&class.tenant).expect("a tenant with a request is known");
        tenant.num_turns_taken += 1;
        self.remove(class, arrival);
    }

    /// Takes a request out.
    pub(crate) fn remove(&mut self, class: RequestClass, arrival: u64) {
        let tenant = self.tenants.get_mut(&class.tenant).expect("a tenant with a request is known");
        let priority = Reverse(class.priority);
        let (_, urgency) = tenant.waiting.remove(&(priority, arrival)).expect("the request waits");
        if let Urgency::Hurried { num_new_blocks } = urgency {
            tenant.hurried.remove(&(priority, num_new_blocks, arrival));
        }
        self.len -= 1;
        self.update_head(class.tenant);
    }

    /// Who is next.
    pub(crate) fn first(&mut self) -> Option<RequestIndex> {
        loop {
            let head = *self.heads.first()?;
            let tenant = &self.tenants[&head.tenant];
            if head.service == tenant.service {
                return Some(tenant.first(&head));
            }
            self.update_head(head.tenant);
        }
    }

    /// Counts prompt tokens that are computed for a request which was just admitted.
    pub(crate) fn charge_prompt(&mut self, tenant: TenantId, num_tokens: u32) {
        if self.policy == Policy::Fair {
            self.virtual_time = self.virtual_time.max(self.service(tenant));
            self.tenants.entry(tenant).or_default().service += u64::from(num_tokens);
        }
    }

    /// Counts a generated token.
    pub(crate) fn charge_output(&mut self, tenant: TenantId) {
        if self.policy == Policy::Fair {
            self.tenants.entry(tenant).or_default().service += OUTPUT_WEIGHT;
        }
    }

    /// What a tenant was served.
    pub(crate) fn service(&self, tenant: TenantId) -> u64 {
        self.tenants.get(&tenant).map_or(0, |tenant| tenant.service)
    }

    fn update_head(&mut self, id: TenantId) {
        let tenant = self.tenants.get_mut(&id).expect("the tenant is known");
        let first = tenant.waiting.first_key_value();
        let head =
            first.map(|(&(priority, arrival), _)| Head { priority, service: tenant.service, arrival, tenant: id });
        if head.map(|head| head.arrival) != tenant.head.map(|head| head.arrival) {
            tenant.num_turns_taken = 0;
        }
        if let Some(before) = std::mem::replace(&mut tenant.head, head) {
            self.heads.remove(&before);
        }
        self.heads.extend(head);
    }
}

impl Tenant {
    /// Who takes the turn of the request at the head.
    fn first(&self, head: &Head) -> RequestIndex {
        match self.waiting[&(head.priority, head.arrival)] {
            (_, Urgency::Hurried { .. }) if self.num_turns_taken < MAX_TURNS_TAKEN => {
                // The head is of the highest priority that waits, so the first one in a hurry is too.
                *self.hurried.first_key_value().expect("the head itself is in a hurry").1
            }
            (index, _) => index,
        }
    }
}
