//! Qwen3, the dense models: norms of query and key heads, and a head size of its own (Yang et al., 2025).

use super::{Architecture, QkvBias};

pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    hugging_face: "Qwen3ForCausalLM",
    gguf: Some("qwen3"),
    gguf_interleaves_rotary_rows: false,
    qkv_bias: QkvBias::AsConfigured,
    qk_norm: true,
};
