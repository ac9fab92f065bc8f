//! A cursor over the bytes of a GGUF file that never reads past the end and never allocates. It knows primitive values,
//! not their meaning.

use std::fmt::Display;

use crate::FormatError;

/// Reads little-endian values from the front. Every method names what it reads, for the message if that is not there.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Self {
        Self { file, offset: 0 }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Fails unless `count` things of at least `min_bytes` each can still follow: asked before allocating for them.
    pub(super) fn require(&self, count: usize, min_bytes: usize, what: impl Display) -> Result<(), FormatError> {
        let needed = (count as u64).saturating_mul(min_bytes as u64);
        if needed > self.left() as u64 { Err(self.truncated(needed, what)) } else { Ok(()) }
    }

    pub(super) fn bytes(&mut self, len: usize, what: impl Display) -> Result<&'a [u8], FormatError> {
        let Some(bytes) = self.file[self.offset..].get(..len) else {
            return Err(self.truncated(len as u64, what));
        };
        self.offset += len;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], FormatError> {
        let bytes = self.bytes(N, what)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    pub(super) fn u32(&mut self, what: impl Display) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: impl Display) -> Result<u64, FormatError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A 64-bit count of at most `max`.
    pub(super) fn count(&mut self, what: impl Display, max: usize) -> Result<usize, FormatError> {
        let offset = self.offset;
        let count = self.u64(&what)?;
        usize::try_from(count).ok().filter(|count| *count <= max).ok_or_else(|| {
            FormatError::corrupt(format_args!("{what} at byte {offset} is {count}; at most {max} is possible"))
        })
    }

    /// A 64-bit length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: impl Display) -> Result<&'a str, FormatError> {
        let len = self.u64(&what)?;
        let offset = self.offset;
        let Ok(short_len) = usize::try_from(len) else { return Err(self.truncated(len, what)) };
        std::str::from_utf8(self.bytes(short_len, &what)?)
            .map_err(|e| FormatError::corrupt(format_args!("{what} at byte {offset} is not UTF-8: {e}")))
    }

    fn left(&self) -> usize {
        self.file.len() - self.offset
    }

    fn truncated(&self, needed: u64, what: impl Display) -> FormatError {
        FormatError::Truncated { what: what.to_string(), offset: self.offset as u64, needed, left: self.left() as u64 }
    }
}
