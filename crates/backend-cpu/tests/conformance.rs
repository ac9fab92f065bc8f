//! The conformance suite on every precision and instruction path that this machine has.

use backend_cpu::{CpuBackend, CpuConfig, Instructions, Precision};
use model_format::TensorFormat;
use tensor_backend::conformance::{self, Options};
use tensor_backend::{Element, KvElement};

fn check(precision: Precision, instructions: Instructions, check: fn(&mut CpuBackend, &Options)) {
    if !instructions.available() {
        println!("skipped: this machine has no {instructions} instructions");
        return;
    }
    let config = CpuConfig { threads: Some(3), precision };
    let mut backend = CpuBackend::with_instructions(config, instructions).unwrap();
    let options = Options {
        formats: TensorFormat::ALL.to_vec(),
        kv_elements: vec![Element::F32.into(), Element::F16.into(), Element::BF16.into(), KvElement::Int8],
        float_tolerance: 2e-5,
        quantised_tolerance: if precision == Precision::Exact { 2e-5 } else { 0.05 },
        bfloat16_tolerance: if precision == Precision::Exact { 2e-5 } else { 0.01 },
        bfloat16_floor: if precision == Precision::Exact { 0.0 } else { 2.0_f64.powi(-56) },
        bitwise_rows: true,
    };
    check(&mut backend, &options);
}

macro_rules! topics {
    ($module:ident, $precision:ident, $instructions:expr, [$($topic:ident),* $(,)?]) => {
        mod $module {
            use super::*;

            $(#[test]
            fn $topic() {
                check(Precision::$precision, $instructions, conformance::$topic);
            })*
        }
    };
}

macro_rules! every_topic {
    ($module:ident, $instructions:expr) => {
        topics!(
            $module,
            Native,
            $instructions,
            [
                check_attention,
                check_block_copies,
                check_host_copies,
                check_buffers,
                check_choices,
                check_embeddings,
                check_faults,
                check_fed_tokens,
                check_gated_products,
                check_gather,
                check_memory,
                check_norms,
                check_products,
                check_branch_ends,
                check_rope_append,
                check_scores,
                check_special_blocks,
                check_special_values,
            ]
        );
    };
}

every_topic!(plain, Instructions::Plain);
every_topic!(avx2, Instructions::Avx2);
every_topic!(avx512, Instructions::Avx512);
every_topic!(avx512_bf16, Instructions::Avx512Bf16);
// Only weights depend on the precision.
topics!(
    exact,
    Exact,
    Instructions::best(),
    [check_embeddings, check_gated_products, check_memory, check_products, check_special_blocks, check_special_values,]
);
