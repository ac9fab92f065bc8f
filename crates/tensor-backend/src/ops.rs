//! Params of the ops: buffers with their shapes. `[rows, n]` means that the leading `rows` rows take part.

use core::ops::Range;

use crate::Backend;

/// See [`Backend::embed`].
pub struct Embed<'a, B: Backend> {
    /// Token ids and which of them are fed from the sampler.
    pub inputs: &'a B::Inputs,
    /// Last sampled token of each slot.
    pub sampler: &'a B::Sampler,
    /// `[vocab, hidden]`, loaded as an embedding.
    pub table: &'a B::Weight,
    /// `[rows, hidden]`
    pub out: &'a mut B::Buffer,
    /// Tokens of the step.
    pub rows: usize,
}

/// See [`Backend::rms_norm`].
pub struct RmsNorm<'a, B: Backend> {
    /// `[rows, hidden]`
    pub x: &'a B::Buffer,
    /// `[1, hidden]`, f32
    pub weight: &'a B::Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, hidden]`
    pub out: &'a mut B::Buffer,
    /// Rows that take part.
    pub rows: usize,
}

/// See [`Backend::add_rms_norm`].
pub struct AddRmsNorm<'a, B: Backend> {
    /// `[rows, hidden]`
    pub x: &'a B::Buffer,
    /// `[rows, hidden]`, updated
    pub residual: &'a mut B::Buffer,
    /// `[1, hidden]`, f32
    pub weight: &'a B::Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, hidden]`
    pub out: &'a mut B::Buffer,
    /// Rows that take part.
    pub rows: usize,
}

/// See [`Backend::matmul`].
pub struct MatMul<'a, B: Backend> {
    /// `[rows, k]`
    pub x: &'a B::Buffer,
    /// `[n, k]`
    pub weight: &'a B::Weight,
    /// `[1, n]`, f32
    pub bias: Option<&'a B::Buffer>,
    /// `[rows, n]`
    pub out: &'a mut B::Buffer,
    /// Rows that take part.
    pub rows: usize,
}

/// See [`Backend::matmul_add_rms_norm`].
pub struct MatMulAddRmsNorm<'a, B: Backend> {
    /// `[rows, k]`
    pub x: &'a B::Buffer,
    /// `[hidden, k]`
    pub weight: &'a B::Weight,
    /// `[rows, hidden]`: room for the product, if the backend wants it
    pub product: &'a mut B::Buffer,
    /// `[rows, hidden]`, updated
    pub residual: &'a mut B::Buffer,
    /// `[1, hidden]`, f32
    pub norm: &'a B::Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, hidden]`
    pub out: &'a mut B::Buffer,
    /// Rows that take part.
    pub rows: usize,
}

impl<B: Backend> MatMulAddRmsNorm<'_, B> {
    /// The product, then sum and norm, as two ops.
    ///
    /// # Errors
    /// An op could not be enqueued.
    pub fn one_by_one(self, backend: &mut B) -> Result<(), B::Error> {
        let Self { x, weight, product, residual, norm, eps, out, rows } = self;
        backend.matmul(MatMul { x, weight, bias: None, out: product, rows })?;
        backend.add_rms_norm(AddRmsNorm { x: product, residual, weight: norm, eps, out, rows })
    }
}

/// See [`Backend::gated_matmul`].
pub struct GatedMatMul<'a, B: Backend> {
    /// `[rows, k]`
    pub x: &'a B::Buffer,
    /// `[2 n, k]`: gate, then up; loaded as a gated product
    pub weight: &'a B::Weight,
    /// `[rows, n]`
    pub out: &'a mut B::Buffer,
    /// Rows that take part.
    pub rows: usize,
}

/// RMS norm of each query and key head before the rotation (Qwen3).
pub struct QkNorm<'a, B: Backend> {
    /// `[1, head_dim]`, f32
    pub q_weight: &'a B::Buffer,
    /// `[1, head_dim]`, f32
    pub k_weight: &'a B::Buffer,
    /// Added to the mean square.
    pub eps: f32,
}

/// See [`Backend::rope_append`].
///
/// Rotation in halves (GPT-NeoX order): with `c`, `s` the table's row for the token's position and `h = head_dim / 2`,
/// `y[i] = x[i] c[i] - x[i + h] s[i]` and `y[i + h] = x[i + h] c[i] + x[i] s[i]` for `i < h` (Su et al., 2021).
pub struct RopeAppend<'a, B: Backend> {
    /// Positions, rows and block tables.
    pub inputs: &'a B::Inputs,
    /// `[rows, (num_heads + 2 num_kv_heads) * head_dim]`: queries, keys, values; queries and keys are rotated in place
    pub qkv: &'a mut B::Buffer,
    /// `[max_positions, head_dim]`, f32: cosines, then sines; see
    /// [`RotaryFrequencies::table`](crate::RotaryFrequencies::table)
    pub rope: &'a B::Buffer,
    /// Norm before the rotation.
    pub qk_norm: Option<QkNorm<'a, B>>,
    /// Receives keys and values at each token's position.
    pub kv: &'a mut B::Kv,
    /// Layer of `kv`.
    pub layer: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Tokens of the step.
    pub rows: usize,
}

/// See [`Backend::paged_attention`].
///
/// Token `t` at position `p` attends to positions `max(0, p + 1 - sliding_window) ..= p` of its row. Query head `h` reads
/// key-value head `h / (num_heads / num_kv_heads)` (Ainslie et al., 2023).
pub struct PagedAttention<'a, B: Backend> {
    /// Rows, context lengths and block tables.
    pub inputs: &'a B::Inputs,
    /// `[rows, (num_heads + 2 num_kv_heads) * head_dim]`; only the queries are read
    pub qkv: &'a B::Buffer,
    /// Keys and values.
    pub kv: &'a B::Kv,
    /// Layer of `kv`.
    pub layer: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Factor on the dot products, `1 / sqrt(head_dim)` as a rule.
    pub scale: f32,
    /// Positions a token sees, itself included; `None`: all before it.
    pub sliding_window: Option<usize>,
    /// `[rows, num_heads * head_dim]`
    pub out: &'a mut B::Buffer,
    /// Tokens of the step.
    pub rows: usize,
}

/// See [`Backend::gather_rows`].
pub struct GatherRows<'a, B: Backend> {
    /// The logit jobs.
    pub inputs: &'a B::Inputs,
    /// Jobs to gather; output row `i` is job `jobs.start + i`.
    pub jobs: Range<usize>,
    /// `[tokens, n]`
    pub x: &'a B::Buffer,
    /// `[jobs, n]`
    pub out: &'a mut B::Buffer,
}

/// See [`Backend::sample`].
pub struct Sample<'a, B: Backend> {
    /// The logit jobs.
    pub inputs: &'a B::Inputs,
    /// Jobs to do; logits row `i` belongs to job `jobs.start + i`.
    pub jobs: Range<usize>,
    /// `[jobs, vocab]`, f32; contents undefined afterwards
    pub logits: &'a mut B::Buffer,
    /// Parameters and history of each slot; gets the sampled tokens.
    pub sampler: &'a mut B::Sampler,
    /// Receives the results, at the jobs' indices.
    pub samples: &'a mut B::Samples,
}
