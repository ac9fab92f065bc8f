//! Chooses the next batch: admission, token budget, chunked prefill, preemption.
