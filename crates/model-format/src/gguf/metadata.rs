//! The key-value entries of a GGUF file: typed values, read and looked up. It knows no particular key.

use std::fmt;

use super::reader::Reader;
use crate::{
    FormatError,
    error::shortened,
    tensor_info::{find_by_name, index_by_name},
};

/// A metadata value. Numbers keep the type that the file gives them; the getters of [`Metadata`] convert.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The variants are the types that they hold.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A homogeneous array. GGUF would allow arrays of arrays; no model uses them, and they are refused.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The variants are the types that they hold.
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The numbers of `enum gguf_metadata_value_type`.
pub(super) mod value_type {
    pub(in crate::gguf) const U8: u32 = 0;
    pub(in crate::gguf) const I8: u32 = 1;
    pub(in crate::gguf) const U16: u32 = 2;
    pub(in crate::gguf) const I16: u32 = 3;
    pub(in crate::gguf) const U32: u32 = 4;
    pub(in crate::gguf) const I32: u32 = 5;
    pub(in crate::gguf) const F32: u32 = 6;
    pub(in crate::gguf) const BOOL: u32 = 7;
    pub(in crate::gguf) const STRING: u32 = 8;
    pub(in crate::gguf) const ARRAY: u32 = 9;
    pub(in crate::gguf) const U64: u32 = 10;
    pub(in crate::gguf) const I64: u32 = 11;
    pub(in crate::gguf) const F64: u32 = 12;
}

/// The entries of a file, in file order, with unique keys.
///
/// The typed getters give `None` for a key that is not there and an error for one that holds something else, so that a
/// mistyped value is never taken for an absent one.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: Vec<usize>,
}

