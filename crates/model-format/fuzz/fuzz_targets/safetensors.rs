//! Any bytes as a safetensors file: what is accepted, the reference accepts and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::Safetensors;

fuzz_target!(|file: &[u8]| {
    let Ok(parsed) = Safetensors::parse(file) else { return };
    let reference = safetensors::SafeTensors::deserialize(file).expect("the reference accepts it");
    assert_eq!(parsed.tensors().len(), reference.len());
    for tensor in parsed.tensors() {
        let view = reference.tensor(&tensor.name).expect("the reference knows the tensor");
        assert_eq!((&file[tensor.data.clone()], tensor.shape.as_slice()), (view.data(), view.shape()));
    }
});
