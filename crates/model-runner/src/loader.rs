//! From stored tensors to what the decoder multiplies with: weights fused by rows, vectors in f32, progress and the count
//! of what was taken. Knows tensors and the backend, not the graph.

use std::borrow::Cow;

use model_format::dequantize;
use tensor_backend::{Backend, Element, RowOrder, WeightPart, WeightRole};

use crate::{
    Checkpoint, ModelError,
    tensor_id::{
        LayerTensor::{self, AttentionOutput, Down, Gate, Key, Query, Up, Value},
        TensorId,
    },
};

/// A layer's products: the tensors that make up each, by rows, and what it is for.
pub(crate) const QKV: LayerWeight = LayerWeight { tensors: &[Query, Key, Value], role: WeightRole::Product };
pub(crate) const ATTENTION_OUTPUT: LayerWeight = LayerWeight { tensors: &[AttentionOutput], role: WeightRole::Product };
pub(crate) const GATE_UP: LayerWeight = LayerWeight { tensors: &[Gate, Up], role: WeightRole::GatedProduct };
pub(crate) const DOWN: LayerWeight = LayerWeight { tensors: &[Down], role: WeightRole::Product };

/// See the constants.
#[derive(Clone, Copy)]
pub(crate) struct LayerWeight {
    tensors: &'static [LayerTensor],
    role: WeightRole,
}

/// How far loading has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadProgress {
    /// Stored bytes of the tensors that are loaded.
    pub bytes_done: u64,
    /// Stored bytes of all tensors.
    pub bytes_total: u64,
}

/// Loads tensors into a backend, one after another.
pub(crate) struct Loader<'l, 'a, B: Backend> {
    backend: &'l mut B,
    checkpoint: &'l Checkpoint<'a>,
    progress: &'l mut dyn FnMut(LoadProgress),
    bytes: LoadProgress,
    taken: u64,
}

impl<'l, 'a, B: Backend> Loader<'l, 'a, B> {
    pub(crate) fn new(
        backend: &'l mut B,
        checkpoint: &'l Checkpoint<'a>,
        progress: &'l mut dyn FnMut(LoadProgress),
    ) -> Self {
        let bytes_total = checkpoint.tensors().map(|tensor| tensor.bytes).sum();
        let bytes = LoadProgress { bytes_done: 0, bytes_total };
        progress(bytes);
        Self { backend, checkpoint, progress, bytes, taken: 0 }
    }

    /// The model that is loaded.
    pub(crate) fn checkpoint(&self) -> &'l Checkpoint<'a> {
        self.checkpoint
    }

    /// Bytes that the backend took for weights so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// One product of a layer.
    pub(crate) fn layer_weight(&mut self, layer: u32, weight: LayerWeight) -> Result<B::Weight, ModelError> {
        let ids: Vec<TensorId> = weight.tensors.iter().map(|tensor| TensorId::Layer(layer, *tensor)).collect();
        self.weight(&ids, weight.role)
    }

    /// The tensors' rows as one weight.
    pub(crate) fn weight(&mut self, ids: &[TensorId], role: WeightRole) -> Result<B::Weight, ModelError> {
        let bytes: Vec<Cow<'a, [u8]>> = ids.iter().map(|id| self.checkpoint.bytes(*id)).collect();
        let parts: Vec<WeightPart<'_>> =
            ids.iter().zip(&bytes).map(|(id, bytes)| part(self.checkpoint, *id, bytes)).collect();
        let weight = self.backend.load_weight(&parts, role).map_err(ModelError::backend)?;
        self.taken += self.backend.weight_bytes(&weight);
        self.advance(&bytes);
        Ok(weight)
    }

    /// Vectors of a layer, one after another, as one f32 row.
    pub(crate) fn layer_vector(&mut self, layer: u32, tensors: &[LayerTensor]) -> Result<B::Buffer, ModelError> {
        let ids: Vec<TensorId> = tensors.iter().map(|tensor| TensorId::Layer(layer, *tensor)).collect();
        self.vector(&ids)
    }

    /// Vectors, one after another, as one f32 row.
    pub(crate) fn vector(&mut self, ids: &[TensorId]) -> Result<B::Buffer, ModelError> {
        let mut values = Vec::new();
        for id in ids {
            let bytes = self.checkpoint.bytes(*id);
            let (format, shape) = self.checkpoint.describe(*id);
            let mut stored = vec![0.0; shape.iter().product()];
            dequantize(format, &bytes, &mut stored);
            let order = self.checkpoint.row_order(*id);
            values.extend((0..stored.len()).map(|i| stored[order.stored_row(i)]));
            self.advance(&[bytes]);
        }
        self.values(1, &values)
    }

    /// An f32 matrix of values that are not in the checkpoint.
    pub(crate) fn values(&mut self, rows: usize, values: &[f32]) -> Result<B::Buffer, ModelError> {
        let cols = values.len() / rows;
        let mut buffer = self.backend.alloc(rows, cols, Element::F32).map_err(ModelError::backend)?;
        self.backend.write(&mut buffer, values).map_err(ModelError::backend)?;
        Ok(buffer)
    }

    fn advance(&mut self, loaded: &[Cow<'_, [u8]>]) {
        self.bytes.bytes_done += loaded.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        (self.progress)(self.bytes);
    }
}

/// How an embedding is used, which depends on whether it is also the output head.
pub(crate) fn embedding_role(checkpoint: &Checkpoint<'_>) -> WeightRole {
    if checkpoint.config().tie_word_embeddings { WeightRole::TiedEmbedding } else { WeightRole::Embedding }
}

/// Bytes that the backend will take for all weights of a model. Nothing is loaded.
pub(crate) fn planned_weight_bytes<B: Backend>(backend: &B, checkpoint: &Checkpoint<'_>) -> u64 {
    let planned = |ids: &[TensorId], role| {
        let parts: Vec<WeightPart<'_>> = ids.iter().map(|id| part(checkpoint, *id, &[])).collect();
        backend.planned_weight_bytes(&parts, role)
    };
    let mut bytes = planned(&[TensorId::Embedding], embedding_role(checkpoint));
    if !checkpoint.config().tie_word_embeddings {
        bytes += planned(&[TensorId::OutputHead], WeightRole::Product);
    }
    for layer in 0..checkpoint.config().num_layers {
        for weight in [QKV, ATTENTION_OUTPUT, GATE_UP, DOWN] {
            let ids: Vec<TensorId> = weight.tensors.iter().map(|tensor| TensorId::Layer(layer, *tensor)).collect();
            bytes += planned(&ids, weight.role);
        }
    }
    bytes
}

/// A matrix of the checkpoint as part of a weight. Without bytes it is only a shape, for planning.
fn part<'b>(checkpoint: &Checkpoint<'_>, id: TensorId, bytes: &'b [u8]) -> WeightPart<'b> {
    let (format, shape) = checkpoint.describe(id);
    let &[rows, cols] = shape else { unreachable!("only matrices are parts of weights") };
    let order: RowOrder = checkpoint.row_order(id);
    WeightPart { bytes, format, rows, cols, order }
}