impl Metadata {
    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        find_by_name(&self.entries, &self.by_key, |entry| &entry.0, key).map(|entry| &entry.1)
    }

    /// All entries, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, FormatError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, FormatError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An integer of any width that fits 32 bits without a sign.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, FormatError> {
        self.typed(key, "an unsigned 32-bit integer", |value| u32::try_from(value.integer()?).ok())
    }

    /// An integer of any width that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, FormatError> {
        self.typed(key, "an unsigned integer", |value| u64::try_from(value.integer()?).ok())
    }

    /// A float of either width, rounded to single precision.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, FormatError> {
        self.typed(key, "a float", |value| match value {
            Value::F32(value) => Some(*value),
            Value::F64(value) => Some(*value as f32),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, FormatError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of single-precision floats.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        self.typed(key, "an array of 32-bit floats", |value| match value {
            Value::Array(Array::F32(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any width, each of which fits 32 bits with a sign.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, FormatError> {
        self.typed(key, "an array of 32-bit integers", Value::integers)
    }

    /// An array of integers of any width, each of which fits 32 bits without a sign.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, FormatError> {
        self.typed(key, "an array of unsigned 32-bit integers", Value::integers)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || FormatError::corrupt(format_args!("metadata `{key}` holds {value}; {expected} is expected"));
        convert(value).map(Some).ok_or_else(wrong)
    }

    pub(super) fn read(reader: &mut Reader<'_>, num_entries: usize) -> Result<Self, FormatError> {
        // Key length, value type and a one-byte value.
        const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;
        reader.require(num_entries, MIN_ENTRY_BYTES, "the metadata")?;
        let mut entries = Vec::with_capacity(num_entries);
        for i in 0..num_entries {
            let key = reader.string(format_args!("the key of metadata entry {i}"))?.to_owned();
            let value = read_value(reader, &shortened(&key))?;
            entries.push((key, value));
        }
        let by_key = index_by_name(&entries, |entry| &entry.0)
            .map_err(|key| FormatError::corrupt(format_args!("metadata key `{}` occurs twice", shortened(key))))?;
        Ok(Self { entries, by_key })
    }
}

fn read_value(reader: &mut Reader<'_>, key: &str) -> Result<Value, FormatError> {
    let what = format!("the value of `{key}`");
    let value_type = reader.u32(&what)?;
    Ok(match value_type {
        value_type::U8 => Value::U8(u8::from_le_bytes(reader.array(&what)?)),
        value_type::I8 => Value::I8(i8::from_le_bytes(reader.array(&what)?)),
        value_type::U16 => Value::U16(u16::from_le_bytes(reader.array(&what)?)),
        value_type::I16 => Value::I16(i16::from_le_bytes(reader.array(&what)?)),
        value_type::U32 => Value::U32(u32::from_le_bytes(reader.array(&what)?)),
        value_type::I32 => Value::I32(i32::from_le_bytes(reader.array(&what)?)),
        value_type::F32 => Value::F32(f32::from_le_bytes(reader.array(&what)?)),
        value_type::BOOL => Value::Bool(bool_of(reader.array(&what)?, key)?),
        value_type::STRING => Value::String(reader.string(&what)?.to_owned()),
        value_type::ARRAY => Value::Array(read_array(reader, key, &what)?),
        value_type::U64 => Value::U64(u64::from_le_bytes(reader.array(&what)?)),
        value_type::I64 => Value::I64(i64::from_le_bytes(reader.array(&what)?)),
        value_type::F64 => Value::F64(f64::from_le_bytes(reader.array(&what)?)),
        _ => return Err(unknown_type(key, value_type)),
    })
}

fn read_array(reader: &mut Reader<'_>, key: &str, what: &str) -> Result<Array, FormatError> {
    let value_type = reader.u32(what)?;
    let count = reader.count(what, usize::MAX)?;
    Ok(match value_type {
        value_type::U8 => Array::U8(read_numbers(reader, count, what, u8::from_le_bytes)?),
        value_type::I8 => Array::I8(read_numbers(reader, count, what, i8::from_le_bytes)?),
        value_type::U16 => Array::U16(read_numbers(reader, count, what, u16::from_le_bytes)?),
        value_type::I16 => Array::I16(read_numbers(reader, count, what, i16::from_le_bytes)?),
        value_type::U32 => Array::U32(read_numbers(reader, count, what, u32::from_le_bytes)?),
        value_type::I32 => Array::I32(read_numbers(reader, count, what, i32::from_le_bytes)?),
        value_type::F32 => Array::F32(read_numbers(reader, count, what, f32::from_le_bytes)?),
        value_type::BOOL => {
            let bytes = reader.bytes(count, what)?;
            Array::Bool(bytes.iter().map(|byte| bool_of([*byte], key)).collect::<Result<_, _>>()?)
        }
        value_type::STRING => {
            reader.require(count, 8, what)?;
            let texts = (0..count).map(|i| reader.string(format_args!("element {i} of `{key}`")).map(str::to_owned));
            Array::String(texts.collect::<Result<_, _>>()?)
        }
        value_type::ARRAY => return Err(FormatError::unsupported(key, "an array of arrays")),
        value_type::U64 => Array::U64(read_numbers(reader, count, what, u64::from_le_bytes)?),
        value_type::I64 => Array::I64(read_numbers(reader, count, what, i64::from_le_bytes)?),
        value_type::F64 => Array::F64(read_numbers(reader, count, what, f64::from_le_bytes)?),
        _ => return Err(unknown_type(key, value_type)),
    })
}

fn read_numbers<T, const N: usize>(
    reader: &mut Reader<'_>,
    count: usize,
    what: &str,
    from_le_bytes: fn([u8; N]) -> T,
) -> Result<Vec<T>, FormatError> {
    reader.require(count, N, what)?;
    let (numbers, _) = reader.bytes(count * N, what)?.as_chunks::<N>();
    Ok(numbers.iter().map(|bytes| from_le_bytes(*bytes)).collect())
}

fn bool_of([byte]: [u8; 1], key: &str) -> Result<bool, FormatError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FormatError::corrupt(format_args!("metadata `{key}` has a bool of value {byte}"))),
    }
}

fn unknown_type(key: &str, value_type: u32) -> FormatError {
    FormatError::corrupt(format_args!("metadata `{key}` has the unknown value type {value_type}"))
}

impl Value {
    /// The value of an integer of any width.
    fn integer(&self) -> Option<i128> {
        match self {
            Self::U8(value) => Some((*value).into()),
            Self::I8(value) => Some((*value).into()),
            Self::U16(value) => Some((*value).into()),
            Self::I16(value) => Some((*value).into()),
            Self::U32(value) => Some((*value).into()),
            Self::I32(value) => Some((*value).into()),
            Self::U64(value) => Some((*value).into()),
            Self::I64(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// The values of an array of integers of any width, where all of them fit `T`.
    fn integers<T>(&self) -> Option<Vec<T>>
    where
        T: TryFrom<u8> + TryFrom<i8> + TryFrom<u16> + TryFrom<i16> + TryFrom<u32> + TryFrom<i32>,
        T: TryFrom<u64> + TryFrom<i64>,
    {
        fn convert<F: Copy, T: TryFrom<F>>(values: &[F]) -> Option<Vec<T>> {
            values.iter().map(|value| T::try_from(*value).ok()).collect()
        }
        let Self::Array(array) = self else { return None };
        match array {
            Array::U8(values) => convert(values),
            Array::I8(values) => convert(values),
            Array::U16(values) => convert(values),
            Array::I16(values) => convert(values),
            Array::U32(values) => convert(values),
            Array::I32(values) => convert(values),
            Array::U64(values) => convert(values),
            Array::I64(values) => convert(values),
            Array::F32(_) | Array::Bool(_) | Array::String(_) | Array::F64(_) => None,
        }
    }
}

/// For messages and listings: scalars in full, long strings shortened, arrays by their element type and length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(f),
            Self::I8(value) => value.fmt(f),
            Self::U16(value) => value.fmt(f),
            Self::I16(value) => value.fmt(f),
            Self::U32(value) => value.fmt(f),
            Self::I32(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(text) => write!(f, "\"{}\"", shortened(text)),
            Self::Array(array) => array.fmt(f),
            Self::U64(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (element, len) = match self {
            Self::U8(values) => ("u8", values.len()),
            Self::I8(values) => ("i8", values.len()),
            Self::U16(values) => ("u16", values.len()),
            Self::I16(values) => ("i16", values.len()),
            Self::U32(values) => ("u32", values.len()),
            Self::I32(values) => ("i32", values.len()),
            Self::F32(values) => ("f32", values.len()),
            Self::Bool(values) => ("bool", values.len()),
            Self::String(values) => ("string", values.len()),
            Self::U64(values) => ("u64", values.len()),
            Self::I64(values) => ("i64", values.len()),
            Self::F64(values) => ("f64", values.len()),
        };
        write!(f, "[{element}; {len}]")
    }
}

/// Conversions for [`Writer::metadata`](super::Writer::metadata).
macro_rules! value_from {
    ($($from:ty => |$value:ident| $into:expr),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $into
            }
        })*
    };
}

value_from! {
    u32 => |value| Self::U32(value),
    i32 => |value| Self::I32(value),
    u64 => |value| Self::U64(value),
    f32 => |value| Self::F32(value),
    bool => |value| Self::Bool(value),
    &str => |value| Self::String(value.to_owned()),
    String => |value| Self::String(value),
    Array => |value| Self::Array(value),
    Vec<String> => |values| Self::Array(Array::String(values)),
    Vec<&str> => |values| Self::Array(Array::String(values.into_iter().map(str::to_owned).collect())),
    Vec<f32> => |values| Self::Array(Array::F32(values)),
    Vec<i32> => |values| Self::Array(Array::I32(values)),
    Vec<u32> => |values| Self::Array(Array::U32(values)),
}
