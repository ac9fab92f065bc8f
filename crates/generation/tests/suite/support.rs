//! A generator over a fake executor and a vocabulary of single characters, so that its answers are known in advance. The
//! executor can be held and slowed down. `grpc-server` tests with it too. Knows no test.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use engine::{Engine, EngineConfig, EngineCore};
use generation::{GenerationDefaults, Generator, GeneratorParts, ModelInfo};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, SamplingParams, TokenId,
};
use sim::{FakeExecutor, FakeModel, Faults};
use tokenization::{ChatTemplate, SpecialText, Tokenizer};

/// Ends an answer.
pub(crate) const END: TokenId = 98;
/// Begins a turn of a conversation.
pub(crate) const START: TokenId = 99;
/// A space.
pub(crate) const SPACE: TokenId = 94;
const VOCAB_SIZE: u32 = 100;

const TEMPLATE: &str = "{% for message in messages %}\
    {% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role: ' + message.role) }}{% endif %}\
    <|start|>{{ message.role }}\n{{ message.content }}<|end|>\
    {% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}";

/// What a generator is made from.
pub(crate) struct Setup {
    pub(crate) limits: ExecutorLimits,
    pub(crate) faults: Faults,
    pub(crate) max_requests: usize,
    pub(crate) has_template: bool,
    /// Whether the vocabulary writes spaces as SentencePiece does, whose texts lose the first one.
    pub(crate) has_space_marks: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = ExecutorLimits {
            block_size: 4,
            num_blocks: 2048,
            num_host_blocks: 0,
            max_batch_tokens: 256,
            max_batch_rows: 64,
            max_model_len: 4096,
            vocab_size: VOCAB_SIZE,
            max_top_logprobs: 5,
            max_steps_in_flight: 1,
        };
        Self { limits, faults: Faults::default(), max_requests: 256, has_template: true, has_space_marks: false }
    }
}

/// A generator under test, with its oracle.
pub(crate) struct Fixture {
    pub(crate) generator: Generator,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) model: FakeModel,
    pub(crate) pace: Arc<Pace>,
}

impl Setup {
    pub(crate) fn build(self) -> Fixture {
        let model = FakeModel { seed: 7, vocab_size: self.limits.vocab_size };
        let pace = Arc::new(Pace::default());
        let inner = FakeExecutor::new(model, self.limits, self.faults);
        let executor = Box::new(PacedExecutor { inner, pace: Arc::clone(&pace) });
        let config = EngineConfig { max_requests: self.max_requests, ..EngineConfig::default() };
        let engine = Engine::spawn(EngineCore::new(executor, config).unwrap());
        let tokenizer = Arc::new(tokenizer(if self.has_space_marks { METASPACE } else { BYTE_LEVEL }));
        let generator = Generator::new(GeneratorParts {
            engine,
            tokenizer: Arc::clone(&tokenizer),
            template: self.has_template.then(|| ChatTemplate::new(TEMPLATE, &tokenizer).unwrap()),
            model: ModelInfo {
                name: "fake".into(),
                architecture: "hash".into(),
                bos_token_id: None,
                eos_token_ids: vec![END],
            },
            defaults: GenerationDefaults { temperature: 0.0, max_tokens: 32, ..GenerationDefaults::default() },
        });
        Fixture { generator, tokenizer, model, pace }
    }
}

impl Fixture {
    /// The output of a request that is alone in the world.
    pub(crate) fn expected_tokens(&self, prompt: &[TokenId], sampling: &SamplingParams) -> Vec<TokenId> {
        self.model.complete(prompt, sampling, self.generator.limits().max_model_len).tokens
    }

    pub(crate) fn decode(&self, tokens: &[TokenId]) -> String {
        self.tokenizer.decode(tokens, SpecialText::Skip).unwrap()
    }

    /// Waits until the engine holds no request and no block of one.
    pub(crate) async fn idle(&self) {
        self.until(|fixture| {
            let stats = fixture.generator.stats();
            stats.num_running + stats.num_waiting + stats.blocks_active + stats.blocks_in_transit == 0
        })
        .await;
    }

    /// Waits for what is sure to happen.
    pub(crate) async fn until(&self, happened: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if happened(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it did not happen: {:?}", self.generator.stats());
    }
}

/// Greedy sampling of so many tokens.
pub(crate) fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens, ..SamplingParams::default() }
}

/// Holds or slows down the executor.
#[derive(Default)]
pub(crate) struct Pace {
    state: Mutex<(bool, Duration)>,
    changed: Condvar,
}

impl Pace {
    /// The next step waits until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.state.lock().unwrap().0 = true;
    }

    pub(crate) fn release(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    /// Every step takes this long.
    pub(crate) fn slow(&self, step: Duration) {
        self.state.lock().unwrap().1 = step;
    }

    fn wait(&self) {
        let state = self.changed.wait_while(self.state.lock().unwrap(), |(is_held, _)| *is_held).unwrap();
        let step = state.1;
        drop(state);
        std::thread::sleep(step);
    }
}

struct PacedExecutor {
    inner: FakeExecutor,
    pace: Arc<Pace>,
}

impl Executor for PacedExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.inner.limits()
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        self.inner.memory()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        self.pace.wait();
        self.inner.launch(batch)
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        self.inner.finish(step, output)
    }
}

/// How a tokenizer.json splits a text and puts it together again.
const BYTE_LEVEL: &str =
    r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}"#;
const METASPACE: &str = r#"{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}"#;

/// Tokens 0 to 95: the visible ASCII characters, the space and the line feed. 96 and 97: the two bytes of "é", alone they
/// are no text. Then the special tokens.
fn tokenizer(words: &str) -> Tokenizer {
    let mut pieces: Vec<String> = ('!'..='~').map(String::from).collect();
    // How byte-level vocabularies write the space, the line feed, and the bytes C3 and A9.
    pieces.extend(["Ġ", "Ċ", "Ã", "©"].map(String::from));
    if words == METASPACE {
        pieces[SPACE as usize] = "▁".into();
    }
    let vocab: Vec<String> = pieces.iter().enumerate().map(|(id, piece)| format!("{piece:?}: {id}")).collect();
    let special = |id, content| {
        format!(
            r#"{{"id": {id}, "content": "{content}", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false}}"#
        )
    };
    let json = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{}, {}], "pre_tokenizer": {words}, "decoder": {words},
        "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {{{}}}, "merges": []}}}}"#,
        special(END, "<|end|>"),
        special(START, "<|start|>"),
        vocab.join(", ")
    );
    Tokenizer::from_json(json.as_bytes(), None).unwrap()
}
