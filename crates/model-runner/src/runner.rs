//! The executor: one model on one backend, its memory, and the steps in flight. Knows batches, not who plans them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use serving_types::{
    Batch, BatchOutput, CopyId, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, RowSlot, StepId,
};
use tensor_backend::{Backend, Sample, SlotHistory, StepInputs};

use crate::{
    Checkpoint, GapLog, LoadProgress, ModelError, Recording, RunnerConfig, WarmUp,
    activations::{ActivationShapes, Activations},
    decoder::{Decoder, StepState},
    host_pool::HostPool,
    inputs::InputPreparation,
    loader::Loader,
    memory::{Line, host_kv_entry, host_kv_layout, kv_layout, plan_memory},
    warm_up,
};

/// A model on a backend, ready to run batches.
pub struct ModelRunner<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    activations: Activations<B>,
    kv: B::Kv,
    host: HostPool<B>,
    inputs: B::Inputs,
    sampler: B::Sampler,
    preparation: InputPreparation,
    /// Recorded decode steps, by their rows.
    graphs: BTreeMap<usize, B::Graph>,
    /// Steps that are launched and not finished, oldest first.
    in_flight: VecDeque<Lane<B>>,
    /// Lanes without a step. Together with those in flight there are `max_steps_in_flight` of them.
    idle: Vec<Lane<B>>,
    limits: ExecutorLimits,
    logit_rows: usize,
    memory: Vec<MemoryEntry>,
    /// What the backend had taken when all was loaded.
    allocated_bytes: u64,
    /// If somebody wants to know.
    gaps: Option<GapLog>,
}

/// What one step in flight leaves behind until it is finished.
struct Lane<B: Backend> {
    step: StepId,
    samples: B::Samples,
    /// The logit jobs of each row.
    row_jobs: Vec<Range<u32>>,
    copies: Vec<CopyId>,
}

impl<B: Backend> ModelRunner<B> {
    /// Loads a model: plans the memory, takes it, and checks one against the other. `progress` hears of every
    /// tensor, and of the stages after them.
    ///
    /// # Errors
    /// A limit out of range, no room for the KV pool, or a failure of the backend.
    pub fn load(
        mut backend: B,
        checkpoint: &Checkpoint<'_>,
        config: &RunnerConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let plan = plan_memory(&backend, checkpoint, config)?;
        let limits = ExecutorLimits {
            block_size: config.block_size,
            num_blocks: config.num_blocks,
            num_host_blocks: config.num_host_blocks,
            max_batch_tokens: config.max_batch_tokens,
            max_batch_rows: config.max_batch_rows,
            max_model_len: config.max_model_len,
            vocab_size: checkpoint.config().vocab_size,
            max_top_logprobs: config.max_top_logprobs,
            max_steps_in_flight: backend.max_steps_in_flight(),
        };
        let mut loader = Loader::new(&mut backend, checkpoint, progress);
        let decoder = Decoder::load(&mut loader, config.max_model_len)?;
        let mut taken = loader.finish();
        progress(LoadProgress::Buffers);
        let shapes = ActivationShapes::new(checkpoint.config(), config);
        let activations = Activations::alloc(&mut backend, &shapes, &mut taken)?;
        backend.reserve_scratch(plan.bytes(Line::Scratch)).map_err(ModelError::backend)?;
        taken.put(Line::Scratch, &backend);
        let inputs = backend.new_inputs(&config.input_limits(checkpoint.config())).map_err(ModelError::backend)?;
        taken.put(Line::StepInputs, &backend);
        let sampler = backend.new_sampler(&config.sampler_limits(checkpoint.config())).map_err(ModelError::backend)?;
        taken.put(Line::Sampler, &backend);
        let idle = (0..limits.max_steps_in_flight)
            .map(|_| Lane::new(&mut backend, config))
            .collect::<Result<Vec<_>, ModelError>>()?;
        taken.put(Line::Samples, &backend);
        let kv = backend.alloc_kv(&kv_layout(checkpoint, config)).map_err(ModelError::backend)?;
        taken.put(Line::KvBlocks, &backend);
        taken.check(&plan)?;
        let mut memory = plan.entries;
        let mut host_kv = None;
        if config.num_host_blocks > 0 {
            let layout = host_kv_layout(checkpoint, config);
            host_kv = Some(backend.alloc_host_kv(&layout).map_err(ModelError::backend)?);
            memory.push(host_kv_entry(&layout));
        }
        let mut runner = Self {
            allocated_bytes: backend.allocated_bytes(),
            backend,
            decoder,
            activations,
            kv,
            host: HostPool::new(host_kv),
            inputs,
            sampler,
            preparation: InputPreparation::new(limits),
            graphs: BTreeMap::new(),
            in_flight: VecDeque::with_capacity(idle.len()),
            idle,
            limits,
            logit_rows: config.logit_rows(),
            memory,
            gaps: None,
        };
        progress(LoadProgress::WarmUp);
        if config.warm_up == WarmUp::EveryOp {
            runner.warm_up()?;
        }
        if config.recording == Recording::DecodeSteps {
            runner.record_decodes().map_err(ModelError::backend)?;
        }
        runner.memory.extend(runner.backend.measure_rest().map_err(ModelError::backend)?);
        Ok(runner)
    }

