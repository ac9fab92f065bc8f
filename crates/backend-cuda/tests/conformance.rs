//! The conformance suite on the GPU. Without a GPU or the kernel library each test says so and is skipped; with
//! `PAGEWISE_REQUIRE_CUDA=1` it fails instead.

use backend_cuda::{CudaBackend, CudaConfig};
use model_format::TensorFormat;
use tensor_backend::conformance::{self, Options};
use tensor_backend::{Backend, Element};

/// A backend, if this machine has what it takes.
fn backend(element: Element) -> Option<CudaBackend> {
    match CudaBackend::open(&CudaConfig { element, ..CudaConfig::default() }) {
        Ok(backend) => Some(backend),
        Err(error) => {
            assert!(std::env::var_os("PAGEWISE_REQUIRE_CUDA").is_none_or(|value| value != "1"), "{error:?}");
            println!("skipped: {error}");
            None
        }
    }
}

/// bfloat16 has 8 significant bits and half precision 11; sums are in f32, and probabilities are rounded once more.
fn options(element: Element) -> Options {
    Options {
        formats: vec![
            TensorFormat::F32,
            TensorFormat::F16,
            TensorFormat::BF16,
            TensorFormat::Q4_0,
            TensorFormat::Q4_1,
            TensorFormat::Q8_0,
            TensorFormat::Q4K,
            TensorFormat::Q6K,
        ],
        kv_elements: vec![element.into()],
        float_tolerance: if element == Element::BF16 { 1.6e-2 } else { 2e-3 },
        quantised_tolerance: if element == Element::BF16 { 1.6e-2 } else { 2e-3 },
        bfloat16_tolerance: if element == Element::BF16 { 1.6e-2 } else { 2e-3 },
        bfloat16_floor: 0.0,
        bitwise_rows: false,
    }
}

/// Runs one check of the suite in both elements.
fn check(check: fn(&mut CudaBackend, &Options)) {
    for element in [Element::BF16, Element::F16] {
        let Some(mut backend) = backend(element) else { return };
        println!("{} in {element:?}", backend.describe());
        check(&mut backend, &options(element));
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(conformance::$name);
            }
        )*
    };
}

tests! {
    check_memory
    check_buffers
    check_embeddings
    check_gather
    check_norms
    check_products
    check_branch_ends
    check_gated_products
    check_special_values
    check_rope_append
    check_attention
    check_block_copies
    check_host_copies
    check_choices
    check_scores
    check_faults
    check_fed_tokens
}
