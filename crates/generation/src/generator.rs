//! The in-process API: takes requests in text, chat messages or token ids, and gives streams of text events. Wires the
//! other parts of this crate to an engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{DrainOutcome, Engine, EngineStats, Health, PrefixKeys, RequestHandle, Salt, SubmitError, SubmitRequest};
use serving_types::{ExecutorLimits, MemoryEntry, SamplingParams, TokenId};
use sha2::{Digest, Sha256};
use tokenization::{ChatMessage, ChatTemplate, SpecialText, SpecialTokens, StopMatcher, Tokenizer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::answer::{Answer, TextRules};
use crate::entropy::Entropy;
use crate::prompt::PromptReader;
use crate::registry::Registry;
use crate::request::{MAX_ANSWERS, MAX_CACHE_SALT_BYTES, MAX_DETOKENIZE_TOKENS};
use crate::resolve::{Bounds, at_most, within};
use crate::{GenerateError, GenerateRequest, GenerationDefaults, GenerationStream, Input};

/// What a [`Generator`] is made of.
pub struct GeneratorParts {
    /// The running engine.
    pub engine: Engine,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// What the model is.
    pub model: ModelInfo,
    /// Values of absent options; see [`GenerationDefaults::validate`].
    pub defaults: GenerationDefaults,
}

/// What the model is, for clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelInfo {
    /// The name under which it is served.
    pub name: String,
    /// Its family: "llama", "qwen3" …
    pub architecture: String,
    /// The token that begins a text, if there is one.
    pub bos_token_id: Option<TokenId>,
    /// The tokens that end an answer unless a request ignores them.
    pub eos_token_ids: Vec<TokenId>,
}

/// What [`Generator::tokenize`] takes.
#[derive(Clone, Debug)]
pub enum TokenizeInput {
    /// A text, with or without the tokens that the model wants around every text.
    Text(String, SpecialTokens),
    /// A conversation, put into the chat template up to where the answer begins.
    Chat(Vec<ChatMessage>),
}

/// Serves one model: text in, text events out. A cheap handle; clones serve the same engine.
///
/// Its async functions run on tokio and do their heavy work on its blocking threads.
#[derive(Clone)]
pub struct Generator {
    shared: Arc<Shared>,
}

struct Shared {
    parts: GeneratorParts,
    limits: ExecutorLimits,
    registry: Arc<Registry>,
    entropy: Entropy,
    /// Makes the salts of the prefix cache unknown to clients.
    salt_secret: [u64; 4],
    /// Bytes of the longest token.
    longest_token_bytes: usize,
    /// As many as the engine accepts requests. Each call has one, from its beginning until its stream is dropped: this
    /// bounds the prompts that wait to be read and the streams that nobody reads.
    places: Arc<Semaphore>,
    /// As many as there are cores: more threads would not read prompts sooner.
    readers: Arc<Semaphore>,
}

