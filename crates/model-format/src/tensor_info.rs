//! What a file says about one tensor, and the checked list of all of them. It knows no file format.

use std::ops::Range;

use crate::{FormatError, TensorFormat, error::shortened};

/// A tensor of a file: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, as the file spells it.
    pub name: String,
    /// How an element is stored.
    pub format: TensorFormat,
    /// The dimensions, outermost first: a matrix is `[rows, cols]`, and a row lies contiguous. (GGUF stores the reverse.)
    pub shape: Vec<usize>,
    /// The byte range in the file; it lies inside the file, and its length is that of the shape.
    pub data: Range<usize>,
}

/// The most tensors a file may have.
pub(crate) const MAX_TENSORS: usize = 1 << 16;

/// The tensors of a file, in file order, with unique names and disjoint byte ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorTable {
    tensors: Vec<TensorInfo>,
    by_name: Vec<usize>,
}

impl TensorTable {
    /// Fails where two tensors have the same name or share a byte.
    pub(crate) fn new(tensors: Vec<TensorInfo>) -> Result<Self, FormatError> {
        let by_name = index_by_name(&tensors, |tensor| &tensor.name)
            .map_err(|name| FormatError::corrupt(format_args!("two tensors are named `{}`", shortened(name))))?;
        let mut by_start: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.data.is_empty()).collect();
        by_start.sort_by_key(|tensor| tensor.data.start);
        for pair in by_start.windows(2) {
            if pair[1].data.start < pair[0].data.end {
                return Err(FormatError::corrupt(format_args!(
                    "tensors `{}` (bytes {:?}) and `{}` (bytes {:?}) overlap",
                    shortened(&pair[0].name),
                    pair[0].data,
                    shortened(&pair[1].name),
                    pair[1].data
                )));
            }
        }
        Ok(Self { tensors, by_name })
    }

    pub(crate) fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TensorInfo> {
        find_by_name(&self.tensors, &self.by_name, |tensor| &tensor.name, name)
    }
}

/// The indices of `items` in the order of their names, or a name that occurs twice.
pub(crate) fn index_by_name<T>(items: &[T], name: impl Fn(&T) -> &str) -> Result<Vec<usize>, &str> {
    let mut index: Vec<usize> = (0..items.len()).collect();
    index.sort_unstable_by(|&a, &b| name(&items[a]).cmp(name(&items[b])));
    match index.windows(2).find(|pair| name(&items[pair[0]]) == name(&items[pair[1]])) {
        Some(pair) => Err(name(&items[pair[0]])),
        None => Ok(index),
    }
}

/// The item of that name, through an index made by [`index_by_name`].
pub(crate) fn find_by_name<'a, T>(
    items: &'a [T],
    index: &[usize],
    name: impl Fn(&T) -> &str,
    wanted: &str,
) -> Option<&'a T> {
    let found = index.binary_search_by(|&i| name(&items[i]).cmp(wanted)).ok()?;
    Some(&items[index[found]])
}
