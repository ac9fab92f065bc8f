//! The tensors of a dense decoder under one canonical naming, and their names in Hugging Face and GGUF files. Knows
//! names only, not which of them a model has.

use model_format::ConfigSource;

/// One tensor of a dense decoder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum TensorId {
    /// `[vocab, hidden]`: a row a token.
    Embedding,
    /// One tensor of a layer.
    Layer(u32, LayerTensor),
    /// `[hidden]`: weight of the norm before the output head.
    FinalNorm,
    /// `[vocab, hidden]`: the product that makes logits.
    OutputHead,
}

/// One tensor of a layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum LayerTensor {
    /// `[hidden]`: weight of the norm before attention.
    InputNorm,
    /// `[num_heads * head_dim, hidden]`
    Query,
    /// `[num_heads * head_dim]`
    QueryBias,
    /// `[num_kv_heads * head_dim, hidden]`
    Key,
    /// `[num_kv_heads * head_dim]`
    KeyBias,
    /// `[num_kv_heads * head_dim, hidden]`
    Value,
    /// `[num_kv_heads * head_dim]`
    ValueBias,
    /// `[head_dim]`: weight of the norm of each query head.
    QueryNorm,
    /// `[head_dim]`: weight of the norm of each key head.
    KeyNorm,
    /// `[hidden, num_heads * head_dim]`
    AttentionOutput,
    /// `[hidden]`: weight of the norm before the MLP.
    PostAttentionNorm,
    /// `[intermediate, hidden]`
    Gate,
    /// `[intermediate, hidden]`
    Up,
    /// `[hidden, intermediate]`
    Down,
}

/// Layer tensors with their names in Hugging Face files (after `model.layers.N.`) and in GGUF files (after `blk.N.`).
const LAYER_NAMES: [(LayerTensor, &str, &str); 14] = [
    (LayerTensor::InputNorm, "input_layernorm.weight", "attn_norm.weight"),
    (LayerTensor::Query, "self_attn.q_proj.weight", "attn_q.weight"),
    (LayerTensor::QueryBias, "self_attn.q_proj.bias", "attn_q.bias"),
    (LayerTensor::Key, "self_attn.k_proj.weight", "attn_k.weight"),
    (LayerTensor::KeyBias, "self_attn.k_proj.bias", "attn_k.bias"),
    (LayerTensor::Value, "self_attn.v_proj.weight", "attn_v.weight"),
    (LayerTensor::ValueBias, "self_attn.v_proj.bias", "attn_v.bias"),
    (LayerTensor::QueryNorm, "self_attn.q_norm.weight", "attn_q_norm.weight"),
    (LayerTensor::KeyNorm, "self_attn.k_norm.weight", "attn_k_norm.weight"),
    (LayerTensor::AttentionOutput, "self_attn.o_proj.weight", "attn_output.weight"),
    (LayerTensor::PostAttentionNorm, "post_attention_layernorm.weight", "ffn_norm.weight"),
    (LayerTensor::Gate, "mlp.gate_proj.weight", "ffn_gate.weight"),
    (LayerTensor::Up, "mlp.up_proj.weight", "ffn_up.weight"),
    (LayerTensor::Down, "mlp.down_proj.weight", "ffn_down.weight"),
];

/// Tensors outside of the layers, named as above.
const GLOBAL_NAMES: [(TensorId, &str, &str); 3] = [
    (TensorId::Embedding, "model.embed_tokens.weight", "token_embd.weight"),
    (TensorId::FinalNorm, "model.norm.weight", "output_norm.weight"),
    (TensorId::OutputHead, "lm_head.weight", "output.weight"),
];

impl TensorId {
    /// The tensor that a file of this kind calls `name`; `None` if no dense decoder has it.
    pub(crate) fn parse(name: &str, source: ConfigSource) -> Option<Self> {
        let global = GLOBAL_NAMES.iter().find(|(_, hf, gguf)| name == pick(source, hf, gguf));
        if let Some((id, ..)) = global {
            return Some(*id);
        }
        let rest = name.strip_prefix(pick(source, "model.layers.", "blk."))?;
        let (index, suffix) = rest.split_once('.')?;
        let (tensor, ..) = LAYER_NAMES.iter().find(|(_, hf, gguf)| suffix == pick(source, hf, gguf))?;
        let id = Self::Layer(index.parse().ok()?, *tensor);
        // `01` and `+1` also parse as numbers, and would be second names of the same tensor.
        (id.name(source) == name).then_some(id)
    }

    /// What a file of this kind calls the tensor.
    pub(crate) fn name(self, source: ConfigSource) -> String {
        if let Self::Layer(index, tensor) = self {
            let (_, hf, gguf) =
                LAYER_NAMES.iter().find(|(id, ..)| *id == tensor).expect("every layer tensor is listed");
            return format!("{}{index}.{}", pick(source, "model.layers.", "blk."), pick(source, hf, gguf));
        }
        let (_, hf, gguf) = GLOBAL_NAMES.iter().find(|(id, ..)| *id == self).expect("every other tensor is listed");
        pick(source, hf, gguf).to_owned()
    }
}

fn pick<'a>(source: ConfigSource, hugging_face: &'a str, gguf: &'a str) -> &'a str {
    match source {
        ConfigSource::HuggingFace => hugging_face,
        ConfigSource::Gguf => gguf,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_both_ways() {
        let mut ids: Vec<TensorId> = GLOBAL_NAMES.iter().map(|(id, ..)| *id).collect();
        ids.extend([0, 7, 31].iter().flat_map(|&n| LAYER_NAMES.iter().map(move |(t, ..)| TensorId::Layer(n, *t))));
        for source in [ConfigSource::HuggingFace, ConfigSource::Gguf] {
            for id in &ids {
                assert_eq!(TensorId::parse(&id.name(source), source), Some(*id));
            }
        }
    }

    #[test]
    fn second_spellings_and_strangers_are_no_tensors() {
        for name in [
            "blk.01.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.4294967296.attn_q.weight",
            "blk..attn_q.weight",
            "blk.1.attn_q.scale",
            "lm_head.weight",
            "",
        ] {
            assert_eq!(TensorId::parse(name, ConfigSource::Gguf), None, "{name}");
        }
    }
}
