//! The planted bugs: what each is, and the one place that it changes. When that code is rewritten, its bug is planted anew.

use crate::planting::PlantedBug;

pub(super) const PLANTED: [PlantedBug; 20] = [
    PlantedBug {
        name: "a release is skipped",
        file: "crates/scheduler/src/scheduler.rs",
        sound: "self.kv.release(running.table, after.map(kv_step));",
        broken: "core::mem::forget((running.table, after));",
    },
    PlantedBug {
        name: "blocks are free while a step in flight names them",
        file: "crates/scheduler/src/scheduler.rs",
        sound: "self.kv.release(running.table, after.map(kv_step));",
        broken: "self.kv.release(running.table, after.map(kv_step).and(None));",
    },
    PlantedBug {
        name: "a failed step's promises are not withdrawn",
        file: "crates/kv-paging/src/promises.rs",
        sound: "            StepOutcome::Completed => {",
        broken: "            StepOutcome::Completed | StepOutcome::Failed => {",
    },
    PlantedBug {
        name: "whoever matched a withdrawn block goes on",
        file: "crates/scheduler/src/complete.rs",
        sound: "if self.kv.is_withdrawn(",
        broken: "if false && self.kv.is_withdrawn(",
    },
    PlantedBug {
        name: "a parent is evicted before its child",
        file: "crates/kv-paging/src/cache.rs",
        sound: "// From the end, so that blocks are cached, and later evicted, before the blocks of their prefix.",
        broken: "blocks.reverse();",
    },
    PlantedBug {
        name: "the salt is ignored",
        file: "crates/kv-paging/src/keys.rs",
        sound: "            salt: *salt,",
        broken: "            salt: Salt::default(),",
    },
    PlantedBug {
        name: "a prompt is matched whole",
        file: "crates/kv-paging/src/cache.rs",
        sound: "let all_but_one = &prompt[..prompt.len().saturating_sub(1)];",
        broken: "let all_but_one = prompt;",
    },
    PlantedBug {
        name: "a chunk is dropped",
        file: "crates/scheduler/src/plan.rs",
        sound: "running.num_planned = end;",
        broken: "running.num_planned = if samples { end } else { num_tokens - 1 };",
    },
    PlantedBug {
        name: "the token budget is exceeded",
        file: "crates/scheduler/src/plan.rs",
        sound: "plan.budget_tokens -= end - start;",
        broken: "plan.budget_tokens -= 1;",
    },
    PlantedBug {
        name: "a cancelled request is resurrected",
        file: "crates/scheduler/src/scheduler.rs",
        sound: "self.end(index, FinishReason::Cancelled, updates);",
        broken: "let usage = self.requests[index].usage;
            updates.push(Update::Finished { id, reason: FinishReason::Cancelled, usage });",
    },
    PlantedBug {
        name: "a result from before a preemption is taken",
        file: "crates/scheduler/src/running.rs",
        sound: "self.slots[slot.0 as usize].as_mut().filter(|running| running.admission == admission)",
        broken: "self.slots[slot.0 as usize].as_mut().filter(|running| running.admission >= admission)",
    },
    PlantedBug {
        name: "what a faulty row computed is shared",
        file: "crates/scheduler/src/complete.rs",
        sound: "self.kv.forget(row.first_block);",
        broken: "",
    },
    PlantedBug {
        name: "a fault fails whoever matched it",
        file: "crates/scheduler/src/complete.rs",
        sound: "if running.num_matched > 0 {",
        broken: "if false && running.num_matched > 0 {",
    },
    PlantedBug {
        name: "the copy back from the host is skipped",
        file: "crates/scheduler/src/plan.rs",
        sound: "            plan.batch.host_copies.push(host_copy(copy));
            if let TierCopy::Fetch { to, .. } = copy {",
        broken: "            if let TierCopy::Fetch { to, .. } = copy {",
    },
    PlantedBug {
        name: "a row reads what is still on its way from the host",
        file: "crates/scheduler/src/running.rs",
        sound: "self.fetched_by > fetched_through",
        broken: "self.fetched_by.is_some() && fetched_through.is_none()",
    },
    PlantedBug {
        name: "whoever matches what is on its way from the host does not wait",
        file: "crates/scheduler/src/plan.rs",
        sound: "let fetched_by = self.fetched_by(&table);",
        broken: "let fetched_by = self.fetched_by(&table).filter(|_| plan.shape.num_fetched_blocks > 0);",
    },
    PlantedBug {
        name: "a host block is reused while a copy reads it",
        file: "crates/kv-paging/src/host.rs",
        sound: "        self.blocks[block.at()].busy_end = busy_end;
        self.enter_transit(block, busy_end);",
        broken: "        let _ = (block, busy_end);",
    },
    PlantedBug {
        name: "a copy to the host counts before its step is done",
        file: "crates/kv-paging/src/host.rs",
        sound: "self.blocks[block.at()] = HostBlock { node: Some(node), busy_end, is_filled: false, rank };",
        broken: "self.blocks[block.at()] = HostBlock { node: Some(node), busy_end, is_filled: true, rank };",
    },
    PlantedBug {
        name: "a copy to the host by a failed step counts",
        file: "crates/kv-paging/src/promises.rs",
        sound: "                self.give_up_offloads();
",
        broken: "",
    },
    PlantedBug {
        name: "a deadline passes unseen",
        file: "crates/scheduler/src/deadline.rs",
        sound: "if check_at > now {",
        broken: "if check_at.after(core::time::Duration::from_millis(5)) > now {",
    },
];
