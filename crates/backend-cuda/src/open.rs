//! Opening a GPU: what it is made from, what is missing, and what is too old. Knows no op.

use std::path::PathBuf;
use std::sync::Arc;

use kernels_sys::KernelLibrary;
use tensor_backend::Element;

use crate::driver::Device;
use crate::kernels::Kernels;
use crate::product::table::Card;
use crate::product::{self, Products};
use crate::weight::WeightLoader;
use crate::{CudaBackend, CudaError};

/// What a [`CudaBackend`] is made from.
#[derive(Clone, Debug)]
pub struct CudaConfig {
    /// Index of the GPU among those that the driver shows.
    pub ordinal: usize,
    /// Element of activations and dense weights: bfloat16 or half precision.
    pub element: Element,
    /// What a row's result may depend on.
    pub arithmetic: Arithmetic,
    /// The kernel library; `None`: where [`kernels_sys::find`] looks.
    pub kernels: Option<PathBuf>,
    /// Folders with CUDA's own libraries, looked at before the kernel library's and the usual ones.
    pub library_folders: Vec<PathBuf>,
}

impl Default for CudaConfig {
    fn default() -> Self {
        Self {
            ordinal: 0,
            element: Element::BF16,
            arithmetic: Arithmetic::default(),
            kernels: None,
            library_folders: Vec::new(),
        }
    }
}

/// What a row's result may depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Arithmetic {
    /// On how many rows share its step, and on which of its tokens are computed together, in the last bits: kernels differ in
    /// the order in which they add.
    #[default]
    Fastest,
    /// On nothing but its own tokens: every product and every attention has one order of sums.
    BatchInvariant,
}

impl CudaBackend {
    /// Opens the GPU and the libraries. Their code is loaded by the first launch of each kernel, as CUDA does unless told
    /// otherwise: all of cuBLASLt would take longer and more memory than a model.
    ///
    /// # Errors
    /// What is missing or does not fit, for the operator.
    ///
    /// # Panics
    /// If `config.element` is f32, in which this backend does not compute.
    pub fn open(config: &CudaConfig) -> Result<Self, CudaError> {
        assert!(config.element != Element::F32, "the GPU computes in bfloat16 or half precision");
        let device = Device::open(config.ordinal)?;
        device.bind()?;
        let (name, (major, minor)) = (device.name()?, device.compute_capability()?);
        check_capability(&name, (major, minor))?;
        let path = config.kernels.clone().map_or_else(kernels_sys::find, Ok).map_err(CudaError::Kernels)?;
        let library = KernelLibrary::load(&path).map_err(CudaError::Kernels)?;
        let kernels = Kernels::new(library, Arc::clone(&device))?;
        let beside = path.parent().map(PathBuf::from);
        product::find_library(&config.library_folders.iter().cloned().chain(beside).collect::<Vec<_>>())?;
        let card = Card {
            library_version: product::library_version(),
            capability: (major, minor),
            num_multiprocessors: device.num_multiprocessors()?,
        };
        let products = Products::new(&device, &card, config.arithmetic)?;
        let weights = WeightLoader::new(&device, config.element);
        let (free_bytes, total_bytes) = device.memory_bytes()?;
        Ok(Self {
            element: config.element,
            arithmetic: config.arithmetic,
            description: format!(
                "cuda, {name}, {:.0} GiB, compute {major}.{minor}",
                total_bytes as f64 / (1_u64 << 30) as f64
            ),
            handed_out: 0,
            used_at_open: total_bytes - free_bytes,
            products,
            card,
            kernels,
            weights,
            scratch: None,
            clock: None,
            device,
        })
    }
}

/// Refuses cards that the kernels are not built for.
fn check_capability(name: &str, (major, minor): (i32, i32)) -> Result<(), CudaError> {
    if major < 8 { Err(CudaError::TooOld { name: name.to_owned(), major, minor }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_before_ampere_are_refused_by_name() {
        for capability in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            assert!(check_capability("a card", capability).is_ok(), "{capability:?}");
        }
        let refusal = check_capability("Tesla T4", (7, 5)).expect_err("Turing");
        let expected = "Tesla T4 has compute capability 7.5; Pagewise needs 8.0 or newer (Ampere, Ada, Hopper)";
        assert_eq!(refusal.to_string(), expected);
    }
}
