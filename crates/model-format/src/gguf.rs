//! GGUF files, versions 2 and 3, little endian: header, metadata and tensor descriptions. It knows the container and no
//! model: what the keys mean is [`ModelConfig`](crate::ModelConfig)'s business.
//!
//! The layout (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>):
//!
//! ```text
//! "GGUF" | u32 version | u64 number of tensors | u64 number of metadata entries
//! entries:  string key | u32 value type | value
//! tensors:  string name | u32 number of dimensions | u64 each, innermost first | u32 format | u64 offset
//! padding to the alignment (`general.alignment`, else 32), then the data; offsets count from here and are aligned
//! ```

mod metadata;
mod reader;
mod writer;

use std::fmt::Display;

pub use metadata::{Array, Metadata, Value};
pub use writer::Writer;

use crate::{
    FormatError, TensorFormat, TensorInfo,
    error::shortened,
    tensor_info::{MAX_TENSORS, TensorTable},
};
use reader::Reader;

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
const MAX_METADATA_ENTRIES: usize = 1 << 16;
const MAX_DIMS: u32 = 4;

/// A description of a GGUF file. The tensors' data stays in the file's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: TensorTable,
}

impl Gguf {
    /// Parses the headers of `file`, which must be the whole file: every tensor's byte range is checked against it.
    ///
    /// # Errors
    /// Whatever does not fit the format; a tensor in a format outside [`TensorFormat`] is an error that names both.
    pub fn parse(file: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(file);
        let magic = reader.bytes(MAGIC.len(), "the magic number")?;
        if magic != MAGIC {
            return Err(FormatError::BadMagic { found: String::from_utf8_lossy(magic).into_owned() });
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            if matches!(version.swap_bytes(), 2 | 3) {
                return Err(FormatError::unsupported("byte order", "big endian"));
            }
            return Err(FormatError::UnsupportedVersion { version });
        }
        let num_tensors = reader.count("the number of tensors", MAX_TENSORS)?;
        let num_entries = reader.count("the number of metadata entries", MAX_METADATA_ENTRIES)?;
        let metadata = Metadata::read(&mut reader, num_entries)?;
        let alignment = alignment(&metadata)?;
        let described = read_tensors(&mut reader, num_tensors)?;
        let data_start = reader
            .offset()
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| FormatError::corrupt(format_args!("`{ALIGNMENT_KEY}` = {alignment} is too large")))?;
        let tensors = described.into_iter().map(|tensor| tensor.locate(file.len(), data_start, alignment));
        let tensors = TensorTable::new(tensors.collect::<Result<_, _>>()?)?;
        Ok(Self { version, alignment, metadata, tensors })
    }

    /// The file's version: 2 or 3. They differ in nothing that little-endian files can show.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of tensor data, in bytes: a power of two.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The key-value entries.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order, with unique names and disjoint data.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.tensors()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }
}

fn alignment(metadata: &Metadata) -> Result<usize, FormatError> {
    let Some(alignment) = metadata.u32(ALIGNMENT_KEY)? else { return Ok(DEFAULT_ALIGNMENT) };
    if !alignment.is_power_of_two() {
        return Err(FormatError::corrupt(format_args!("`{ALIGNMENT_KEY}` = {alignment} is not a power of two")));
    }
    Ok(alignment as usize)
}

/// A tensor as its header describes it: the offset counts from the start of the data, which is known only after the last
/// header.
struct DescribedTensor {
    name: String,
    format: TensorFormat,
    shape: Vec<usize>,
    num_bytes: usize,
    offset: u64,
}

fn read_tensors(reader: &mut Reader<'_>, num_tensors: usize) -> Result<Vec<DescribedTensor>, FormatError> {
    // Name length, number of dimensions, format and offset.
    const MIN_HEADER_BYTES: usize = 8 + 4 + 4 + 8;
    reader.require(num_tensors, MIN_HEADER_BYTES, "the tensor headers")?;
    let mut tensors = Vec::with_capacity(num_tensors);
    for i in 0..num_tensors {
        let name = reader.string(format_args!("the name of tensor {i}"))?.to_owned();
        tensors.push(read_tensor(reader, name)?);
    }
    Ok(tensors)
}

