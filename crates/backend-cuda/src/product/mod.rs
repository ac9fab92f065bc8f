//! Dense products: by Pagewise's own kernel where it is faster or asked for, else by cuBLASLt. There each shape's algorithm
//! is chosen once and kept, so that a shape always gives the same bits: by a committed table of measurements, else by the
//! library's heuristic. Knows matrices, not weights.
#![allow(unsafe_code, reason = "calls into cuBLASLt")]

use core::ffi::c_void;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use cudarc::cublaslt::{result, result::CublasError, sys};
use tensor_backend::Element;

use crate::driver::{Device, DeviceMemory, DeviceRange};
use crate::error::Context;
use crate::kernels::Kernels;
use crate::{Arithmetic, CudaError};

pub(crate) mod own;
mod plan;
pub(crate) mod table;

pub(crate) use plan::Algorithm;

use plan::{Alignments, Description};
use table::{Card, Table};

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

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It is `out`.
    Store,
    /// It is added to `out`, before it is rounded.
    Add,
    /// `out[:, i] = silu(product[:, i]) * product[:, i + n / 2]`, before it is rounded. Only our own kernel does that.
    Gate,
}

/// Whether what wrote a weight is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WeightState {
    /// Long since.
    Settled,
    /// It was enqueued a short while ago.
    Fresh,
}

/// A product to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) shape: ProductShape,
    /// Weight, x and out.
    pub(crate) ranges: [DeviceRange; 3],
    pub(crate) end: End,
    pub(crate) weight_state: WeightState,
}

/// How cuBLASLt multiplies a shape.
#[derive(Debug)]
pub(crate) struct Plan {
    description: Description,
    algorithm: Algorithm,
}

/// The library's handle, its workspace and the plans of all shapes that were seen.
#[derive(Debug)]
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: DeviceMemory,
    arithmetic: Arithmetic,
    card: Card,
    table: Table,
    plans: HashMap<(ProductShape, Alignments), Plan>,
    device: Arc<Device>,
}

// SAFETY: handle and descriptors have one owner, and may be used from any thread by one at a time.
unsafe impl Send for Products {}

impl Products {
    /// Finds the library and takes the workspace.
    pub(crate) fn new(device: &Arc<Device>, card: &Card, arithmetic: Arithmetic) -> Result<Self, CudaError> {
        device.bind()?;
        let handle = result::create_handle().during("cublasLtCreate")?;
        Ok(Self {
            handle,
            workspace: DeviceMemory::zeroed(device, WORKSPACE_BYTES, "cuBLASLt's workspace")?,
            arithmetic,
            card: *card,
            table: Table::of_card(card),
            plans: HashMap::new(),
            device: Arc::clone(device),
        })
    }

    /// Whether gated products with a dense weight of this shape are made in one go, by our own kernel.
    pub(crate) fn gate(&self, n: usize, k: usize) -> bool {
        self.arithmetic == Arithmetic::BatchInvariant || own::gates_faster(&self.card, n, k)
    }

    /// Enqueues a product.
    ///
    /// # Panics
    /// If it ends with a gate, and products with this weight [do not](Self::gate).
    pub(crate) fn multiply(&mut self, kernels: &Kernels, product: &Product) -> Result<(), CudaError> {
        let &Product { shape, ranges, end, weight_state: _ } = product;
        check_bounds(&shape, end, ranges);
        let is_own = match (self.arithmetic, end) {
            (Arithmetic::BatchInvariant, _) => true,
            (Arithmetic::Fastest, End::Gate) => own::gates_faster(&self.card, shape.n, shape.k),
            (Arithmetic::Fastest, End::Store | End::Add) => own::is_faster(&self.card, &shape),
        };
        if is_own {
            return own::enqueue(kernels, product);
        }
        assert!(end != End::Gate, "cuBLASLt has no gates");
        let alignments = Alignments::of(ranges);
        if !self.plans.contains_key(&(shape, alignments)) {
            let plan = self.plan(&shape, alignments)?;
            self.plans.insert((shape, alignments), plan);
        }
        let plan = &self.plans[&(shape, alignments)];
        self.enqueue(plan, ranges, end)
    }

