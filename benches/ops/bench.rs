//! Runs one case after the other on a backend and times it. Knows how to make an op's inputs, not what its figures mean.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::random::Random;
use tensor_backend::{
    AddRmsNorm, Backend, Element, Embed, GatedMatMul, GatherRows, MatMul, MatMulAddRmsNorm, PagedAttention, RmsNorm,
    RopeAppend, WeightPart, WeightRole,
};

use crate::case::{Case, Op};
use crate::cost::Elements;
use crate::model::{End, Model, Product};
use crate::sampling;
use crate::stored::{StoredRows, normal};
use crate::timing::{Effort, Times, measure};
use crate::tokens::Tokens;

/// Whatever norms add.
const EPS: f32 = 1e-5;

/// Ops that are recorded together where a backend replays: the launch of all is small beside their work.
const RECORDED_CALLS: usize = 64;

/// Most layers of keys and values, and most copies of a weight, among which calls take turns.
const MAX_COPIES: usize = 1024;

/// How cases are run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) elements: Elements,
    pub(crate) effort: Effort,
    /// Weights, keys and values that calls go through before they come back to the first: more than a cache holds, since in
    /// a step all other layers lie between two uses of one.
    pub(crate) rotated_bytes: u64,
}

impl Settings {
    /// Copies of something of this size.
    fn num_copies(&self, bytes: u64) -> usize {
        (self.rotated_bytes.div_ceil(bytes.max(1)) as usize).clamp(1, MAX_COPIES)
    }
}

/// A backend with what several cases share.
pub(crate) struct Bench<'b, B: Backend> {
    pub(crate) backend: &'b mut B,
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    /// Numbers of rows for which the backend replays steps.
    recorded_rows: Vec<usize>,
    /// Reading it is how one waits.
    witness: B::Buffer,
    held: Option<Held<B>>,
}

/// Copies of the weight of the last product.
struct Held<B: Backend> {
    product: Product,
    weights: Vec<B::Weight>,
}

/// Enqueues an op; the number says whose turn it is among copies.
type Call<'c, B> = &'c mut dyn FnMut(&mut B, usize) -> Result<(), <B as Backend>::Error>;

impl<'b, B: Backend> Bench<'b, B> {
    pub(crate) fn new(backend: &'b mut B, settings: Settings) -> Result<Self> {
        let witness = backend.alloc(1, 1, Element::F32)?;
        let recorded_rows = Tokens::recorded_rows(backend)?;
        Ok(Self { backend, settings, random: Random::new(1), recorded_rows, witness, held: None })
    }

    /// The time of a case.
    pub(crate) fn measure(&mut self, model: &Model, case: &Case) -> Result<Times> {
        match case.op {
            Op::Product(product) => self.product(&product, case.rows),
            Op::Norm | Op::AddedNorm => self.norm(model, case),
            Op::Embed | Op::Gather => self.lookup(model, case),
            Op::RopeAppend | Op::DecodeAttention { .. } | Op::PrefillAttention { .. } => self.heads(model, case),
            Op::Sample(choice) => sampling::measure(self, model, choice, case.rows),
        }
    }

    /// Waits for all that is enqueued.
    pub(crate) fn wait(&mut self) -> Result<()> {
        self.backend.read(&self.witness, 0..1)?;
        Ok(())
    }

    /// The time of an op whose calls take turns among `num_copies` of something.
    fn time(&mut self, rows: usize, num_copies: usize, call: Call<'_, B>) -> Result<Times> {
        // Loads code, takes scratch and chooses algorithms, which a recording may not.
        for number in 0..num_copies {
            call(self.backend, number)?;
        }
        self.wait()?;
        if self.recorded_rows.contains(&rows) {
            let num_calls = num_copies * RECORDED_CALLS.div_ceil(num_copies);
            let graph = self
                .backend
                .record(|backend| (0..num_calls).try_for_each(|number| call(backend, number % num_copies)))?;
            let times = self.sampled(&mut |backend, _| backend.replay(&graph))?;
            return Ok(times.of_each(num_calls));
        }
        self.sampled(&mut |backend, number| call(backend, number % num_copies))
    }

    fn sampled(&mut self, call: Call<'_, B>) -> Result<Times> {
        let mut next = 0;
        measure(self.settings.effort, usize::MAX, |calls| {
            let duration = self.timed(next..next + calls, call)?;
            next += calls;
            Ok(duration)
        })
    }

    /// How long some calls take, until the last is done.
    pub(crate) fn timed(&mut self, numbers: Range<usize>, call: Call<'_, B>) -> Result<Duration> {
        let start = Instant::now();
        for number in numbers {
            call(self.backend, number)?;
        }
        self.wait()?;
        Ok(start.elapsed())
    }

    /// Random activations.
    pub(crate) fn activations(&mut self, rows: usize, cols: usize) -> Result<B::Buffer> {
        self.buffer(rows, cols, self.settings.elements.activation)
    }

    pub(crate) fn buffer(&mut self, rows: usize, cols: usize, element: Element) -> Result<B::Buffer> {
        let mut buffer = self.backend.alloc(rows, cols, element)?;
        self.backend.write(&mut buffer, &normal(rows * cols, 1.0, &mut self.random))?;
        Ok(buffer)
    }

