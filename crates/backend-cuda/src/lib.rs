//! Every op of the `Backend` trait on NVIDIA GPUs: Pagewise's own kernels for what is particular to serving, cuBLASLt for
//! dense products.
//!
//! Ops are enqueued on one stream and run later, in order; the host only waits in `read_samples`. Copies to and from host
//! memory run beside them, on two more. A step's inputs lie in fixed arrays on the device, so that recorded steps can be
//! replayed whatever they hold. Both libraries are loaded at run time: the crate builds without CUDA, and
//! [`CudaBackend::open`] says what is missing.
//!
//! - `open` finds the GPU and the libraries. `driver` is the CUDA driver in safe form; `kernels` the kernel library; `product`
//!   cuBLASLt.
//! - `weight`, `buffer`, `inputs` and `sampler` are what lies on the device, `host_kv` what lies beside it; `uploader` brings
//!   stored weights there. `plan` and `sizes` are how a step is cut and padded.
//!
//! The crate knows no models and no requests.

mod buffer;
mod copy_rates;
mod driver;
mod error;
mod host_kv;
mod inputs;
mod kernels;
mod multiply;
mod open;
mod plan;
mod product;
mod sampler;
mod side_stream;
mod sizes;
mod step_clock;
mod tuning;
mod uploader;
mod weight;

pub use buffer::{Buffer, Kv};
pub use copy_rates::{CopyRates, measure_copy_rates};
pub use driver::Graph;
pub use error::CudaError;
pub use host_kv::HostKv;
pub use inputs::Inputs;
pub use open::{Arithmetic, CudaConfig};
pub use sampler::{Sampler, Samples};
pub use tuning::{Tuned, WeightShape};
pub use weight::Weight;

use core::ops::Range;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use kernels_sys::{
    PwAddBias, PwAttention, PwDecodeAttention, PwEmbed, PwGatherRows, PwPrefillAttention, PwQuantisedEmbed, PwRmsNorm,
    PwRopeAppend, PwSiluMul,
};
use serving_types::{BatchOutput, BlockCopy, BlockId, HostCopy, MemoryEntry, RowSlot, SamplingParams};
use tensor_backend::{
    AddRmsNorm, Backend, Element, Embed, GatedMatMul, GatherRows, InputLimits, KvLayout, MatMul, MatMulAddRmsNorm,
    PagedAttention, RandomElements, RmsNorm, RopeAppend, Sample, SamplerLimits, SlotHistory, StepInputs, WeightPart,
    WeightRole,
};

use crate::buffer::{check_kv_element, element_code};
use crate::driver::{Device, DeviceMemory, DeviceRange};
use crate::kernels::Kernels;
use crate::multiply::{MAX_GATED_ROWS, Multiply, gated_bytes, panel_bytes};
use crate::plan::Cuts;
use crate::product::table::Card;
use crate::product::{End, Product, ProductShape, Products, WeightState};
use crate::step_clock::StepClock;
use crate::weight::{PartView, WeightLoader};

/// One GPU.
#[derive(Debug)]
pub struct CudaBackend {
    element: Element,
    arithmetic: Arithmetic,
    description: String,
    products: Products,
    /// What measured algorithms depend on.
    card: Card,
    kernels: Kernels,
    weights: WeightLoader,
    /// Of gated products and of quantised weights that are expanded.
    scratch: Option<DeviceMemory>,
    /// If somebody wants to know of gaps between steps.
    clock: Option<StepClock>,
    /// Bytes of everything that was handed out.
    handed_out: u64,
    /// Bytes of the device that were in use when the libraries were open and nothing handed out.
    used_at_open: u64,
    device: Arc<Device>,
}

impl CudaBackend {
    /// Bytes of the GPU's memory: free now, in all.
    ///
    /// # Errors
    /// The driver does not answer.
    pub fn memory_bytes(&self) -> Result<(u64, u64), CudaError> {
        self.device.memory_bytes()
    }

