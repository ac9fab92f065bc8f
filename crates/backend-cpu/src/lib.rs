//! Every op of the Backend trait on the CPU: a readable reference for each, and a fast one beside it.
