//! The ops of the `Backend` trait, one file a family. They know shapes and threads; the inner loops are `simd`'s.
#![allow(clippy::needless_pass_by_value, reason = "an op consumes its params: they borrow its output")]

mod attention;
mod embed;
mod norm;
mod product;
mod rope;
mod sample;

pub(crate) use attention::paged_attention;
pub(crate) use embed::{embed, gather_rows};
pub(crate) use norm::{add_rms_norm, rms_norm};
pub(crate) use product::{ProductScratch, gated_matmul, matmul};
pub(crate) use rope::rope_append;
pub use sample::{Sampler, Samples};
pub(crate) use sample::{read_samples, sample};
