//! Any bytes as a GGUF file: what is accepted can be used to the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::{Gguf, ModelConfig, dequantize};

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::parse(file) else { return };
    for tensor in gguf.tensors() {
        let mut values = vec![0.0; tensor.shape.iter().product()];
        dequantize(tensor.format, &file[tensor.data.clone()], &mut values);
    }
    let _ = ModelConfig::from_gguf(&gguf, file);
});
