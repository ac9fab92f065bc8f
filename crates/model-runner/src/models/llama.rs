//! Llama: Llama 2 and 3, SmolLM2, TinyLlama, and Mistral models in GGUF files (Touvron et al., 2023).

use super::{Architecture, QkvBias};

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    hugging_face: "LlamaForCausalLM",
    gguf: Some("llama"),
    gguf_interleaves_rotary_rows: true,
    qkv_bias: QkvBias::AsConfigured,
    qk_norm: false,
};
