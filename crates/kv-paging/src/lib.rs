//! Paged KV-cache bookkeeping: block pool, block tables, prefix cache and eviction, with no opinion on devices.
