//! Qwen2 and Qwen2.5: biases on queries, keys and values, which their config does not mention (Yang et al., 2024).

use super::{Architecture, QkvBias};

pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    hugging_face: "Qwen2ForCausalLM",
    gguf: Some("qwen2"),
    gguf_interleaves_rotary_rows: false,
    qkv_bias: QkvBias::Always,
    qk_norm: false,
};
