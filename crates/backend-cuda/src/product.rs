//! Dense products by cuBLASLt. Each shape's algorithm is chosen once and kept, so that a shape always gives the same bits.
//! Knows matrices, not weights.
#![allow(unsafe_code, reason = "calls into cuBLASLt")]

use core::ffi::c_void;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};
use tensor_backend::Element;

use crate::CudaError;
use crate::driver::{Device, DeviceMemory, DeviceRange};
use crate::error::Context;

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Where cuBLASLt of CUDA 13 is looked for after the folders that the operator names.
const USUAL_FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

/// `out[rows, n] = x[rows, k] · weight[n, k]ᵀ`, all row-major.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ProductShape {
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Elements between two rows of `out`.
    pub(crate) out_stride: usize,
    /// Of `x` and the weight.
    pub(crate) element: Element,
    pub(crate) out_element: Element,
}

/// Bytes that the addresses of weight, x and out are multiples of; at most what kernels may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Alignments([u32; 3]);

impl Alignments {
    fn of(ranges: [DeviceRange; 3]) -> Self {
        const MOST: u32 = 256;
        Self(ranges.map(|range| 1 << (range.as_ptr::<u8>().addr() as u64 | u64::from(MOST)).trailing_zeros()))
    }
}

/// A shape with all that cuBLASLt wants to know of it.
#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The library's handle, its workspace and the plans of all shapes that were seen.
#[derive(Debug)]
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: DeviceMemory,
    plans: HashMap<(ProductShape, Alignments), Plan>,
    device: Arc<Device>,
}

// SAFETY: handle and descriptors have one owner, and may be used from any thread by one at a time.
unsafe impl Send for Products {}

impl Products {
    /// Finds the library and takes the workspace.
    pub(crate) fn new(device: &Arc<Device>, folders: &[PathBuf]) -> Result<Self, CudaError> {
        find_library(folders)?;
        device.bind()?;
        let handle = result::create_handle().during("cublasLtCreate")?;
        Ok(Self {
            handle,
            workspace: DeviceMemory::zeroed(device, WORKSPACE_BYTES, "cuBLASLt's workspace")?,
            plans: HashMap::new(),
            device: Arc::clone(device),
        })
    }

    /// Enqueues a product.
    pub(crate) fn multiply(
        &mut self,
        shape: ProductShape,
        x: DeviceRange,
        weight: DeviceRange,
        out: DeviceRange,
    ) -> Result<(), CudaError> {
        check_bounds(&shape, x, weight, out);
        let plan = match self.plans.entry((shape, Alignments::of([weight, x, out]))) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let &(shape, alignments) = entry.key();
                entry.insert(Plan::new(self.handle, &shape, alignments)?)
            }
        };
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the descriptors are live, the ranges hold the matrices that they describe, and the workspace is as large as
        // the algorithm was chosen for.
        unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                weight.as_ptr::<c_void>(),
                plan.weight,
                x.as_ptr::<c_void>(),
                plan.x,
                out.as_ptr::<c_void>(),
                plan.out,
                out.as_ptr::<c_void>(),
                plan.out,
                &raw const plan.algorithm,
                self.workspace.range().as_ptr::<c_void>(),
                WORKSPACE_BYTES,
                self.device.stream().cast(),
            )
        }
        .during("cublasLtMatmul")
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let _ = self.device.bind();
        self.plans.clear();
        // SAFETY: created by `new`, destroyed once, after all that used it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    /// cuBLAS thinks in columns: a row-major matrix is the transpose of a column-major one, so `outᵀ = weight · xᵀ`.
    fn new(handle: sys::cublasLtHandle_t, shape: &ProductShape, alignments: Alignments) -> Result<Self, CudaError> {
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
        let algorithm = choose(handle, operation, [weight, x, out], alignments)?;
        Ok(Self { operation, weight, x, out, algorithm })
    }
}

impl Drop for Plan {
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

use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceKey;

const ALIGNMENT_KEYS: [PreferenceKey; 4] = [
    PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    PreferenceKey::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
];

/// The first algorithm that the library's heuristic names for this shape and workspace.
fn choose(
    handle: sys::cublasLtHandle_t,
    operation: sys::cublasLtMatmulDesc_t,
    [weight_layout, x_layout, out_layout]: [sys::cublasLtMatrixLayout_t; 3],
    Alignments(alignments): Alignments,
) -> Result<sys::cublasLtMatmulAlgo_t, CudaError> {
    let preference = result::create_matmul_pref().during("cublasLtMatmulPreferenceCreate")?;
    let set = |attribute, value: *const c_void, size| {
        // SAFETY: the preference is live, and the value is as wide as the attribute.
        unsafe { result::set_matmul_pref_attribute(preference, attribute, value, size) }
    };
    let workspace_bytes = WORKSPACE_BYTES;
    let found = set(
        PreferenceKey::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        (&raw const workspace_bytes).cast(),
        size_of::<usize>(),
    )
    .and_then(|()| {
        // `out` is both what is added to and what is written.
        let [weight, x, out] = &alignments;
        for (key, alignment) in ALIGNMENT_KEYS.into_iter().zip([weight, x, out, out]) {
            set(key, (&raw const *alignment).cast(), size_of::<u32>())?;
        }
        // SAFETY: all descriptors are live.
        unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                operation,
                weight_layout,
                x_layout,
                out_layout,
                out_layout,
                preference,
            )
        }
    });
    // SAFETY: created above, destroyed once.
    let _ = unsafe { result::destroy_matmul_pref(preference) };
    Ok(found.during("cublasLtMatmulAlgoGetHeuristic")?.algo)
}

fn check_bounds(shape: &ProductShape, x: DeviceRange, weight: DeviceRange, out: DeviceRange) {
    let &ProductShape { rows, n, k, out_stride, element, out_element } = shape;
    assert!(rows > 0 && n > 0 && k > 0, "a product has rows, columns and a depth");
    assert!(x.bytes() >= rows * k * element.bytes(), "x holds the rows of the product");
    assert!(weight.bytes() >= n * k * element.bytes(), "the weight holds the columns of the product");
    assert!(out.bytes() >= ((rows - 1) * out_stride + n) * out_element.bytes(), "out has room for the product");
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::BF16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// Loads cuBLASLt by its path where the loader would not find it by name: whoever asks by name later gets what is loaded.
fn find_library(folders: &[PathBuf]) -> Result<(), CudaError> {
    const NAME: &str = "libcublasLt.so.13";
    let searched: Vec<PathBuf> = folders.iter().cloned().chain(USUAL_FOLDERS.map(PathBuf::from)).collect();
    for folder in &searched {
        // Its own dependency, libcublas, is not needed; the library stays for the life of the process.
        // SAFETY: NVIDIA's library has no initialisers that expect anything of us.
        if let Ok(library) = unsafe { libloading::Library::new(folder.join(NAME)) } {
            core::mem::forget(library);
            break;
        }
    }
    // SAFETY: only asks the dynamic loader. Without this, a missing library would panic in the first call.
    if unsafe { sys::is_culib_present() } { Ok(()) } else { Err(CudaError::NoCublasLt { searched }) }
}
