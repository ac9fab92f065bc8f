//! A suite that checks any [`Backend`] op by op against float64 arithmetic.
//!
//! A backend's tests call [`check_all`], or the topics one by one; a failed check panics and names the case. The cases are
//! data ([`shapes`]), so that all backends face the same ones. Outputs are poisoned with NaN before each op, rows beyond
//! those that take part must stay untouched, and KV blocks hold NaN wherever a row has no business to read.
//!
//! The references read as the definitions do. They share nothing with a backend but the stored formats, whose exact values
//! `model_format` gives.

mod attention;
mod fixture;
mod memory;
mod products;
mod reference;
mod rows;
mod sampling;
pub mod shapes;
mod special;

pub use attention::{check_attention, check_block_copies, check_host_copies, check_rope_append};
pub use memory::check_memory;
pub use products::{check_branch_ends, check_gated_products, check_products};
pub use rows::{check_buffers, check_embeddings, check_gather, check_norms};
pub use sampling::{check_choices, check_faults, check_fed_tokens, check_scores};
pub use special::{check_special_blocks, check_special_values};

use model_format::TensorFormat;

use crate::{Backend, KvElement};

/// What a backend promises, and how close it comes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Weight formats that it multiplies.
    pub formats: Vec<TensorFormat>,
    /// Elements of its KV pool.
    pub kv_elements: Vec<KvElement>,
    /// Largest error of an op in floating point, relative to the size of its results.
    pub float_tolerance: f64,
    /// Largest error of a product with weights of a block format, likewise: it may quantise activations.
    pub quantised_tolerance: f64,
    /// Largest error of a product with bfloat16 weights, or of attention over keys and values in bfloat16, likewise: it may
    /// round activations to that.
    pub bfloat16_tolerance: f64,
    /// Below this, elements of such a product may count as zeros.
    pub bfloat16_floor: f64,
    /// Whether a row's result must not depend on other rows or on the chunking by a single bit. Otherwise within the
    /// tolerances.
    pub bitwise_rows: bool,
}

/// Every check.
///
/// # Panics
/// If a check fails; the message names the case.
pub fn check_all<B: Backend>(backend: &mut B, options: &Options) {
    check_memory(backend, options);
    check_buffers(backend, options);
    check_embeddings(backend, options);
    check_gather(backend, options);
    check_norms(backend, options);
    check_products(backend, options);
    check_branch_ends(backend, options);
    check_gated_products(backend, options);
    check_special_values(backend, options);
    check_special_blocks(backend, options);
    check_rope_append(backend, options);
    check_attention(backend, options);
    check_block_copies(backend, options);
    check_host_copies(backend, options);
    check_choices(backend, options);
    check_scores(backend, options);
    check_faults(backend, options);
    check_fed_tokens(backend, options);
}