    fn product(&mut self, product: &Product, rows: usize) -> Result<Times> {
        // Others go before these come: a model's largest need not fit twice.
        let kept = self.held.take().filter(|held| held.product == *product);
        let held = kept.map_or_else(|| self.load(product), Ok)?;
        let weights = &held.weights;
        let &Product { end, k, n, .. } = product;
        let outputs = if end == End::Gated { n / 2 } else { n };
        let out_element = if end == End::Logits { Element::F32 } else { self.settings.elements.activation };
        let x = &self.activations(rows, k)?;
        let mut out = self.buffer(rows, outputs, out_element)?;
        let (mut product, mut residual) = (self.activations(rows, outputs)?, self.activations(rows, outputs)?);
        let norm = &self.buffer(1, outputs, Element::F32)?;
        let times = self.time(rows, weights.len(), &mut |backend, number| {
            let (weight, out) = (&weights[number], &mut out);
            match end {
                End::Plain | End::Logits => backend.matmul(MatMul { x, weight, bias: None, out, rows }),
                End::Gated => backend.gated_matmul(GatedMatMul { x, weight, out, rows }),
                End::Added => {
                    let (product, residual) = (&mut product, &mut residual);
                    let eps = EPS;
                    let op = MatMulAddRmsNorm { x, weight, product, residual, norm, eps, out, rows };
                    backend.matmul_add_rms_norm(op)
                }
            }
        });
        self.held = Some(held);
        times
    }

    /// Copies of a weight.
    fn load(&mut self, product: &Product) -> Result<Held<B>> {
        let &Product { end, k, n, format, .. } = product;
        let stored = StoredRows::random(format, n, k, &mut self.random);
        let (parts, role): (Vec<WeightPart<'_>>, _) = match end {
            End::Gated => (vec![stored.part(0..n / 2), stored.part(n / 2..n)], WeightRole::GatedProduct),
            End::Plain | End::Logits | End::Added => (vec![stored.part(0..n)], WeightRole::Product),
        };
        let num_copies = self.settings.num_copies(stored.num_bytes());
        let weights =
            (0..num_copies).map(|_| self.backend.load_weight(&parts, role)).collect::<Result<_, B::Error>>()?;
        Ok(Held { product: *product, weights })
    }

    fn norm(&mut self, model: &Model, case: &Case) -> Result<Times> {
        let (rows, eps) = (case.rows, EPS);
        let x = &self.activations(rows, model.hidden)?;
        let (mut residual, mut out) = (self.activations(rows, model.hidden)?, self.activations(rows, model.hidden)?);
        let weight = &self.buffer(1, model.hidden, Element::F32)?;
        self.time(rows, 1, &mut |backend, _| {
            let out = &mut out;
            match case.op {
                Op::AddedNorm => {
                    backend.add_rms_norm(AddRmsNorm { x, residual: &mut residual, weight, eps, out, rows })
                }
                _ => backend.rms_norm(RmsNorm { x, weight, eps, out, rows }),
            }
        })
    }

    /// Rows of a table, or of activations.
    fn lookup(&mut self, model: &Model, case: &Case) -> Result<Times> {
        let rows = case.rows;
        let tokens = Tokens::upload(self.backend, model, &case.attention_rows(), &mut self.random)?;
        let mut out = self.activations(rows, model.hidden)?;
        if case.op == Op::Gather {
            let x = &self.activations(rows, model.hidden)?;
            return self.time(rows, 1, &mut |backend, _| {
                backend.gather_rows(GatherRows { inputs: &tokens.inputs, jobs: 0..rows, x, out: &mut out })
            });
        }
        let stored = StoredRows::random(model.head_format, model.vocab, model.hidden, &mut self.random);
        let table = &self.backend.load_weight(&[stored.part(0..model.vocab)], WeightRole::Embedding)?;
        let sampler = &sampling::sampler(self.backend, model, tokens.num_slots)?;
        self.time(rows, 1, &mut |backend, _| {
            backend.embed(Embed { inputs: &tokens.inputs, sampler, table, out: &mut out, rows })
        })
    }

    /// What reads or writes the KV pool, in turns on its layers.
    fn heads(&mut self, model: &Model, case: &Case) -> Result<Times> {
        let (rows, num_heads) = (case.rows, model.heads.num_heads);
        let attention_rows = case.attention_rows();
        let num_tokens: usize = attention_rows.iter().map(|row| row.before + row.new).sum();
        let kv_bytes = 2 * num_tokens * model.heads.kv_width() * self.settings.elements.kv.bytes();
        let num_layers = self.settings.num_copies(kv_bytes as u64);
        let mut kv = Tokens::fill(self, model, &attention_rows, num_layers)?;
        let tokens = Tokens::upload(self.backend, model, &attention_rows, &mut self.random)?;
        let mut qkv = self.activations(rows, model.heads.qkv_width())?;
        let mut out = self.activations(rows, model.heads.q_width())?;
        let rope = &tokens.rope;
        self.time(rows, num_layers, &mut |backend, layer| match case.op {
            Op::RopeAppend => backend.rope_append(RopeAppend {
                inputs: &tokens.inputs,
                qkv: &mut qkv,
                rope,
                qk_norm: None,
                kv: &mut kv,
                layer,
                num_heads,
                rows,
            }),
            _ => backend.paged_attention(PagedAttention {
                inputs: &tokens.inputs,
                qkv: &qkv,
                kv: &kv,
                layer,
                num_heads,
                scale: 1.0 / (model.heads.head_dim as f32).sqrt(),
                sliding_window: None,
                out: &mut out,
                rows,
            }),
        })
    }
}
