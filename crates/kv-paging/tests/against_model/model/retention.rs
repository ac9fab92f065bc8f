//! Pins, retentions and the time that ends them.

use kv_paging::{LogicalTime, PinLimit, Retention, TokenId};

use super::{Content, Model, Prefix, at, keys_of};

impl Model {
    pub(super) fn pin(&mut self, tenant: u8, tokens: &[TokenId]) -> bool {
        let prefix = |depth| (tenant, tokens[..depth * self.block_size].to_vec());
        let is_published =
            |depth: &usize| self.blocks.iter().any(|block| block.content == Content::Published(prefix(*depth)));
        let depths = 1..=tokens.len() / self.block_size;
        let num_blocks = depths.take_while(is_published).count();
        let num_left = self.max_pinned - self.pins.iter().map(|pin| pin.blocks().len()).sum::<usize>();
        let result = self.cache.pin(&keys_of(tenant, tokens, self.block_size));
        if num_blocks > num_left {
            let expected = PinLimit { num_needed: num_blocks as u32, num_left: num_left as u32 };
            assert_eq!(result.map(|_| ()), Err(expected));
            return true;
        }
        let pin = result.expect("within the bound");
        assert_eq!((pin.blocks().len(), pin.num_tokens() as usize), (num_blocks, num_blocks * self.block_size));
        for (depth, block) in (1..).zip(pin.blocks()) {
            assert_eq!(self.blocks[at(*block)].content, Content::Published(prefix(depth)), "published and the same");
        }
        for block in pin.blocks() {
            self.reuse(at(*block));
        }
        self.pins.push(pin);
        true
    }

    pub(super) fn unpin(&mut self) -> bool {
        if self.pins.is_empty() {
            return false;
        }
        let pin = self.pins.remove(0);
        let blocks = pin.blocks().to_vec();
        self.cache.unpin(pin);
        self.drop_blocks(&blocks, 0, None, Some(Retention::Normal));
        true
    }

    /// Blocks whose retention ends become the most recently used ones: those of nearer buckets first, then as they were.
    pub(super) fn advance(&mut self, by: u64) -> bool {
        let old_now = self.now;
        let bucket = |retention: &Retention| match retention {
            Retention::High { until } if until.0 > old_now => Some((until.0 ^ old_now).ilog2()),
            _ => None,
        };
        self.now += by;
        self.cache.advance(LogicalTime(self.now));
        let is_over = |retention: &Retention| matches!(retention, Retention::High { until } if until.0 <= self.now);
        let mut ended: Vec<(u32, u64, usize)> = (0..self.blocks.len())
            .filter(|block| self.blocks[*block].is_cached)
            .filter_map(|block| {
                let retention = self.retentions.get(self.blocks[block].content.prefix()?)?;
                let bucket = bucket(retention).filter(|_| is_over(retention))?;
                Some((bucket, self.blocks[block].dropped_at, block))
            })
            .collect();
        ended.sort_unstable();
        let mut ended_in_host: Vec<(u32, usize, Prefix)> = (0..)
            .zip(&self.host_order)
            .filter_map(|(place, host)| {
                let prefix = self.host[*host].prefix.clone()?;
                let retention = self.retentions.get(&prefix)?;
                let bucket = bucket(retention).filter(|_| is_over(retention))?;
                Some((bucket, place, prefix))
            })
            .collect();
        ended_in_host.sort_unstable();
        for (_, _, block) in ended {
            self.clock += 1;
            self.blocks[block].dropped_at = self.clock;
        }
        for (_, _, prefix) in ended_in_host {
            self.touch_host(&prefix);
        }
        true
    }

    /// Lower ranks are evicted first; equal ones by last use.
    pub(super) fn rank(&self, prefix: Option<&Prefix>) -> u32 {
        let retention = prefix.and_then(|prefix| self.retentions.get(prefix));
        match retention.copied().unwrap_or(Retention::Low) {
            Retention::Low => 0,
            Retention::High { until } if until.0 > self.now => 2 + (until.0 ^ self.now).ilog2(),
            Retention::Normal | Retention::High { .. } => 1,
        }
    }

    /// A table that is released asks for this, and has used what it holds, in whichever block that is cached.
    pub(super) fn retain(&mut self, block: usize, retention: Retention) {
        let Some(prefix) = self.blocks[block].content.prefix().cloned() else { return };
        for other in &mut self.blocks {
            if other.is_cached && other.content.prefix() == Some(&prefix) {
                other.dropped_at = self.clock;
                other.used_end = self.next_to_retire;
            }
        }
        self.touch_host(&prefix);
        let asked = self.retentions.entry(prefix).or_insert(Retention::Low);
        *asked = retention.max(*asked);
    }
}
