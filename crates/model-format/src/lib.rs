//! Parses GGUF, safetensors and config files from byte slices into described tensors.
//!
//! Bytes go in; names, formats, shapes and byte ranges come out, together with the model's hyperparameters. Tensor data
//! is never copied: a [`TensorInfo`] says where it lies, and whoever owns the bytes reads them there.
//!
//! - [`TensorFormat`] names the eleven stored element formats and their block layouts; [`dequantize`] and [`quantize`]
//!   are the reference arithmetic that every faster product is checked against.
//! - [`Gguf`], [`Safetensors`] and [`SafetensorsIndex`] describe what a file holds.
//! - [`ModelConfig`] says what a model computes, from either kind of file, and refuses by name whatever would change the
//!   mathematics and is not implemented. [`GenerationDefaults`] are the sampling values a model's authors recommend.
//!
//! Any byte string gives a value or a [`FormatError`]: every count, length and offset is checked against the bytes that
//! are really there before it is used or anything is allocated for it, so memory stays within a small multiple of the
//! input. The crate knows no devices, memory maps or files.

mod dequantize;
mod error;
mod generation_defaults;
pub mod gguf;
mod json;
mod model_config;
mod quantize;
mod safetensors;
mod safetensors_index;
mod tensor_format;
mod tensor_info;

pub use dequantize::dequantize;
pub use error::FormatError;
pub use generation_defaults::GenerationDefaults;
pub use gguf::Gguf;
pub use model_config::{ConfigSource, ModelConfig, RopeConfig, RopeScaling};
pub use quantize::quantize;
pub use safetensors::Safetensors;
pub use safetensors_index::SafetensorsIndex;
pub use tensor_format::TensorFormat;
pub use tensor_info::TensorInfo;