impl Generator {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: GeneratorParts) -> Self {
        let mut limits = parts.engine.limits();
        // A context that the pool cannot hold would be refused by the engine whatever the prompt.
        limits.max_model_len = limits.max_model_len.min(limits.num_blocks.saturating_mul(limits.block_size));
        let entropy = Entropy::default();
        let salt_secret = std::array::from_fn(|_| entropy.draw());
        let num_readers = std::thread::available_parallelism().map_or(1, usize::from);
        let tokenizer = &parts.tokenizer;
        let tokens = (0..tokenizer.vocab_size()).filter_map(|id| tokenizer.token_bytes(id));
        Self {
            shared: Arc::new(Shared {
                longest_token_bytes: tokens.map(<[u8]>::len).max().unwrap_or(0),
                places: Arc::new(Semaphore::new(parts.engine.max_requests())),
                parts,
                limits,
                registry: Arc::default(),
                entropy,
                salt_secret,
                readers: Arc::new(Semaphore::new(num_readers)),
            }),
        }
    }

    /// Takes a request. Returns once the engine has it; the stream gives its events.
    ///
    /// # Errors
    /// The request was not taken and nothing is left of it; [`GenerateError`] says who can act.
    pub async fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, GenerateError> {
        let shared = &self.shared;
        let started = Instant::now();
        let place = shared.place()?;
        let GenerateRequest { request_id, input, sampling, n, stop, timeout, cache_salt, .. } = request;
        within("n", n, 1..=MAX_ANSWERS)?;
        let mut params = shared.bounds().resolve(&sampling)?;
        if sampling.seed.is_none() {
            params.seed = shared.entropy.draw();
        }
        let stops = (0..n).map(|_| StopMatcher::new(stop.clone())).collect::<Result<Vec<_>, _>>();
        let stops = stops.map_err(|error| GenerateError::invalid("stop", format!("cannot be used: {error}")))?;
        let salt = shared.salt(cache_salt.as_deref().unwrap_or_default())?;
        let request_id = request_id.unwrap_or_else(|| format!("{:016x}", shared.entropy.draw()));
        let entry = shared.registry.enter(request_id)?;

        let continues_prompt = !matches!(input, Input::Chat(_));
        let prompt = self.read_prompt(input, salt, params.max_tokens).await?;
        let num_prompt_tokens = prompt.num_tokens();
        params.max_tokens = params.max_tokens.min(shared.limits.max_model_len - num_prompt_tokens);
        let rules = Arc::new(TextRules {
            tokenizer: Arc::clone(&shared.parts.tokenizer),
            special: if request.skip_special_tokens { SpecialText::Skip } else { SpecialText::Keep },
            continues_prompt,
            stop,
            include_stop: request.include_stop_str_in_output,
        });
        let timeout = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        let answers = shared.submit(prompt, &params, timeout, stops.len())?;
        let answers = answers
            .into_iter()
            .zip(stops)
            .map(|((handle, sampling), stops)| (handle, Answer::new(Arc::clone(&rules), sampling, stops)))
            .collect::<Vec<_>>();
        entry.submitted(answers.iter().map(|(handle, _)| handle.id()).collect(), &shared.parts.engine);
        Ok(GenerationStream::new(answers, num_prompt_tokens, entry, place))
    }

    /// Ends a running request by its id; whether there was one.
    #[must_use]
    pub fn abort(&self, request_id: &str) -> bool {
        self.shared.registry.abort(request_id, &self.shared.parts.engine)
    }

    /// The tokens of a text or conversation, as [`generate`](Self::generate) would read it.
    ///
    /// # Errors
    /// [`GenerateError::InvalidArgument`] for input that the tokenizer or the chat template refuses;
    /// [`GenerateError::Busy`].
    pub async fn tokenize(&self, input: TokenizeInput) -> Result<Vec<TokenId>, GenerateError> {
        let _place = self.shared.place()?;
        self.on_reader(move |shared| match input {
            TokenizeInput::Text(text, special) => shared.reader(usize::MAX).text("text", &text, special),
            TokenizeInput::Chat(messages) => shared.reader(usize::MAX).chat(&messages),
        })
        .await
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// [`GenerateError::InvalidArgument`] for an id that the tokenizer does not know, and for more than
    /// [`MAX_DETOKENIZE_TOKENS`]; [`GenerateError::Busy`].
    pub async fn detokenize(&self, tokens: Vec<TokenId>, special: SpecialText) -> Result<String, GenerateError> {
        let _place = self.shared.place()?;
        at_most("token_ids", tokens.len(), MAX_DETOKENIZE_TOKENS)?;
        self.on_reader(move |shared| {
            let text = shared.parts.tokenizer.decode(&tokens, special);
            text.map_err(|error| GenerateError::invalid("token_ids", format!("cannot be decoded: {error}")))
        })
        .await
    }

    /// What is served.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.shared.parts.model
    }

    /// Whether chat input is possible.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.shared.parts.template.is_some()
    }

    /// Values of absent options.
    #[must_use]
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.shared.parts.defaults
    }

    /// Limits of the engine; `max_model_len` is what a request may really have.
    #[must_use]
    pub fn limits(&self) -> &ExecutorLimits {
        &self.shared.limits
    }

    /// The memory ledger.
    #[must_use]
    pub fn memory(&self) -> Vec<MemoryEntry> {
        self.shared.parts.engine.memory()
    }

    /// How busy the engine is.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.parts.engine.stats()
    }

    /// Whether the engine can be used.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.parts.engine.health()
    }

    /// Takes no more requests, lets the running ones finish, and cancels what is left after `timeout`.
    pub async fn drain(&self, timeout: Duration) -> DrainOutcome {
        let engine = self.shared.parts.engine.clone();
        match spawn_blocking(move || engine.drain(timeout)).await {
            Ok(outcome) => outcome,
            Err(panic) => DrainOutcome::Failed(panic.to_string()),
        }
    }

    /// Input to a prompt that fits the context, with its prefix keys and memory for those of the answer.
    async fn read_prompt(&self, input: Input, salt: Salt, max_tokens: u32) -> Result<PrefixKeys, GenerateError> {
        self.on_reader(move |shared| {
            let field = input.field();
            let max_model_len = shared.limits.max_model_len;
            // No text of more bytes fits the context. To encode it just to count its tokens would take seconds.
            let max_text_bytes = shared.longest_token_bytes.saturating_mul(max_model_len as usize);
            let tokens = shared.reader(max_text_bytes).read(input)?;
            if tokens.len() >= max_model_len as usize {
                return Err(GenerateError::ContextTooLong { prompt_tokens: tokens.len(), max_model_len });
            }
            shared.bounds().check_tokens(field, &tokens)?;
            let max_len = max_tokens.saturating_add(tokens.len() as u32).min(max_model_len);
            let mut keys = PrefixKeys::with_capacity(&salt, shared.limits.block_size, max_len);
            keys.extend(&tokens);
            Ok(keys)
        })
        .await
    }

    /// Runs work on a blocking thread, once a reader is free.
    async fn on_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, GenerateError> + Send + 'static,
    ) -> Result<T, GenerateError> {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.readers).acquire_owned().await.expect("the semaphore is never closed");
        let result = spawn_blocking(move || {
            let _permit = permit;
            work(&shared)
        });
        result.await.unwrap_or_else(|panic| Err(GenerateError::Internal(panic.to_string())))
    }
}

