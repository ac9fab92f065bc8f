//! From what was typed to what holds: every limit of the engine, defaults that depend on model and machine included. Knows
//! no files and starts nothing.

use std::fmt;
use std::num::NonZeroU64;

use anyhow::{Result, anyhow, bail};
use engine::{EngineConfig, MAX_BLOCK_SIZE, MAX_BLOCKS, PrefixCaching};
use model_runner::{Checkpoint, MemoryPlan, ModelError, Recording, RunnerConfig, plan_memory};
use tensor_backend::Backend;

use crate::cli::EngineArgs;
use crate::device::{MemoryOffer, Offer, kv_element_name};
use crate::report;

/// Most likely tokens that can be reported for a position.
const MAX_LOGPROBS: u32 = 20;
/// Requests that may wait for each one that can run, before clients are told to come back later.
const WAITING_PER_RUNNING: usize = 16;
/// The least that waits, however few can run.
const MIN_MAX_REQUESTS: usize = 1024;
/// The default KV pool in main memory: this part of what is available, and at most this much.
const DEFAULT_KV_SHARE: u64 = 4;
const MAX_DEFAULT_KV_BYTES: u64 = 4 << 30;
/// Eight bytes for each page of 4 KiB: measured, 62 MiB for 30 GiB on an H100.
const MAPPED_BYTES_PER_TABLE_BYTE: u64 = 512;

/// Everything that an engine is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) runner: RunnerConfig,
    pub(crate) engine: EngineConfig,
    pub(crate) seed: u64,
    /// Of a KV block, all layers.
    pub(crate) block_bytes: u64,
}

impl Settings {
    /// Resolves the flags for a model on a device and what that offers.
    ///
    /// # Errors
    /// A value out of its range, named by its flag; a device without room for the model; or a context that the KV pool
    /// cannot hold.
    pub(crate) fn resolve<B: Backend>(
        args: &EngineArgs,
        checkpoint: &Checkpoint<'_>,
        backend: &B,
        offer: &Offer,
    ) -> Result<Self> {
        let block_size = args.block_size;
        let max_num_seqs = args.max_num_seqs.unwrap_or(offer.default_max_num_seqs);
        let max_context = checkpoint.max_context_len();
        if !block_size.is_power_of_two() || block_size > MAX_BLOCK_SIZE {
            bail!("--block-size {block_size}: it must be a power of two, at most {MAX_BLOCK_SIZE}");
        }
        if let Some(wanted) = args.max_model_len.filter(|wanted| *wanted > max_context) {
            bail!("--max-model-len {wanted}: the model's context holds at most {max_context} tokens");
        }
        let default_max_batch_tokens = offer.default_max_num_batched_tokens.max(max_num_seqs);
        let mut runner = RunnerConfig {
            block_size,
            num_blocks: 1,
            num_host_blocks: 0,
            kv_element: offer.kv_element,
            max_model_len: args.max_model_len.unwrap_or(max_context),
            max_batch_tokens: args.max_num_batched_tokens.unwrap_or(default_max_batch_tokens),
            max_batch_rows: max_num_seqs,
            max_top_logprobs: MAX_LOGPROBS.min(checkpoint.config().vocab_size),
            recording: if args.enforce_eager { Recording::Off } else { Recording::DecodeSteps },
            warm_up: offer.warm_up,
        };
        let plan = plan_memory(backend, checkpoint, &runner).map_err(by_flag)?;
        let pool = KvPool {
            plan: &plan,
            memory: offer.memory,
            wanted: args.kv_cache_memory_bytes,
            host_bytes: args.host_kv_bytes,
        };
        let num_blocks = pool.num_blocks(&runner)?;
        let block_bytes = plan.block_bytes;
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
        runner.num_host_blocks = num_host_blocks(args, block_bytes)?;
        let taken_bytes = block_bytes * (u64::from(num_blocks) + u64::from(runner.num_host_blocks));
        if let MemoryOffer::Host { available_bytes: Some(available) } = offer.memory
            && runner.num_host_blocks > 0
            && taken_bytes > available
        {
            bail!(
                "--host-kv-bytes {}: with the KV cache that makes {taken_bytes} bytes, and this machine has {available} left",
                args.host_kv_bytes
            );
        }
        let prefix_caching = if args.no_enable_prefix_caching { PrefixCaching::Off } else { PrefixCaching::On };
        let max_requests = MIN_MAX_REQUESTS.max(max_num_seqs as usize * WAITING_PER_RUNNING);
        let max_mixed_prefill_tokens = args.max_mixed_prefill_tokens.unwrap_or(offer.default_max_mixed_prefill_tokens);
        let engine = EngineConfig { max_requests, prefix_caching, max_mixed_prefill_tokens, ..EngineConfig::default() };
        Ok(Self { runner, engine, seed: args.fixed_seed(), block_bytes })
    }
}

