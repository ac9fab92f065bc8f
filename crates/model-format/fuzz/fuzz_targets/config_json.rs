//! Any text as a config.json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::ModelConfig;

fuzz_target!(|json: &str| {
    let architecture = ModelConfig::architecture_from_json(json);
    if let Ok(config) = ModelConfig::from_json(json) {
        assert_eq!(architecture, Ok(config.architecture));
    }
});
