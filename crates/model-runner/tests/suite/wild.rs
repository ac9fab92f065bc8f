//! Shapes and formats that models in the wild have, and the fixtures do not, against a plain decoder in double precision;
//! and bit for bit the same whatever the block size, the threads and the chunks.

use std::{collections::BTreeMap, ops::Range};

use backend_cpu::{CpuBackend, CpuConfig, Precision};
use model_format::{ModelConfig, RopeScaling, TensorFormat, dequantize, gguf::Writer, quantize};
use model_runner::{Checkpoint, RunnerConfig};
use serde_json::json;
use serving_types::TokenId;

use crate::{
    driver::{Driver, Position, runner_config},
    tiny::{interleave_halves, parse_gguf, write_metadata},
};

/// A model's shape.
struct Shape {
    architecture: &'static str,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

const LLAMA: Shape = Shape {
    architecture: "LlamaForCausalLM",
    hidden: 64,
    intermediate: 96,
    heads: 4,
    kv_heads: 4,
    head_dim: 16,
    vocab: 101,
};
const QWEN2: Shape = Shape { architecture: "Qwen2ForCausalLM", ..LLAMA };
const QWEN3: Shape = Shape { architecture: "Qwen3ForCausalLM", ..LLAMA };

/// How each kind of tensor is stored.
#[derive(Clone, Copy)]
struct Formats {
    embedding: TensorFormat,
    /// `None`: the embedding is also the head.
    head: Option<TensorFormat>,
    qkv: [TensorFormat; 3],
    attention_output: TensorFormat,
    gate_up: [TensorFormat; 2],
    down: TensorFormat,
}

impl Formats {
    const fn all(format: TensorFormat) -> Self {
        Self {
            embedding: format,
            head: Some(format),
            qkv: [format; 3],
            attention_output: format,
            gate_up: [format; 2],
            down: format,
        }
    }
}

/// A model whose every number is known.
struct Wild {
    config: ModelConfig,
    file: Vec<u8>,
    /// What the file's tensors hold, in the natural order of rows, by their names in Hugging Face files.
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Wild {
    fn new(shape: &Shape, formats: Formats, edit: fn(&mut ModelConfig)) -> Self {
        let mut config = ModelConfig::from_json(
            &json!({
                "architectures": [shape.architecture], "hidden_size": shape.hidden, "head_dim": shape.head_dim,
                "intermediate_size": shape.intermediate, "num_hidden_layers": 2, "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab, "rms_norm_eps": 1e-5,
                "max_position_embeddings": 512, "tie_word_embeddings": formats.head.is_none(),
            })
            .to_string(),
        )
        .expect("a valid config");
        edit(&mut config);
        let mut writer = Writer::new();
        write_metadata(&mut writer, &config);
        let mut model = Self { config, file: Vec::new(), tensors: BTreeMap::new() };
        model.add_tensors(shape, formats, &mut writer);
        model.file = writer.finish();
        model
    }

    fn add_tensors(&mut self, shape: &Shape, formats: Formats, writer: &mut Writer) {
        let &Shape { hidden, intermediate, vocab, head_dim, .. } = shape;
        let (q_width, kv_width) = (shape.heads * head_dim, shape.kv_heads * head_dim);
        let float = TensorFormat::F32;
        self.add(writer, ("model.embed_tokens.weight", "token_embd.weight"), formats.embedding, &[vocab, hidden]);
        self.add(writer, ("model.norm.weight", "output_norm.weight"), float, &[hidden]);
        if let Some(head) = formats.head {
            self.add(writer, ("lm_head.weight", "output.weight"), head, &[vocab, hidden]);
        }
        for layer in 0..self.config.num_layers {
            let [q, k, v] = formats.qkv;
            let [gate, up] = formats.gate_up;
            let matrices: [(&str, &str, TensorFormat, &[usize]); 9] = [
                ("input_layernorm.weight", "attn_norm.weight", float, &[hidden]),
                ("self_attn.q_proj.weight", "attn_q.weight", q, &[q_width, hidden]),
                ("self_attn.k_proj.weight", "attn_k.weight", k, &[kv_width, hidden]),
                ("self_attn.v_proj.weight", "attn_v.weight", v, &[kv_width, hidden]),
                ("self_attn.o_proj.weight", "attn_output.weight", formats.attention_output, &[hidden, q_width]),
                ("post_attention_layernorm.weight", "ffn_norm.weight", float, &[hidden]),
                ("mlp.gate_proj.weight", "ffn_gate.weight", gate, &[intermediate, hidden]),
                ("mlp.up_proj.weight", "ffn_up.weight", up, &[intermediate, hidden]),
                ("mlp.down_proj.weight", "ffn_down.weight", formats.down, &[hidden, intermediate]),
            ];
            let biases: [(&str, &str, TensorFormat, &[usize]); 3] = [
                ("self_attn.q_proj.bias", "attn_q.bias", float, &[q_width]),
                ("self_attn.k_proj.bias", "attn_k.bias", float, &[kv_width]),
                ("self_attn.v_proj.bias", "attn_v.bias", float, &[kv_width]),
            ];
            let norms: [(&str, &str, TensorFormat, &[usize]); 2] = [
                ("self_attn.q_norm.weight", "attn_q_norm.weight", float, &[head_dim]),
                ("self_attn.k_norm.weight", "attn_k_norm.weight", float, &[head_dim]),
            ];
            let more = match shape.architecture {
                "Qwen2ForCausalLM" => &biases[..],
                "Qwen3ForCausalLM" => &norms[..],
                _ if self.config.attention_bias => &biases[..],
                _ => &[],
            };
            for (hugging_face, gguf, format, shape) in matrices.iter().chain(more) {
                let names = (&*format!("model.layers.{layer}.{hugging_face}"), &*format!("blk.{layer}.{gguf}"));
                self.add(writer, names, *format, shape);
            }
        }
    }

    /// A tensor of random numbers: around one for norms, of variance `2 / cols` for matrices.
    fn add(&mut self, writer: &mut Writer, (name, gguf): (&str, &str), format: TensorFormat, shape: &[usize]) {
        let len = shape.iter().product();
        let scale = if let [_, cols] = shape { (6.0 / *cols as f32).sqrt() } else { 0.5 };
        let center = if name.contains("norm") { 1.0 } else { 0.0 };
        let seed = self.tensors.len() as u64;
        let values: Vec<f32> = uniform(seed, len).map(|x| center + scale * x).collect();
        let config = &self.config;
        let num_heads = match config.architecture == "LlamaForCausalLM" {
            true if name.contains("q_proj") => config.num_heads,
            true if name.contains("k_proj") => config.num_kv_heads,
            _ => 0,
        };
        let stored = interleave_halves(&values, num_heads as usize, config.head_dim as usize);
        writer.tensor(gguf, format, shape, &quantize(format, &stored));
        let mut held = vec![0.0; len];
        dequantize(format, &quantize(format, &values), &mut held);
        self.tensors.insert(name.to_owned(), held.into_iter().map(f64::from).collect());
    }

    fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint::from_gguf(&parse_gguf(&self.file), &self.file).expect("a valid checkpoint")
    }

