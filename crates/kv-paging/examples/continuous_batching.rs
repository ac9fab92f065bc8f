//! A serving loop to start from: continuous batching with prefix hits, preemption, and one failing step.
//!
//! The device is a fake. Its KV memory keeps, for each slot, a hash of all tokens up to there, and every row checks every
//! slot that it reads. The next token is a function of that hash, so a wrong block would change the answers.
//!
//! ```text
//! cargo run -p kv-paging --example continuous_batching
//! ```

use std::collections::VecDeque;

use kv_paging::{BlockTable, KvCache, KvCacheConfig, PrefixKeys, Salt, StepId, StepOutcome, TokenId, Usage};

const BLOCK_SIZE: u32 = 4;
const NUM_BLOCKS: u32 = 24;
const MAX_OUTPUT_TOKENS: u32 = 12;

/// A request that waits, with its tokens so far.
struct Request {
    name: &'static str,
    keys: PrefixKeys,
    num_prompt_tokens: u32,
}

/// A request that runs. `keys` has all tokens; the last `num_tokens - num_computed` have no KV yet.
struct Running {
    request: Request,
    table: BlockTable,
    num_computed: u32,
}

/// KV memory, one number a slot.
struct Device {
    slots: Vec<u64>,
}

impl Device {
    /// Computes the row's new tokens, reading all before, and returns the next token.
    fn run(&mut self, tokens: &[TokenId], table: &BlockTable, start: u32) -> TokenId {
        let mut prefix_hash = 0_u64;
        for (position, token) in (0..).zip(tokens) {
            prefix_hash = (prefix_hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            let block = table.blocks()[(position / BLOCK_SIZE) as usize];
            let slot = &mut self.slots[(block.index() * BLOCK_SIZE + position % BLOCK_SIZE) as usize];
            if position >= start {
                *slot = prefix_hash;
            }
            assert_eq!(*slot, prefix_hash, "the slot holds another prefix");
        }
        (prefix_hash >> 40) as TokenId % 1000
    }
}

struct Server {
    cache: KvCache,
    device: Device,
    waiting: VecDeque<Request>,
    running: Vec<Running>,
    step: StepId,
}

impl Server {
    /// Running rows go first; the youngest is preempted while there is no room. Otherwise, admits while it fits.
    fn plan(&mut self) {
        let num_running = self.running.len();
        let mut rows = VecDeque::from(std::mem::take(&mut self.running));
        while let Some(mut row) = rows.pop_front() {
            if self.cache.grow(&mut row.table, row.request.keys.num_tokens()).is_ok() {
                self.promise(&row);
                self.running.push(row);
                continue;
            }
            rows.push_front(row);
            let youngest = rows.pop_back().expect("the row that found no room, or a younger one");
            println!("step {:2}: {} is preempted", self.step.0, youngest.request.name);
            self.cache.release(youngest.table, None);
            self.waiting.push_front(youngest.request);
        }
        if self.running.len() == num_running {
            self.admit();
        }
        assert!(!self.running.is_empty(), "one request alone always fits");
    }

    fn admit(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            let admission = self.cache.admit(&request.keys, request.keys.tokens());
            let mut table = admission.table;
            if self.cache.grow(&mut table, request.keys.num_tokens()).is_err() {
                self.cache.release(table, None);
                self.waiting.push_front(request);
                break;
            }
            println!("step {:2}: {} starts, {} tokens cached", self.step.0, request.name, admission.num_cached_tokens);
            let row = Running { request, table, num_computed: admission.num_cached_tokens };
            self.promise(&row);
            self.running.push(row);
        }
    }

    fn promise(&mut self, row: &Running) {
        self.cache.promise(&row.table, &row.request.keys, row.request.keys.num_tokens(), self.step);
    }

    /// Runs the planned rows and retires the step. This device finishes a step before the next is planned, so nothing is
    /// released after a step; one that works beside the host would name `self.step` in `release`.
    fn run(&mut self) {
        let mut rows = std::mem::take(&mut self.running);
        for row in &mut rows {
            let next = self.device.run(row.request.keys.tokens(), &row.table, row.num_computed);
            row.num_computed = row.request.keys.num_tokens();
            row.request.keys.extend(&[next]);
        }
        self.cache.retire(self.step, StepOutcome::Completed);
        for row in rows {
            let tokens = row.request.keys.tokens();
            let output = &tokens[row.request.num_prompt_tokens as usize..];
            if output.len() < MAX_OUTPUT_TOKENS as usize {
                self.running.push(row);
            } else {
                println!("step {:2}: {} is done: {output:?}", self.step.0, row.request.name);
                self.cache.release(row.table, None);
            }
        }
    }

    /// The device loses the step: what its rows wrote cannot be used, so they start again.
    fn lose_step(&mut self) {
        println!("step {:2} fails", self.step.0);
        self.cache.retire(self.step, StepOutcome::Failed);
        for row in std::mem::take(&mut self.running).into_iter().rev() {
            self.cache.release(row.table, None);
            self.waiting.push_front(row.request);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server {
        cache: KvCache::new(KvCacheConfig::new(NUM_BLOCKS, BLOCK_SIZE))?,
        device: Device { slots: vec![0; (NUM_BLOCKS * BLOCK_SIZE) as usize] },
        waiting: VecDeque::new(),
        running: Vec::new(),
        step: StepId(0),
    };
    let system_prompt: Vec<TokenId> = (100..122).collect();
    for (name, tenant, question) in [
        ("anna/1", 1, &[1, 2, 3][..]),
        ("anna/2", 1, &[4, 5, 6, 7, 8]),
        ("bert/1", 2, &[1, 2, 3]),
        ("anna/3", 1, &[1, 2, 3]),
        ("bert/2", 2, &[9]),
    ] {
        let mut keys = PrefixKeys::new(&Salt::from_bytes([tenant; 32]), BLOCK_SIZE);
        keys.extend(&system_prompt);
        keys.extend(question);
        server.waiting.push_back(Request { name, num_prompt_tokens: keys.num_tokens(), keys });
    }
    while !server.waiting.is_empty() || !server.running.is_empty() {
        server.plan();
        if server.step == StepId(3) {
            server.lose_step();
        } else {
            server.run();
        }
        server.cache.check_invariants();
        server.step = StepId(server.step.0 + 1);
    }
    let Usage { free, cached, total, .. } = server.cache.usage();
    println!("{free} blocks are free and {cached} cached, of {total}");
    println!("{:#?}", server.cache.stats());
    assert_eq!(free + cached, total, "no block is lost");
    Ok(())
}