    /// The measured algorithm, else the heuristic's first.
    fn plan(&self, shape: &ProductShape, alignments: Alignments) -> Result<Plan, CudaError> {
        let description = Description::new(shape)?;
        let measured = self.table.get(shape).filter(|algorithm| description.takes(self.handle, algorithm));
        let algorithm = match measured {
            Some(algorithm) => *algorithm,
            None => first(description.algorithms(self.handle, alignments, 1)?)?,
        };
        Ok(Plan { description, algorithm })
    }

    /// The algorithms that the heuristic names for a product of these ranges, best first: weight, x and out.
    pub(crate) fn candidates(
        &self,
        shape: ProductShape,
        ranges: [DeviceRange; 3],
        most: usize,
    ) -> Result<Vec<Algorithm>, CudaError> {
        Description::new(&shape)?.algorithms(self.handle, Alignments::of(ranges), most)
    }

    /// How a product is made by an algorithm of choice.
    pub(crate) fn plan_by(shape: &ProductShape, algorithm: Algorithm) -> Result<Plan, CudaError> {
        Ok(Plan { description: Description::new(shape)?, algorithm })
    }

    /// Enqueues a planned product, which does not end with a gate, of ranges that hold its matrices: weight, x and out.
    pub(crate) fn enqueue(
        &self,
        Plan { description, algorithm }: &Plan,
        [weight, x, out]: [DeviceRange; 3],
        end: End,
    ) -> Result<(), CudaError> {
        let (one, factor) = (1.0_f32, if end == End::Add { 1.0_f32 } else { 0.0_f32 });
        // SAFETY: the descriptors are live, the ranges hold the matrices that they describe, and the workspace is as large as
        // the algorithm was chosen for.
        unsafe {
            result::matmul(
                self.handle,
                description.operation,
                (&raw const one).cast(),
                (&raw const factor).cast(),
                weight.as_ptr::<c_void>(),
                description.weight,
                x.as_ptr::<c_void>(),
                description.x,
                out.as_ptr::<c_void>(),
                description.out,
                out.as_ptr::<c_void>(),
                description.out,
                &raw const algorithm.0,
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

/// What was found, of a shape that the library can multiply at all.
fn first(algorithms: Vec<Algorithm>) -> Result<Algorithm, CudaError> {
    let none = || CudaError::CublasLt {
        call: "cublasLtMatmulAlgoGetHeuristic",
        source: CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED),
    };
    algorithms.into_iter().next().ok_or_else(none)
}

fn check_bounds(shape: &ProductShape, end: End, [weight, x, out]: [DeviceRange; 3]) {
    let &ProductShape { rows, n, k, out_stride, element, out_element } = shape;
    assert!(rows > 0 && n > 0 && k > 0, "a product has rows, columns and a depth");
    assert!(x.bytes() >= rows * k * element.bytes(), "x holds the rows of the product");
    assert!(weight.bytes() >= n * k * element.bytes(), "the weight holds the columns of the product");
    let cols = if end == End::Gate { n / 2 } else { n };
    assert!(out.bytes() >= ((rows - 1) * out_stride + cols) * out_element.bytes(), "out has room for the product");
}

/// Loads cuBLASLt by its path where the loader would not find it by name: whoever asks by name later gets what is loaded.
pub(crate) fn find_library(folders: &[PathBuf]) -> Result<(), CudaError> {
    const NAME: &str = "libcublasLt.so.13";
    let usual = USUAL_FOLDERS.map(PathBuf::from);
    let searched: Vec<PathBuf> = folders.iter().cloned().chain(usual).collect();
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

/// The version of the loaded library.
pub(crate) fn library_version() -> usize {
    // SAFETY: takes nothing. The library was found before.
    unsafe { sys::cublasLtGetVersion() }
}
