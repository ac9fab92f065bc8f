//! Mistral: Llama with an optional sliding window (Jiang et al., 2023). Its GGUF files call themselves `llama`.

use super::{Architecture, QkvBias};

pub(super) const MISTRAL: Architecture = Architecture {
    name: "mistral",
    hugging_face: "MistralForCausalLM",
    gguf: None,
    gguf_interleaves_rotary_rows: false,
    qkv_bias: QkvBias::AsConfigured,
    qk_norm: false,
};
