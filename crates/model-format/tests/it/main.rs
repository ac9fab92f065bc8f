//! The tests of model-format: one binary, one module per topic.

mod allocation;
mod blocks;
mod broken_input;
mod config_gguf;
mod config_json;
mod corpus;
mod demo_model;
mod generation_defaults;
mod gguf;
mod safetensors;
