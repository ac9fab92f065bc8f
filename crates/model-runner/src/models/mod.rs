//! The supported architectures, one file each, and what they may differ in. Knows names and options; the arithmetic that
//! they share is the `decoder` module's.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use model_format::{ConfigSource, ModelConfig};

use crate::ModelError;

/// A dense decoder: pre-norm layers of grouped-query attention with rotary positions and a SiLU-gated MLP, all norms RMS.
/// What varies is named here.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// For messages.
    pub(crate) name: &'static str,
    /// `architectures[0]` of a config.json.
    pub(crate) hugging_face: &'static str,
    /// `general.architecture` of a GGUF file. `None`: such models are converted to another architecture's GGUF.
    pub(crate) gguf: Option<&'static str>,
    /// Whether GGUF files hold each head's query and key rows as pairs `(i, i + head_dim / 2)`, the order of the original
    /// Llama release, which rotates neighbours.
    pub(crate) gguf_interleaves_rotary_rows: bool,
    /// Biases on the query, key and value projections.
    pub(crate) qkv_bias: QkvBias,
    /// RMS norm of every query and key head before the rotation.
    pub(crate) qk_norm: bool,
}

/// Whether the query, key and value projections have biases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QkvBias {
    /// Always, whatever the config says.
    Always,
    /// If the config has `attention_bias`.
    AsConfigured,
}

/// All of them. Adding one means: write its file, list it here.
const ARCHITECTURES: [&Architecture; 4] = [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3];

impl Architecture {
    /// The architecture that files of this kind call `name`.
    pub(crate) fn named(name: &str, source: ConfigSource) -> Result<&'static Self, ModelError> {
        let found = ARCHITECTURES.into_iter().find(|architecture| architecture.name_in(source) == Some(name));
        found.ok_or_else(|| ModelError::UnsupportedArchitecture {
            name: name.to_owned(),
            supported: supported_architectures(source).collect::<Vec<_>>().join(", "),
        })
    }

    /// What files of this kind call the architecture.
    fn name_in(&self, source: ConfigSource) -> Option<&'static str> {
        match source {
            ConfigSource::HuggingFace => Some(self.hugging_face),
            ConfigSource::Gguf => self.gguf,
        }
    }

    /// Whether a model of this config has query, key and value biases.
    pub(crate) fn has_qkv_bias(&self, config: &ModelConfig) -> bool {
        self.qkv_bias == QkvBias::Always || config.attention_bias
    }
}

/// The names of the supported architectures, as files of this kind spell them.
fn supported_architectures(source: ConfigSource) -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.into_iter().filter_map(move |architecture| architecture.name_in(source))
}

/// Whether models of this architecture can be run. Ask before parsing the whole config, so that an unknown architecture
/// is refused as such and not for the first of its unknown fields.
///
/// # Errors
/// [`ModelError::UnsupportedArchitecture`], which lists what is supported.
pub fn check_architecture(name: &str, source: ConfigSource) -> Result<(), ModelError> {
    Architecture::named(name, source).map(|_| ())
}
