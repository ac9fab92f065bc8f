//! Safetensors files: the header's tensor descriptions. It knows one file; [`SafetensorsIndex`](crate::SafetensorsIndex)
//! knows which file of several holds a tensor.
//!
//! The layout (<https://github.com/huggingface/safetensors>): a `u64` length, a JSON header of that many bytes that maps
//! each name to `{"dtype", "shape", "data_offsets"}`, then the data, which the tensors cover without gaps or overlaps.

use serde::Deserialize;

use crate::{
    FormatError, TensorFormat, TensorInfo,
    error::shortened,
    json::Object,
    tensor_info::{MAX_TENSORS, TensorTable},
};

const LENGTH_BYTES: usize = 8;
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_DIMS: usize = 8;

/// A description of a safetensors file. The tensors' data stays in the file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Safetensors {
    tensors: TensorTable,
}

/// What the header says about a tensor. Offsets count from the end of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

impl Safetensors {
    /// Parses the header of `file`, which must be the whole file: the tensors must cover it exactly.
    ///
    /// # Errors
    /// Whatever does not fit the format; a tensor of another type than F32, F16 or BF16 is an error that names both.
    pub fn parse(file: &[u8]) -> Result<Self, FormatError> {
        let (header, data_start) = header(file)?;
        let mut fields = Object::parse("the safetensors header", header)?;
        // Free text for humans; nothing in it concerns the tensors.
        fields.take_text("__metadata__");
        let mut described: Vec<(String, Description)> = fields.into_typed()?;
        if described.len() > MAX_TENSORS {
            return Err(FormatError::corrupt(format_args!(
                "{} tensors; at most {MAX_TENSORS} are possible",
                described.len()
            )));
        }
        described.sort_by_key(|(_, description)| description.data_offsets);

        let mut tensors = Vec::with_capacity(described.len());
        let mut covered = 0;
        for (name, description) in described {
            let tensor = locate(name, description, covered, data_start)?;
            covered = tensor.data.end - data_start;
            tensors.push(tensor);
        }
        let data_len = file.len() - data_start;
        if covered > data_len {
            return Err(FormatError::Truncated {
                what: "the tensors' data".to_owned(),
                offset: data_start as u64,
                needed: covered as u64,
                left: data_len as u64,
            });
        }
        if covered < data_len {
            return Err(FormatError::corrupt(format_args!("{} bytes after the last tensor", data_len - covered)));
        }
        Ok(Self { tensors: TensorTable::new(tensors)? })
    }

    /// All tensors, in the order of their data, with unique names and disjoint data.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.tensors.tensors()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }
}

/// The header's text, and where the data begins.
fn header(file: &[u8]) -> Result<(&str, usize), FormatError> {
    let truncated = |what: &str, offset: usize, needed| FormatError::Truncated {
        what: what.to_owned(),
        offset: offset as u64,
        needed,
        left: (file.len() - offset) as u64,
    };
    let Some((len, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated("the header's length", 0, LENGTH_BYTES as u64));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER_BYTES {
        return Err(FormatError::corrupt(format_args!(
            "a header of {len} bytes (at most {MAX_HEADER_BYTES} are allowed); this may not be a safetensors file"
        )));
    }
    let len = len as usize;
    let Some(header) = rest.get(..len) else { return Err(truncated("the header", LENGTH_BYTES, len as u64)) };
    let text = std::str::from_utf8(header)
        .map_err(|e| FormatError::corrupt(format_args!("the safetensors header is not UTF-8: {e}")))?;
    Ok((text, LENGTH_BYTES + len))
}

/// Checks one description. `covered` is where the tensor before it ends; a gap or an overlap would be another
/// reading of the same file.
fn locate(
    name: String,
    description: Description,
    covered: usize,
    data_start: usize,
) -> Result<TensorInfo, FormatError> {
    let Description { dtype, shape, data_offsets: [start, end] } = description;
    let wrong =
        |what: std::fmt::Arguments<'_>| FormatError::corrupt(format_args!("tensor `{}` {what}", shortened(&name)));
    let format = match dtype.as_str() {
        "F32" => TensorFormat::F32,
        "F16" => TensorFormat::F16,
        "BF16" => TensorFormat::BF16,
        _ => {
            return Err(FormatError::UnsupportedTensorFormat { tensor: shortened(&name), format: shortened(&dtype) });
        }
    };
    if shape.len() > MAX_DIMS {
        return Err(wrong(format_args!("has {} dimensions; at most {MAX_DIMS} are allowed", shape.len())));
    }
    if start != covered {
        return Err(wrong(format_args!("starts at data offset {start}; the tensor before it ends at {covered}")));
    }
    let num_bytes = format.tensor_bytes(&shape);
    if num_bytes.is_none() || num_bytes != end.checked_sub(start) {
        return Err(wrong(format_args!("is {format} of shape {shape:?}, which does not take bytes {start}..{end}")));
    }
    let Some(data_end) = data_start.checked_add(end) else { return Err(wrong(format_args!("ends at {end}"))) };
    Ok(TensorInfo { data: data_start + start..data_end, name, format, shape })
}
