//! Dense products by Pagewise's own kernel: which shapes it takes, where it is the faster one, and what it is told. Knows
//! measured times, no weights.

use kernels_sys::{
    PW_PRODUCT_ADD, PW_PRODUCT_GATED, PW_PRODUCT_STORE, PW_WEIGHT_FRESH, PW_WEIGHT_SETTLED, PwProduct, PwProductEnd,
};

use super::{Card, End, Product, ProductShape, WeightState};
use crate::CudaError;
use crate::buffer::element_code;
use crate::kernels::Kernels;

/// Elements of the accesses in which the kernel reads and writes rows.
const ACCESS: usize = 8;

/// Whether the kernel takes a weight of this shape at all.
pub(crate) fn takes(n: usize, k: usize) -> bool {
    n.is_multiple_of(2 * ACCESS) && k.is_multiple_of(ACCESS)
}

/// Whether it is faster than cuBLASLt and a kernel for the gates, with any number of rows, for these need not go through
/// memory: as measured on an H100 (`docs/kernels/products.md`). On other cards it does not use the tensor cores to the full.
pub(crate) fn gates_faster(card: &Card, n: usize, k: usize) -> bool {
    card.capability.0 == 9 && takes(n, k)
}

/// Whether it is faster without a gate: with few rows, where reading the weight is all that counts.
pub(crate) fn is_faster(card: &Card, shape: &ProductShape) -> bool {
    const FEW_ROWS: usize = 64;
    card.capability.0 == 9 && takes(shape.n, shape.k) && shape.rows <= FEW_ROWS
}

/// Enqueues a product.
pub(crate) fn enqueue(kernels: &Kernels, product: &Product) -> Result<(), CudaError> {
    let &Product { shape, ranges: [weight, x, out], end, weight_state } = product;
    let ProductShape { rows, n, k, out_stride, element, out_element } = shape;
    kernels.product(&PwProduct {
        x: x.as_ptr(),
        weight: weight.as_ptr(),
        out: out.as_ptr(),
        out_stride: out_stride as i64,
        rows: rows as i32,
        n: n as i32,
        k: k as i32,
        element: element_code(element),
        out_element: element_code(out_element),
        end: match end {
            End::Store => PW_PRODUCT_STORE,
            End::Add => PW_PRODUCT_ADD,
            End::Gate => PW_PRODUCT_GATED,
        } as PwProductEnd,
        weight_state: match weight_state {
            WeightState::Settled => PW_WEIGHT_SETTLED,
            WeightState::Fresh => PW_WEIGHT_FRESH,
        },
    })
}
