//! The Pagewise binary.
fn main() {}
