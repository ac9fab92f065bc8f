//! Parses GGUF, safetensors and config files from byte slices into described tensors.