impl Shared {
    fn bounds(&self) -> Bounds<'_> {
        Bounds {
            defaults: self.parts.defaults,
            eos_token_ids: &self.parts.model.eos_token_ids,
            vocab_size: self.limits.vocab_size,
            max_logprobs: self.limits.max_top_logprobs,
        }
    }

    /// A place among the calls that are served at a time.
    fn place(&self) -> Result<OwnedSemaphorePermit, GenerateError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| GenerateError::Busy)
    }

    fn reader(&self, max_text_bytes: usize) -> PromptReader<'_> {
        let template = self.parts.template.as_ref();
        PromptReader { tokenizer: &self.parts.tokenizer, template, max_text_bytes }
    }

    /// The prefix cache's salt of a tenant. Collision-free, and unknown to whoever chooses `cache_salt`.
    fn salt(&self, cache_salt: &str) -> Result<Salt, GenerateError> {
        if cache_salt.len() > MAX_CACHE_SALT_BYTES {
            let message = format!("has {} bytes; it may have at most {MAX_CACHE_SALT_BYTES}", cache_salt.len());
            return Err(GenerateError::invalid("cache_salt", message));
        }
        let mut hash = Sha256::new();
        self.salt_secret.iter().for_each(|word| hash.update(word.to_le_bytes()));
        hash.update(cache_salt);
        Ok(Salt::from_bytes(hash.finalize().into()))
    }

    /// Hands the engine one request for each answer: all or none.
    fn submit(
        &self,
        prompt: PrefixKeys,
        params: &SamplingParams,
        timeout: Option<Duration>,
        num_answers: usize,
    ) -> Result<Vec<(RequestHandle, Arc<SamplingParams>)>, GenerateError> {
        let mut answers = Vec::with_capacity(num_answers);
        for (sample_index, prompt) in (0..).zip(std::iter::repeat_n(prompt, num_answers)) {
            // The prompt is scored once, whatever the number of answers.
            let prompt_logprobs = params.prompt_logprobs.filter(|_| sample_index == 0);
            let sampling = Arc::new(SamplingParams { sample_index, prompt_logprobs, ..params.clone() });
            let request = SubmitRequest { timeout, ..SubmitRequest::new(prompt, Arc::clone(&sampling)) };
            // On an error, dropping the handles so far cancels their requests.
            let handle = self.parts.engine.submit(request).map_err(|error| match error {
                SubmitError::Busy { .. } => GenerateError::Busy,
                SubmitError::ShuttingDown => GenerateError::ShuttingDown,
                SubmitError::DeviceLost(cause) => GenerateError::DeviceLost(cause),
                SubmitError::Refused(refusal) => GenerateError::Internal(format!("the engine refused: {refusal}")),
            })?;
            answers.push((handle, sampling));
        }
        Ok(answers)
    }
}