    /// Counts what is about to be handed out.
    fn count<T>(&mut self, new: T, bytes: fn(&T) -> u64) -> T {
        self.handed_out += bytes(&new);
        new
    }

    fn cuts(&self, limits: &InputLimits) -> Cuts {
        let attention = limits.attention;
        Cuts {
            attention,
            tile_tokens: self.kernels.prefill_tile_tokens(
                attention.num_heads,
                attention.num_kv_heads,
                attention.head_dim,
            ),
            arithmetic: self.arithmetic,
            num_multiprocessors: self.card.num_multiprocessors as u32,
        }
    }

    /// Refuses a weight for which the arithmetic that was asked for has no kernel.
    fn check_multiplied(&self, parts: &[WeightPart<'_>], role: WeightRole) -> Result<(), CudaError> {
        if self.arithmetic == Arithmetic::Fastest || role == WeightRole::Embedding {
            return Ok(());
        }
        let k = parts[0].cols;
        let refused = Weight::part_rows(parts)?.into_iter().find(|part| !product::own::takes(part.num, k));
        refused.map_or(Ok(()), |part| Err(CudaError::BatchInvariantShape { n: part.num, k }))
    }

    /// At least so many bytes of scratch. Takes more if there is less, which reserved scratch prevents.
    fn scratch(&mut self, bytes: usize) -> Result<DeviceRange, CudaError> {
        if self.scratch.as_ref().is_none_or(|scratch| scratch.bytes() < bytes) {
            self.device.synchronize()?;
            self.scratch = None;
            self.scratch = Some(DeviceMemory::zeroed(&self.device, bytes, "scratch")?);
        }
        Ok(self.scratch.as_ref().expect("just taken").range())
    }

    /// What both ways of computing attention share.
    fn attention(&self, op: &PagedAttention<'_, Self>) -> PwAttention {
        let layout = op.kv.layout();
        let width = (op.num_heads + 2 * layout.num_kv_heads) * layout.head_dim;
        let view = op.inputs.view();
        PwAttention {
            q: op.qkv.leading(op.rows, width).as_ptr(),
            q_stride: width as i64,
            kv: op.kv.view(op.layer),
            tables: view.tables,
            max_blocks_per_slot: view.max_blocks_per_slot,
            out: op.out.leading(op.rows, op.num_heads * layout.head_dim).as_ptr(),
            num_heads: op.num_heads as i32,
            scale: op.scale,
            sliding_window: op.sliding_window.map_or(0, |window| window as i32),
            element: element_code(self.element),
        }
    }
}

impl Backend for CudaBackend {
    type Buffer = Buffer;
    type Weight = Weight;
    type Kv = Kv;
    type HostKv = HostKv;
    type Inputs = Inputs;
    type Sampler = Sampler;
    type Samples = Samples;
    type Graph = Graph;
    type Error = CudaError;

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn activation_element(&self) -> Element {
        self.element
    }

    fn max_steps_in_flight(&self) -> u32 {
        2
    }

    fn allocated_bytes(&self) -> u64 {
        self.handed_out + self.scratch.as_ref().map_or(0, |scratch| scratch.bytes() as u64)
    }

    fn measure_rest(&self) -> Result<Vec<MemoryEntry>, CudaError> {
        let (free_bytes, total_bytes) = self.device.memory_bytes()?;
        let entry = |name, bytes| MemoryEntry { name: Cow::Borrowed(name), bytes };
        let since = (total_bytes - free_bytes).saturating_sub(self.used_at_open);
        Ok(vec![
            entry("context and others", self.used_at_open),
            entry("graphs, rounding", since.saturating_sub(self.allocated_bytes())),
        ])
    }

    fn alloc(&mut self, rows: usize, cols: usize, element: Element) -> Result<Buffer, CudaError> {
        if element != Element::F32 && element != self.element {
            return Err(CudaError::BufferElement(element, self.element));
        }
        let buffer = Buffer::new(&self.device, rows, cols, element)?;
        Ok(self.count(buffer, Buffer::bytes))
    }

