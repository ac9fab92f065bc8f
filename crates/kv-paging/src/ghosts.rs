//! Ghosts: the names of what was evicted last, to tell what a larger pool would have saved.
//!
//! A ring of evictions, and hash chains through it that end by themselves where the ring has been overwritten, as in an
//! LZ77 compressor. Only one content in eight, chosen by its name, is followed, and stands for eight: looking up each would
//! cost a third of all that the cache does (spatial sampling as in Waldspurger et al., "Efficient MRC construction with
//! SHARDS", 2015). Knows names only; a name of 64 bits may by chance be another's, which a figure can bear.

use alloc::vec;
use alloc::vec::Vec;

use crate::keys::BlockKey;

/// Contents that a followed one stands for.
pub(crate) const SAMPLING: u32 = 8;

#[derive(Clone, Copy)]
struct Ghost {
    name: u64,
    /// The eviction before it in the same chain; zero if none.
    before: u64,
    /// It has not come back yet.
    is_open: bool,
}

/// The last evictions of followed contents. They are numbered from one.
pub(crate) struct Ghosts {
    window: u64,
    /// Eviction `n` is at `n` modulo the length, a power of two of at least the window; empty if the window is.
    ring: Vec<Ghost>,
    /// The last eviction of each chain; as long as the ring.
    heads: Vec<u64>,
    /// Evictions in `[start, end)` are remembered if they are among the last `window`.
    start: u64,
    end: u64,
}

impl Ghosts {
    pub(crate) fn new(window: u32) -> Self {
        let len = if window == 0 { 0 } else { window.next_power_of_two() as usize };
        let ghost = Ghost { name: 0, before: 0, is_open: false };
        Self { window: u64::from(window), ring: vec![ghost; len], heads: vec![0; len], start: 1, end: 1 }
    }

    /// A content is lost to eviction.
    #[inline]
    pub(crate) fn add(&mut self, key: BlockKey) {
        if !self.follows(key) {
            return;
        }
        let (name, mask) = (key.as_u128() as u64, self.ring.len() - 1);
        let head = &mut self.heads[name as usize & mask];
        self.ring[self.end as usize & mask] = Ghost { name, before: *head, is_open: true };
        *head = self.end;
        self.end += 1;
    }

    /// A content is computed. Whether that is for want of memory: it is among the last evictions, and the first of its
    /// kind since then.
    #[inline]
    pub(crate) fn lay(&mut self, key: BlockKey) -> bool {
        if !self.follows(key) {
            return false;
        }
        let (name, mask) = (key.as_u128() as u64, self.ring.len() - 1);
        let oldest = self.start.max(self.end.saturating_sub(self.window));
        let mut at = self.heads[name as usize & mask];
        while at >= oldest {
            let ghost = &mut self.ring[at as usize & mask];
            if ghost.name == name {
                return core::mem::replace(&mut ghost.is_open, false);
            }
            at = ghost.before;
        }
        false
    }

    fn follows(&self, key: BlockKey) -> bool {
        // The highest bits: the index uses the lowest.
        key.as_u128().leading_zeros() >= SAMPLING.ilog2() && self.window > 0
    }

    /// What was evicted so far will not be asked for again.
    pub(crate) fn clear(&mut self) {
        self.start = self.end;
    }
}

#[cfg(test)]
mod tests {
    use super::{Ghosts, SAMPLING};
    use crate::{BlockKey, PrefixKeys, Salt};

    #[test]
    fn followed_evictions_are_regretted_once_and_not_for_ever() {
        let mut keys = PrefixKeys::new(&Salt::default(), 1);
        keys.extend(&[0; 200]);
        let is_followed = |key: &&BlockKey| Ghosts::new(1).follows(**key);
        let mut followed = keys.block_keys().iter().filter(is_followed).copied();
        let [first, second, third, fourth] = core::array::from_fn(|_| followed.next().expect("one key in eight"));
        let other = keys.block_keys().iter().find(|key| !is_followed(key)).expect("seven in eight");
        let num_followed = 4 + followed.count();
        assert!((200 / SAMPLING as usize / 2..200 / SAMPLING as usize * 2).contains(&num_followed), "{num_followed}");

        let mut ghosts = Ghosts::new(3);
        ghosts.add(*other);
        assert!(!ghosts.lay(*other), "it is not followed");
        assert!(!ghosts.lay(first), "it was not evicted");
        [first, second, third].into_iter().for_each(|key| ghosts.add(key));
        assert!(ghosts.lay(first));
        assert!(!ghosts.lay(first), "once for each eviction");
        ghosts.add(first);
        assert!(ghosts.lay(first), "once more after one more eviction");
        ghosts.add(fourth);
        assert!(!ghosts.lay(second), "more than three evictions ago");
        assert!(ghosts.lay(third));
        ghosts.clear();
        assert!(!ghosts.lay(fourth), "cleared");
        ghosts.add(fourth);
        assert!(ghosts.lay(fourth), "evicted since");
        assert!(
            !{
                let mut off = Ghosts::new(0);
                off.add(first);
                off.lay(first)
            },
            "off"
        );
    }
}
