//! Benchmarks by a fixed number of iterations, for tools that count what a processor does instead of how long it takes:
//! `micro counted` names them, `micro counted NAME ITERATIONS` runs one. Knows no such tool.

use crate::{cache, product, serving};

/// Does something so many times.
type Benchmark = fn(u64);

/// All of them do the same work in each iteration, or at least in every sixteen.
const COUNTED: [(&str, Benchmark); 9] = [
    ("kv-paging/take+give of a block", cache::take_and_give),
    ("kv-paging/admit+promise+release 4,096 tokens, cold, evicting", cache::admit_evicting),
    ("kv-paging/admit+promise+release 4,096 tokens, full hit", cache::admit_cached),
    ("kv-paging/hash 4,096 tokens in blocks of 16", cache::hash),
    ("scheduler/plan+complete 256 decodes, 0 waiting", |num_steps| {
        serving::plan_steps(256, 0, num_steps);
    }),
    ("scheduler/plan+complete 256 decodes, 1000 waiting", |num_steps| {
        serving::plan_steps(256, 1000, num_steps);
    }),
    ("engine/step of 16 decodes", |num_steps| {
        serving::engine_steps(16, num_steps);
    }),
    ("engine/step of 256 decodes", |num_steps| {
        serving::engine_steps(256, num_steps);
    }),
    // With the vector instructions that the tool knows, which may be older than the machine's.
    ("backend-cpu/product of 4 rows, Q4_1, 1536 to 576, one thread", product::multiply),
];

/// Does what the arguments behind `counted` say.
///
/// # Panics
/// If they name no benchmark and no number.
pub(crate) fn run(arguments: &[String]) {
    match arguments {
        [] => COUNTED.iter().for_each(|(name, _)| println!("{name}")),
        [name, iterations] => {
            let (_, benchmark) = COUNTED.iter().find(|(known, _)| known == name).expect("a known benchmark");
            benchmark(iterations.parse().expect("a number of iterations"));
        }
        _ => panic!("counted [NAME ITERATIONS]"),
    }
}
