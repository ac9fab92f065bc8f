//! The command line as typed: names, help and syntax of every flag. Knows no model, no machine and no default that
//! depends on either; `settings` resolves those.

use std::num::NonZeroU64;
use std::path::PathBuf;

use backend_cpu::Instructions;
use clap::builder::{PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use grpc_server::ServeOptions;

/// An LLM serving engine: paged KV cache, continuous batching, prefix cache, streams over gRPC.
#[derive(Parser, Debug)]
#[command(version, args_override_self = true, max_term_width = 110)]
#[command(after_help = "Try it:
  pagewise pull smollm2-135m-instruct        fetch a small model (98 MB)
  pagewise chat --model smollm2-135m-instruct
  pagewise serve --model smollm2-135m-instruct
  pagewise chat --connect http://127.0.0.1:50051")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
#[command(args_override_self = true)]
pub(crate) enum Command {
    /// Serves a model over gRPC.
    Serve(ServeArgs),
    /// Continues a prompt and streams the text to stdout.
    Generate(GenerateArgs),
    /// Talks with a model, turn by turn.
    Chat(ChatArgs),
    /// Fetches a model into the cache.
    Pull(PullArgs),
    /// Shows what a model's files hold and what memory it will take. Loads nothing.
    Inspect(InspectArgs),
    /// Measures the engine in this process, without a server. Prints JSON.
    #[command(subcommand)]
    Bench(BenchCommand),
}

impl Command {
    /// The flags about model and engine, and with them the TOML file, of commands that have them.
    pub(crate) fn engine_args(&self) -> Option<&EngineArgs> {
        match self {
            Self::Serve(args) => Some(&args.engine),
            Self::Generate(args) => Some(&args.engine),
            Self::Chat(args) => Some(&args.engine),
            Self::Inspect(args) => Some(&args.engine),
            Self::Bench(BenchCommand::Throughput(args)) => Some(&args.engine),
            Self::Bench(BenchCommand::Latency(args)) => Some(&args.engine),
            Self::Bench(BenchCommand::HostCopy(args)) => Some(&args.engine),
            Self::Bench(BenchCommand::Quality(args)) => Some(&args.engine),
            Self::Pull(_) => None,
        }
    }
}

/// Which model, and how much it may take. The names are vLLM's.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Model and engine")]
pub(crate) struct EngineArgs {
    /// A .gguf file, a folder with config.json and safetensors, or the name of a pulled model.
    #[arg(long, value_name = "PATH|NAME")]
    pub(crate) model: Option<String>,
    /// A TOML file whose keys are the flags of `serve` without the dashes. Flags win over it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to compute. `auto` takes the best that is there.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) device: Device,
    /// Arithmetic. `auto`: the fastest way, weights multiplied as they are stored (on a GPU: in bfloat16). `float32`: weights
    /// dequantised exactly, activations and KV cache in float32, the reference, on the CPU only. `bfloat16` and `float16`:
    /// activations, KV cache and unquantised weights, on a GPU only.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: Dtype,
    /// Instructions of the inner loops on the CPU [default: the fastest that this machine has]. All give the same tokens; a
    /// slower set shows what a faster one brings. Has no effect on a GPU.
    #[arg(long, value_name = "SET", value_parser = instructions())]
    pub(crate) cpu_instructions: Option<Instructions>,
    /// Type of the KV cache. `auto`: bfloat16 on the CPU, float32 with --dtype float32, and on a GPU the type that it computes in,
    /// which is the only one there. `int8`, on the CPU only: bytes with a scale for each head of a token, a little more than half
    /// the size of 16-bit types.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) kv_cache_dtype: KvCacheDtype,
    /// `auto` reads the weights. `dummy` makes seeded random ones; config.json alone is enough then.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) load_format: LoadFormat,
    /// Longest context of a request, prompt and output together, in tokens [default: what the model was made for, or what
    /// the KV cache can hold].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    pub(crate) max_model_len: Option<u32>,
    /// Most requests that run at once; others wait [default: 64 on the CPU, 512 on a GPU].
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) max_num_seqs: Option<u32>,
    /// Token budget of a step. Larger steps prefill faster, smaller ones keep the gaps between tokens short [default: 512 on
    /// the CPU, 8192 on a GPU, or max-num-seqs if that is more].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    pub(crate) max_num_batched_tokens: Option<u32>,
    /// Most prompt tokens of a step in which other requests generate: bounds the gaps between their tokens, and slows prompts
    /// while others generate [default: 24 on the CPU, on a GPU as max-num-batched-tokens].
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    pub(crate) max_mixed_prefill_tokens: Option<u32>,
    /// Tokens a KV block holds; a power of two up to 256.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 16)]
    pub(crate) block_size: u32,
    /// Size of the KV cache: bytes, or with KiB, MiB or GiB [default on the CPU: a quarter of the available memory, at most
    /// 4 GiB and at most what max-num-seqs requests of max-model-len tokens can use; on a GPU: all that is left of its
    /// share].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) kv_cache_memory_bytes: Option<NonZeroU64>,
    /// Size of a second KV pool in host memory: bytes, or with KiB, MiB or GiB; 0 for none. What the KV cache has no room for
    /// is copied back from there instead of computed again, if that is quicker. Best larger than the KV cache.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value_t = 0)]
    pub(crate) host_kv_bytes: u64,
    /// Share of a GPU's memory to use, in (0, 1] [default: 0.9]. Has no effect on the CPU.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub(crate) gpu_memory_utilization: Option<f64>,
    /// Enqueue every op of a step anew instead of replaying recorded decode steps. The tokens are the same. Has no effect on
    /// the CPU.
    #[arg(long)]
    pub(crate) enforce_eager: bool,
    /// Let a request's tokens depend on nothing but itself, to the last bit: not on who shares its steps, how its prompt is cut,
    /// or whether it was preempted. Products and attention then have one order of sums, which takes a little longer, with
    /// quantised weights nearly twice as long. On the CPU it is always so.
    #[arg(long)]
    pub(crate) batch_invariant: bool,
    /// Share the KV blocks of equal prompt prefixes, which is the default.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: bool,
    /// Compute every prompt anew.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub(crate) no_enable_prefix_caching: bool,
    /// Seed of dummy weights, of drawn benchmark prompts, and of the answers of `generate` and `chat`.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
}

