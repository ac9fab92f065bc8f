//! Micro-benchmarks and load generator.
