//! The limits of a machine, and what they allow: how long bytes and operations take at least (Williams, Waterman and
//! Patterson, 2009). Knows no op and no clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the limits of bytes are named; all others are of an arithmetic.
const MEMORY: &str = "memory";
const CACHE: &str = "cache";

/// What an op moves and computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Of what lies in memory: weights, keys and values.
    pub(super) memory_bytes: u64,
    /// Of what passes from op to op, in a cache if it can.
    pub(super) cache_bytes: u64,
    pub(super) operations: u64,
    /// The limit of the operations.
    pub(super) arithmetic: String,
}

/// Limits by their names, in bytes or operations a second.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct Roof {
    limits: BTreeMap<String, f64>,
}

/// The least time, and why it is no less.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    pub(super) ns: f64,
    pub(super) by: String,
}

impl Cost {
    pub(super) fn bytes(&self) -> u64 {
        self.memory_bytes + self.cache_bytes
    }
}

impl Roof {
    pub(super) fn of(limits: impl IntoIterator<Item = (String, f64)>) -> Self {
        Self { limits: limits.into_iter().filter(|(_, per_second)| *per_second > 0.0).collect() }
    }

    /// Bytes a second.
    pub(super) fn memory(&self) -> Option<f64> {
        self.limits.get(MEMORY).copied()
    }

    /// Operations a second of each arithmetic.
    pub(super) fn arithmetic(&self) -> impl Iterator<Item = (&str, f64)> {
        let limits = self.limits.iter().filter(|(name, _)| !is_of_bytes(name));
        limits.map(|(name, per_second)| (name.as_str(), *per_second))
    }

    /// What takes longest: the bytes of memory, those of caches, or the operations. Where no cache was measured, all bytes are
    /// memory's. `None` where another limit was not measured.
    pub(super) fn bound(&self, cost: &Cost) -> Option<Bound> {
        let ns = |name: &str, amount: u64| Some(amount as f64 / self.limits.get(name)? * 1e9);
        let computed = (ns(&cost.arithmetic, cost.operations)?, cost.arithmetic.as_str());
        let moved = match ns(CACHE, cost.cache_bytes) {
            Some(cached_ns) => [(ns(MEMORY, cost.memory_bytes)?, MEMORY), (cached_ns, CACHE)],
            None => [(ns(MEMORY, cost.bytes())?, MEMORY), (0.0, CACHE)],
        };
        let (ns, by) =
            moved.into_iter().fold(computed, |longest, next| if next.0 > longest.0 { next } else { longest });
        Some(Bound { ns, by: by.to_string() })
    }
}

/// Whether a limit is of bytes, not of operations.
pub(super) fn is_of_bytes(limit: &str) -> bool {
    [MEMORY, CACHE].contains(&limit)
}

/// A limit's name, to be read.
pub(super) fn spoken(limit: &str) -> String {
    limit.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_all_bounds() {
        let limits = |names: &[(&str, f64)]| Roof::of(names.iter().map(|(name, limit)| ((*name).to_string(), *limit)));
        let of_cpu = [("memory", 1e9), ("cache", 4e9), ("int8_dot", 10e9), ("f32_fma", 2e9)];
        let (roof, without_cache) = (limits(&of_cpu), limits(&[("memory", 1e9), ("bf16_product", 10e9)]));
        let cost = |memory_bytes, cache_bytes, operations, arithmetic: &str| Cost {
            memory_bytes,
            cache_bytes,
            operations,
            arithmetic: arithmetic.into(),
        };
        let check = |roof: &Roof, cost: Cost, ns, by: &str| {
            assert_eq!(roof.bound(&cost), Some(Bound { ns, by: by.into() }));
        };
        check(&roof, cost(100, 0, 10, "f32_fma"), 100.0, "memory");
        check(&roof, cost(100, 800, 10, "f32_fma"), 200.0, "cache");
        check(&roof, cost(100, 0, 1500, "int8_dot"), 150.0, "int8_dot");
        check(&roof, cost(100, 0, 1500, "f32_fma"), 750.0, "f32_fma");
        check(&without_cache, cost(100, 800, 10, "bf16_product"), 900.0, "memory");
        assert_eq!(roof.bound(&cost(1, 1, 1, "bf16_product")), None);
        assert_eq!(Roof::default().bound(&cost(1, 1, 1, "f32_fma")), None);
        assert_eq!(roof.memory(), Some(1e9));
        assert_eq!(roof.arithmetic().map(|(name, _)| name).collect::<Vec<_>>(), ["f32_fma", "int8_dot"]);
    }
}
