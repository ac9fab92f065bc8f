//! Why a model cannot be run. Says which tensor, field or limit is at fault; knows no file paths, which the caller adds.

use std::borrow::Cow;

use model_format::{FormatError, TensorFormat};

/// Why a model cannot be loaded. For whoever chose the model or the limits.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config names an architecture that is not implemented.
    #[error("the model's architecture `{name}` is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// The architecture, as the file names it.
        name: String,
        /// All that are supported.
        supported: String,
    },
    /// The model's files lack tensors that its config implies.
    #[error("the model's files lack tensors that its config implies: {names}")]
    MissingTensors {
        /// The first few of them, as the file would name them.
        names: String,
    },
    /// The model's files hold tensors that the architecture does not use; running without them would compute another model.
    #[error("the model's files hold tensors that architecture `{architecture}` does not use: {names}")]
    UnexpectedTensors {
        /// The architecture.
        architecture: &'static str,
        /// The first few of them.
        names: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error("tensor `{name}` is in the model's files twice")]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor's shape contradicts the config.
    #[error("tensor `{name}` has shape {found:?}, but the model's config implies {expected:?}")]
    WrongShape {
        /// The tensor.
        name: String,
        /// Its shape, outermost dimension first.
        found: Vec<usize>,
        /// What the config implies.
        expected: Vec<usize>,
    },
    /// A tensor's bytes are not those of its shape and format.
    #[error("tensor `{name}` has {found} bytes, which do not make {format} of shape {shape:?}")]
    WrongSize {
        /// The tensor.
        name: String,
        /// Bytes there are.
        found: usize,
        /// How it is stored.
        format: TensorFormat,
        /// Its shape, outermost dimension first.
        shape: Vec<usize>,
    },
    /// A limit of [`RunnerConfig`](crate::RunnerConfig) is out of range.
    #[error("{name} = {value} is not possible: {rule}")]
    Limit {
        /// The limit.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What must hold.
        rule: String,
    },
    /// The backend did not take the memory that it had planned: a bug in it.
    #[error("the backend took {taken} bytes for {name}, where {planned} were planned")]
    Ledger {
        /// The line of the ledger.
        name: Cow<'static, str>,
        /// Bytes planned.
        planned: u64,
        /// Bytes taken.
        taken: u64,
    },
    /// A file could not be parsed.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The backend failed.
    #[error("the backend failed while the model was loaded")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ModelError {
    /// For `map_err` on the results of a backend.
    pub(crate) fn backend(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Backend(Box::new(error))
    }
}

/// How many names a message lists.
const MAX_LISTED: usize = 8;

/// The first few names, comma separated, with an ellipsis if there are more.
pub(crate) fn listed(names: impl IntoIterator<Item = String>) -> String {
    let mut names = names.into_iter();
    let mut text = names.by_ref().take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    if names.next().is_some() {
        text.push_str(", …");
    }
    text
}
