//! Chooses the next batch: admission, token budget, chunked prefill, preemption by recompute, and the end of requests.
//!
//! Pure decisions over [`kv_paging`]: the same calls give the same batches. The crate knows no clock (only the `now` it
//! is told), no text, no device, no channel and no thread. [`Scheduler`] is driven by whoever owns the executor:
//!
//! ```text
//! submit ─► waiting ─admit─► running ─complete─► ended (exactly one Update::Finished)
//!              ▲                │
//!              └────preempt─────┘
//! ```
//!
//! # A step
//! [`Scheduler::plan`] fills a batch in this order, inside the token budget:
//! 1. *Decodes*: running requests of which one token is missing, in admission order, so that no long prompt delays them.
//! 2. *Chunks*: prompts under way (or recomputed ones), as much of each as the budget still holds.
//! 3. *Admissions*: the waiting request that the [`Policy`] puts first, if it fits whole next to what already runs and all
//!    are expected to find the blocks that they will grow into.
//!
//! A step with decodes takes as long as its prompts, and whoever decodes waits for that between two tokens. So it may have a
//! smaller budget for prompts than a step without.
//!
//! While requests wait, prompts of which more is left than the step can take are long: half of the step is held back for
//! them, and they are planned last, with that half and what the others leave. So a short prompt waits for no long one that
//! runs, and a long one goes on however many short ones come.
//!
//! A plan may be made while earlier steps are in flight. A decode row whose input is still on the device is planned as
//! `RowInput::LastSampled`; if the earlier step then ends the request, the row was an overrun and its result is dropped.
//!
//! # Running out of blocks
//! Running requests are ordered by priority, then admission. One takes blocks from those behind it, never from those
//! before it: the least entitled is preempted, its blocks are released, and it waits to be computed again, its output so
//! far included. That is the youngest of the lowest priority, under [`Policy::Fair`] one of the tenant that was served
//! most. A request that finds nobody behind it sits the step out. The first one therefore never loses its blocks, and
//! since no request is accepted that the whole pool could not hold, some request always ends. Blocks named by a step in
//! flight come back only when that step does, so a request also sits out rather than preempt more than it must.
//!
//! Computing again is a loss, so it is foreseen: outputs are taken to become as long as those that ended lately (as a
//! configured number before any has), or as long as they may, and a request is admitted only if the pool will hold all at the time when they
//! hold most, those gone that end before. Nor is it done over and over. Whoever comes back is spared, if there is another, until it
//! has 16 tokens more than it came with; and each preemption doubles the room to grow (in blocks, one at first) that running
//! requests must be left when another is admitted. Each request that ends takes one back.
//!
//! # Faults
//! A row whose logits are not numbers has a fault. It shows only where there are logits, so what a request matched may hold
//! the fault of another, which ended before it showed. So the prefix is forgotten, and a request that had matched some of it
//! is computed again, all by itself, before a second fault ends it. One that computed everything is ended at once.
//!
//! # The host's pool
//! With a pool of blocks in host memory, what a step has filled is copied there by the next one. So preemption has nothing
//! left to copy out, and neither has eviction: whoever waits, comes back, or shares a prefix with somebody long gone finds its
//! blocks there. When it is admitted, they are copied back, or computed again if that is quicker by what copied blocks and
//! prefilled tokens have cost lately. Each time that copies are refused they are thought a little cheaper, so that one is tried
//! and measured now and then.
//!
//! Copies run beside the steps. Whoever was admitted with some of its blocks on their way, fetched for it or for another
//! whom it matched, has its first row once the executor reports that they have arrived. If nothing else can be planned, a
//! step without rows waits for that. A step copies back a bounded number of blocks, and a last request's, so that the first of
//! many who come back at once begins soon.
//!
//! # Deadlines
//! A request may say by when it wants its first token and its end. [`Scheduler::expire`] ends it when that time has passed,
//! and also as soon as it cannot be met any more, judged by what prefilled tokens and decode steps cost lately, which the
//! owner of the executor tells ([`Scheduler::observe_step`]). A request that waits must have twice the time that its work
//! takes. Otherwise, once more comes than can be served, whoever has waited nearly too long is served next, comes too
//! late, and everybody after it as well.
//!
//! Requests that wait for their first token by a deadline are in a hurry. Each turn of one of them goes to the one (of the
//! same tenant and priority) that needs the fewest blocks which are not cached: when not all can begin in time, as many as
//! possible do, and it is the costly ones that are ended. Others take at most a hundred turns of a request, and those
//! without such a deadline take theirs themselves, so nobody is starved.
#![forbid(unsafe_code)]

mod complete;
mod config;
mod cost;
mod deadline;
mod forecast;
mod plan;
mod queue;
mod request;
mod running;
mod scheduler;
mod update;

pub use config::{ConfigError, EXPECTED_OUTPUT_TOKENS, SchedulerConfig};
pub use kv_paging::{PrefixCaching, PrefixKeys};
pub use plan::Planned;
pub use queue::Policy;
pub use request::{NewRequest, Refusal};
pub use scheduler::{Scheduler, SchedulerStats};
pub use update::Update;