    fn vector(&self, name: &str) -> &[f64] {
        &self.tensors[name]
    }

    /// `x · weightᵀ + bias`, if there is such a bias.
    fn product(&self, x: &[f64], name: &str) -> Vec<f64> {
        let dot = |row: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let mut out: Vec<f64> = self.vector(&format!("{name}.weight")).chunks_exact(x.len()).map(dot).collect();
        if let Some(bias) = self.tensors.get(&format!("{name}.bias")) {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
        out
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let inverse = 1.0 / (mean + f64::from(self.config.rms_norm_eps)).sqrt();
        x.iter().zip(self.vector(name)).map(|(x, weight)| x * inverse * weight).collect()
    }

    /// The log-probabilities of all tokens at each position: the definition, without a cache.
    fn log_probs(&self, tokens: &[TokenId]) -> Vec<Vec<f64>> {
        let hidden = self.config.hidden_size as usize;
        let embedding = self.vector("model.embed_tokens.weight");
        let mut residual: Vec<Vec<f64>> =
            tokens.iter().map(|&token| embedding[token as usize * hidden..][..hidden].to_vec()).collect();
        for layer in 0..self.config.num_layers {
            let prefix = format!("model.layers.{layer}");
            let attended = self.attention(&residual, &prefix);
            for (x, attended) in residual.iter_mut().zip(attended) {
                add(x, &self.product(&attended, &format!("{prefix}.self_attn.o_proj")));
                let normed = self.norm(x, &format!("{prefix}.post_attention_layernorm.weight"));
                let gate = self.product(&normed, &format!("{prefix}.mlp.gate_proj"));
                let up = self.product(&normed, &format!("{prefix}.mlp.up_proj"));
                let gated: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
                add(x, &self.product(&gated, &format!("{prefix}.mlp.down_proj")));
            }
        }
        let head = if self.config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        let logits = residual.iter().map(|x| self.product(&self.norm(x, "model.norm.weight"), head));
        logits.map(|logits| log_softmax(&logits)).collect()
    }

    fn attention(&self, residual: &[Vec<f64>], prefix: &str) -> Vec<Vec<f64>> {
        let config = &self.config;
        let (num_heads, head_dim) = (config.num_heads as usize, config.head_dim as usize);
        let group = num_heads / config.num_kv_heads as usize;
        let normed: Vec<_> =
            residual.iter().map(|x| self.norm(x, &format!("{prefix}.input_layernorm.weight"))).collect();
        // `[position][head][head_dim]`, normed and rotated.
        let heads = |projection: &str, norm: &str| -> Vec<Vec<Vec<f64>>> {
            let rows = normed.iter().map(|x| self.product(x, &format!("{prefix}.self_attn.{projection}"))).enumerate();
            let norm = format!("{prefix}.self_attn.{norm}.weight");
            let head = |position: usize, head: &[f64]| match self.tensors.contains_key(&norm) {
                true => self.rotate(&self.norm(head, &norm), position),
                false => self.rotate(head, position),
            };
            rows.map(|(position, row)| row.chunks_exact(head_dim).map(|x| head(position, x)).collect()).collect()
        };
        let (queries, keys) = (heads("q_proj", "q_norm"), heads("k_proj", "k_norm"));
        let values: Vec<_> = normed.iter().map(|x| self.product(x, &format!("{prefix}.self_attn.v_proj"))).collect();
        (0..residual.len())
            .map(|position| {
                let visible = self.visible(position);
                let mut out = Vec::new();
                for (head, query) in queries[position].iter().enumerate() {
                    let dot = |key: &Vec<f64>| key.iter().zip(query).map(|(a, b)| a * b).sum::<f64>();
                    let scores: Vec<f64> = keys[visible.clone()]
                        .iter()
                        .map(|keys| dot(&keys[head / group]) / (head_dim as f64).sqrt())
                        .collect();
                    let mut sum = vec![0.0; head_dim];
                    for (log_weight, value) in log_softmax(&scores).iter().zip(&values[visible.clone()]) {
                        let value = &value[head / group * head_dim..][..head_dim];
                        sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += log_weight.exp() * value);
                    }
                    out.extend(sum);
                }
                out
            })
            .collect()
    }

