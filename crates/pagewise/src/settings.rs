//! From what was typed to what holds: every limit of the engine, defaults that depend on model and machine included. Knows
//! no files and starts nothing.

use std::fmt;
use std::num::NonZeroU64;

use anyhow::{Result, anyhow, bail};
use backend_cpu::{CpuBackend, CpuConfig, Precision};
use engine::{EngineConfig, MAX_BLOCK_SIZE, MAX_BLOCKS, PrefixCaching};
use model_runner::{Checkpoint, ModelError, RunnerConfig, plan_memory};
use tensor_backend::Element;

use crate::cli::{Device, Dtype, EngineArgs};

/// Most likely tokens that can be reported for a position.
const MAX_LOGPROBS: u32 = 20;
/// Requests that may wait for each one that can run, before clients are told to come back later.
const WAITING_PER_RUNNING: usize = 16;
/// The least that waits, however few can run.
const MIN_MAX_REQUESTS: usize = 1024;
const DEFAULT_MAX_NUM_BATCHED_TOKENS: u32 = 512;
/// The default KV pool: this part of the available memory, and at most this much.
const DEFAULT_KV_SHARE: u64 = 4;
const MAX_DEFAULT_KV_BYTES: u64 = 4 << 30;

/// Everything that an engine is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) runner: RunnerConfig,
    pub(crate) engine: EngineConfig,
    pub(crate) dtype: Dtype,
    pub(crate) seed: u64,
}

/// The CPU as the flags want it.
///
/// # Errors
/// The flags want another device, or the CPU's threads cannot be started.
pub(crate) fn cpu(args: &EngineArgs) -> Result<CpuBackend> {
    if args.device == Device::Cuda {
        bail!("--device cuda: this build has no CUDA backend; --device cpu serves");
    }
    let precision = match args.dtype {
        Dtype::Auto => Precision::Native,
        Dtype::Float32 => Precision::Exact,
    };
    Ok(CpuBackend::new(CpuConfig { threads: None, precision })?)
}

impl Settings {
    /// Resolves the flags for a model. `available_bytes` is the memory that can still be taken, if that is known.
    ///
    /// # Errors
    /// A value out of its range, named by its flag, or a context that the KV pool cannot hold.
    pub(crate) fn resolve(
        args: &EngineArgs,
        checkpoint: &Checkpoint<'_>,
        backend: &CpuBackend,
        available_bytes: Option<u64>,
    ) -> Result<Self> {
        let &EngineArgs { block_size, dtype, max_num_seqs, .. } = args;
        let max_context = checkpoint.max_context_len();
        if !block_size.is_power_of_two() || block_size > MAX_BLOCK_SIZE {
            bail!("--block-size {block_size}: it must be a power of two, at most {MAX_BLOCK_SIZE}");
        }
        if let Some(wanted) = args.max_model_len.filter(|wanted| *wanted > max_context) {
            bail!("--max-model-len {wanted}: the model's context holds at most {max_context} tokens");
        }
        let mut runner = RunnerConfig {
            block_size,
            num_blocks: 1,
            kv_element: if dtype == Dtype::Float32 { Element::F32 } else { Element::F16 },
            max_model_len: args.max_model_len.unwrap_or(max_context),
            max_batch_tokens: args.max_num_batched_tokens.unwrap_or(DEFAULT_MAX_NUM_BATCHED_TOKENS.max(max_num_seqs)),
            max_batch_rows: max_num_seqs,
            max_top_logprobs: MAX_LOGPROBS.min(checkpoint.config().vocab_size),
        };
        let block_bytes = plan_memory(backend, checkpoint, &runner).map_err(by_flag)?.block_bytes;
        if let (Some(wanted), Some(available)) = (args.kv_cache_memory_bytes, available_bytes)
            && wanted.get() > available
        {
            bail!("--kv-cache-memory-bytes {wanted}: this machine has {available} bytes of memory left");
        }
        let num_blocks = KvPool { block_bytes, available_bytes }.num_blocks(args.kv_cache_memory_bytes, &runner);
        let capacity = num_blocks.saturating_mul(block_size);
        if capacity < 2 {
            bail!("the KV cache has no room for a single block of {block_bytes} bytes; raise --kv-cache-memory-bytes");
        }
        if capacity < runner.max_model_len {
            if args.max_model_len.is_some() {
                bail!(
                    "--max-model-len {}: the KV cache holds {capacity} tokens; raise --kv-cache-memory-bytes to {} or lower it",
                    runner.max_model_len,
                    block_bytes * u64::from(runner.max_model_len.div_ceil(block_size))
                );
            }
            runner.max_model_len = capacity;
        }
        runner.num_blocks = num_blocks;
        let prefix_caching = if args.no_enable_prefix_caching { PrefixCaching::Off } else { PrefixCaching::On };
        let max_requests = MIN_MAX_REQUESTS.max(max_num_seqs as usize * WAITING_PER_RUNNING);
        let engine = EngineConfig { max_requests, prefix_caching, ..EngineConfig::default() };
        Ok(Self { runner, engine, dtype, seed: args.fixed_seed() })
    }
}

/// The runner names its limits as it knows them; who starts it knows the flags.
fn by_flag(error: ModelError) -> anyhow::Error {
    match error {
        ModelError::Limit { name, value, rule } => {
            let flag = match name {
                "max_batch_tokens" => "max-num-batched-tokens".to_string(),
                "max_batch_rows" => "max-num-seqs".to_string(),
                name => name.replace('_', "-"),
            };
            anyhow!("--{flag} {value}: {rule}")
        }
        error => error.into(),
    }
}

