//! Any text as a shard index: what is accepted names plain files only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::SafetensorsIndex;

fuzz_target!(|json: &str| {
    let Ok(index) = SafetensorsIndex::parse(json) else { return };
    for (tensor, shard) in index.tensors() {
        assert_eq!(index.shard_of(tensor), Some(shard));
        assert_eq!(std::path::Path::new(shard).file_name(), Some(shard.as_ref()));
    }
});
