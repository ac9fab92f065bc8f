//! From stored tensors to what the decoder multiplies with: weights fused by rows, vectors in f32, the rotary table, with
//! progress and the count of what was taken. Knows tensors and the backend, not the graph.

use std::borrow::Cow;

use model_format::dequantize;
use tensor_backend::{Backend, Element, RotaryFrequencies, WeightPart, WeightRole};

use crate::{
    Checkpoint, ModelError, RunnerConfig,
    memory::{Line, Taken},
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

impl LayerWeight {
    fn ids(&self, layer: u32) -> Vec<TensorId> {
        self.tensors.iter().map(|tensor| TensorId::Layer(layer, *tensor)).collect()
    }
}

/// How far loading has come. The stages follow each other in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadProgress {
    /// Tensors are loaded.
    Tensors {
        /// Stored bytes of those that are loaded.
        bytes_done: u64,
        /// Stored bytes of all.
        bytes_total: u64,
    },
    /// All tensors are loaded; activations, step inputs and the KV pools are taken.
    Buffers,
    /// All memory is taken; made-up steps run and decode steps are recorded, where the configuration wants it.
    WarmUp,
}

/// Loads tensors into a backend, one after another.
pub(crate) struct Loader<'l, 'a, B: Backend> {
    backend: &'l mut B,
    checkpoint: &'l Checkpoint<'a>,
    progress: &'l mut dyn FnMut(LoadProgress),
    bytes_done: u64,
    bytes_total: u64,
    taken: Taken,
}

impl<'l, 'a, B: Backend> Loader<'l, 'a, B> {
    pub(crate) fn new(
        backend: &'l mut B,
        checkpoint: &'l Checkpoint<'a>,
        progress: &'l mut dyn FnMut(LoadProgress),
    ) -> Self {
        let bytes_total = checkpoint.tensors().map(|tensor| tensor.bytes).sum();
        progress(LoadProgress::Tensors { bytes_done: 0, bytes_total });
        let taken = Taken::new(backend);
        Self { backend, checkpoint, progress, bytes_done: 0, bytes_total, taken }
    }

    /// The model that is loaded.
    pub(crate) fn checkpoint(&self) -> &'l Checkpoint<'a> {
        self.checkpoint
    }

    /// What the backend took.
    pub(crate) fn finish(self) -> Taken {
        self.taken
    }

    /// One product of a layer.
    pub(crate) fn layer_weight(&mut self, layer: u32, weight: LayerWeight) -> Result<B::Weight, ModelError> {
        self.weight(&weight.ids(layer), weight.role)
    }

    /// The tensors' rows as one weight.
    pub(crate) fn weight(&mut self, ids: &[TensorId], role: WeightRole) -> Result<B::Weight, ModelError> {
        let weight = match self.random_weight(ids, role)? {
            Some(weight) => weight,
            None => {
                let bytes: Vec<Cow<'a, [u8]>> = ids.iter().map(|id| self.checkpoint.bytes(*id)).collect();
                let parts: Vec<WeightPart<'_>> =
                    ids.iter().zip(&bytes).map(|(id, bytes)| part(self.checkpoint, *id, bytes)).collect();
                self.backend.load_weight(&parts, role).map_err(ModelError::backend)?
            }
        };
        self.taken.put(Line::Weights, self.backend);
        for id in ids {
            self.advance(self.checkpoint.num_bytes(*id));
        }
        Ok(weight)
    }

