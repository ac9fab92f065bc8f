//! A histogram with a bucket for each power of two: coarse, small, and never full. Knows no units.

use core::fmt;

const NUM_BUCKETS: usize = 32;

/// Counts of values by their order of magnitude.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: [u64; NUM_BUCKETS],
}

impl Histogram {
    /// The buckets that counted something, smallest first: the least value that belongs to it, and its count. A bucket
    /// ends where twice its least value begins (the one of 0 before 1); the last one, of 2^30, has no end.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let starts = (0..NUM_BUCKETS).map(|bucket| if bucket == 0 { 0 } else { 1 << (bucket - 1) });
        starts.zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn add(&mut self, value: u64) {
        let bucket = value.checked_ilog2().map_or(0, |log2| log2 as usize + 1);
        self.counts[bucket.min(NUM_BUCKETS - 1)] += 1;
    }
}

/// Least value and count of each bucket that counted something.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::Histogram;

    #[test]
    fn values_are_counted_by_power_of_two() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 7, 8, 1 << 30, u64::MAX] {
            histogram.add(value);
        }
        let expected = [(0, 1), (1, 1), (2, 2), (4, 2), (8, 1), (1 << 30, 2)];
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), expected);
        assert_eq!(histogram.count(), 9);
    }
}
