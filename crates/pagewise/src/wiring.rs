//! From opened files to a running engine: the one place where model, backend, runner and engine meet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineCore};
use generation::{GenerationDefaults, Generator, GeneratorParts, ModelInfo};
use model_format::ModelConfig;
use model_runner::{Checkpoint, GapLog, LoadProgress, ModelRunner};
use serving_types::{Executor, ExecutorLimits, MemoryEntry};
use tensor_backend::Backend;

use crate::cli::EngineArgs;
use crate::device::{self, GPU, Offer, Opened};
use crate::model_files::{ModelFiles, TextParts};
use crate::phases::Phases;
use crate::settings::Settings;
use crate::{output, progress, report};

/// A model in memory and the engine that runs it.
pub(crate) struct Started {
    pub(crate) engine: Engine,
    pub(crate) model: Model,
    /// If they are measured.
    pub(crate) gaps: Option<GapLog>,
}

/// A model in memory, without an engine.
pub(crate) struct Loaded {
    pub(crate) executor: Box<dyn Executor>,
    pub(crate) model: Model,
    gaps: Option<GapLog>,
}

/// What is known of a model in memory.
pub(crate) struct Model {
    pub(crate) settings: Settings,
    /// The device: "cpu, 2 threads, avx2", "cuda:0 …".
    pub(crate) device: String,
    /// Which GPU it is, if it is one.
    pub(crate) gpu: Option<usize>,
    /// Why the flags' `auto` did not become a GPU.
    not_on_gpu: Option<String>,
    /// How many bytes of weights were loaded, and how long it took.
    loading: String,
    pub(crate) files: ModelFiles,
    config: ModelConfig,
}

/// Opens the model that the flags name.
pub(crate) fn open_model(args: &EngineArgs) -> Result<ModelFiles> {
    let Some(model) = &args.model else { bail!("--model is missing: a file, a folder, or a pulled model") };
    ModelFiles::open(model, args.load_format)
}

/// What is measured beside what is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Profile {
    Off,
    /// How long the device has nothing to do between steps.
    Gaps,
}

/// Loads the model and starts its engine. What was resolved and what memory was taken goes to stderr.
pub(crate) fn start(args: &EngineArgs) -> Result<Started> {
    start_with(args, Profile::Off, &mut Phases::begin())
}

/// The same, and measures: how long each phase takes, and what the profile says.
pub(crate) fn start_with(args: &EngineArgs, profile: Profile, phases: &mut Phases) -> Result<Started> {
    let Loaded { executor, model, gaps } = load(args, profile, phases)?;
    let engine = Engine::spawn(EngineCore::new(executor, model.settings.engine)?);
    phases.end("engine");
    Ok(Started { engine, model, gaps })
}

/// Loads the model.
pub(crate) fn load(args: &EngineArgs, profile: Profile, phases: &mut Phases) -> Result<Loaded> {
    let files = open_model(args)?;
    let checkpoint = files.checkpoint(args.fixed_seed())?;
    phases.end("model file");
    let wanted = Wanted { args, name: &files.name, checkpoint: &checkpoint, profile };
    let opened = device::open(args, &checkpoint)?;
    phases.end("device");
    let (gpu, on_device) = match opened {
        Opened::Cpu(backend, offer) => (None, load_on(&wanted, backend, &offer, phases)),
        Opened::Cuda(backend, offer) => (Some(GPU), load_on(&wanted, *backend, &offer, phases)),
    };
    let config = checkpoint.config().clone();
    drop(checkpoint);
    let OnDevice { executor, settings, device, not_on_gpu, loading, gaps } = on_device?;
    let model = Model { settings, device, gpu, not_on_gpu, loading, files, config };
    Ok(Loaded { executor, model, gaps })
}

/// A model on its device.
struct OnDevice {
    executor: Box<dyn Executor>,
    settings: Settings,
    device: String,
    not_on_gpu: Option<String>,
    loading: String,
    gaps: Option<GapLog>,
}

/// What is to be loaded, for whatever device.
struct Wanted<'a> {
    args: &'a EngineArgs,
    name: &'a str,
    checkpoint: &'a Checkpoint<'a>,
    profile: Profile,
}

