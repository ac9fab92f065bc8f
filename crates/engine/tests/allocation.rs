//! Counts heap allocations: once the engine has seen its peak, a step of decodes allocates nothing.
#![allow(unsafe_code, reason = "a global allocator that counts can only be an unsafe impl")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use engine::{Command, EngineConfig, EngineCore, EngineRequest, Policy, PrefixKeys, Salt, Step};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, RequestClass, RequestId,
    RowOutput, SamplingParams, TenantId, Timestamp,
};

struct CountingAllocator;

thread_local! {
    /// Allocations of this thread; the test harness has threads of its own.
    static NUM_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator with the arguments as they came, so its guarantees are kept. Counting
// allocates nothing: the counter is initialised at compile time and has no destructor. `realloc` and `alloc_zeroed` count
// through `alloc`.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.set(NUM_ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const NUM_ROWS: u32 = 32;
const PROMPT_TOKENS: u32 = 40;
const OUTPUT_TOKENS: u32 = 100;

/// Answers each row that samples with the token 7.
#[derive(Default)]
struct InstantExecutor {
    output: BatchOutput,
}

impl Executor for InstantExecutor {
    fn limits(&self) -> ExecutorLimits {
        ExecutorLimits {
            block_size: 4,
            num_blocks: NUM_ROWS * (PROMPT_TOKENS + OUTPUT_TOKENS),
            num_host_blocks: 0,
            max_batch_tokens: NUM_ROWS * PROMPT_TOKENS,
            max_batch_rows: NUM_ROWS,
            max_model_len: 1000,
            vocab_size: 5000,
            max_top_logprobs: 0,
            max_steps_in_flight: 1,
        }
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        Vec::new()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        self.output.clear();
        for row in &batch.rows {
            let start = self.output.tokens.len() as u32;
            self.output.tokens.extend(row.sample.then_some(7));
            let end = self.output.tokens.len() as u32;
            self.output.rows.push(RowOutput { tokens: start..end, ..RowOutput::default() });
        }
        Ok(InFlight::new(batch.step))
    }

    fn finish(&mut self, _: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        std::mem::swap(output, &mut self.output);
        Ok(())
    }
}

fn submit(id: u64) -> Command {
    let mut prompt = PrefixKeys::with_capacity(&Salt::default(), 4, PROMPT_TOKENS + OUTPUT_TOKENS);
    prompt.extend(&(0..PROMPT_TOKENS).map(|token| token + id as u32).collect::<Vec<_>>());
    Command::Submit(Box::new(EngineRequest {
        id: RequestId(id),
        prompt,
        sampling: Arc::new(SamplingParams { max_tokens: OUTPUT_TOKENS, ..SamplingParams::default() }),
        class: RequestClass { tenant: TenantId(id % 3), priority: 0 },
        first_token_deadline: None,
        deadline: None,
    }))
}

#[test]
fn a_step_of_decodes_allocates_nothing() {
    for policy in [Policy::FirstCome, Policy::Fair] {
        let config = EngineConfig { policy, ..EngineConfig::default() };
        let mut core = EngineCore::new(Box::<InstantExecutor>::default(), config).unwrap();
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        // The first two rounds bring all arrays to their size; of the third, the steps between its first and its last
        // are counted.
        for round in 0..3 {
            inbox.extend((0..NUM_ROWS).map(|nth| submit(round * 1000 + u64::from(nth))));
            core.step(Timestamp(0), &mut inbox, &mut outbox);
            outbox.clear();
            let before = NUM_ALLOCATIONS.get();
            for _ in 2..OUTPUT_TOKENS {
                core.step(Timestamp(0), &mut inbox, &mut outbox);
                assert_eq!(outbox.len(), NUM_ROWS as usize);
                outbox.clear();
            }
            let num_allocations = NUM_ALLOCATIONS.get() - before;
            assert!(num_allocations > 0 || round > 0, "the counter counts");
            assert!(num_allocations == 0 || round < 2, "{policy:?}: {num_allocations} in {OUTPUT_TOKENS} steps");
            while core.step(Timestamp(0), &mut inbox, &mut outbox) != Step::Idle {}
            outbox.clear();
        }
    }
}
