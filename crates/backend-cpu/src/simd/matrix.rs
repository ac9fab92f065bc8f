//! Strided views of matrices that can be divided by rows and by columns. Knows bounds, not arithmetic.

use core::marker::PhantomData;
use core::ops::Range;

/// A view of `rows` rows of `cols` elements; consecutive rows are `stride` elements apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, T = f32> {
    values: &'a [T],
    stride: usize,
    rows: usize,
    cols: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Views `values` from its start.
    pub(crate) fn new(values: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + cols <= values.len(), "the last row ends inside of the values");
        Self { values, stride, rows, cols }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows);
        &self.values[row * self.stride..][..self.cols]
    }

    /// The view of some rows.
    pub(crate) fn some_rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows);
        let values = self.values.get(rows.start * self.stride..).unwrap_or_default();
        Self::new(values, rows.len(), self.cols, self.stride)
    }

    /// The view of some columns.
    pub(crate) fn some_cols(&self, cols: Range<usize>) -> Self {
        assert!(cols.end <= self.cols);
        let values = self.values.get(cols.start..).unwrap_or_default();
        Self::new(values, self.rows, cols.len(), self.stride)
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_ptr(&self) -> *const T {
        self.values.as_ptr()
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }
}

/// A mutable view of `rows` rows of `cols` elements; consecutive rows are `stride` elements apart. Views that were split
/// off one another never share an element, so they may go to different threads.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    start: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is the only access to its elements, as a `&mut [f32]` would be.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// Views `values` from its start.
    pub(crate) fn new(values: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(cols <= stride, "rows do not overlap");
        assert!(rows == 0 || (rows - 1) * stride + cols <= values.len(), "the last row ends inside of the values");
        Self { start: values.as_mut_ptr(), stride, rows, cols, values: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.start
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: the row lies inside of the view, which alone has access to its elements while `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.cols) }
    }

    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { start: self.start, stride: self.stride, rows: self.rows, cols: self.cols, values: PhantomData }
    }

    /// Columns `..mid` and `mid..`.
    pub(crate) fn split_cols(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.cols);
        let right = Self {
            // SAFETY: `mid <= cols`, so this is inside of the first row or one past its end; no row, no access.
            start: if self.rows == 0 { self.start } else { unsafe { self.start.add(mid) } },
            cols: self.cols - mid,
            ..self
        };
        (Self { cols: mid, ..self }, right)
    }

    /// Rows `..mid` and `mid..`.
    pub(crate) fn split_rows(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.rows);
        let right = Self {
            // SAFETY: row `mid` starts inside of the view; if there is none, the start stays where it is.
            start: if mid == self.rows { self.start } else { unsafe { self.start.add(mid * self.stride) } },
            rows: self.rows - mid,
            ..self
        };
        (Self { rows: mid, ..self }, right)
    }

    /// The view of some rows and columns.
    pub(crate) fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> MatrixMut<'_> {
        let below = self.reborrow().split_rows(rows.start).1.split_rows(rows.len()).0;
        below.split_cols(cols.start).1.split_cols(cols.len()).0
    }
}
