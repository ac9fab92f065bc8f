//! The tiny models of `fixtures/tiny`, as safetensors and turned into GGUF. Knows their files, not what they compute.

use std::path::PathBuf;

use model_format::{
    Gguf, ModelConfig, RopeScaling, Safetensors, SafetensorsIndex, TensorFormat, dequantize, gguf::Writer,
};
use model_runner::Checkpoint;
use serde_json::Value;
use serving_types::TokenId;

/// A folder of `fixtures/tiny`, read.
pub(crate) struct Tiny {
    pub(crate) config_json: String,
    pub(crate) shards: Vec<Vec<u8>>,
}

/// What transformers computed.
pub(crate) struct Expected {
    pub(crate) prompt: Vec<TokenId>,
    /// `[position][token]`
    pub(crate) log_probs: Vec<Vec<f32>>,
}

fn path(name: &str, file: &str) -> PathBuf {
    [concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny"), name, file].iter().collect()
}

fn read(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(path(name, file)).unwrap_or_else(|e| panic!("fixtures/tiny/{name}/{file}: {e}"))
}

fn text(name: &str, file: &str) -> String {
    String::from_utf8(read(name, file)).expect("UTF-8")
}

impl Tiny {
    pub(crate) fn read(name: &str) -> Self {
        let shards = match path(name, "model.safetensors.index.json").exists() {
            true => SafetensorsIndex::parse(&text(name, "model.safetensors.index.json"))
                .expect("a valid index")
                .shards()
                .iter()
                .map(|shard| read(name, shard))
                .collect(),
            false => vec![read(name, "model.safetensors")],
        };
        Self { config_json: text(name, "config.json"), shards }
    }

    pub(crate) fn config(&self) -> ModelConfig {
        ModelConfig::from_json(&self.config_json).expect("a valid config")
    }

    pub(crate) fn parsed(&self) -> Vec<(Safetensors, &[u8])> {
        self.shards.iter().map(|file| (Safetensors::parse(file).expect("a valid file"), file.as_slice())).collect()
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint::from_safetensors(self.config(), &self.parsed()).expect("a valid checkpoint")
    }

    /// The same model as llama.cpp's converter would write it, in float32.
    pub(crate) fn to_gguf(&self) -> Vec<u8> {
        let config = self.config();
        let mut writer = Writer::new();
        write_metadata(&mut writer, &config);
        if let RopeScaling::Llama3 { .. } = config.rope.scaling {
            let factors = llama3_factors(&config);
            writer.tensor("rope_freqs.weight", TensorFormat::F32, &[factors.len()], &f32_bytes(&factors));
        }
        for (shard, file) in self.parsed() {
            for tensor in shard.tensors() {
                let mut values = vec![0.0; tensor.shape.iter().product()];
                dequantize(tensor.format, &file[tensor.data.clone()], &mut values);
                if config.architecture == "LlamaForCausalLM" {
                    let num_heads = match &tensor.name {
                        name if name.contains("q_proj") => config.num_heads,
                        name if name.contains("k_proj") => config.num_kv_heads,
                        _ => 0,
                    };
                    values = interleave_halves(&values, num_heads as usize, config.head_dim as usize);
                }
                writer.tensor(&gguf_name(&tensor.name), TensorFormat::F32, &tensor.shape, &f32_bytes(&values));
            }
        }
        writer.finish()
    }
}

impl Expected {
    pub(crate) fn read(name: &str) -> Self {
        let json: Value = serde_json::from_slice(&read(name, "expected.json")).expect("valid JSON");
        Self {
            prompt: serde_json::from_value(json["prompt"].clone()).expect("ids"),
            log_probs: serde_json::from_value(json["log_probs"].clone()).expect("rows of numbers"),
        }
    }
}

pub(crate) fn parse_gguf(file: &[u8]) -> Gguf {
    Gguf::parse(file).expect("a valid file")
}

/// The keys that llama.cpp's converter writes for a config.
pub(crate) fn write_metadata(writer: &mut Writer, config: &ModelConfig) {
    let architecture = match config.architecture.as_str() {
        "LlamaForCausalLM" => "llama",
        "Qwen2ForCausalLM" => "qwen2",
        "Qwen3ForCausalLM" => "qwen3",
        other => panic!("{other} has no GGUF architecture of its own"),
    };
    let key = |name: &str| format!("{architecture}.{name}");
    writer.metadata("general.architecture", architecture);
    for (name, value) in [
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("block_count", config.num_layers),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
    ] {
        writer.metadata(&key(name), value);
    }
    writer.metadata(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    writer.metadata(&key("rope.freq_base"), config.rope.theta as f32);
    if let Some(window) = config.sliding_window {
        writer.metadata(&key("attention.sliding_window"), window);
    }
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        writer.metadata(&key("rope.scaling.type"), "linear");
        writer.metadata(&key("rope.scaling.factor"), factor as f32);
    }
    if let RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, .. } = config.rope.scaling {
        writer.metadata(&key("rope.scaling.type"), "yarn");
        writer.metadata(&key("rope.scaling.factor"), factor as f32);
        writer.metadata(&key("rope.scaling.original_context_length"), original_max_position_embeddings);
        writer.metadata(&key("rope.scaling.yarn_beta_fast"), beta_fast as f32);
    }
}

/// The divisors that llama.cpp's converter writes for Llama 3 scaling (`generate_extra_tensors` of `LlamaModel`).
fn llama3_factors(config: &ModelConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        config.rope.scaling
    else {
        panic!("only of Llama 3 scaling")
    };
    let original = f64::from(original_max_position_embeddings);
    let of_pair = |i: u32| {
        let exponent = f64::from(2 * i) / f64::from(config.head_dim);
        let wavelength = 2.0 * std::f64::consts::PI * config.rope.theta.powf(exponent);
        if wavelength < original / high_freq_factor {
            1.0
        } else if wavelength > original / low_freq_factor {
            factor
        } else {
            let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..config.head_dim / 2).map(|i| of_pair(i) as f32).collect()
}

/// Rows of each head from `[half][i]` to `[i][half]` order; nothing for 0 heads.
pub(crate) fn interleave_halves(values: &[f32], num_heads: usize, head_dim: usize) -> Vec<f32> {
    if num_heads == 0 {
        return values.to_vec();
    }
    let cols = values.len() / (num_heads * head_dim);
    let row = |index: usize| &values[index * cols..(index + 1) * cols];
    let mut interleaved = Vec::with_capacity(values.len());
    for head in 0..num_heads {
        for i in 0..head_dim / 2 {
            interleaved.extend_from_slice(row(head * head_dim + i));
            interleaved.extend_from_slice(row(head * head_dim + head_dim / 2 + i));
        }
    }
    interleaved
}

fn gguf_name(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .into_iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
