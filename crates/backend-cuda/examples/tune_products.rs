//! Measures cuBLASLt's algorithms for the products of models, and prints the table that is committed as
//! `src/product/h100.txt`:
//!
//! ```text
//! tune_products MAX_DECODE_ROWS CONFIG.json... > h100.txt
//! ```
//!
//! What each shape gained goes to stderr.

use std::collections::BTreeSet;
use std::error::Error;

use backend_cuda::{CudaBackend, CudaConfig, WeightShape};
use model_format::ModelConfig;
use tensor_backend::Element;

/// Prompts in whole steps of the usual budgets; gated products are made in slices of 2,048 rows.
const PREFILL_ROWS: [usize; 4] = [512, 1024, 2048, 4096];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let max_rows = arguments.next().ok_or("the most decode rows are missing")?.parse()?;
    let mut backend = CudaBackend::open(&CudaConfig::default())?;
    let rows: Vec<usize> = CudaBackend::decode_sizes(max_rows).into_iter().chain(PREFILL_ROWS).collect();
    println!("# Made by tune_products; see docs/kernels/products.md.\n{}", backend.tuning_head());
    let mut seen = BTreeSet::new();
    for path in arguments {
        let config = ModelConfig::from_json(&std::fs::read_to_string(&path)?)?;
        for weight in weights(&config) {
            for &rows in rows.iter().filter(|rows| weight.out_element != Element::F32 || **rows <= 256) {
                if !seen.insert((rows, weight.n, weight.k)) {
                    continue;
                }
                let tuned = backend.tune(weight, rows)?;
                println!("{}", tuned.line);
                let us = |duration: std::time::Duration| duration.as_secs_f64() * 1e6;
                let (before, after) = (us(tuned.heuristic), us(tuned.best));
                eprintln!("{rows:>5} x {:>6} x {:>5}: {before:8.1} us, {after:8.1} us", weight.n, weight.k);
            }
        }
    }
    Ok(())
}

/// The weights of a layer, and the output head.
fn weights(config: &ModelConfig) -> [WeightShape; 5] {
    let &ModelConfig { hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, vocab_size, .. } = config;
    let shape = |n: u32, k: u32| WeightShape { n: n as usize, k: k as usize, out_element: Element::BF16 };
    [
        shape((num_heads + 2 * num_kv_heads) * head_dim, hidden_size),
        shape(hidden_size, num_heads * head_dim),
        shape(2 * intermediate_size, hidden_size),
        shape(hidden_size, intermediate_size),
        WeightShape { out_element: Element::F32, ..shape(vocab_size, hidden_size) },
    ]
}
