//! What a caller asks for. Values only, unchecked; absent fields take the model's defaults. Names are those of the wire.

use std::time::Duration;

use serving_types::TokenId;
use tokenization::ChatMessage;

/// A prompt, and how it is to be continued.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Names the request for [`Generator::abort`](crate::Generator::abort); 1 to [`MAX_REQUEST_ID_BYTES`] bytes, unique
    /// among the running ones. Absent: one is drawn.
    pub request_id: Option<String>,
    /// The prompt.
    pub input: Input,
    /// How tokens are chosen and how many.
    pub sampling: SamplingOptions,
    /// Number of independent answers, `1..=`[`MAX_ANSWERS`]; they share the KV blocks of the prompt.
    pub n: u32,
    /// Generation ends when the text after the first `min_tokens` tokens holds any of these.
    pub stop: Vec<String>,
    /// Whether the text of what ended an answer (stop string or stop token) is part of it.
    pub include_stop_str_in_output: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Answers end this long after the call, with the tokens they have.
    pub timeout: Option<Duration>,
    /// Cached prefixes are shared only between equal salts; at most [`MAX_CACHE_SALT_BYTES`] bytes. Absent: empty.
    pub cache_salt: Option<String>,
}

/// Longest request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Most answers to one request.
pub const MAX_ANSWERS: u32 = 64;
/// Most token ids that are turned into text in one call, about as many as the longest text that can be tokenized has.
pub const MAX_DETOKENIZE_TOKENS: usize = 1 << 20;
/// Longest cache salt, in bytes.
pub const MAX_CACHE_SALT_BYTES: usize = 256;

impl GenerateRequest {
    /// One answer with every parameter at its default.
    #[must_use]
    pub fn new(input: Input) -> Self {
        Self {
            request_id: None,
            input,
            sampling: SamplingOptions::default(),
            n: 1,
            stop: Vec::new(),
            include_stop_str_in_output: false,
            skip_special_tokens: true,
            timeout: None,
            cache_salt: None,
        }
    }
}

/// The prompt, in one of three forms.
#[derive(Clone, Debug)]
pub enum Input {
    /// Text to continue. The model's beginning-of-sequence token is added where the model wants one.
    Text(String),
    /// A conversation to answer, put into the model's chat template.
    Chat(Vec<ChatMessage>),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
}

impl Input {
    /// What the wire calls it, for error messages.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Chat(_) => "chat",
            Self::Tokens(_) => "token_ids",
        }
    }
}

/// How tokens are chosen and how many. `None` is the model's default ([`GenerationDefaults`](crate::GenerationDefaults)),
/// or else the value at which the option does nothing. The ranges are checked by
/// [`Generator::generate`](crate::Generator::generate).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy. `[0, 100]`.
    pub temperature: Option<f32>,
    /// Keeps the smallest set of most likely tokens whose probability reaches this. `(0, 1]`.
    pub top_p: Option<f32>,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keeps tokens at least this many times as likely as the most likely one. `[0, 1]`.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen so far. `(0, 100]`.
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from the logit of each token of the answer. `[-2, 2]`.
    pub presence_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it is in the answer. `[-2, 2]`.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of these tokens, each named once; `[-100, 100]`.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The same seed, prompt and parameters give the same tokens. Absent: drawn at random.
    pub seed: Option<u64>,
    /// Most tokens to generate, at least 1; cut to what the context has room for.
    pub max_tokens: Option<u32>,
    /// Stop tokens and stop strings count only after this many tokens. `[0, max_tokens]`.
    pub min_tokens: Option<u32>,
    /// Generation ends with any of these, besides the model's end-of-sequence tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// Whether generation goes on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Report the log-probability of each generated token and of this many most likely ones.
    pub logprobs: Option<u32>,
    /// The same for each prompt token but the first.
    pub prompt_logprobs: Option<u32>,
}
