//! Why a model file was refused: what is wrong, where, and what to do about it. It knows no file names; the caller adds
//! the path.

use std::fmt::Display;

use crate::TensorFormat;

/// Why a file was refused. The reader of the message is whoever chose the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file ends before something that its own counts promise.
    #[error(
        "the file ends too early: {what} at byte {offset} takes {needed} bytes and {left} are left; \
         the download may be incomplete, fetch the file again"
    )]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts, in bytes from the start of the file.
        offset: u64,
        /// How many bytes it takes.
        needed: u64,
        /// How many bytes the file still has there.
        left: u64,
    },
    /// The file does not start like a GGUF file.
    #[error(
        "not a GGUF file: it starts with {found:?} where \"GGUF\" is expected; give a .gguf file or a model folder"
    )]
    BadMagic {
        /// The first bytes, as text.
        found: String,
    },
    /// A GGUF version that is not read.
    #[error("GGUF version {version} is not supported (2 and 3 are); convert the model again with a current converter")]
    UnsupportedVersion {
        /// The version that the file states.
        version: u32,
    },
    /// The file contradicts itself or its format.
    #[error("the file is corrupt: {what}")]
    Corrupt {
        /// What is wrong, with the byte offset, key or tensor.
        what: String,
    },
    /// A setting that would change what the model computes and is not implemented.
    #[error("`{key}` = {value} is not supported; it changes what the model computes, so it is not ignored")]
    Unsupported {
        /// The field or key, as the file names it.
        key: String,
        /// Its value, shortened.
        value: String,
    },
    /// A tensor in a format that is not read.
    #[error("tensor `{tensor}` is stored as {format}, which is not supported; supported are {}", supported_formats())]
    UnsupportedTensorFormat {
        /// The tensor's name.
        tensor: String,
        /// The format's name, or its number where it has no known name.
        format: String,
    },
    /// One of the files of a split GGUF model.
    #[error("the file is one of {num_parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge`")]
    PartOfModel {
        /// How many files the model was split into.
        num_parts: u32,
    },
    /// A required field, key or tensor is not there.
    #[error("`{key}` is missing; the file is incomplete or describes another kind of model")]
    Missing {
        /// The field, key or tensor, as the file would name it.
        key: String,
    },
}

/// How many characters of a value a message repeats.
const MAX_QUOTED_CHARS: usize = 80;

impl FormatError {
    pub(crate) fn corrupt(what: impl Display) -> Self {
        Self::Corrupt { what: what.to_string() }
    }

    pub(crate) fn missing(key: impl Display) -> Self {
        Self::Missing { key: shortened(&key.to_string()) }
    }

    pub(crate) fn unsupported(key: impl Display, value: impl Display) -> Self {
        Self::Unsupported { key: shortened(&key.to_string()), value: shortened(&value.to_string()) }
    }
}

/// At most [`MAX_QUOTED_CHARS`] characters of `text`, on one line, so that a hostile file cannot flood a log.
pub(crate) fn shortened(text: &str) -> String {
    let mut quoted: String =
        text.chars().take(MAX_QUOTED_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}

fn supported_formats() -> String {
    TensorFormat::ALL.map(|format| format.to_string()).join(", ")
}
