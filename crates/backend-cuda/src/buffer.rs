//! Matrices of activations, and the KV pool on the device. Knows elements and shapes.

use core::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use kernels_sys::{PW_BF16, PW_F16, PW_F32, PwElement, PwKvView};
use tensor_backend::{Element, KvElement, KvLayout};

use crate::CudaError;
use crate::driver::{Device, DeviceMemory, DeviceRange};

/// A matrix of activations, row-major.
#[derive(Debug)]
pub struct Buffer {
    memory: DeviceMemory,
    cols: usize,
    element: Element,
}

impl Buffer {
    pub(crate) fn new(device: &Arc<Device>, rows: usize, cols: usize, element: Element) -> Result<Self, CudaError> {
        let memory = DeviceMemory::zeroed(device, rows * cols * element.bytes(), "a buffer")?;
        Ok(Self { memory, cols, element })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// The leading rows, for an op that works on `rows` rows of `cols` columns.
    pub(crate) fn leading(&self, rows: usize, cols: usize) -> DeviceRange {
        assert_eq!(self.cols, cols, "columns of a buffer");
        self.memory.range().part(0, rows * cols * self.element.bytes())
    }

    /// One row of f32 parameters of a given length.
    pub(crate) fn parameters(&self, len: usize) -> *const f32 {
        assert_eq!(self.element, Element::F32, "parameters are f32");
        assert_eq!(self.cols, len, "parameters of an op");
        self.memory.range().as_ptr()
    }

    pub(crate) fn write(&mut self, device: &Device, values: &[f32]) -> Result<(), CudaError> {
        device.copy_to_device(self.memory.range(), &to_elements(values, self.element))
    }

    pub(crate) fn read(&self, device: &Device, rows: Range<usize>) -> Result<Vec<f32>, CudaError> {
        let row_bytes = self.cols * self.element.bytes();
        let range = self.memory.range().part(rows.start * row_bytes, rows.len() * row_bytes);
        let mut bytes = vec![0; range.bytes()];
        device.copy_to_host(&mut bytes, range)?;
        device.synchronize()?;
        Ok(to_values(&bytes, self.element))
    }
}

/// The KV pool of all layers: `[blocks][layers][key, value][kv heads][block_size][head_dim]`, so that a block of all layers
/// lies together and is copied as a whole.
#[derive(Debug)]
pub struct Kv {
    memory: DeviceMemory,
    layout: KvLayout,
    element: Element,
}

impl Kv {
    /// A pool of `element`, in which attention computes.
    ///
    /// # Errors
    /// A layout of another element, or no memory.
    pub(crate) fn new(device: &Arc<Device>, layout: &KvLayout, element: Element) -> Result<Self, CudaError> {
        check_kv_element(layout, element)?;
        let bytes = layout.total_bytes() as usize;
        Ok(Self { memory: DeviceMemory::zeroed(device, bytes, "KV blocks")?, layout: *layout, element })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// One layer, for the kernels.
    pub(crate) fn view(&self, layer: usize) -> PwKvView {
        let KvLayout { num_layers, num_blocks, block_size, num_kv_heads, head_dim, element: _ } = self.layout;
        assert!(layer < num_layers, "a layer of the pool");
        let keys = num_kv_heads * block_size * head_dim;
        PwKvView {
            pool: self.memory.range().as_ptr(),
            block_stride: (2 * num_layers * keys) as i64,
            layer_offset: (2 * layer * keys) as i64,
            num_blocks: num_blocks as i32,
            block_size: block_size as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            element: element_code(self.element),
        }
    }

    /// A block of all layers.
    pub(crate) fn block(&self, block: u32) -> DeviceRange {
        self.blocks(block, 1)
    }

    /// Blocks that follow one another.
    pub(crate) fn blocks(&self, first: u32, len: usize) -> DeviceRange {
        let bytes = self.layout.block_bytes() as usize;
        self.memory.range().part(first as usize * bytes, len * bytes)
    }
}

/// Attention reads keys and values of the element that it computes in.
pub(crate) fn check_kv_element(layout: &KvLayout, element: Element) -> Result<(), CudaError> {
    let wanted = layout.element;
    if wanted == KvElement::Float(element) { Ok(()) } else { Err(CudaError::KvElement(wanted, element)) }
}

/// An element in the kernels' ABI.
pub(crate) fn element_code(element: Element) -> PwElement {
    (match element {
        Element::F32 => PW_F32,
        Element::F16 => PW_F16,
        Element::BF16 => PW_BF16,
    }) as PwElement
}

/// Rounds to the nearest element, ties to even.
pub(crate) fn to_elements(values: &[f32], element: Element) -> Vec<u8> {
    match element {
        Element::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        Element::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
    }
}

fn to_values(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Element::F16 => bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Element::BF16 => bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
    }
}
