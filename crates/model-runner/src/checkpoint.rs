//! A model at rest: its config and all of its tensors, verified against each other. Knows bytes, not files or devices.

use std::borrow::Cow;
use std::collections::BTreeMap;

use model_format::{ConfigSource, Gguf, ModelConfig, RopeScaling, Safetensors, TensorFormat, TensorInfo};
use tensor_backend::{RandomElements, RowOrder};

use crate::{
    ModelError, dummy,
    error::listed,
    models::{Architecture, check_architecture},
    tensor_id::{LayerTensor, TensorId},
};

/// A model's config and tensors. Whoever holds one knows that the architecture is implemented, and that exactly the
/// tensors which the config implies are there, in the right shapes.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    config: ModelConfig,
    architecture: &'static Architecture,
    tensors: BTreeMap<TensorId, Stored<'a>>,
}

#[derive(Debug)]
struct Stored<'a> {
    format: TensorFormat,
    shape: Vec<usize>,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    File(&'a [u8]),
    /// Made anew at each use from this seed, so that no copy is kept beside the backend's.
    Random(u64),
}

/// One tensor of a checkpoint, described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointTensor<'c> {
    /// Its name in files of the config's kind.
    pub name: String,
    /// How an element is stored.
    pub format: TensorFormat,
    /// Outermost dimension first.
    pub shape: &'c [usize],
    /// Stored size in bytes.
    pub bytes: u64,
}

/// Buffers that old converters wrote into checkpoints, and GGUF's rotary divisors, which the config has taken up.
const IGNORED_SUFFIXES: [&str; 2] = ["rotary_emb.inv_freq", "rope_freqs.weight"];

impl<'a> Checkpoint<'a> {
    /// The model in a GGUF file. `file` is what `gguf` was parsed from.
    ///
    /// # Errors
    /// An unknown architecture, a config that is not implemented, and tensors that are missing, misshapen or not of this
    /// architecture.
    pub fn from_gguf(gguf: &Gguf, file: &'a [u8]) -> Result<Self, ModelError> {
        // The architecture first: an unknown one is refused as such, and not for the first of its unknown keys.
        let name = ModelConfig::architecture_from_gguf(gguf)?;
        check_architecture(name, ConfigSource::Gguf)?;
        let config = ModelConfig::from_gguf(gguf, file)?;
        Self::new(config, gguf.tensors().iter().map(|tensor| (tensor, file)))
    }