/// What decides the size of the KV pool.
struct KvPool {
    block_bytes: u64,
    available_bytes: Option<u64>,
}

impl KvPool {
    /// Blocks of the pool: what was asked for, else a share of the machine, and no more than the requests can use.
    fn num_blocks(&self, wanted: Option<NonZeroU64>, runner: &RunnerConfig) -> u32 {
        let in_bytes = |bytes: u64| bytes / self.block_bytes;
        let by_default = || {
            let share = self.available_bytes.map_or(MAX_DEFAULT_KV_BYTES, |bytes| bytes / DEFAULT_KV_SHARE);
            let blocks_per_request = u64::from(runner.max_model_len.div_ceil(runner.block_size));
            in_bytes(share.min(MAX_DEFAULT_KV_BYTES)).min(blocks_per_request * u64::from(runner.max_batch_rows))
        };
        let num_blocks = wanted.map_or_else(by_default, |bytes| in_bytes(bytes.get()));
        u32::try_from(num_blocks).unwrap_or(u32::MAX).min(MAX_BLOCKS)
    }
}

impl fmt::Display for Settings {
    /// One `name = value` a line, under the names of the flags.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runner, engine, dtype, seed } = self;
        writeln!(f, "dtype = {}", if *dtype == Dtype::Float32 { "float32" } else { "auto" })?;
        writeln!(f, "max-model-len = {}", runner.max_model_len)?;
        writeln!(f, "max-num-seqs = {}", runner.max_batch_rows)?;
        writeln!(f, "max-num-batched-tokens = {}", runner.max_batch_tokens)?;
        writeln!(f, "block-size = {}", runner.block_size)?;
        writeln!(f, "enable-prefix-caching = {}", engine.prefix_caching == PrefixCaching::On)?;
        write!(f, "seed = {seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use model_format::ModelConfig;

    /// A Llama of one layer whose block of 16 tokens takes `2 * 16 * 2 heads * 8 * 2 bytes` = 1,024 bytes.
    fn checkpoint() -> Checkpoint<'static> {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "torch_dtype": "float32",
        });
        let config = ModelConfig::from_json(&config.to_string()).expect("a valid config");
        Checkpoint::dummy(config, 0).expect("a supported architecture")
    }

    /// The resolved limits, or the refusal, for flags and available memory.
    #[track_caller]
    fn check(flags: &str, available_bytes: Option<u64>, expected: Result<(u32, u32, u32), &str>) {
        let args = args(flags);
        let backend = cpu(&args).expect("a CPU");
        let resolved = Settings::resolve(&args, &checkpoint(), &backend, available_bytes)
            .map(|settings| settings.runner)
            .map(|runner| (runner.num_blocks, runner.max_model_len, runner.max_batch_tokens));
        match (resolved, expected) {
            (Ok(resolved), Ok(expected)) => assert_eq!(resolved, expected, "{flags}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{flags}: {error}"),
            (resolved, expected) => panic!("{flags}: {resolved:?}, expected {expected:?}"),
        }
    }

    fn args(flags: &str) -> EngineArgs {
        let cli = Cli::try_parse_from(["pagewise", "inspect"].into_iter().chain(flags.split_whitespace()));
        cli.expect("valid flags").command.engine_args().expect("a command with engine flags").clone()
    }

    #[test]
    fn limits() {
        // All that 64 requests of 2,048 tokens can use: 64 * 128 blocks of 1 KiB.
        check("", None, Ok((8192, 2048, 512)));
        check("", Some(64 << 30), Ok((8192, 2048, 512)));
        // A quarter of 4 MiB.
        check("", Some(4 << 20), Ok((1024, 2048, 512)));
        // A pool that bounds the context.
        check("", Some(256 << 10), Ok((64, 1024, 512)));
        check("--kv-cache-memory-bytes 10KiB", None, Ok((10, 160, 512)));
        check("--kv-cache-memory-bytes 1023", None, Err("no room for a single block of 1024 bytes"));
        check(
            "--kv-cache-memory-bytes 10KiB --max-model-len 2048",
            None,
            Err("--max-model-len 2048: the KV cache holds 160 tokens; raise --kv-cache-memory-bytes to 131072"),
        );
        check("--max-model-len 4096", None, Err("holds at most 2048 tokens"));
        check(
            "--kv-cache-memory-bytes 2KiB",
            Some(2047),
            Err("-bytes 2048: this machine has 2047 bytes of memory left"),
        );
        check("--max-model-len 1", None, Err("--max-model-len 1: this model and build take 2 to 2048"));
        check("--max-num-seqs 99999", None, Err("--max-num-seqs 99999: this model and build take 1 to 16384"));
        check(
            "--max-num-batched-tokens 9999999",
            None,
            Err("--max-num-batched-tokens 9999999: this model and build take"),
        );
        check("--block-size 24", None, Err("--block-size 24: it must be a power of two"));
        check("--max-num-seqs 1000 --max-model-len 32", None, Ok((2000, 32, 1000)));
        check("--dtype float32 --kv-cache-memory-bytes 20KiB", None, Ok((10, 160, 512)));
    }

    #[test]
    fn no_cuda_here() {
        let error = cpu(&args("--device cuda")).expect_err("there is none").to_string();
        assert!(error.contains("no CUDA backend"), "{error}");
    }
}