    /// What the model runs on, for a person.
    pub fn describe_device(&self) -> String {
        self.backend.describe()
    }

    /// Logs from now on how long the device has nothing to do between steps, if the backend can tell.
    ///
    /// # Errors
    /// The backend fails.
    pub fn log_gaps(&mut self) -> Result<GapLog, ModelError> {
        self.backend.measure_gaps().map_err(ModelError::backend)?;
        Ok(self.gaps.insert(GapLog::default()).clone())
    }

    /// Enqueues a prepared step, from its copies to its samples.
    fn enqueue(&mut self, batch: &Batch, lane: &mut Lane<B>) -> Result<(), B::Error> {
        self.host.enqueue(&mut self.backend, &mut self.kv, batch, self.preparation.touched())?;
        if !batch.copies.is_empty() {
            self.backend.copy_blocks(&mut self.kv, &batch.copies)?;
        }
        for open in &batch.opens {
            let history =
                SlotHistory { tokens: batch.tokens_of(&open.history), num_prompt_tokens: open.num_prompt_tokens };
            self.backend.open_slot(&mut self.sampler, open.slot, &open.sampling, history)?;
        }
        if batch.rows.is_empty() {
            return Ok(());
        }
        let prepared = self.preparation.inputs();
        self.backend.upload(&mut self.inputs, prepared)?;
        self.backend.begin_step()?;
        let rows = self.backend.padded_rows(&self.inputs, prepared);
        match self.graphs.get(&rows).filter(|_| prepared.is_decode()) {
            Some(graph) => {
                self.backend.replay(graph)?;
                self.sample(0..prepared.jobs.len(), lane)?;
            }
            None => self.enqueue_ops(rows, lane)?,
        }
        debug_assert_eq!(self.backend.allocated_bytes(), self.allocated_bytes, "a step takes no device memory");
        Ok(())
    }

    /// The model's ops for `rows` rows of the prepared step, then its logits and choices, in slices that fit the logits
    /// buffer.
    fn enqueue_ops(&mut self, rows: usize, lane: &mut Lane<B>) -> Result<(), B::Error> {
        let prepared = self.preparation.inputs();
        let num_jobs = prepared.jobs.len();
        // As many logits as the recorded step has, so that both give the same bits.
        let job_rows = if prepared.is_decode() { rows } else { num_jobs };
        let (decoder, mut step) = self.step(rows);
        decoder.forward(&mut step)?;
        if num_jobs == 0 {
            return self.sample(0..0, lane);
        }
        for start in (0..num_jobs).step_by(self.logit_rows) {
            let end = start + self.logit_rows;
            let (decoder, mut step) = self.step(rows);
            decoder.logits(&mut step, start..job_rows.min(end))?;
            self.sample(start..num_jobs.min(end), lane)?;
        }
        Ok(())
    }

    /// Chooses for a slice of the step's jobs, whose logits have been computed. A step that is all prompt and no score has
    /// none, and ends with an empty slice.
    fn sample(&mut self, jobs: Range<usize>, lane: &mut Lane<B>) -> Result<(), B::Error> {
        self.backend.sample(Sample {
            inputs: &self.inputs,
            jobs,
            logits: &mut self.activations.logits,
            sampler: &mut self.sampler,
            samples: &mut lane.samples,
        })
    }