    /// The model in a Hugging Face folder: its config, and each of its shards with the bytes that it was parsed from.
    ///
    /// # Errors
    /// As for [`from_gguf`](Self::from_gguf).
    pub fn from_safetensors(config: ModelConfig, shards: &[(Safetensors, &'a [u8])]) -> Result<Self, ModelError> {
        Self::new(config, shards.iter().flat_map(|(shard, file)| shard.tensors().iter().map(|tensor| (tensor, *file))))
    }

    /// A model of this config with random weights, the same for the same seed, in the config's `dtype` (bfloat16 if it
    /// has none). Norms are ones; matrices keep the scale of what they multiply.
    ///
    /// # Errors
    /// An unknown architecture.
    pub fn dummy(config: ModelConfig, seed: u64) -> Result<Self, ModelError> {
        let architecture = Architecture::named(&config.architecture, config.source)?;
        let format = config.dtype.unwrap_or(TensorFormat::BF16);
        let tensors = expected_tensors(&config, architecture)
            .enumerate()
            .map(|(index, id)| {
                let data = Data::Random(dummy::tensor_seed(seed, index as u64));
                (id, Stored { format, shape: expected_shape(id, &config), data })
            })
            .collect();
        Ok(Self { config, architecture, tensors })
    }

    fn new<'t>(
        config: ModelConfig,
        files: impl Iterator<Item = (&'t TensorInfo, &'a [u8])>,
    ) -> Result<Self, ModelError> {
        let architecture = Architecture::named(&config.architecture, config.source)?;
        let mut found = BTreeMap::new();
        let mut strangers = Vec::new();
        for (tensor, file) in files {
            match TensorId::parse(&tensor.name, config.source) {
                Some(id) => {
                    if found.insert(id, stored(tensor, file)?).is_some() {
                        return Err(ModelError::DuplicateTensor { name: tensor.name.clone() });
                    }
                }
                None if IGNORED_SUFFIXES.iter().any(|suffix| tensor.name.ends_with(suffix)) => {}
                None => strangers.push(tensor.name.clone()),
            }
        }
        // A tied head may be stored all the same; it is the embedding then.
        if config.tie_word_embeddings {
            found.remove(&TensorId::OutputHead);
        }
        let missing = expected_tensors(&config, architecture).filter(|id| !found.contains_key(id));
        let names = listed(missing.map(|id| id.name(config.source)));
        if !names.is_empty() {
            return Err(ModelError::MissingTensors { names });
        }
        let mut tensors = BTreeMap::new();
        for id in expected_tensors(&config, architecture) {
            let (id, tensor) = found.remove_entry(&id).expect("none is missing");
            let expected = expected_shape(id, &config);
            if tensor.shape != expected {
                return Err(ModelError::WrongShape { name: id.name(config.source), found: tensor.shape, expected });
            }
            tensors.insert(id, tensor);
        }
        strangers.extend(found.keys().map(|id| id.name(config.source)));
        if !strangers.is_empty() {
            return Err(ModelError::UnexpectedTensors { architecture: architecture.name, names: listed(strangers) });
        }
        Ok(Self { config, architecture, tensors })
    }

    /// The hyperparameters.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The longest context that the model is made for, in tokens: what the config states, or what YaRN scaling stretches
    /// the original context to, since configs state either there.
    #[must_use]
    pub fn max_context_len(&self) -> u32 {
        let stated = self.config.max_position_embeddings;
        match self.config.rope.scaling {
            RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                stated.max((f64::from(original_max_position_embeddings) * factor) as u32)
            }
            _ => stated,
        }
    }

    /// All tensors, embedding first, then layer by layer.
    pub fn tensors(&self) -> impl Iterator<Item = CheckpointTensor<'_>> {
        self.tensors.iter().map(|(id, tensor)| CheckpointTensor {
            name: id.name(self.config.source),
            format: tensor.format,
            shape: &tensor.shape,
            bytes: tensor.num_bytes() as u64,
        })
    }

    /// Whether the query, key and value projections have biases.
    pub(crate) fn has_qkv_bias(&self) -> bool {
        self.architecture.has_qkv_bias(&self.config)
    }

    /// Whether query and key heads are normed.
    pub(crate) fn has_qk_norm(&self) -> bool {
        self.architecture.qk_norm
    }

    /// The order in which the rows of a tensor are stored.
    pub(crate) fn row_order(&self, id: TensorId) -> RowOrder {
        use LayerTensor::{Key, KeyBias, Query, QueryBias};
        let is_rotated = matches!(id, TensorId::Layer(_, Query | QueryBias | Key | KeyBias));
        let interleaves = self.config.source == ConfigSource::Gguf && self.architecture.gguf_interleaves_rotary_rows;
        if is_rotated && interleaves {
            RowOrder::InterleavedHalves { head_dim: self.config.head_dim as usize }
        } else {
            RowOrder::Natural
        }
    }

    /// Format and shape of a tensor that the architecture has.
    pub(crate) fn describe(&self, id: TensorId) -> (TensorFormat, &[usize]) {
        let tensor = &self.tensors[&id];
        (tensor.format, &tensor.shape)
    }

    /// Stored size of a tensor that the architecture has.
    pub(crate) fn num_bytes(&self, id: TensorId) -> usize {
        self.tensors[&id].num_bytes()
    }

    /// The elements of a matrix that no file holds.
    pub(crate) fn random_elements(&self, id: TensorId) -> Option<RandomElements> {
        let tensor = &self.tensors[&id];
        match (&tensor.data, tensor.shape.as_slice()) {
            (Data::Random(seed), &[_, cols]) => Some(dummy::elements(*seed, cols)),
            _ => None,
        }
    }

    /// Bytes of a tensor that the architecture has: borrowed from the file, or made.
    pub(crate) fn bytes(&self, id: TensorId) -> Cow<'a, [u8]> {
        let tensor = &self.tensors[&id];
        match tensor.data {
            Data::File(bytes) => Cow::Borrowed(bytes),
            Data::Random(seed) => Cow::Owned(dummy::tensor(seed, tensor.format, &tensor.shape)),
        }
    }
}

