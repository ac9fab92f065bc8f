//! Figures of an engine at one moment. Plain numbers; knows nobody who reads them.

use std::time::Duration;

/// A snapshot of an engine: gauges first, then totals since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// Requests that wait for a slot or blocks.
    pub num_waiting: u32,
    /// Requests that hold a slot and blocks.
    pub num_running: u32,
    /// Blocks that hold nothing of use.
    pub blocks_free: u32,
    /// Blocks without an owner that keep a prefix, until their memory is needed.
    pub blocks_cached: u32,
    /// Blocks of running requests.
    pub blocks_active: u32,
    /// Blocks that were released and that a step in flight still names.
    pub blocks_in_transit: u32,
    /// All blocks of the pool.
    pub blocks_total: u32,

    /// Steps that were finished, failed ones included.
    pub steps: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Tokens computed: prompts, outputs and recomputed ones.
    pub computed_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Tokens looked up in the prefix cache when requests were admitted.
    pub prefix_query_tokens: u64,
    /// Of these, tokens that were found and not computed again.
    pub prefix_hit_tokens: u64,
    /// Of these, tokens whose blocks were copied back from the host.
    pub host_hit_tokens: u64,
    /// Requests that were sent back to the queue for want of blocks.
    pub preemptions: u64,
    /// Requests that ended, for whatever reason.
    pub finished_requests: u64,
    /// Time spent in steps. Measured by the driver; zero for a bare core.
    pub step_time: Duration,
    /// Of this, time spent inside the executor.
    pub executor_time: Duration,
}