/// Blocks of the host's pool.
fn num_host_blocks(args: &EngineArgs, block_bytes: u64) -> Result<u32> {
    let wanted = args.host_kv_bytes;
    if wanted == 0 {
        return Ok(0);
    }
    if args.no_enable_prefix_caching {
        bail!("--host-kv-bytes {wanted}: what it holds is found by prefix; drop --no-enable-prefix-caching");
    }
    if wanted < block_bytes {
        bail!("--host-kv-bytes {wanted}: that has no room for a single block of {block_bytes} bytes");
    }
    Ok(u32::try_from(wanted / block_bytes).unwrap_or(u32::MAX).min(MAX_BLOCKS))
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
struct KvPool<'a> {
    /// With one block.
    plan: &'a MemoryPlan,
    memory: MemoryOffer,
    wanted: Option<NonZeroU64>,
    /// Of host memory that the device maps.
    host_bytes: u64,
}

impl KvPool<'_> {
    /// Blocks of the pool: what was asked for, else a share of main memory and no more than the requests can use, or all
    /// that a GPU has left.
    fn num_blocks(&self, runner: &RunnerConfig) -> Result<u32> {
        let bytes = match (self.memory, self.wanted) {
            (MemoryOffer::Host { available_bytes: Some(left) }, Some(wanted)) if wanted.get() > left => {
                bail!("--kv-cache-memory-bytes {wanted}: this machine has {left} bytes of memory left")
            }
            (MemoryOffer::Gpu { free_bytes, .. }, Some(wanted)) if wanted.get() + self.rest_bytes() > free_bytes => {
                bail!(
                    "--kv-cache-memory-bytes {wanted}: the GPU has {free_bytes} bytes left, of which the rest takes {}\n{}",
                    self.rest_bytes(),
                    self.ledger()
                )
            }
            (_, Some(wanted)) => wanted.get(),
            (MemoryOffer::Host { available_bytes }, None) => {
                let share = available_bytes.map_or(MAX_DEFAULT_KV_BYTES, |bytes| bytes / DEFAULT_KV_SHARE);
                let blocks_per_request = u64::from(runner.max_model_len.div_ceil(runner.block_size));
                let useful = blocks_per_request * u64::from(runner.max_batch_rows) * self.plan.block_bytes;
                share.min(MAX_DEFAULT_KV_BYTES).min(useful)
            }
            (MemoryOffer::Gpu { usable_bytes, .. }, None) => match usable_bytes.checked_sub(self.rest_bytes()) {
                Some(bytes) if bytes >= self.plan.block_bytes => bytes,
                _ => bail!(
                    "the model does not fit: {} of the GPU may be used; raise --gpu-memory-utilization, lower \
                     --max-num-batched-tokens or --max-num-seqs, or take a smaller model\n{}",
                    report::mebibytes(usable_bytes),
                    self.ledger()
                ),
            },
        };
        Ok(u32::try_from(bytes / self.plan.block_bytes).unwrap_or(u32::MAX).min(MAX_BLOCKS))
    }

    /// All that is not the pool. A GPU finds the pages of page-locked host memory by tables of its own.
    fn rest_bytes(&self) -> u64 {
        let tables = self.host_bytes.div_ceil(MAPPED_BYTES_PER_TABLE_BYTE);
        self.plan.entries.iter().map(|entry| entry.bytes).sum::<u64>() - self.plan.block_bytes + tables
    }

    fn ledger(&self) -> String {
        report::ledger(self.plan.entries.iter().map(|entry| (&*entry.name, entry.bytes)))
    }
}

impl fmt::Display for Settings {
    /// One `name = value` a line, under the names of the flags.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runner, engine, seed, block_bytes: _ } = self;
        writeln!(f, "kv-cache-dtype = {}", kv_element_name(runner.kv_element))?;
        writeln!(f, "max-model-len = {}", runner.max_model_len)?;
        writeln!(f, "max-num-seqs = {}", runner.max_batch_rows)?;
        writeln!(f, "max-num-batched-tokens = {}", runner.max_batch_tokens)?;
        let max_mixed = engine.max_mixed_prefill_tokens.min(runner.max_batch_tokens);
        writeln!(f, "max-mixed-prefill-tokens = {max_mixed}")?;
        writeln!(f, "block-size = {}", runner.block_size)?;
        writeln!(f, "enable-prefix-caching = {}", engine.prefix_caching == PrefixCaching::On)?;
        write!(f, "seed = {seed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::device::{self, Opened};
    use backend_cpu::{CpuBackend, CpuConfig, Precision};
    use clap::Parser;
    use model_format::ModelConfig;
    use model_runner::WarmUp;
    use tensor_backend::{Element, KvElement};

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
        let offer = Offer::of_cpu(Precision::Native, available_bytes);
        check_on(flags, &offer, expected);
    }

    #[track_caller]
    fn check_on(flags: &str, offer: &Offer, expected: Result<(u32, u32, u32), &str>) {
        let backend = CpuBackend::new(CpuConfig::default()).expect("a CPU");
        let resolved = Settings::resolve(&args(flags), &checkpoint(), &backend, offer)
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
    }