fn load_on<B: Backend + 'static>(
    wanted: &Wanted<'_>,
    backend: B,
    offer: &Offer,
    phases: &mut Phases,
) -> Result<OnDevice> {
    let &Wanted { args, name, checkpoint, profile } = wanted;
    let settings = Settings::resolve(args, checkpoint, &backend, offer)?;
    let bar = progress::byte_bar(format!("loading {name}"), 0);
    let (start, mut loading) = (Instant::now(), (0, Duration::ZERO));
    let mut show = |progress: LoadProgress| match progress {
        LoadProgress::Tensors { bytes_done, bytes_total } => {
            if bytes_done == 0 {
                phases.end("memory plan");
            }
            bar.set_length(bytes_total);
            bar.set_position(bytes_done);
            loading = (bytes_done, start.elapsed());
        }
        LoadProgress::Buffers => phases.end("weights"),
        LoadProgress::WarmUp => phases.end("buffers, KV pool"),
    };
    let mut runner = ModelRunner::load(backend, checkpoint, &settings.runner, &mut show)
        .with_context(|| format!("cannot load {name}"))?;
    phases.end("warm-up");
    bar.finish_and_clear();
    let (bytes, took) = loading;
    let loading = format!("{} in {:.2} s", report::mebibytes(bytes), took.as_secs_f64());
    let gaps = if profile == Profile::Gaps { Some(runner.log_gaps()?) } else { None };
    let device = runner.describe_device();
    let memory = runner.memory();
    let host_bytes = u64::from(settings.runner.num_host_blocks) * settings.block_bytes;
    if let Some(share_bytes) = offer.memory.share_bytes().filter(|_| args.kv_cache_memory_bytes.is_none())
        && memory.iter().map(|entry| entry.bytes).sum::<u64>() > share_bytes + host_bytes
    {
        bail!(
            "more is taken than --gpu-memory-utilization allows, which is {}: by others since the start, or by recorded steps; \
             lower --max-num-seqs, or set --kv-cache-memory-bytes\n{}",
            report::mebibytes(share_bytes),
            report::ledger(memory.iter().map(|entry| (&*entry.name, entry.bytes)))
        );
    }
    let not_on_gpu = offer.not_on_gpu.clone();
    Ok(OnDevice { executor: Box::new(runner), settings, device, not_on_gpu, loading, gaps })
}

/// Ends an engine when dropped, with all that still runs: a process that ends while a thread of it uses a GPU may crash.
pub(crate) struct StopAtEnd(Engine);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        let _ = self.0.drain(Duration::ZERO);
    }
}

impl Started {
    /// Has the engine ended before the process is.
    pub(crate) fn stop_at_end(&self) -> StopAtEnd {
        StopAtEnd(self.engine.clone())
    }

    /// What was resolved, and the memory ledger.
    pub(crate) fn describe(&self) -> String {
        self.model.describe(&self.engine.limits(), &self.engine.memory())
    }

    /// The engine behind text.
    ///
    /// # Errors
    /// The model has no tokenizer, or its files recommend sampling values that are out of range.
    pub(crate) fn generator(&self) -> Result<Generator> {
        let Model { files, config, .. } = &self.model;
        let Some(text) = files.text_parts()? else {
            bail!(
                "{} has no tokenizer.json: without one only `pagewise bench` and `pagewise inspect` can use it",
                files.name
            );
        };
        let recommended = files.generation_defaults()?;
        for key in &recommended.ignored {
            output::note(format_args!("warning: {key}, which the model's authors recommend, is not applied"));
        }
        let mut eos_token_ids = config.eos_token_ids.clone();
        eos_token_ids.extend(recommended.eos_token_ids.iter().copied().chain(text.tokenizer.eos_token_id()));
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        let model = ModelInfo {
            name: files.name.clone(),
            architecture: config.architecture.clone(),
            bos_token_id: config.bos_token_id.or(text.tokenizer.bos_token_id()),
            eos_token_ids,
        };
        let defaults = defaults(&recommended);
        defaults.validate().context("the model's recommended sampling")?;
        let TextParts { tokenizer, template } = text;
        Ok(Generator::new(GeneratorParts { engine: self.engine.clone(), tokenizer, template, model, defaults }))
    }
}

impl Loaded {
    /// What was resolved, and the memory ledger.
    pub(crate) fn describe(&self) -> String {
        self.model.describe(&self.executor.limits(), &self.executor.memory())
    }
}

impl Model {
    fn describe(&self, limits: &ExecutorLimits, memory: &[MemoryEntry]) -> String {
        let no_gpu = self.not_on_gpu.as_ref().map(|reason| format!(" (no GPU: {reason})")).unwrap_or_default();
        format!(
            "model = {} ({}, {})\nloaded = {}\ndevice = {}{no_gpu}\n{}\nkv blocks = {} of {} tokens\n{}",
            self.files.name,
            self.config.architecture,
            self.files.describe(),
            self.loading,
            self.device,
            self.settings,
            limits.num_blocks,
            limits.block_size,
            report::ledger(memory.iter().map(|entry| (&*entry.name, entry.bytes))),
        )
    }
}

/// The authors' values where they gave some, ours elsewhere.
fn defaults(recommended: &model_format::GenerationDefaults) -> GenerationDefaults {
    let ours = GenerationDefaults::default();
    let greedy = (recommended.do_sample == Some(false)).then_some(0.0);
    GenerationDefaults {
        temperature: greedy.or(recommended.temperature).unwrap_or(ours.temperature),
        top_p: recommended.top_p.unwrap_or(ours.top_p),
        top_k: recommended.top_k.unwrap_or(ours.top_k),
        min_p: recommended.min_p.unwrap_or(ours.min_p),
        repetition_penalty: recommended.repetition_penalty.unwrap_or(ours.repetition_penalty),
        max_tokens: recommended.max_new_tokens.unwrap_or(ours.max_tokens),
    }
}