impl Stored<'_> {
    fn num_bytes(&self) -> usize {
        match self.data {
            Data::File(bytes) => bytes.len(),
            Data::Random(_) => self.shape.iter().product::<usize>() * self.format.block_bytes(),
        }
    }
}

/// Takes a tensor's bytes, which must be those of its shape: a parser guarantees it for the file that it parsed.
fn stored<'a>(tensor: &TensorInfo, file: &'a [u8]) -> Result<Stored<'a>, ModelError> {
    let TensorInfo { name, format, shape, data } = tensor;
    let expected = match shape.as_slice() {
        [outer @ .., cols] => {
            let row_bytes = format.row_bytes(*cols);
            outer.iter().fold(row_bytes, |bytes, dim| bytes?.checked_mul(*dim))
        }
        [] => None,
    };
    let bytes = file.get(data.clone()).unwrap_or_default();
    if expected != Some(bytes.len()) {
        let (format, shape) = (*format, shape.clone());
        return Err(ModelError::WrongSize { name: name.clone(), found: bytes.len(), format, shape });
    }
    Ok(Stored { format: *format, shape: shape.clone(), data: Data::File(bytes) })
}

/// The tensors that a model of this config has, each once. Lazy, as a lying config may name more layers than there are.
fn expected_tensors<'c>(
    config: &'c ModelConfig,
    architecture: &'static Architecture,
) -> impl Iterator<Item = TensorId> + use<'c> {
    use LayerTensor::{
        AttentionOutput, Down, Gate, InputNorm, Key, KeyBias, KeyNorm, PostAttentionNorm, Query, QueryBias, QueryNorm,
        Up, Value, ValueBias,
    };
    let always = [InputNorm, Query, Key, Value, AttentionOutput, PostAttentionNorm, Gate, Up, Down];
    let biases = [QueryBias, KeyBias, ValueBias].into_iter().filter(|_| architecture.has_qkv_bias(config));
    let norms = [QueryNorm, KeyNorm].into_iter().filter(|_| architecture.qk_norm);
    let of_layer = always.into_iter().chain(biases).chain(norms);
    let layers = (0..config.num_layers).flat_map(move |layer| {
        let of_layer = of_layer.clone();
        of_layer.map(move |tensor| TensorId::Layer(layer, tensor))
    });
    let head = (!config.tie_word_embeddings).then_some(TensorId::OutputHead);
    [TensorId::Embedding, TensorId::FinalNorm].into_iter().chain(head).chain(layers)
}

/// The shape that a config implies, outermost dimension first.
fn expected_shape(id: TensorId, config: &ModelConfig) -> Vec<usize> {
    let hidden = config.hidden_size as usize;
    let intermediate = config.intermediate_size as usize;
    let head_dim = config.head_dim as usize;
    let q_width = config.num_heads as usize * head_dim;
    let kv_width = config.num_kv_heads as usize * head_dim;
    match id {
        TensorId::Embedding | TensorId::OutputHead => vec![config.vocab_size as usize, hidden],
        TensorId::FinalNorm => vec![hidden],
        TensorId::Layer(_, tensor) => match tensor {
            LayerTensor::InputNorm | LayerTensor::PostAttentionNorm => vec![hidden],
            LayerTensor::Query => vec![q_width, hidden],
            LayerTensor::QueryBias => vec![q_width],
            LayerTensor::Key | LayerTensor::Value => vec![kv_width, hidden],
            LayerTensor::KeyBias | LayerTensor::ValueBias => vec![kv_width],
            LayerTensor::QueryNorm | LayerTensor::KeyNorm => vec![head_dim],
            LayerTensor::AttentionOutput => vec![hidden, q_width],
            LayerTensor::Gate | LayerTensor::Up => vec![intermediate, hidden],
            LayerTensor::Down => vec![hidden, intermediate],
        },
    }
}