    fn write(&mut self, buffer: &mut Buffer, values: &[f32]) -> Result<(), CudaError> {
        buffer.write(&self.device, values)
    }

    fn read(&mut self, buffer: &Buffer, rows: Range<usize>) -> Result<Vec<f32>, CudaError> {
        self.device.bind()?;
        buffer.read(&self.device, rows)
    }

    fn load_weight(&mut self, parts: &[WeightPart<'_>], role: WeightRole) -> Result<Weight, CudaError> {
        self.check_multiplied(parts, role)?;
        let weight = self.weights.load(&self.kernels, parts)?;
        Ok(self.count(weight, Weight::bytes))
    }

    fn load_random_weight(
        &mut self,
        parts: &[(WeightPart<'_>, RandomElements)],
        role: WeightRole,
    ) -> Result<Option<Weight>, CudaError> {
        let shapes: Vec<WeightPart<'_>> = parts.iter().map(|(part, _)| *part).collect();
        self.check_multiplied(&shapes, role)?;
        if !Weight::is_dense(&shapes) {
            return Ok(None);
        }
        let weight = self.weights.make_random(&self.kernels, parts)?;
        Ok(Some(self.count(weight, Weight::bytes)))
    }

    fn planned_weight_bytes(&self, parts: &[WeightPart<'_>], _role: WeightRole) -> u64 {
        Weight::planned_bytes(&self.kernels, parts, self.element)
    }

    fn planned_scratch_bytes(&self, parts: &[WeightPart<'_>], role: WeightRole, rows: usize) -> u64 {
        let n = parts.iter().map(|part| part.rows).sum();
        let gates = || Weight::is_dense(parts) && self.products.gate(n, parts[0].cols);
        let has_halves = role == WeightRole::GatedProduct && !gates();
        let gated = if has_halves { gated_bytes(n, self.element, rows) } else { 0 };
        // An embedding alone is never multiplied with.
        let panel =
            if role == WeightRole::Embedding { 0 } else { panel_bytes(parts, self.element, self.arithmetic, rows) };
        (gated + panel) as u64
    }

    fn reserve_scratch(&mut self, bytes: u64) -> Result<(), CudaError> {
        if bytes > 0 {
            self.scratch(bytes as usize)?;
        }
        Ok(())
    }

    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<Kv, CudaError> {
        let kv = Kv::new(&self.device, layout, self.element)?;
        Ok(self.count(kv, Kv::bytes))
    }

    fn alloc_host_kv(&mut self, layout: &KvLayout) -> Result<HostKv, CudaError> {
        check_kv_element(layout, self.element)?;
        HostKv::new(&self.device, layout)
    }

    fn new_inputs(&mut self, limits: &InputLimits) -> Result<Inputs, CudaError> {
        let inputs = Inputs::new(&self.device, limits, self.cuts(limits))?;
        Ok(self.count(inputs, Inputs::bytes))
    }

    fn planned_inputs_bytes(&self, limits: &InputLimits) -> u64 {
        Inputs::planned_bytes(limits, &self.cuts(limits))
    }

    fn padded_rows(&self, inputs: &Inputs, step: &StepInputs) -> usize {
        inputs.padded_rows(step)
    }

    fn upload(&mut self, inputs: &mut Inputs, step: &StepInputs) -> Result<(), CudaError> {
        self.device.bind()?;
        inputs.upload(&self.kernels, step)
    }

    fn new_sampler(&mut self, limits: &SamplerLimits) -> Result<Sampler, CudaError> {
        let sampler = Sampler::new(&self.device, &self.kernels, limits)?;
        Ok(self.count(sampler, Sampler::bytes))
    }

    fn planned_sampler_bytes(&self, limits: &SamplerLimits) -> u64 {
        Sampler::planned_bytes(&self.kernels, limits)
    }

    fn open_slot(
        &mut self,
        sampler: &mut Sampler,
        slot: RowSlot,
        params: &SamplingParams,
        history: SlotHistory<'_>,
    ) -> Result<(), CudaError> {
        self.device.bind()?;
        sampler.open_slot(&self.device, slot, params, history)
    }

    fn new_samples(&mut self, max_jobs: usize, max_top: usize) -> Result<Samples, CudaError> {
        let samples = Samples::new(&self.device, max_jobs, max_top)?;
        Ok(self.count(samples, Samples::bytes))
    }

    fn planned_samples_bytes(&self, max_jobs: usize, max_top: usize) -> u64 {
        Samples::planned_bytes(max_jobs, max_top)
    }

    fn read_samples(
        &mut self,
        samples: &Samples,
        row_jobs: &[Range<u32>],
        output: &mut BatchOutput,
    ) -> Result<(), CudaError> {
        samples.read(row_jobs, output)
    }

    fn measure_gaps(&mut self) -> Result<(), CudaError> {
        self.clock = Some(StepClock::new(&self.device)?);
        Ok(())
    }

    fn begin_step(&mut self) -> Result<(), CudaError> {
        self.clock.as_mut().map_or(Ok(()), StepClock::begin)
    }

    fn read_gap(&mut self) -> Result<Option<Duration>, CudaError> {
        self.clock.as_mut().map_or(Ok(None), StepClock::read_gap)
    }

    fn graph_rows(&self, inputs: &Inputs) -> Vec<usize> {
        sizes::all_decode_rows(inputs.max_decode_rows())
    }

    fn record(&mut self, enqueue: impl FnOnce(&mut Self) -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let device = Arc::clone(&self.device);
        device.record(|| enqueue(self))
    }

    fn replay(&mut self, graph: &Graph) -> Result<(), CudaError> {
        graph.launch()
    }

    fn embed(&mut self, op: Embed<'_, Self>) -> Result<(), CudaError> {
        let out = op.out.leading(op.rows, op.table.k).as_ptr();
        let (step, last_sampled) = (op.inputs.view(), op.sampler.last_sampled());
        let (rows, element) = (op.rows as i32, element_code(self.element));
        if let Some(table) = op.table.as_dense() {
            let cols = op.table.k as i32;
            return self.kernels.embed(&PwEmbed {
                step,
                last_sampled,
                table: table.as_ptr(),
                out,
                rows,
                cols,
                element,
            });
        }
        let [part] = op.table.parts.as_slice() else { panic!("an embedding has one part") };
        let PartView::Quantised(weight) = part.view(op.table.k) else { panic!("a dense embedding is one matrix") };
        let token_ids = step.token_ids;
        self.kernels.quantised_embed(&PwQuantisedEmbed { weight, token_ids, last_sampled, out, rows, element })
    }

    fn rms_norm(&mut self, op: RmsNorm<'_, Self>) -> Result<(), CudaError> {
        let cols = op.x.cols();
        self.kernels.rms_norm(&PwRmsNorm {
            x: op.x.leading(op.rows, cols).as_ptr(),
            residual: core::ptr::null_mut(),
            weight: op.weight.parameters(cols),
            out: op.out.leading(op.rows, cols).as_ptr(),
            eps: op.eps,
            rows: op.rows as i32,
            cols: cols as i32,
            element: element_code(self.element),
        })
    }

    fn add_rms_norm(&mut self, op: AddRmsNorm<'_, Self>) -> Result<(), CudaError> {
        let cols = op.x.cols();
        self.kernels.rms_norm(&PwRmsNorm {
            x: op.x.leading(op.rows, cols).as_ptr(),
            residual: op.residual.leading(op.rows, cols).as_ptr(),
            weight: op.weight.parameters(cols),
            out: op.out.leading(op.rows, cols).as_ptr(),
            eps: op.eps,
            rows: op.rows as i32,
            cols: cols as i32,
            element: element_code(self.element),
        })
    }

    fn matmul(&mut self, op: MatMul<'_, Self>) -> Result<(), CudaError> {
        let MatMul { x, weight, bias, out, rows } = op;
        let panel_bytes = self.panel_bytes(weight, rows);
        let panel = if panel_bytes > 0 { Some(self.scratch(panel_bytes)?) } else { None };
        let (x, out_element) = (x.leading(rows, weight.k), out.element());
        let out = out.leading(rows, weight.n);
        self.multiply(&Multiply { x, weight, out, out_element, rows, panel })?;
        match bias {
            None => Ok(()),
            Some(bias) => self.kernels.add_bias(&PwAddBias {
                x: out.as_ptr(),
                bias: bias.parameters(weight.n),
                rows: rows as i32,
                cols: weight.n as i32,
                element: element_code(out_element),
            }),
        }
    }

    /// A dense product is added to the residual stream while it is still in f32; then only the norm is left.
    fn matmul_add_rms_norm(&mut self, op: MatMulAddRmsNorm<'_, Self>) -> Result<(), CudaError> {
        let Some(matrix) = op.weight.as_dense() else { return op.one_by_one(self) };
        let MatMulAddRmsNorm { x, weight, residual, norm, eps, out, rows, .. } = op;
        let (n, k, element) = (weight.n, weight.k, self.element);
        let shape = ProductShape { rows, n, k, out_stride: n, element, out_element: element };
        let ranges = [matrix, x.leading(rows, k), residual.leading(rows, n)];
        let product = Product { shape, ranges, end: End::Add, weight_state: WeightState::Settled };
        self.products.multiply(&self.kernels, &product)?;
        self.rms_norm(RmsNorm { x: residual, weight: norm, eps, out, rows })
    }

    fn gated_matmul(&mut self, op: GatedMatMul<'_, Self>) -> Result<(), CudaError> {
        let GatedMatMul { x, weight, out, rows } = op;
        if let Some(matrix) = weight.as_dense()
            && self.products.gate(weight.n, weight.k)
        {
            let (n, k, element) = (weight.n, weight.k, self.element);
            let shape = ProductShape { rows, n, k, out_stride: n / 2, element, out_element: element };
            let ranges = [matrix, x.leading(rows, k), out.leading(rows, n / 2)];
            let product = Product { shape, ranges, end: End::Gate, weight_state: WeightState::Settled };
            return self.products.multiply(&self.kernels, &product);
        }
        let gated_bytes = gated_bytes(weight.n, self.element, rows);
        let panel_bytes = self.panel_bytes(weight, rows);
        let scratch = self.scratch(gated_bytes + panel_bytes)?;
        let panel = (panel_bytes > 0).then(|| scratch.part(gated_bytes, panel_bytes));
        let cols = weight.n / 2;
        let (x, out) = (x.leading(rows, weight.k), out.leading(rows, cols));
        let row_bytes = |cols: usize| cols * self.element.bytes();
        let (x_bytes, halves_bytes, out_bytes) = (row_bytes(weight.k), row_bytes(weight.n), row_bytes(cols));
        for first in (0..rows).step_by(MAX_GATED_ROWS) {
            let rows = MAX_GATED_ROWS.min(rows - first);
            let halves = scratch.part(0, rows * halves_bytes);
            let x = x.part(first * x_bytes, rows * x_bytes);
            self.multiply(&Multiply { x, weight, out: halves, out_element: self.element, rows, panel })?;
            self.kernels.silu_mul(&PwSiluMul {
                x: halves.as_ptr(),
                out: out.part(first * out_bytes, rows * out_bytes).as_ptr(),
                rows: rows as i32,
                cols: cols as i32,
                element: element_code(self.element),
            })?;
        }
        Ok(())
    }

    fn rope_append(&mut self, op: RopeAppend<'_, Self>) -> Result<(), CudaError> {
        let layout = *op.kv.layout();
        let width = (op.num_heads + 2 * layout.num_kv_heads) * layout.head_dim;
        let (q_norm, k_norm, norm_eps) = match &op.qk_norm {
            None => (core::ptr::null(), core::ptr::null(), 0.0),
            Some(norm) => {
                (norm.q_weight.parameters(layout.head_dim), norm.k_weight.parameters(layout.head_dim), norm.eps)
            }
        };
        self.kernels.rope_append(&PwRopeAppend {
            step: op.inputs.view(),
            qkv: op.qkv.leading(op.rows, width).as_ptr(),
            rope: op.rope.parameters(layout.head_dim),
            q_norm,
            k_norm,
            norm_eps,
            kv: op.kv.view(op.layer),
            num_heads: op.num_heads as i32,
            rows: op.rows as i32,
            element: element_code(self.element),
        })
    }

    fn paged_attention(&mut self, op: PagedAttention<'_, Self>) -> Result<(), CudaError> {
        assert_eq!(op.inputs.limits().attention.sliding_window, op.sliding_window, "the window that was planned for");
        let attention = self.attention(&op);
        if let Some(work) = op.inputs.prefill_work(op.rows) {
            self.kernels.prefill_attention(&PwPrefillAttention {
                attention,
                tiles: work.tiles,
                num_tiles: work.num_tiles,
                max_tiles: work.max_tiles,
                max_tile_tokens: work.max_tile_tokens,
                counters: work.counters,
            })?;
        }
        let Some(work) = op.inputs.decode_work(op.rows) else { return Ok(()) };
        self.kernels.decode_attention(&PwDecodeAttention {
            attention,
            items: work.items,
            num_items: work.num_items,
            max_items: work.max_items,
            partial_out: work.partial_out,
            partial_stats: work.partial_stats,
            counters: work.counters,
            queue: work.queue,
        })
    }

    fn gather_rows(&mut self, op: GatherRows<'_, Self>) -> Result<(), CudaError> {
        if op.jobs.is_empty() {
            return Ok(());
        }
        let cols = op.x.cols();
        self.kernels.gather_rows(&PwGatherRows {
            x: op.x.leading(0, cols).as_ptr(),
            // The first word of a job is the index of its token.
            indices: op.inputs.jobs(op.jobs.start).cast(),
            index_stride: (size_of::<kernels_sys::PwLogitJob>() / size_of::<i32>()) as i32,
            out: op.out.leading(op.jobs.len(), cols).as_ptr(),
            rows: op.jobs.len() as i32,
            cols: cols as i32,
            element: element_code(self.element),
        })
    }

    fn sample(&mut self, op: Sample<'_, Self>) -> Result<(), CudaError> {
        let Sample { inputs, jobs, logits, sampler, samples } = op;
        let logits = logits.leading(jobs.len(), logits.cols());
        let run = sampler::SampleRun {
            device_jobs: inputs.jobs(jobs.start),
            host_jobs: inputs.host_jobs(),
            jobs,
            logits,
            clock: self.clock.as_ref(),
        };
        sampler::sample(&self.device, &self.kernels, sampler, samples, run)
    }

    fn copy_blocks(&mut self, kv: &mut Kv, copies: &[BlockCopy]) -> Result<(), CudaError> {
        self.device.bind()?;
        for copy in copies.iter().filter(|copy| copy.from != copy.to) {
            self.device.copy_on_device(kv.block(copy.to.0), kv.block(copy.from.0))?;
        }
        Ok(())
    }

    fn copy_host_blocks(&mut self, kv: &mut Kv, host: &mut HostKv, copies: &[HostCopy]) -> Result<(), CudaError> {
        self.device.bind()?;
        host.copy(kv, copies)
    }

    fn order_after_host_copies(
        &mut self,
        host: &mut HostKv,
        read: &[BlockId],
        written: &[BlockId],
    ) -> Result<(), CudaError> {
        self.device.bind()?;
        host.order(&self.device, read, written)
    }

    fn num_fetching(&mut self, host: &mut HostKv) -> Result<usize, CudaError> {
        self.device.bind()?;
        host.num_fetching()
    }

    fn await_fetches(&mut self, host: &mut HostKv) -> Result<(), CudaError> {
        self.device.bind()?;
        host.await_fetches()
    }
}
