//! The shared vocabulary of Pagewise: ids, sampling parameters, batches, and the Executor trait.