    fn visible(&self, position: usize) -> Range<usize> {
        let window = self.config.sliding_window.map_or(usize::MAX, |window| window as usize);
        (position + 1).saturating_sub(window)..position + 1
    }

    fn rotate(&self, head: &[f64], position: usize) -> Vec<f64> {
        let half = head.len() / 2;
        let stretch = match self.config.rope.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => factor,
            ref other => panic!("{other:?} is the fixtures' business"),
        };
        let mut out = vec![0.0; head.len()];
        for i in 0..half {
            let frequency = self.config.rope.theta.powf(-2.0 * i as f64 / head.len() as f64) / stretch;
            let (sine, cosine) = (position as f64 * frequency).sin_cos();
            out[i] = head[i] * cosine - head[i + half] * sine;
            out[i + half] = head[i + half] * cosine + head[i] * sine;
        }
        out
    }
}

fn add(sum: &mut [f64], x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| logit - max - sum.ln()).collect()
}

/// Numbers in `[-1, 1)`: a SplitMix64 stream for each seed.
fn uniform(seed: u64, len: usize) -> impl Iterator<Item = f32> {
    (1..=len as u64).map(move |index| {
        let mut z = (seed << 32).wrapping_add(index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
struct Cut {
    block_size: u32,
    threads: usize,
    chunk: usize,
}

const CUTS: [Cut; 5] = [
    Cut { block_size: 16, threads: 1, chunk: 150 },
    Cut { block_size: 1, threads: 2, chunk: 29 },
    Cut { block_size: 7, threads: 5, chunk: 150 },
    Cut { block_size: 64, threads: 3, chunk: 1 },
    Cut { block_size: 256, threads: 8, chunk: 100 },
];

fn score(checkpoint: &Checkpoint<'_>, precision: Precision, tokens: &[TokenId], cut: Cut) -> Vec<Position> {
    let config = RunnerConfig {
        block_size: cut.block_size,
        num_blocks: 160_u32.div_ceil(cut.block_size),
        max_model_len: 160,
        max_batch_tokens: 150,
        max_top_logprobs: checkpoint.config().vocab_size,
        ..runner_config()
    };
    let backend = CpuBackend::new(CpuConfig { threads: Some(cut.threads), precision }).expect("threads");
    Driver::with_backend(backend, checkpoint, &config).score(0, tokens, cut.chunk, config.max_top_logprobs)
}

/// The model computes what the plain decoder does, exactly or nearly, however it is cut.
fn check(shape: &Shape, formats: Formats, edit: fn(&mut ModelConfig)) {
    let model = Wild::new(shape, formats, edit);
    let checkpoint = model.checkpoint();
    // Beyond a border of 128 positions, which attention takes at once.
    let tokens: Vec<TokenId> = uniform(99, 151).map(|x| ((x + 1.0) / 2.0 * shape.vocab as f32) as TokenId).collect();
    let expected = model.log_probs(&tokens[..150]);
    // Log-probabilities are spread by 1 or more. Quantised activations change them by a few hundredths, on average.
    for (precision, tolerance) in [(Precision::Exact, 2e-4), (Precision::Native, 0.06)] {
        let scored = score(&checkpoint, precision, &tokens, CUTS[0]);
        let (mut sum, mut largest) = (0.0, 0.0_f64);
        for (position, expected) in scored.iter().zip(&expected) {
            assert_eq!(position.top.len(), shape.vocab);
            for (token, logprob) in &position.top {
                let error = (f64::from(*logprob) - expected[*token as usize]).abs();
                sum += error;
                largest = largest.max(error);
            }
        }
        let mean = sum / (scored.len() * shape.vocab) as f64;
        let found = if precision == Precision::Exact { largest } else { mean };
        assert!(found < tolerance, "{precision:?}: off by {found}");
        for cut in &CUTS[1..] {
            assert!(score(&checkpoint, precision, &tokens, *cut) == scored, "{precision:?}: {cut:?} changes bits");
        }
    }
}

fn as_is(_: &mut ModelConfig) {}

#[test]
fn heads_that_share_keys_in_any_ratio() {
    use TensorFormat::{BF16, F16, F32};
    let llama = |heads, kv_heads, head_dim| Shape { heads, kv_heads, head_dim, ..LLAMA };
    check(&llama(4, 4, 16), Formats::all(F32), as_is);
    check(&llama(7, 1, 10), Formats::all(F16), as_is);
    check(&llama(9, 3, 24), Formats::all(BF16), as_is);
    check(&llama(14, 2, 8), Formats::all(F32), as_is);
    // More heads on one than attention takes at once.
    check(&llama(26, 2, 4), Formats::all(F16), as_is);
    check(&llama(3, 3, 2), Formats::all(F32), as_is);
}

#[test]
fn widths_that_are_no_multiples() {
    use TensorFormat::{BF16, F16, F32};
    let odd = Shape { hidden: 37, intermediate: 41, heads: 3, kv_heads: 1, head_dim: 6, vocab: 3, ..LLAMA };
    check(&odd, Formats::all(F32), as_is);
    check(&odd, Formats { head: None, qkv: [F32, F16, BF16], gate_up: [BF16, F32], ..Formats::all(F16) }, as_is);
    check(&Shape { vocab: 257, hidden: 33, ..odd }, Formats { head: Some(BF16), ..Formats::all(F32) }, as_is);
}

#[test]
fn heads_of_a_width_of_their_own() {
    let wide = Shape { heads: 5, kv_heads: 5, head_dim: 32, ..QWEN3 };
    check(&wide, Formats::all(TensorFormat::BF16), as_is);
    check(&Shape { heads: 1, kv_heads: 1, head_dim: 1100, ..QWEN3 }, Formats::all(TensorFormat::F16), as_is);
}

#[test]
fn formats_that_llama_cpp_mixes_and_falls_back_to() {
    use TensorFormat::{F16, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    // Rows of 256 are of K formats, rows of 160 of what they fall back to; a head that is tied is of a better one.
    let wide = Shape { hidden: 256, intermediate: 160, heads: 8, kv_heads: 2, head_dim: 32, ..LLAMA };
    let q4_k_m = Formats {
        embedding: Q6K,
        head: None,
        qkv: [Q4K, Q4K, Q6K],
        attention_output: Q4K,
        gate_up: [Q4K, Q5K],
        down: Q5_0,
    };
    check(&wide, q4_k_m, as_is);
    check(&wide, Formats { head: Some(Q6K), qkv: [Q5K, F16, Q8_0], gate_up: [Q6K, Q6K], down: Q5_1, ..q4_k_m }, as_is);
    // No row of a multiple of 256, as SmolLM2-135M has none.
    let narrow = Shape { hidden: 96, intermediate: 224, heads: 3, kv_heads: 1, head_dim: 32, ..QWEN2 };
    let fallen = Formats {
        embedding: Q8_0,
        head: None,
        qkv: [Q5_0, Q5_0, Q8_0],
        attention_output: Q5_0,
        gate_up: [Q5_0, Q4_1],
        down: Q8_0,
    };
    check(&narrow, fallen, as_is);
    check(&narrow, Formats { embedding: Q4_0, head: Some(F16), ..fallen }, as_is);
}

#[test]
fn windows_shorter_than_a_block_and_longer_than_the_context() {
    for edit in [
        (|config| config.sliding_window = Some(1)) as fn(&mut ModelConfig),
        |config| config.sliding_window = Some(3),
        |config| config.sliding_window = Some(129),
        |config| config.sliding_window = Some(100_000),
    ] {
        check(&Shape { kv_heads: 2, ..LLAMA }, Formats::all(TensorFormat::F16), edit);
    }
}

#[test]
fn biases_and_scaled_positions() {
    let scaled = |config: &mut ModelConfig| {
        config.rope.scaling = RopeScaling::Linear { factor: 3.0 };
        config.rope.theta = 1e6;
    };
    check(&QWEN2, Formats { head: None, ..Formats::all(TensorFormat::Q8_0) }, scaled);
    // Llama files store the bias rows in the weights' order.
    check(&LLAMA, Formats::all(TensorFormat::F32), |config| config.attention_bias = true);
}
