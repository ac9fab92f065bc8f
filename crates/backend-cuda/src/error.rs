//! What can go wrong on the device, and who can act on it.

use std::path::PathBuf;

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;
use kernels_sys::LoadError;
use model_format::TensorFormat;
use tensor_backend::{Element, KvElement};

/// A failure of the device or of its libraries.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// For the operator: there is no driver.
    #[error("the NVIDIA driver (libcuda.so.1) is not installed, or not visible in this container")]
    NoDriver,
    /// For the operator: the driver finds no GPU.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// For the operator: a GPU older than the kernels are built for.
    #[error("{name} has compute capability {major}.{minor}; Pagewise needs 8.0 or newer (Ampere, Ada, Hopper)")]
    TooOld {
        /// The GPU.
        name: String,
        /// Its compute capability.
        major: i32,
        /// Its compute capability.
        minor: i32,
    },
    /// For the operator: the kernel library.
    #[error("the kernel library cannot be used")]
    Kernels(#[source] LoadError),
    /// For the operator: cuBLASLt of CUDA 13 was not found.
    #[error(
        "cuBLASLt of CUDA 13 (libcublasLt.so.13) is neither where the system's loader looks nor in {}; LD_LIBRARY_PATH may \
         name its folder, and `cargo xtask kernels cublas` finds or fetches it", list(.searched)
    )]
    NoCublasLt {
        /// Folders that were searched before the loader's own.
        searched: Vec<PathBuf>,
    },
    /// A call of the driver failed.
    #[error("{call}: {source}")]
    Driver {
        /// What was called.
        call: &'static str,
        /// What it said.
        #[source]
        source: DriverError,
    },
    /// A call of cuBLASLt failed.
    #[error("{call}: {source}")]
    CublasLt {
        /// What was called.
        call: &'static str,
        /// What it said.
        #[source]
        source: CublasError,
    },
    /// A kernel was not enqueued.
    #[error("{kernel} failed: {reason}")]
    Kernel {
        /// The entry point.
        kernel: &'static str,
        /// What it answered, as the library names it.
        reason: String,
    },
    /// For the operator: the device has not that much memory left.
    #[error("the GPU has no room for {bytes} bytes of {what}")]
    OutOfMemory {
        /// What was to be taken.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// For the operator: a weight format without a kernel.
    #[error("weights in {0} have no GPU kernel; the GPU runs F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K and Q6_K")]
    WeightFormat(TensorFormat),
    /// For the operator: a weight that only cuBLASLt multiplies.
    #[error(
        "a weight of {n} x {k} has no batch-invariant product, which takes multiples of 16 outputs and of 8 inputs; do \
         without --batch-invariant"
    )]
    BatchInvariantShape {
        /// Its outputs.
        n: usize,
        /// Its inputs.
        k: usize,
    },
    /// A buffer of an element that the ops do not take.
    #[error("buffers of {0:?} do not exist on this GPU backend, which computes in {1:?}")]
    BufferElement(Element, Element),
    /// For the operator: a KV pool of an element that attention does not read.
    #[error(
        "a KV cache of {0:?} does not exist on this GPU backend, whose attention reads the {1:?} that it computes in"
    )]
    KvElement(KvElement, Element),
    /// A request that the device's tables have no room for.
    #[error("{what}: {num} are more than the {max} that the GPU keeps for a request")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        num: usize,
        /// How many there may be.
        max: usize,
    },
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Names the call that failed.
pub(crate) trait Context<T> {
    /// With the call's name.
    fn during(self, call: &'static str) -> Result<T, CudaError>;
}

impl<T> Context<T> for Result<T, DriverError> {
    fn during(self, call: &'static str) -> Result<T, CudaError> {
        self.map_err(|source| CudaError::Driver { call, source })
    }
}

impl<T> Context<T> for Result<T, CublasError> {
    fn during(self, call: &'static str) -> Result<T, CudaError> {
        self.map_err(|source| CudaError::CublasLt { call, source })
    }
}