    /// Waits for the results of a step.
    fn read(&mut self, lane: &Lane<B>, output: &mut BatchOutput) -> Result<(), B::Error> {
        if lane.row_jobs.is_empty() {
            self.host.await_fetches(&mut self.backend)?;
        } else {
            self.backend.read_samples(&lane.samples, &lane.row_jobs, output)?;
            if let (Some(gaps), Some(gap)) = (&self.gaps, self.backend.read_gap()?) {
                gaps.push(gap);
            }
        }
        output.finished_copies.extend_from_slice(&lane.copies);
        output.fetched_through = self.host.fetched_through(&mut self.backend)?;
        Ok(())
    }

    /// The decoder, and what a step of `rows` rows works on.
    fn step(&mut self, rows: usize) -> (&Decoder<B>, StepState<'_, B>) {
        let step = StepState {
            backend: &mut self.backend,
            activations: &mut self.activations,
            inputs: &self.inputs,
            sampler: &self.sampler,
            kv: &mut self.kv,
            rows,
        };
        (&self.decoder, step)
    }

    /// Runs made-up steps, and forgets their rows. What they leave in the KV pools is overwritten before it is read.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        let mut output = BatchOutput::default();
        for batch in warm_up::batches(&self.limits) {
            let step = self.launch(&batch).map_err(ModelError::backend)?;
            self.finish(step, &mut output).map_err(ModelError::backend)?;
        }
        self.preparation = InputPreparation::new(self.limits);
        self.host.forget_steps();
        Ok(())
    }

    /// Records the decode steps that the backend names, each after it has run once: recording cannot load code or
    /// choose algorithms. They run on made-up rows, whose KV goes to block 0 before anybody has it.
    fn record_decodes(&mut self) -> Result<(), B::Error> {
        for rows in self.backend.graph_rows(&self.inputs) {
            if rows > self.logit_rows {
                break;
            }
            self.backend.upload(&mut self.inputs, &made_up_decode(rows))?;
            let (decoder, mut step) = self.step(rows);
            decoder.forward(&mut step)?;
            decoder.logits(&mut step, 0..rows)?;
            let Self { backend, decoder, activations, inputs, sampler, kv, .. } = self;
            let graph = backend.record(|backend| {
                let mut step = StepState { backend, activations, inputs, sampler, kv, rows };
                decoder.forward(&mut step)?;
                decoder.logits(&mut step, 0..rows)
            })?;
            self.graphs.insert(rows, graph);
        }
        Ok(())
    }
}

/// A decode step of one token a slot, at the start of its context.
fn made_up_decode(rows: usize) -> StepInputs {
    let indices = || 0..rows as u32;
    StepInputs {
        token_ids: vec![0; rows],
        positions: vec![0; rows],
        token_rows: indices().collect(),
        row_starts: (0..=rows as u32).collect(),
        row_slots: indices().map(RowSlot).collect(),
        context_lens: vec![1; rows],
        ..StepInputs::default()
    }
}

impl<B: Backend> Lane<B> {
    fn new(backend: &mut B, config: &RunnerConfig) -> Result<Self, ModelError> {
        let samples =
            backend.new_samples(config.max_jobs(), config.max_top_logprobs as usize).map_err(ModelError::backend)?;
        Ok(Self { step: StepId(0), samples, row_jobs: Vec::new(), copies: Vec::new() })
    }
}

impl<B: Backend> Executor for ModelRunner<B> {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        self.memory.clone()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        let mut lane = self.idle.pop().expect("no more steps are launched than may be in flight");
        lane.step = batch.step;
        lane.copies.clear();
        lane.copies.extend(batch.copies.iter().map(|copy| copy.id));
        self.preparation.prepare(batch, &mut lane.row_jobs);
        match self.enqueue(batch, &mut lane) {
            Ok(()) => {
                self.in_flight.push_back(lane);
                Ok(InFlight::new(batch.step))
            }
            Err(error) => {
                self.idle.push(lane);
                Err(device_error(&error))
            }
        }
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        let lane = self.in_flight.pop_front().expect("a step in flight was launched");
        assert_eq!(lane.step, step.step(), "steps are finished in the order of their launch");
        output.clear();
        let read = self.read(&lane, output);
        self.idle.push(lane);
        read.map_err(|error| device_error(&error))
    }
}

/// A backend has no errors of single steps: what fails here has lost its device or its memory.
fn device_error(error: &dyn std::error::Error) -> ExecutorError {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Some errors end with their cause.
        if !cause.ends_with(&text) {
            cause.push_str(": ");
            cause.push_str(&text);
        }
        source = error.source();
    }
    ExecutorError::Device(cause)
}
