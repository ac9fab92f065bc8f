//! Builds the bytes of a valid GGUF file from metadata and tensors, for tests and fixtures. It knows no files.

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAGIC, Value,
    metadata::value_type::{ARRAY, BOOL, F32, F64, I8, I16, I32, I64, STRING, U8, U16, U32, U64},
    type_number_of,
};
use crate::TensorFormat;

/// A GGUF file in the making.
///
/// ```
/// use model_format::{Gguf, TensorFormat, gguf::Writer, quantize};
///
/// let mut writer = Writer::new();
/// writer.metadata("general.architecture", "llama");
/// writer.tensor("output_norm.weight", TensorFormat::F32, &[4], &quantize(TensorFormat::F32, &[1.0; 4]));
/// let gguf = Gguf::parse(&writer.finish()).expect("a valid file");
/// assert_eq!(gguf.tensors()[0].shape, [4]);
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    version: u32,
    alignment: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    format: TensorFormat,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty file of version 3.
    pub fn new() -> Self {
        Self { version: 3, alignment: DEFAULT_ALIGNMENT, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version: 2 or 3.
    pub fn version(&mut self, version: u32) -> &mut Self {
        assert!(matches!(version, 2 | 3), "GGUF version {version}");
        self.version = version;
        self
    }

    /// Sets the alignment of tensor data, in bytes, a power of two, and adds the metadata entry that says so.
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        assert!(alignment.is_power_of_two(), "alignment {alignment}");
        self.alignment = alignment as usize;
        self.metadata(ALIGNMENT_KEY, alignment)
    }

    /// Adds a metadata entry.
    pub fn metadata(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor. `shape` is outermost first; `data` holds its blocks in `format`.
    ///
    /// # Panics
    /// If `data` is not as long as the shape needs.
    pub fn tensor(&mut self, name: &str, format: TensorFormat, shape: &[usize], data: &[u8]) -> &mut Self {
        assert_eq!(format.tensor_bytes(shape), Some(data.len()), "bytes of `{name}`, {format} of shape {shape:?}");
        self.tensors.push(Tensor { name: name.to_owned(), format, shape: shape.to_vec(), data: data.to_vec() });
        self
    }

    /// The bytes of the file.
    pub fn finish(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(MAGIC);
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            push_string(key, &mut file);
            push_value(value, &mut file);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            push_string(&tensor.name, &mut file);
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                file.extend((*dim as u64).to_le_bytes());
            }
            file.extend(type_number_of(tensor.format).to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.data);
        }
        file
    }
}

fn push_string(text: &str, file: &mut Vec<u8>) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn push_value(value: &Value, file: &mut Vec<u8>) {
    fn push<const N: usize>(value_type: u32, bytes: [u8; N], file: &mut Vec<u8>) {
        file.extend(value_type.to_le_bytes());
        file.extend(bytes);
    }
    match value {
        Value::U8(value) => push(U8, value.to_le_bytes(), file),
        Value::I8(value) => push(I8, value.to_le_bytes(), file),
        Value::U16(value) => push(U16, value.to_le_bytes(), file),
        Value::I16(value) => push(I16, value.to_le_bytes(), file),
        Value::U32(value) => push(U32, value.to_le_bytes(), file),
        Value::I32(value) => push(I32, value.to_le_bytes(), file),
        Value::F32(value) => push(F32, value.to_le_bytes(), file),
        Value::Bool(value) => push(BOOL, [u8::from(*value)], file),
        Value::String(text) => {
            file.extend(STRING.to_le_bytes());
            push_string(text, file);
        }
        Value::Array(array) => {
            file.extend(ARRAY.to_le_bytes());
            push_array(array, file);
        }
        Value::U64(value) => push(U64, value.to_le_bytes(), file),
        Value::I64(value) => push(I64, value.to_le_bytes(), file),
        Value::F64(value) => push(F64, value.to_le_bytes(), file),
    }
}

fn push_array(array: &Array, file: &mut Vec<u8>) {
    fn push<T: Copy, const N: usize>(value_type: u32, values: &[T], to_bytes: fn(T) -> [u8; N], file: &mut Vec<u8>) {
        file.extend(value_type.to_le_bytes());
        file.extend((values.len() as u64).to_le_bytes());
        file.extend(values.iter().flat_map(|value| to_bytes(*value)));
    }
    match array {
        Array::U8(values) => push(U8, values, u8::to_le_bytes, file),
        Array::I8(values) => push(I8, values, i8::to_le_bytes, file),
        Array::U16(values) => push(U16, values, u16::to_le_bytes, file),
        Array::I16(values) => push(I16, values, i16::to_le_bytes, file),
        Array::U32(values) => push(U32, values, u32::to_le_bytes, file),
        Array::I32(values) => push(I32, values, i32::to_le_bytes, file),
        Array::F32(values) => push(F32, values, f32::to_le_bytes, file),
        Array::Bool(values) => push(BOOL, values, |value| [u8::from(value)], file),
        Array::String(texts) => {
            file.extend(STRING.to_le_bytes());
            file.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| push_string(text, file));
        }
        Array::U64(values) => push(U64, values, u64::to_le_bytes, file),
        Array::I64(values) => push(I64, values, i64::to_le_bytes, file),
        Array::F64(values) => push(F64, values, f64::to_le_bytes, file),
    }
}
