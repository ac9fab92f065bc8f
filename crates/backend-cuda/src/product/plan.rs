//! A product as cuBLASLt wants it described, and the algorithms that the library has for it. Knows no memory.
#![allow(unsafe_code, reason = "calls into cuBLASLt")]

use core::ffi::c_void;

use cudarc::cublaslt::{result, sys};
use tensor_backend::Element;

use super::{ProductShape, WORKSPACE_BYTES};
use crate::CudaError;
use crate::driver::DeviceRange;
use crate::error::Context;

use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceKey;

/// Bytes that the addresses of weight, x and out are multiples of; at most what kernels may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Alignments([u32; 3]);

/// What no kernel asks for more than.
const MAX_ALIGNMENT: u32 = 256;

impl Alignments {
    pub(crate) fn of(ranges: [DeviceRange; 3]) -> Self {
        Self(ranges.map(|range| 1 << (range.as_ptr::<u8>().addr() as u64 | u64::from(MAX_ALIGNMENT)).trailing_zeros()))
    }
}

/// An algorithm of cuBLASLt with all its settings. Its bits mean something to one version of the library only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Algorithm(pub(crate) sys::cublasLtMatmulAlgo_t);

/// Room for an answer of the library.
const NOTHING_FOUND: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

/// A shape with all that cuBLASLt wants to know of it.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) operation: sys::cublasLtMatmulDesc_t,
    pub(crate) weight: sys::cublasLtMatrixLayout_t,
    pub(crate) x: sys::cublasLtMatrixLayout_t,
    pub(crate) out: sys::cublasLtMatrixLayout_t,
}

impl Description {
    /// cuBLAS thinks in columns: a row-major matrix is the transpose of a column-major one, so `outᵀ = weight · xᵀ`.
    pub(crate) fn new(shape: &ProductShape) -> Result<Self, CudaError> {
        let &ProductShape { rows, n, k, out_stride, element, out_element } = shape;
        let layout = |element, rows: usize, cols: usize, stride: usize| {
            result::create_matrix_layout(data_type(element), rows as u64, cols as u64, stride as i64)
                .during("cublasLtMatrixLayoutCreate")
        };
        let operation =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)
                .during("cublasLtMatmulDescCreate")?;
        // CUBLAS_OP_T
        let transposed = 1_i32;
        // SAFETY: the descriptor is live, and the attribute is an operation, as wide as this.
        unsafe {
            result::set_matmul_desc_attribute(
                operation,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )
        }
        .during("cublasLtMatmulDescSetAttribute")?;
        let (weight, x, out) =
            (layout(element, k, n, k)?, layout(element, k, rows, k)?, layout(out_element, n, rows, out_stride)?);
        Ok(Self { operation, weight, x, out })
    }

    /// The algorithms that the library's heuristic names, best first, at most `most` of them.
    pub(crate) fn algorithms(
        &self,
        handle: sys::cublasLtHandle_t,
        alignments: Alignments,
        most: usize,
    ) -> Result<Vec<Algorithm>, CudaError> {
        let preference = result::create_matmul_pref().during("cublasLtMatmulPreferenceCreate")?;
        let found = prefer(preference, alignments).and_then(|()| self.named_by_heuristic(handle, preference, most));
        // SAFETY: created above, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        found
    }

    fn named_by_heuristic(
        &self,
        handle: sys::cublasLtHandle_t,
        preference: sys::cublasLtMatmulPreference_t,
        most: usize,
    ) -> Result<Vec<Algorithm>, CudaError> {
        let mut found = vec![NOTHING_FOUND; most];
        let mut num_found = 0;
        // SAFETY: all descriptors are live, and there is room for so many results.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                self.operation,
                self.weight,
                self.x,
                self.out,
                self.out,
                preference,
                most as i32,
                found.as_mut_ptr(),
                &raw mut num_found,
            )
            .result()
        }
        .during("cublasLtMatmulAlgoGetHeuristic")?;
        found.truncate(num_found as usize);
        Ok(found
            .iter()
            .filter(|found| found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
            .map(|found| Algorithm(found.algo))
            .collect())
    }

    /// Whether the library takes an algorithm for this product.
    pub(crate) fn takes(&self, handle: sys::cublasLtHandle_t, algorithm: &Algorithm) -> bool {
        let mut found = NOTHING_FOUND;
        // SAFETY: all descriptors are live.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                handle,
                self.operation,
                self.weight,
                self.x,
                self.out,
                self.out,
                &raw const algorithm.0,
                &raw mut found,
            )
        };
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE_BYTES
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        unsafe {
            let _ = result::destroy_matrix_layout(self.out);
            let _ = result::destroy_matrix_layout(self.x);
            let _ = result::destroy_matrix_layout(self.weight);
            let _ = result::destroy_matmul_desc(self.operation);
        }
    }
}

/// Bounds the workspace, says how memory is aligned, and wants sums that are split over blocks to be added in f32.
fn prefer(preference: sys::cublasLtMatmulPreference_t, Alignments(alignments): Alignments) -> Result<(), CudaError> {
    let set = |key, value: *const c_void, size| {
        // SAFETY: the preference is live, and the value is as wide as the attribute.
        unsafe { result::set_matmul_pref_attribute(preference, key, value, size) }
            .during("cublasLtMatmulPreferenceSetAttribute")
    };
    let workspace_bytes = WORKSPACE_BYTES;
    set(
        PreferenceKey::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        (&raw const workspace_bytes).cast(),
        size_of::<usize>(),
    )?;
    // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
    let reductions = 2_u32;
    set(PreferenceKey::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const reductions).cast(), size_of::<u32>())?;
    // `out` is both what is added to and what is written.
    let [weight, x, out] = &alignments;
    for (key, alignment) in [
        (PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight),
        (PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
        (PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
        (PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
    ] {
        set(key, (&raw const *alignment).cast(), size_of::<u32>())?;
    }
    Ok(())
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::BF16 => sys::cudaDataType::CUDA_R_16BF,
    }
}
