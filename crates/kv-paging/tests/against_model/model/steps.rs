//! Promises, and what becomes of them when their step ends.

use std::collections::BTreeSet;

use kv_paging::{StepId, StepOutcome};

use super::{Block, Content, Model, NUM_REMEMBERED, Prefix, SAMPLING, Sequence, at};

impl Model {
    pub(super) fn promise(&mut self, sequence: usize) -> bool {
        let num_tokens = self.sequences[sequence].tokens.len();
        let Sequence { table, keys, .. } = &self.sequences[sequence];
        self.cache.promise(table, keys, num_tokens as u32, StepId(self.planned));
        let is_withdrawn = self.is_withdrawn(&self.sequences[sequence]);
        let sequence = &self.sequences[sequence];
        if !self.caching || sequence.is_stale || is_withdrawn {
            return true;
        }
        for (depth, block) in (1..=num_tokens / self.block_size).zip(sequence.table.blocks()) {
            self.clock += 1;
            let Block { content, is_forgotten, .. } = &self.blocks[at(*block)];
            if content.prefix().is_some() {
                continue;
            }
            if *content != Content::Private || *is_forgotten {
                break;
            }
            let prefix = (sequence.tenant, sequence.tokens[..depth * self.block_size].to_vec());
            if !self.is_in_pool(&prefix) && self.host_of(&prefix).is_none() {
                let mut last = self.evicted.iter_mut().rev().take(NUM_REMEMBERED as usize);
                let is_first = |(_, was_promised): &mut (Prefix, bool)| !std::mem::replace(was_promised, true);
                if last.find(|(lost, _)| *lost == prefix).is_some_and(is_first) {
                    self.num_regretted += u64::from(SAMPLING);
                }
            }
            let block = &mut self.blocks[at(*block)];
            block.content = Content::Pending { step: self.planned, prefix: Some(prefix) };
            block.promised_at = self.clock;
        }
        true
    }

    pub(super) fn retire(&mut self, completed: bool) -> bool {
        let step = self.next_to_retire;
        if step > self.planned {
            return false;
        }
        self.next_to_retire += 1;
        self.planned = self.planned.max(self.next_to_retire);
        let outcome = if completed { StepOutcome::Completed } else { StepOutcome::Failed };
        self.cache.retire(StepId(step), outcome);
        if completed {
            self.publish(step);
        } else {
            self.forget_host_if(|host| !host.is_filled);
            self.withdraw(step);
        }
        self.end_copies(step);
        let mut arrived: Vec<usize> = (0..self.blocks.len())
            .filter(|block| self.blocks[*block].busy == Some(step) && !self.is_held(*block))
            .collect();
        arrived.sort_by_key(|block| self.blocks[*block].dropped_at);
        for block in arrived {
            self.place(block);
        }
        true
    }

    fn publish(&mut self, step: u64) {
        let mut pending: Vec<usize> =
            (0..self.blocks.len()).filter(|block| self.blocks[*block].content.pending_step() == Some(step)).collect();
        pending.sort_by_key(|block| self.blocks[*block].promised_at);
        for block in pending {
            let Some(prefix) = self.blocks[block].content.prefix().cloned() else {
                self.blocks[block].content = Content::Private;
                continue;
            };
            for other in 0..self.blocks.len() {
                if self.blocks[other].is_cached && self.blocks[other].content.prefix() == Some(&prefix) {
                    self.forget(other);
                }
            }
            self.announced.insert(prefix.clone());
            if self.host_of(&prefix).is_none() && !self.host.is_empty() {
                self.to_offload.push(block);
            }
            self.blocks[block].content = Content::Published(prefix);
            self.blocks[block].full_end = step + 1;
        }
    }

    fn withdraw(&mut self, failed: u64) {
        let mut pending: Vec<usize> =
            (0..self.blocks.len()).filter(|block| self.blocks[*block].content.pending_step().is_some()).collect();
        pending.sort_by_key(|block| self.blocks[*block].promised_at);
        let mut fallen_prefixes = BTreeSet::new();
        for block in pending {
            let content = &self.blocks[block].content;
            let parent = |(tenant, tokens): &Prefix| (*tenant, tokens[..tokens.len() - self.block_size].to_vec());
            let stands = content.pending_step() != Some(failed)
                && content.prefix().is_some_and(|prefix| !fallen_prefixes.contains(&parent(prefix)));
            if !stands {
                fallen_prefixes.extend(content.prefix().cloned());
                self.blocks[block].content = Content::Withdrawn;
            }
        }
        self.unannounce();
    }
}