fn read_tensor(reader: &mut Reader<'_>, name: String) -> Result<DescribedTensor, FormatError> {
    let quoted = shortened(&name);
    let wrong = |what: &dyn Display| FormatError::corrupt(format_args!("tensor `{quoted}` {what}"));
    let num_dims = reader.u32(format_args!("the number of dimensions of `{quoted}`"))?;
    if num_dims > MAX_DIMS {
        return Err(wrong(&format_args!("has {num_dims} dimensions; at most {MAX_DIMS} are allowed")));
    }
    let mut shape = Vec::with_capacity(num_dims as usize);
    for _ in 0..num_dims {
        let dim = reader.u64(format_args!("the shape of `{quoted}`"))?;
        shape.push(usize::try_from(dim).map_err(|_| wrong(&format_args!("has a dimension of {dim}")))?);
    }
    shape.reverse();
    if shape.contains(&0) {
        return Err(wrong(&format_args!("has no elements: its shape is {shape:?}")));
    }
    let type_number = reader.u32(format_args!("the format of `{quoted}`"))?;
    let Some(format) = format_of(type_number) else {
        return Err(FormatError::UnsupportedTensorFormat { tensor: quoted, format: format_name(type_number) });
    };
    let Some(num_bytes) = format.tensor_bytes(&shape) else {
        let block_len = format.block_len();
        return Err(wrong(&format_args!(
            "of shape {shape:?} cannot be {format}: rows must be whole blocks of {block_len} elements, and the size \
             must fit the address space"
        )));
    };
    let offset = reader.u64(format_args!("the offset of `{quoted}`"))?;
    Ok(DescribedTensor { name, format, shape, num_bytes, offset })
}

impl DescribedTensor {
    fn locate(self, file_len: usize, data_start: usize, alignment: usize) -> Result<TensorInfo, FormatError> {
        let Self { name, format, shape, num_bytes, offset } = self;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(FormatError::corrupt(format_args!(
                "tensor `{}` lies at offset {offset}, which is not a multiple of the alignment {alignment}",
                shortened(&name)
            )));
        }
        let start = (data_start as u64).saturating_add(offset);
        let left = (file_len as u64).saturating_sub(start);
        if num_bytes as u64 > left {
            return Err(FormatError::Truncated {
                what: format!("the data of tensor `{}`", shortened(&name)),
                offset: start,
                needed: num_bytes as u64,
                left,
            });
        }
        let start = start as usize;
        Ok(TensorInfo { name, format, shape, data: start..start + num_bytes })
    }
}

/// The numbers of `enum ggml_type`.
fn format_of(type_number: u32) -> Option<TensorFormat> {
    TensorFormat::ALL.into_iter().find(|&format| type_number_of(format) == type_number)
}

fn type_number_of(format: TensorFormat) -> u32 {
    match format {
        TensorFormat::F32 => 0,
        TensorFormat::F16 => 1,
        TensorFormat::Q4_0 => 2,
        TensorFormat::Q4_1 => 3,
        TensorFormat::Q5_0 => 6,
        TensorFormat::Q5_1 => 7,
        TensorFormat::Q8_0 => 8,
        TensorFormat::Q4K => 12,
        TensorFormat::Q5K => 13,
        TensorFormat::Q6K => 14,
        TensorFormat::BF16 => 30,
    }
}

/// The name of a format for a message, supported or not.
fn format_name(type_number: u32) -> String {
    const UNSUPPORTED: [(u32, &str); 24] = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
    ];
    match UNSUPPORTED.iter().find(|(number, _)| *number == type_number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("the unknown ggml type {type_number}"),
    }
}