    /// A weight that the device makes itself: none if a file holds it, or if the device makes none.
    fn random_weight(&mut self, ids: &[TensorId], role: WeightRole) -> Result<Option<B::Weight>, ModelError> {
        let parts = ids.iter().map(|id| Some((part(self.checkpoint, *id, &[]), self.checkpoint.random_elements(*id)?)));
        match parts.collect::<Option<Vec<_>>>() {
            Some(parts) => self.backend.load_random_weight(&parts, role).map_err(ModelError::backend),
            None => Ok(None),
        }
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
            self.advance(bytes.len());
        }
        let mut buffer = self.backend.alloc(1, values.len(), Element::F32).map_err(ModelError::backend)?;
        self.taken.put(Line::Vectors, self.backend);
        self.backend.write(&mut buffer, &values).map_err(ModelError::backend)?;
        Ok(buffer)
    }

    /// Cosines and sines of positions up to `max_model_len`.
    pub(crate) fn rotary_table(
        &mut self,
        frequencies: &RotaryFrequencies,
        max_model_len: usize,
    ) -> Result<B::Buffer, ModelError> {
        let head_dim = 2 * frequencies.inverse.len();
        // The buffer first: where there is no memory it is refused, before the table would abort.
        let mut buffer = self.backend.alloc(max_model_len, head_dim, Element::F32).map_err(ModelError::backend)?;
        self.taken.put(Line::RotaryTable, self.backend);
        self.backend.write(&mut buffer, &frequencies.table(max_model_len)).map_err(ModelError::backend)?;
        Ok(buffer)
    }

    fn advance(&mut self, loaded_bytes: usize) {
        self.bytes_done += loaded_bytes as u64;
        (self.progress)(LoadProgress::Tensors { bytes_done: self.bytes_done, bytes_total: self.bytes_total });
    }
}

/// How an embedding is used, which depends on whether it is also the output head.
pub(crate) fn embedding_role(checkpoint: &Checkpoint<'_>) -> WeightRole {
    if checkpoint.config().tie_word_embeddings { WeightRole::TiedEmbedding } else { WeightRole::Embedding }
}

/// Bytes that the backend will take for all weights of a model. Nothing is loaded.
pub(crate) fn planned_weight_bytes<B: Backend>(backend: &B, checkpoint: &Checkpoint<'_>) -> u64 {
    weights(checkpoint).map(|(ids, role)| backend.planned_weight_bytes(&shapes(checkpoint, &ids), role)).sum()
}

/// Bytes that the most demanding product of a model will need as scratch.
pub(crate) fn planned_scratch_bytes<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint<'_>,
    runner: &RunnerConfig,
) -> u64 {
    let planned = |(ids, role): (Vec<TensorId>, WeightRole)| {
        let rows = match ids[0] {
            TensorId::Layer(..) => runner.max_batch_tokens as usize,
            _ => runner.logit_rows(),
        };
        backend.planned_scratch_bytes(&shapes(checkpoint, &ids), role, rows)
    };
    weights(checkpoint).map(planned).max().unwrap_or(0)
}

/// The tensors of each weight of a model, and what it is for.
fn weights(checkpoint: &Checkpoint<'_>) -> impl Iterator<Item = (Vec<TensorId>, WeightRole)> {
    let config = checkpoint.config();
    let head = (!config.tie_word_embeddings).then(|| (vec![TensorId::OutputHead], WeightRole::Product));
    let of_layers = (0..config.num_layers)
        .flat_map(|layer| [QKV, ATTENTION_OUTPUT, GATE_UP, DOWN].map(|weight| (weight.ids(layer), weight.role)));
    [(vec![TensorId::Embedding], embedding_role(checkpoint))].into_iter().chain(head).chain(of_layers)
}

/// Tensors as parts of a weight, without their bytes.
fn shapes(checkpoint: &Checkpoint<'_>, ids: &[TensorId]) -> Vec<WeightPart<'static>> {
    ids.iter().map(|id| part(checkpoint, *id, &[])).collect()
}

/// A matrix of the checkpoint as part of a weight.
fn part<'b>(checkpoint: &Checkpoint<'_>, id: TensorId, bytes: &'b [u8]) -> WeightPart<'b> {
    let (format, shape) = checkpoint.describe(id);
    let &[rows, cols] = shape else { unreachable!("only matrices are parts of weights") };
    WeightPart { bytes, format, rows, cols, order: checkpoint.row_order(id) }
}