    #[test]
    fn host_pool() {
        let check = |flags: &str, available, expected: Result<u32, &str>| {
            let backend = CpuBackend::new(CpuConfig::default()).expect("a CPU");
            let offer = Offer::of_cpu(Precision::Native, available);
            match (Settings::resolve(&args(flags), &checkpoint(), &backend, &offer), expected) {
                (Ok(settings), Ok(expected)) => assert_eq!(settings.runner.num_host_blocks, expected, "{flags}"),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{flags}: {error}"),
                (resolved, expected) => panic!("{flags}: {resolved:?}, expected {expected:?}"),
            }
        };
        check("", None, Ok(0));
        check("--host-kv-bytes 0", None, Ok(0));
        check("--host-kv-bytes 20KiB", None, Ok(20));
        let both = "--host-kv-bytes 20KiB --kv-cache-memory-bytes 10KiB";
        check(both, Some(30 << 10), Ok(20));
        check(both, Some((30 << 10) - 1), Err("that makes 30720 bytes"));
        check("--host-kv-bytes 1023", None, Err("no room for a single block of 1024 bytes"));
        let without_prefixes = "--host-kv-bytes 20KiB --no-enable-prefix-caching";
        check(without_prefixes, None, Err("drop --no-enable-prefix-caching"));
    }

    #[test]
    fn a_gpu_gives_all_that_is_left() {
        let rest_bytes = {
            let backend = CpuBackend::new(CpuConfig::default()).expect("a CPU");
            let runner = RunnerConfig {
                block_size: 16,
                num_blocks: 1,
                kv_element: Element::BF16.into(),
                max_model_len: 2048,
                max_batch_tokens: 8192,
                max_batch_rows: 512,
                max_top_logprobs: 20,
                num_host_blocks: 0,
                recording: Recording::DecodeSteps,
                warm_up: WarmUp::Off,
            };
            let plan = plan_memory(&backend, &checkpoint(), &runner).expect("limits in range");
            plan.entries.iter().map(|entry| entry.bytes).sum::<u64>() - plan.block_bytes
        };
        let offer = |free_bytes, usable_bytes| Offer {
            kv_element: Element::BF16.into(),
            default_max_num_seqs: 512,
            default_max_num_batched_tokens: 8192,
            default_max_mixed_prefill_tokens: u32::MAX,
            memory: MemoryOffer::Gpu { share_bytes: usable_bytes, usable_bytes, free_bytes },
            warm_up: WarmUp::Off,
            not_on_gpu: None,
        };
        check_on("", &offer(1 << 40, rest_bytes + (1 << 30) + 1023), Ok((1 << 20, 2048, 8192)));
        check_on("", &offer(1 << 40, rest_bytes + 64 * 1024), Ok((64, 1024, 8192)));
        check_on("", &offer(1 << 40, rest_bytes + 1023), Err("the model does not fit"));
        check_on("", &offer(1 << 40, 0), Err("the model does not fit"));
        // What is asked for is not bound to the share, only to what is there.
        check_on("--kv-cache-memory-bytes 2MiB", &offer(rest_bytes + (2 << 20), 0), Ok((2048, 2048, 8192)));
        check_on(
            "--kv-cache-memory-bytes 2MiB",
            &offer(rest_bytes + (2 << 20) - 1, 0),
            Err("--kv-cache-memory-bytes 2097152: the GPU has"),
        );
    }

    #[test]
    fn the_cpu_computes_in_its_own_types() {
        let kv_element = |flags: &str| match device::open(&args(flags), &checkpoint()) {
            Ok(Opened::Cpu(_, offer)) => offer.kv_element,
            Ok(Opened::Cuda(..)) => panic!("{flags}: a GPU"),
            Err(error) => panic!("{flags}: {error}"),
        };
        assert_eq!(kv_element("--device cpu"), Element::BF16.into());
        assert_eq!(kv_element("--device cpu --dtype float32"), Element::F32.into());
        assert_eq!(kv_element("--device cpu --dtype float32 --kv-cache-dtype half"), Element::F16.into());
        assert_eq!(kv_element("--device cpu --kv-cache-dtype float16"), Element::F16.into());
        // Where there is a GPU, `auto` leaves it alone.
        assert_eq!(kv_element("--kv-cache-dtype int8"), KvElement::Int8);
        assert_eq!(kv_element("--kv-cache-dtype float32"), Element::F32.into());
        let error = |flags: &str| device::open(&args(flags), &checkpoint()).err().expect("a refusal").to_string();
        assert!(error("--device cpu --dtype bfloat16").contains("are for GPUs"));
        for flag in ["--dtype float32", "--kv-cache-dtype float32", "--kv-cache-dtype int8"] {
            let error = error(&format!("--device cuda {flag}"));
            assert!(error.starts_with(flag) && error.contains("a GPU computes in bfloat16 or float16"), "{error}");
        }
    }

    #[test]
    fn bytes_with_their_scales_take_less() {
        // 2 * 16 * 2 heads * (8 + 4) bytes are 768 a block.
        let offer = Offer { kv_element: KvElement::Int8, ..Offer::of_cpu(Precision::Native, None) };
        check_on("--kv-cache-memory-bytes 7680", &offer, Ok((10, 160, 512)));
    }
}
