//! The Backend trait: buffers, weights and the ops that models use, with one conformance suite.
