//! Deterministic simulator of the engine: fake executor, virtual time, workloads, faults, checkers.