impl EngineArgs {
    /// The seed of what is drawn once: dummy weights and benchmark prompts.
    pub(crate) fn fixed_seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Device {
    #[default]
    Auto,
    Cpu,
    Cuda,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dtype {
    #[default]
    Auto,
    #[value(alias = "float")]
    Float32,
    #[value(alias = "half")]
    Float16,
    Bfloat16,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KvCacheDtype {
    #[default]
    Auto,
    #[value(alias = "float")]
    Float32,
    #[value(alias = "half")]
    Float16,
    Bfloat16,
    Int8,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LoadFormat {
    #[default]
    Auto,
    Dummy,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pagewise serve --model ./Qwen3-0.6B --port 50051 --max-model-len 4096")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Address to listen on. The default is loopback: there is no authentication.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port to listen on; 0 lets the system choose. The address is written to stdout once the server is ready.
    #[arg(long, default_value_t = 50051)]
    pub(crate) port: u16,
    /// Seconds that running requests get to finish after an interrupt; then they are cancelled.
    #[arg(long, value_name = "SECONDS", default_value_t = ServeOptions::default().drain_timeout.as_secs())]
    pub(crate) shutdown_timeout: u64,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pagewise generate --model smollm2-135m-instruct --prompt \"The capital of France is\" --max-tokens 8
  echo \"Once upon a time\" | pagewise generate --connect http://127.0.0.1:50051")]
pub(crate) struct GenerateArgs {
    /// Text to continue [default: all of stdin].
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_token_ids")]
    pub(crate) prompt: Option<String>,
    /// Token ids to continue, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pagewise chat --model smollm2-135m-instruct
  pagewise chat --connect http://127.0.0.1:50051 --quick \"Why is the sky blue?\" --summary")]
pub(crate) struct ChatArgs {
    /// Ask this one question, print the answer, and end.
    #[arg(long, short, value_name = "MESSAGE")]
    pub(crate) quick: Option<String>,
    /// Opens the conversation with a system message.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system_prompt: Option<String>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// What means nothing to a running server.
const FLAGS_OF_LOADING: [&str; 19] = [
    "model",
    "config",
    "device",
    "dtype",
    "cpu_instructions",
    "kv_cache_dtype",
    "load_format",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_mixed_prefill_tokens",
    "block_size",
    "kv_cache_memory_bytes",
    "host_kv_bytes",
    "gpu_memory_utilization",
    "enforce_eager",
    "batch_invariant",
    "enable_prefix_caching",
    "no_enable_prefix_caching",
];

/// Who answers, and what is shown beside the text.
#[derive(Args, Debug, Clone)]
pub(crate) struct AnswerArgs {
    /// Ask a running server instead of loading a model here.
    #[arg(long, value_name = "URL", conflicts_with_all = FLAGS_OF_LOADING)]
    pub(crate) connect: Option<String>,
    /// Afterwards print times, token counts, KV blocks and the memory ledger to stderr.
    #[arg(long)]
    pub(crate) summary: bool,
}

/// How tokens are chosen. Whatever is not given takes the model's own default.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most tokens to generate.
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<u32>,
    /// Do not stop before this many tokens.
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub(crate) min_tokens: Option<u32>,
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Keep the smallest set of most likely tokens whose probability reaches this.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Keep this many most likely tokens; 0 keeps all.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) top_k: Option<u32>,
    /// Keep tokens at least this many times as likely as the most likely one.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens of the prompt and the answer less likely, if above 1.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted from the logit of each token of the answer.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtracted for each time a token is in the answer.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// End when the text holds this. May be given more than once.
    #[arg(long, value_name = "TEXT", action = clap::ArgAction::Append)]
    pub(crate) stop: Vec<String>,
    /// End with any of these tokens, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) stop_token_ids: Vec<u32>,
    /// Go on past the model's end-of-sequence token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pagewise pull smollm2-135m-instruct
  pagewise pull Qwen/Qwen3-0.6B
  pagewise pull Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf

HF_ENDPOINT names another hub, HF_TOKEN opens gated models, PAGEWISE_CACHE moves the cache.")]
pub(crate) struct PullArgs {
    /// `smollm2-135m-instruct`, the demo model; a Hugging Face id, `owner/name`; or one GGUF file of such a model.
    pub(crate) model: String,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// List every tensor.
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Subcommand, Debug)]
#[command(args_override_self = true)]
pub(crate) enum BenchCommand {
    /// All requests at once: how many tokens a second.
    Throughput(ThroughputArgs),
    /// One batch of equal requests, several times: how long a batch and a step take.
    Latency(LatencyArgs),
    /// Prefixes that come back from the host's KV pool: how long it takes, and what it costs others.
    HostCopy(HostCopyArgs),
    /// What a model foretells of known tokens: the perplexity of a text, and the most likely token at each place of answers.
    Quality(QualityArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pagewise bench throughput --model smollm2-135m-instruct --num-requests 32 --input-len 128 --output-len 64
  pagewise bench throughput --model ./config-only --load-format dummy --requests trace.jsonl")]
pub(crate) struct ThroughputArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Number of drawn requests.
    #[arg(long, value_name = "N", value_parser = at_least_one(), default_value_t = 32)]
    pub(crate) num_requests: u32,
    /// Take the requests from a file: `{"prompt_token_ids": [...], "output_tokens": N}` a line.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["num_requests", "input_len", "output_len"])]
    pub(crate) requests: Option<PathBuf>,
    /// Write the generated tokens: `{"output_token_ids": [...]}` a line, in the order of the requests.
    #[arg(long, value_name = "FILE")]
    pub(crate) output_tokens: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pagewise bench latency --model smollm2-135m-instruct --batch-size 1 --input-len 128 --output-len 64")]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Requests in the batch.
    #[arg(long, value_name = "N", value_parser = at_least_one(), default_value_t = 1)]
    pub(crate) batch_size: u32,
    /// Batches that are measured.
    #[arg(long, value_name = "N", value_parser = at_least_one(), default_value_t = 5)]
    pub(crate) num_iters: u32,
    /// Batches before those, not measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) num_iters_warmup: u32,
    /// Also measure how long the GPU has nothing to do between steps.
    #[arg(long)]
    pub(crate) profile_gaps: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pagewise bench host-copy --model smollm2-135m-instruct --prefix-len 1024 --kv-cache-memory-bytes 256MiB \
--host-kv-bytes 1GiB --batch-size 8")]
pub(crate) struct HostCopyArgs {
    /// Tokens of a prefix; whole blocks.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 8192)]
    pub(crate) prefix_len: u32,
    /// Prefixes, which come back one after another.
    #[arg(long, value_name = "N", value_parser = at_least_one(), default_value_t = 4)]
    pub(crate) num_prefixes: u32,
    /// Output tokens of a request with such a prefix, which are compared.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 16)]
    pub(crate) output_len: u32,
    /// Requests that decode meanwhile.
    #[arg(long, value_name = "N", value_parser = at_least_one(), default_value_t = 64)]
    pub(crate) batch_size: u32,
    /// Prompt tokens of each of these.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 128)]
    pub(crate) input_len: u32,
    /// Output tokens of each of these; they must not end before the last prefix is back.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 512)]
    pub(crate) decode_len: u32,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pagewise bench quality --model smollm2-135m-instruct --text fixtures/smollm2/perplexity-ids.json --kv-cache-dtype int8")]
pub(crate) struct QualityArgs {
    /// A text in token ids: `{"ids": [...]}`. All its tokens but the first count.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Prompts and answers, which are fed in: `{"cases": [{"prompt_ids": [...], "output_ids": [...]}]}`.
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
    /// As what the tokens are computed.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["prefill", "decode"])]
    pub(crate) rows: Vec<Rows>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// How texts are cut into rows.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As prompts: as many tokens a row as a step takes.
    Prefill,
    /// As answers: a row for each token.
    Decode,
}

/// Drawn requests: random token ids, end-of-sequence ignored.
#[derive(Args, Debug)]
pub(crate) struct WorkloadArgs {
    /// Prompt tokens of a drawn request.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 128)]
    pub(crate) input_len: u32,
    /// Output tokens of a drawn request.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one(), default_value_t = 64)]
    pub(crate) output_len: u32,
}

/// A set of instructions by its name, whether this machine has it or not.
fn instructions() -> impl TypedValueParser<Value = Instructions> {
    PossibleValuesParser::new(Instructions::ALL.map(Instructions::name)).map(|name| {
        let named = Instructions::ALL.into_iter().find(|instructions| instructions.name() == name);
        named.expect("one of the possible values")
    })
}

/// A count that is not 0.
fn at_least_one() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// A size in bytes: `1073741824`, `1024MiB`, `1GiB`.
fn parse_bytes(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(parse_size(text)?).ok_or_else(|| "must be above 0".to_string())
}

/// The same, or nothing at all.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => return Err(format!("unknown unit `{unit}`; known are KiB, MiB and GiB")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "must fit 64 bits".to_string())
}

/// A share in (0, 1].
fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("must be above 0 and at most 1".to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_shares() {
        let bytes = |text: &str| parse_bytes(text).map(NonZeroU64::get).ok();
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("3 MiB"), Some(3 << 20));
        for wrong in ["", "0", "GiB", "1GB", "-1", "1.5GiB", "99999999999GiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        assert_eq!(parse_share("0.9"), Ok(0.9));
        for wrong in ["0", "1.1", "NaN", "x"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }

    /// README and docs show commands of `pagewise`; each of them must parse.
    #[test]
    fn commands_in_the_papers_parse() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let mut num_commands = 0;
        for path in ["README.md", "docs/operations.md", "examples/README.md"] {
            let Ok(text) = std::fs::read_to_string(format!("{root}/{path}")) else { continue };
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("pagewise ")) {
                let line = line.split(" #").next().unwrap_or(line);
                let parsed = Cli::try_parse_from(words(line)).map(|_| ()).map_err(|error| error.kind());
                assert!(
                    matches!(parsed, Ok(()) | Err(clap::error::ErrorKind::DisplayHelp)),
                    "{path}: {line}: {parsed:?}"
                );
                num_commands += 1;
            }
        }
        // Their examples in --help count too, so that this test checks something before the papers exist.
        for command in Cli::command().get_subcommands().chain([&Cli::command()]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().map(str::trim).filter(|line| line.starts_with("pagewise ")) {
                let line = line.split("   ").next().unwrap_or(line);
                assert!(Cli::try_parse_from(words(line)).is_ok(), "--help: {line}");
                num_commands += 1;
            }
        }
        assert!(num_commands >= 10, "only {num_commands} commands found");
    }

    /// The table of docs/operations.md has a row for every flag of `serve`, and in it the default that the parser has.
    #[test]
    fn the_papers_know_flags_and_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
        let paper = std::fs::read_to_string(path).expect("read");
        let root = Cli::command();
        let serve = root.find_subcommand("serve").expect("there is a serve command");
        let is_told = |flag: &str| !matches!(flag, "model" | "config" | "enable-prefix-caching" | "help");
        for argument in serve.get_arguments().filter(|argument| argument.get_long().is_some_and(is_told)) {
            let flag = format!("`--{}`", argument.get_long().expect("filtered"));
            let row = paper.lines().find(|line| line.starts_with('|') && line.contains(&flag));
            let row = row.unwrap_or_else(|| panic!("no row for {flag}"));
            for default in argument.get_default_values().iter().filter(|default| *default != "false") {
                let default = default.to_string_lossy();
                assert!(row.split([' ', '`', ',', ':', '|']).any(|word| word == default), "{row}: no {default}");
            }
        }
    }

    /// Splits as a shell does, as far as papers need it: spaces, and double quotes.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('"').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_string)),
                _ => words.push(part.to_string()),
            }
        }
        words
    }
}
